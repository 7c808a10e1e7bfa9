"""`ulos crashes` on a real broker with real nodes: read without taking, and send back without losing or doubling."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from pydantic import SecretStr
from world import LIMIT_S, World, a_tree, ulos

from ulos_stream import routing
from ulos_stream.lab import Broker
from ulos_stream.tasks import Hop, Verdict
from ulos_stream.topology import reading
from ulos_stream.topology.connection import Access, connected, version
from ulos_stream.topology.declaring import declare
from ulos_stream.topology.places import Places, wanted

KEYS = ("pass", "no-such-executor")
"""Routing keys bound to the consumption queue."""


def access(broker: Broker) -> Access:
    return Access(broker.host, broker.port, "/", broker.username, SecretStr(broker.password), tls=None)


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """What `ulos topology apply` makes, and a queue that hears all the node publishes."""
    name = f"test-{uuid.uuid4()}"
    places = Places(name, *(Hop(exchange=name, routing_key=key) for key in ("log", "crash")))
    async with connected(access(broker)) as connection:
        binds = [Hop(exchange=name, routing_key=key) for key in KEYS]
        assert all(one.good for one in await declare(connection, wanted(places, binds, version(connection))))
        channel = await connection.channel()
        exchange = await channel.get_exchange(name)
        told = await channel.declare_queue(f"{name}-told", durable=True)
        tasks, dead = [await channel.get_queue(queue) for queue in (name, places.dead_letter_queue)]
        world = World(broker, channel, exchange, tasks, dead, told, tmp_path)
        await world.listen("log", "crash")
        yield world


async def crashed(world: World, *tasks: dict[str, Any], **properties: Any) -> None:
    """Let a node crash on these tasks, `m-0`, `m-1`…"""
    async with world.node():
        for number, task in enumerate(tasks):
            await world.send(task, **{"message_id": f"m-{number}", **properties})
        await world.hear_the_end(len(tasks))
    await dead_letters_are(world, len(tasks))


async def dead_letters_are(world: World, count: int) -> None:
    """Wait until so many lie there: a broker moves dead letters by itself, and tells nobody."""
    async with asyncio.timeout(LIMIT_S):
        while await world.count(world.dead) != count:
            await asyncio.sleep(0.05)


async def crashes(world: World, *arguments: str, code: int = 0) -> str:
    ended = await ulos("crashes", *arguments, **world.environment())
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


async def listed(world: World, *arguments: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(await crashes(world, "list", "--json", *arguments))
    return cases


async def take(world: World) -> AbstractIncomingMessage:
    """The next message of the consumption queue: a confirmed one is there."""
    message = await world.tasks.get(no_ack=True)
    assert message is not None
    return message


def a_nowhere(world: World) -> dict[str, Any]:
    """A task whose only stage passes, and whose next hop leads to no queue."""
    return world.task(a_tree("pass", success=a_tree("nobody-listens")))


# reading


async def test_crashes_are_listed_as_often_as_one_looks(world: World) -> None:
    await crashed(
        world, world.task(a_tree("crash")), a_nowhere(world), world.task(a_tree("pass"), filePath="/none.zip")
    )

    first, second = await listed(world), await listed(world)

    assert first == second
    assert sorted((case["message_id"], case["code"], case["stage"], case["dead_letters"]) for case in first) == [
        ("m-0", "executor_crashed", "crash", 1),
        ("m-1", "unroutable", "pass", 1),
        ("m-2", "artifact_missing", "pass", 1),
    ]
    assert all(case["at"] and case["task"] == "t-1" and case["owner"] == "o-1" for case in first)
    assert await world.count(world.dead) == 3


async def test_crashes_are_listed_as_a_table_and_chosen_by_conditions(world: World) -> None:
    await crashed(world, world.task(a_tree("crash"), taskId="one"), world.task(a_tree("crash"), taskId="two"))
    await (await take_dead(world)).ack()

    everything = await crashes(world, "list")
    chosen = await crashes(world, "list", "--where", "task=two", "--where", "code=executor_crashed")
    none = await crashes(world, "list", "--where", "task=two", "--where", "task=one")

    assert "2 crashes, 1 with a dead letter" in everything
    assert sorted(line.split()[-2] for line in everything.splitlines() if "m-" in line) == ["gone", "there"]
    assert "two" in chosen
    assert "one" not in chosen.split()
    assert "0 crashes" in none


async def take_dead(world: World) -> AbstractIncomingMessage:
    message = await world.dead.get()
    assert message is not None
    return message


async def test_everything_about_one_crash_is_shown_with_what_can_be_done(world: World) -> None:
    await crashed(world, a_nowhere(world))

    text = await crashes(world, "show", "m-0")
    fields = json.loads(await crashes(world, "show", "m-0", "--json"))
    unknown = await crashes(world, "show", "m-9", code=1)

    assert "The stage is done and its result is uploaded, but no queue takes the next hop." in text
    assert "Bind a queue for the exchange and key" in text
    assert fields["content"]["routingTree"]["successRoutingDecision"]["routingKey"] == "nobody-listens"
    assert fields["died"]["queue"] == world.tasks.name
    assert fields["died"]["reason"] == "rejected"
    assert unknown == "ulos: no crash of a message 'm-9' is known; see ulos crashes list\n"


async def test_a_body_that_is_no_task_is_listed_and_shown(world: World) -> None:
    async with world.node():
        await world.send(b"{", message_id=None)
        await world.hear(lambda heard: heard[-1].key == "crash")
    await dead_letters_are(world, 1)

    [case] = await listed(world)
    shown = json.loads(await crashes(world, "show", case["message_id"], "--json"))
    said = await crashes(world, "replay", code=1)

    assert (case["code"], case["task"], case["dead_letters"]) == ("malformed_message", "", 1)
    assert shown["content"]["text"] == "{"
    assert "it is still no task" in said
    assert await world.count(world.dead) == 1


async def test_what_a_stage_wrote_cannot_drive_the_terminal(world: World) -> None:
    error = {"code": "executor_crashed", "detail": "\x1b]0;owned\x07[red]", "output_tail": "\x1b[2J\u202e"}
    body = json.dumps({**world.task(a_tree("crash")), "logMessage": "", "error": error}).encode()
    await world.exchange.publish(aio_pika.Message(body, correlation_id="m-0"), "crash")

    said = await crashes(world, "list") + await crashes(world, "show", "m-0")

    assert "\\x1b]0;owned\\x07[red]" in said
    assert "\\u202e" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


async def test_without_the_crash_stream_the_command_that_makes_it_is_named(world: World) -> None:
    await (await world.channel.get_queue(f"{world.exchange.name}.crash")).delete()

    said = await crashes(world, "list", code=1)

    assert said == f"ulos: there is no queue {world.exchange.name}.crash: ulos topology apply makes it\n"


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_crash_queue_that_is_no_stream_is_not_read_and_loses_nothing(world: World, kind: str) -> None:
    name = f"{world.exchange.name}.crash"
    await (await world.channel.get_queue(name)).delete()
    queue = await world.channel.declare_queue(name, durable=True, arguments={"x-queue-type": kind})
    await world.channel.default_exchange.publish(aio_pika.Message(b"report"), name)

    said = await crashes(world, "list", code=1)

    assert "is no stream" in said
    assert await world.count(queue) == 1


async def test_two_commands_do_not_hold_the_dead_letters_at_once(world: World) -> None:
    await crashed(world, world.task(a_tree("crash")))

    async with connected(access(world.broker)) as connection:
        held = await reading.dead_letters(connection, world.dead.name)
        said = await crashes(world, "replay", code=1)
    afterwards = await listed(world)

    assert len(held) == 1
    assert f"another command is reading {world.dead.name}" in said
    assert [case["dead_letters"] for case in afterwards] == [1]


async def test_a_long_stream_and_many_dead_letters_are_read_to_their_end(world: World) -> None:
    tasks = [world.task(a_tree("crash"), taskId=f"t-{number}", filePath="/a.zip") for number in range(1_000)]
    error = {"code": "timeout", "detail": "late"}
    for number, task in enumerate(tasks):
        report = json.dumps({**task, "logMessage": "", "error": error}).encode()
        await world.exchange.publish(aio_pika.Message(report, correlation_id=f"m-{number}"), "crash")
        letter = aio_pika.Message(json.dumps(task).encode(), message_id=f"m-{number}")
        await world.channel.default_exchange.publish(letter, world.dead.name)

    cases = await listed(world)

    assert [case["task"] for case in cases] == [f"t-{number}" for number in range(1_000)]
    assert {case["dead_letters"] for case in cases} == {1}


async def test_a_broker_that_pauses_in_the_middle_of_a_stream_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3 * reading.PREFETCH
    for number in range(count):
        await world.exchange.publish(aio_pika.Message(b"report", message_id=str(number)), "crash")
    assert world.broker.server.process is not None
    group = world.broker.server.process.pid
    letter = reading._letter

    def pause_at_the_first(raw: AbstractIncomingMessage) -> reading.Letter:
        if raw.message_id == "0":
            os.killpg(group, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(10 * reading.QUIET_S, os.killpg, group, signal.SIGCONT)
        return letter(raw)

    monkeypatch.setattr(reading, "_letter", pause_at_the_first)
    async with connected(access(world.broker)) as connection:
        read = await reading.read_stream(connection, f"{world.exchange.name}.crash")

    assert len(read) == count


async def test_dead_letters_in_a_queue_of_another_name_are_found_there(world: World) -> None:
    await crashed(world, world.task(a_tree("crash")))
    other = await world.channel.declare_queue(f"{world.dead.name}-other", durable=True)
    letter = await take_dead(world)
    message = aio_pika.Message(letter.body, message_id=letter.message_id, headers=letter.headers)
    await world.channel.default_exchange.publish(message, other.name)
    await letter.ack()

    assert [case["dead_letters"] for case in await listed(world)] == [0]
    assert [case["dead_letters"] for case in await listed(world, "--dead-letters", other.name)] == [1]


# replaying


async def test_an_unroutable_task_is_only_handed_over_once_its_queue_is_bound(world: World) -> None:
    task = a_nowhere(world)
    await crashed(world, task)
    await world.listen("nobody-listens")

    said = await crashes(world, "replay", "--where", "code=unroutable")
    async with world.node():
        heard = await world.hear_the_end()
    again = await crashes(world, "replay", "--where", "code=unroutable")

    [hop] = [message for message in heard if message.key == "nobody-listens"]
    assert hop.raw.message_id == routing.hop_id("m-0", Verdict.PASS)
    with zipfile.ZipFile(world.artifacts / task["filePath"][1:]) as archive:
        assert len(json.loads(archive.read(".ulos/journal.json"))["entries"]) == 1
    assert "1 sent, 0 left" in said
    assert "0 sent, 0 left" in again
    assert [case["dead_letters"] for case in await listed(world)] == [0]
    assert await world.count(world.tasks) == 0


async def test_a_replayed_message_is_the_one_that_crashed_without_the_marks_of_its_death(world: World) -> None:
    task = world.task(a_tree("crash"), kept={"unknown": "field"})
    await crashed(world, task, headers={"traceparent": "00-1-2-3"}, correlation_id="before", app_id="producer")

    await crashes(world, "replay")
    message = await take(world)

    assert json.loads(message.body) == task
    assert (message.message_id, message.correlation_id, message.app_id) == ("m-0", "before", "producer")
    assert message.headers == {"traceparent": "00-1-2-3", "x-delivery-count": 0}  # counted by the queue it is in now
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_only_what_matches_is_sent_and_only_that_is_removed(world: World) -> None:
    await crashed(world, *(world.task(a_tree("crash"), taskId=f"t-{number}") for number in range(3)))

    said = await crashes(world, "replay", "--where", "task=t-1")
    message = await take(world)

    assert "1 sent, 0 left" in said
    assert json.loads(message.body)["taskId"] == "t-1"
    assert {case["task"]: case["dead_letters"] for case in await listed(world)} == {"t-0": 1, "t-1": 0, "t-2": 1}


async def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(world: World) -> None:
    await crashed(world, world.task(a_tree("crash")))

    said = await crashes(world, "replay", "--dry-run")

    assert f"would send m-0 (task 't-1', executor_crashed) to queue {world.tasks.name} as m-0" in said
    assert "1 would be sent" in said
    assert (await world.count(world.tasks), await world.count(world.dead)) == (0, 1)


async def test_a_task_that_crashed_in_its_first_stage_begins_anew_under_a_new_id(world: World) -> None:
    await crashed(world, world.task(a_tree("crash", success=a_tree("pass"))))
    [case] = await listed(world)

    await crashes(world, "replay", "--from", "first")
    message = await take(world)

    assert message.message_id == routing.replay_id("m-0", 0)
    assert json.loads(message.body)["routingTree"]["successRoutingDecision"]["routingKey"] == "pass"
    assert case["dead_letters"] == 1
    assert await world.count(world.dead) == 0


async def test_a_task_that_a_node_handed_over_begins_anew_only_with_the_whole_task(
    world: World, tmp_path: Path
) -> None:
    whole = world.task(a_tree("pass", success=a_tree("no-such-executor")))
    async with world.node():
        await world.send(whole)
        await world.hear_the_end(2)
    await dead_letters_are(world, 1)
    file = tmp_path / "whole.json"
    file.write_text(json.dumps(whole))

    refused = await crashes(world, "replay", "--from", "first", code=1)
    left = await world.count(world.dead)
    sent = await crashes(world, "replay", "--from", "first", "--task", str(file))
    message = await take(world)

    assert "a node sent it here, so this was not its first stage" in refused
    assert left == 1
    assert "1 sent" in sent
    assert json.loads(message.body) == whole
    assert message.app_id is None
    assert await world.count(world.dead) == 0


async def test_a_file_is_for_exactly_one_crash(world: World, tmp_path: Path) -> None:
    await crashed(world, world.task(a_tree("crash")), world.task(a_tree("crash")))
    file = tmp_path / "whole.json"
    file.write_text(json.dumps(world.task(a_tree("crash"))))

    several = await crashes(world, "replay", "--from", "first", "--task", str(file), code=1)
    crashed_stage = await crashes(world, "replay", "--task", str(file), code=2)

    assert "--task is for one crash, and 2 match with a dead letter" in several
    assert "--task needs --from first" in crashed_stage
    assert await world.count(world.dead) == 2


async def test_a_task_that_no_queue_takes_keeps_its_dead_letter(world: World) -> None:
    await crashed(world, world.task(a_tree("crash")))
    await world.tasks.delete(if_unused=False, if_empty=False)

    said = await crashes(world, "replay", code=1)

    assert f"no queue takes exchange '' with routing key '{world.tasks.name}'" in said
    assert "0 sent, 1 left where they are" in said
    assert await world.count(world.dead) == 1


async def test_a_task_that_the_broker_refuses_keeps_its_dead_letter(world: World) -> None:
    await crashed(world, world.task(a_tree("crash")))
    letter = await take_dead(world)
    full = await world.channel.declare_queue(
        f"{world.tasks.name}-full", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await world.channel.default_exchange.publish(aio_pika.Message(b"full"), full.name)
    message = aio_pika.Message(letter.body, message_id="m-0", headers={"x-death": [{"queue": full.name}]})
    await world.channel.default_exchange.publish(message, world.dead.name)
    await letter.ack()

    said = await crashes(world, "replay", code=3)

    assert "no confirmation of a message to exchange ''" in said
    await dead_letters_are(world, 1)


@pytest.mark.parametrize(("start", "id"), [("crashed", "m-0"), ("first", routing.replay_id("m-0", 0))])
async def test_a_replay_killed_before_the_dead_letter_is_removed_sends_the_same_id_again(
    world: World, start: str, id: str
) -> None:
    await crashed(world, world.task(a_tree("crash")))
    program = (
        "import os, signal\n"
        "from ulos_stream.topology.reading import Letter\n"
        "async def die(letter): os.kill(os.getpid(), signal.SIGKILL)\n"
        "Letter.take_off = die\n"
        "from ulos_stream.cli import main; main()\n"
    )
    command = [sys.executable, "-c", program, "crashes", "replay", "--from", start]

    killed = await asyncio.to_thread(subprocess.run, command, env=world.environment(), timeout=60)
    await dead_letters_are(world, 1)
    await crashes(world, "replay", "--from", start)
    twice = [await take(world), await take(world)]

    assert killed.returncode == -signal.SIGKILL
    assert [message.message_id for message in twice] == [id, id]
    assert twice[0].body == twice[1].body
    assert await world.count(world.dead) == 0


async def test_a_broker_that_stops_confirming_ends_the_replay_and_keeps_the_dead_letter(world: World) -> None:
    await crashed(world, world.task(a_tree("crash")))
    program = (
        "import os, signal, sys\n"
        "import ulos_stream.crashes.replaying as replaying\n"
        "send = replaying.send\n"
        "async def freeze(*arguments, **options):\n"
        "    os.killpg(int(os.environ['FROZEN']), signal.SIGSTOP)\n"
        "    await send(*arguments, **options)\n"
        "replaying.send = freeze\n"
        "from ulos_stream.cli import main; main()\n"
    )
    assert world.broker.server.process is not None
    group = world.broker.server.process.pid
    environment = world.environment(FROZEN=str(group), ULOS_PUBLISH_TIMEOUT_S="0.5")

    try:
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program, "crashes", "replay"],
            env=environment,
            capture_output=True,
            timeout=60,
        )
    finally:
        os.killpg(group, signal.SIGCONT)

    assert ended.returncode == 3
    assert b"no confirmation of a message" in ended.stderr
    await dead_letters_are(world, 1)
