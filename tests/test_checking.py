"""Which weaknesses a topology has, and where a message goes in it: decisions over plain data."""

from dataclasses import replace
from typing import Any

import pytest

from ulos_stream.tasks import Hop
from ulos_stream.topology.checking import check
from ulos_stream.topology.connection import Shown
from ulos_stream.topology.migration import migrate_exchange, migrate_queue
from ulos_stream.topology.places import Places, WantedQueue, wanted
from ulos_stream.topology.virtual_host import Binding, Exchange, Queue, VirtualHost

PLACES = Places("tasks", logs=Hop(exchange="x", routing_key="log"), crashes=Hop(exchange="x", routing_key="crash"))
SHOWN = Shown({"x": ""}, {"tasks": ""})
ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": "tasks.dead-letters",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
TASKS = Queue("tasks", "quorum", arguments=ARGUMENTS)
DEAD = Queue("tasks.dead-letters", "quorum")
SOUND = VirtualHost(
    queues={
        "tasks": TASKS,
        "tasks.dead-letters": DEAD,
        "crashes": Queue("crashes", "stream"),
        "logs": Queue("logs", "quorum"),
    },
    exchanges={"x": Exchange("x"), "tasks.dead-letters": Exchange("tasks.dead-letters", "fanout")},
    bindings=(
        Binding("", "tasks", "tasks"),
        Binding("x", "tasks", "grammar"),
        Binding("x", "crashes", "crash"),
        Binding("x", "logs", "log"),
        Binding("tasks.dead-letters", "tasks.dead-letters", ""),
    ),
    broker_version="3.10.8",
)


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in ARGUMENTS.items() if name != key}


def with_tasks(**changes: Any) -> VirtualHost:
    return replace(SOUND, queues={**SOUND.queues, "tasks": replace(TASKS, **changes)})


def with_dead(**changes: Any) -> VirtualHost:
    return replace(SOUND, queues={**SOUND.queues, DEAD.name: replace(DEAD, **changes)})


def without_binding(queue: str) -> VirtualHost:
    return replace(SOUND, bindings=tuple(b for b in SOUND.bindings if b.destination != queue or not b.source))


def weaknesses(host: VirtualHost | str, places: Places = PLACES, shown: Shown = SHOWN) -> list[str]:
    return [found.code for found in check(places, shown, host, held_s=100) if found.kind == "weakness"]


def test_a_sound_topology_has_no_weakness_and_one_thing_that_nobody_can_see() -> None:
    [unseen] = check(PLACES, SHOWN, SOUND, held_s=86_700)

    assert (unseen.kind, unseen.code) == ("not checked", "consumer-timeout")
    assert "86700 s" in unseen.text


@pytest.mark.parametrize(
    ("host", "codes"),
    [
        (with_tasks(type="classic", arguments=without("x-queue-type")), ["queue-not-quorum"]),
        (with_tasks(arguments=without("x-delivery-limit")), ["delivery-limit-none"]),
        (with_tasks(arguments={**ARGUMENTS, "x-delivery-limit": 3}), ["delivery-limit-low"]),
        (with_tasks(arguments=without("x-dead-letter-exchange")), ["dead-letters-none"]),
        (with_tasks(arguments=without("x-dead-letter-strategy")), ["dead-letters-at-most-once"]),
        (with_tasks(arguments={**ARGUMENTS, "x-dead-letter-exchange": "gone"}), ["dead-letters-nowhere"] * 2),
        (with_tasks(arguments=without("x-overflow")), ["overflow-drop-head"]),
        (with_tasks(arguments={**ARGUMENTS, "x-overflow": "drop-head"}), ["overflow-drop-head"]),
        (with_tasks(arguments={**ARGUMENTS, "x-max-length": 9}), ["max-length"]),
        (with_tasks(arguments={**ARGUMENTS, "x-max-length-bytes": 9}), ["max-length-bytes"]),
        (with_tasks(arguments={**ARGUMENTS, "x-message-ttl": 9}), ["message-ttl"]),
        (with_tasks(arguments={**ARGUMENTS, "x-expires": 9}), ["expires"]),
        (with_tasks(durable=False), ["queue-not-durable"]),
        (with_tasks(auto_delete=True), ["queue-not-durable"]),
        (with_tasks(policies=("p",), policy={"delivery-limit": 2}), ["delivery-limit-low", "policy"]),
        (with_tasks(policies=("p",), policy={"delivery-limit": 30}), ["policy"]),
        (with_tasks(policies=("p",), policy={"message-ttl": 1}), ["message-ttl", "policy"]),
        (with_dead(arguments={"x-message-ttl": 9}), ["message-ttl"]),
        (with_dead(arguments={"x-delivery-limit": 3}), ["dead-letters-limited"]),
        (without_binding("tasks"), ["queue-unbound"]),
        (without_binding("logs"), ["logs-unbound"]),
        (without_binding("crashes"), ["crash-unbound"]),
        (replace(SOUND, exchanges={**SOUND.exchanges, "x": Exchange("x", durable=False)}), [
            "logs-exchange-not-durable", "crash-exchange-not-durable"
        ]),
        (replace(SOUND, queues={**SOUND.queues, "crashes": Queue("crashes", "quorum")}), ["crash-not-stream"]),
        (replace(SOUND, bindings=(*SOUND.bindings, Binding("x", "tasks", "crash"))), ["crash-loop"]),
        (replace(SOUND, bindings=(*SOUND.bindings, Binding("x", "tasks", "log"))), ["logs-loop"]),
        (replace(SOUND, broker_version="4.1.0"), ["dead-letters-limited"]),
    ],
)  # fmt: skip
def test_every_weakness_is_named(host: VirtualHost, codes: list[str]) -> None:
    assert weaknesses(host) == codes


def test_policies_that_the_api_does_not_show_yet_are_not_checked() -> None:
    findings = check(PLACES, SHOWN, with_tasks(policies=None), held_s=100)

    assert (findings[0].kind, findings[0].code) == ("not checked", "policy")


def test_a_quorum_queue_of_rabbitmq_4_has_a_delivery_limit_without_asking_for_one() -> None:
    host = replace(
        with_tasks(arguments=without("x-delivery-limit")),
        broker_version="4.0.2",
    )

    assert "delivery-limit-none" not in weaknesses(host)


def test_what_does_not_exist_is_named_by_what_amqp_alone_shows() -> None:
    shown = Shown({"x": "does not exist"}, {"tasks": "does not exist"})

    codes = weaknesses("the API is away", shown=shown)

    assert codes == ["queue-missing", "logs-exchange-missing", "crash-exchange-missing"]


def test_reports_to_the_default_exchange_need_a_queue_of_that_name() -> None:
    places = replace(PLACES, crashes=Hop(exchange="", routing_key="crash"))
    there, missing = (Shown({"x": ""}, {"tasks": "", "crash": reason}) for reason in ("", "does not exist"))

    assert weaknesses("the API is away", places, there) == []
    assert weaknesses("the API is away", places, missing) == ["crash-unbound"]


def test_without_the_api_everything_that_needs_it_is_listed_with_the_reason() -> None:
    findings = check(PLACES, SHOWN, "the API is away", held_s=100)

    assert {found.kind for found in findings} == {"not checked"}
    assert [found.code for found in findings] == [
        "queue-arguments", "queue-bindings", "dead-letters", "logs-unbound", "crash-unbound", "crash-not-stream",
        "consumer-timeout",
    ]  # fmt: skip
    assert all("the API is away" in found.text for found in findings[:-1])


@pytest.mark.parametrize(
    ("exchange", "key", "queues"),
    [
        ("", "a", {"a"}),
        ("", "nobody", set()),
        ("direct", "k", {"a"}),
        ("direct", "other", set()),
        ("gone", "k", set()),
        ("fanout", "whatever", {"a", "b"}),
        ("topic", "task.one", {"a"}),
        ("topic", "task.one.two", {"b"}),
        ("topic", "task", {"b"}),
        ("topic", "other", set()),
        ("ring", "k", {"a"}),
        ("fallback", "k", {"a"}),
        ("fallback", "own", {"b"}),
    ],
)
def test_a_message_reaches_the_queues_that_the_bindings_say(exchange: str, key: str, queues: set[str]) -> None:
    host = VirtualHost(
        {name: Queue(name) for name in "ab"},
        {
            "direct": Exchange("direct"),
            "fanout": Exchange("fanout", "fanout"),
            "topic": Exchange("topic", "topic"),
            "ring": Exchange("ring", "fanout"),
            "fallback": Exchange("fallback", alternate="direct"),
        },
        (
            Binding("direct", "a", "k"),
            Binding("fanout", "a", ""),
            Binding("fanout", "b", "any"),
            Binding("fanout", "deleted-meanwhile", ""),
            Binding("topic", "a", "task.*"),
            Binding("topic", "b", "task.#.two"),
            Binding("topic", "b", "task"),
            Binding("ring", "ring", "", to_queue=False),
            Binding("ring", "direct", "", to_queue=False),
            Binding("fallback", "b", "own"),
        ),
        "3.10.8",
    )

    assert host.reached(exchange, key) == queues


def test_dead_letters_are_never_limited_where_rabbitmq_4_would_limit_them() -> None:
    limits = {
        version: next(
            thing.arguments.get("x-delivery-limit")
            for thing in wanted(PLACES, (), version)
            if isinstance(thing, WantedQueue) and thing.name == PLACES.dead_letter_queue
        )
        for version in ("3.10.8", "4.0.2")
    }

    assert limits == {"3.10.8": None, "4.0.2": -1}


def test_logs_and_crashes_that_share_a_place_share_the_stream() -> None:
    places = replace(PLACES, logs=PLACES.crashes)

    types = {
        thing.name: thing.arguments["x-queue-type"]
        for thing in wanted(places, (), "3.10.8")
        if isinstance(thing, WantedQueue)
    }

    assert types == {"tasks": "quorum", "tasks.dead-letters": "quorum", "x.crash": "stream"}


def test_a_migration_names_the_queues_the_bindings_and_the_virtual_host() -> None:
    binds = [Hop(exchange="x", routing_key="grammar")]

    steps = migrate_queue(PLACES, "tasks", binds, "lab")

    assert "MESSAGE_BROKER_CONSUMPTION_QUEUE=tasks.quorum ulos topology apply --bind EXCHANGE:KEY" in steps
    assert "at least x:grammar" in steps
    assert "rabbitmqctl -p lab delete_queue tasks\n" in steps
    assert '"src-uri":"amqp:///lab"' in steps
    assert "no report is lost" in migrate_queue(PLACES, "x.crash", binds, "/")
    assert "Stop the nodes before 2" in migrate_queue(PLACES, "tasks.dead-letters", binds, "/")
    assert "tasks are not touched" in migrate_queue(PLACES, "x.log", binds, "/")
    assert "rabbitmqadmin delete exchange name=tasks.dead-letters" in migrate_exchange("tasks.dead-letters", "/")
