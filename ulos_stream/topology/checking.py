"""`ulos topology check`: which promises an existing topology does not keep. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ulos_stream.tasks import Hop
from ulos_stream.topology.connection import Shown
from ulos_stream.topology.places import DELIVERY_LIMIT, Places, default_delivery_limit
from ulos_stream.topology.virtual_host import Queue, VirtualHost

DEFAULT_DELIVERY_TIMEOUT_S = 1_800
"""RabbitMQ's `consumer_timeout` where nobody changed it: 30 minutes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A weakness, or something that could not be checked."""

    kind: Literal["weakness", "not checked"]
    code: str
    """Stable, for programs."""
    about: str
    text: str
    """What is wrong and what follows from it; or what was not checked, and why."""


def check(places: Places, shown: Shown, host: VirtualHost | str, held_s: float) -> list[Finding]:
    """Every weakness of a topology, and what could not be checked.

    Args:
        places: The names.
        shown: What AMQP shows of them.
        host: What the management API shows, or why it shows nothing.
        held_s: The longest time, in seconds, for which a node may hold a message unacknowledged.
    """
    findings = list(_missing(places, shown))
    if isinstance(host, VirtualHost):
        findings += _consumption(places, host)
        findings += _dead_letters(places, host)
        findings += _told("logs", places.logs, places, host)
        findings += _told("crash", places.crashes, places, host)
    else:
        findings += (Finding("not checked", code, about, f"{what}: {host}") for code, about, what in _unseen(places))
    reason = f"a node may hold a message for {held_s:g} s; the broker's consumer_timeout is not shown by its API, and"
    consequence = f"is {DEFAULT_DELIVERY_TIMEOUT_S} s by default: past it the message is taken from the node"
    where = "see rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).' (in milliseconds)"
    text = f"{reason} {consequence}; {where}"
    findings.append(Finding("not checked", "consumer-timeout", places.consumption_queue, text))
    return findings


def looked_at(places: Places) -> tuple[set[str], set[str]]:
    """The exchanges and the queues whose existence AMQP alone must show; the default exchange leads to a queue."""
    hops = (places.logs, places.crashes)
    return {hop.exchange for hop in hops if hop.exchange}, {
        places.consumption_queue,
        *(hop.routing_key for hop in hops if not hop.exchange),
    }


def _weak(code: str, about: str, text: str) -> Finding:
    return Finding("weakness", code, about, text)


def _missing(places: Places, shown: Shown) -> Iterator[Finding]:
    if reason := shown.queues[places.consumption_queue]:
        yield _weak("queue-missing", places.consumption_queue, f"{reason}: nodes wait for it and consume nothing")
    for word, hop, consequence in (
        ("logs", places.logs, "nobody sees what happens to tasks"),
        ("crash", places.crashes, "a crashing task is held by its node for ever"),
    ):
        if hop.exchange and (reason := shown.exchanges[hop.exchange]):
            yield _weak(f"{word}-exchange-missing", hop.exchange, f"{reason}: nodes wait for it and consume nothing")
        elif not hop.exchange and (reason := shown.queues[hop.routing_key]):
            yield _weak(f"{word}-unbound", hop.routing_key, f"{reason}: {consequence}")


def _unseen(places: Places) -> Iterator[tuple[str, str, str]]:
    queue = places.consumption_queue
    yield (
        "queue-arguments",
        queue,
        "its type, delivery limit, overflow, limits of length and time, durability, policies",
    )
    yield "queue-bindings", queue, "whether any exchange leads to it"
    yield "dead-letters", queue, "whether and where its dead letters go"
    for word, hop in (("logs", places.logs), ("crash", places.crashes)):
        if hop.exchange:
            yield f"{word}-unbound", hop.exchange, f"whether a queue takes the key {hop.routing_key!r}"
    yield (
        "crash-not-stream",
        places.crashes.exchange or places.crashes.routing_key,
        "whether a stream keeps the crashes",
    )


def _consumption(places: Places, host: VirtualHost) -> Iterator[Finding]:
    queue = host.queues.get(places.consumption_queue)
    if queue is None:  # said already
        return
    if queue.type != "quorum":
        text = f"a {queue.type} queue, not quorum: it counts no deliveries, and its messages die with one broker"
        yield _weak("queue-not-quorum", queue.name, text)
    else:
        yield from _delivery_limit(queue, host.broker_version)
    yield from _perishable(queue, "tasks")
    lengths = [key for key in ("max-length", "max-length-bytes") if queue.setting(key) is not None]
    strict = queue.setting("dead-letter-strategy") == "at-least-once"
    if queue.setting("overflow") == "drop-head" or (queue.setting("overflow") is None and (lengths or strict)):
        text = "overflow is drop-head: full, the queue drops its oldest tasks, and dead letters go at most once"
        yield _weak("overflow-drop-head", queue.name, text)
    if queue.policies is None:
        text = "which policies hold: the API shows them with its statistics, some ten seconds after a queue is made"
        yield Finding("not checked", "policy", queue.name, text)
    elif queue.policies:
        sets = ", ".join(sorted(queue.policy)) or "nothing"
        text = f"policy {', '.join(queue.policies)} sets {sets}: whoever edits it changes what is promised here"
        yield _weak("policy", queue.name, text)
    if not any(b.to_queue and b.source and b.destination == queue.name for b in host.bindings):
        yield _weak(
            "queue-unbound", queue.name, "no exchange leads to it: only a sender that names the queue reaches it"
        )


def _delivery_limit(queue: Queue, broker_version: str) -> Iterator[Finding]:
    limit = queue.setting("delivery-limit")
    if limit is None:
        limit = default_delivery_limit(broker_version)
    if not isinstance(limit, int) or limit < 0:
        text = "no delivery limit: a task that kills its node is delivered for ever"
        yield _weak("delivery-limit-none", queue.name, text)
    elif limit < DELIVERY_LIMIT:
        text = f"a delivery limit of {limit}, below {DELIVERY_LIMIT}: restarts of nodes dead-letter healthy tasks"
        yield _weak("delivery-limit-low", queue.name, text)


def _perishable(queue: Queue, what: str) -> Iterator[Finding]:
    """What makes the messages of a queue go away by themselves."""
    if not queue.durable or queue.auto_delete or queue.exclusive:
        how = "not durable" if not queue.durable else "auto-delete" if queue.auto_delete else "exclusive"
        yield _weak("queue-not-durable", queue.name, f"{how}: the queue goes away, and {what} with it")
    for key, consequence in (
        ("max-length", f"past it {what} are refused or dropped"),
        ("max-length-bytes", f"past it {what} are refused or dropped"),
        ("message-ttl", f"after so many milliseconds {what} go away unprocessed"),
        ("expires", f"after so many milliseconds without a consumer the queue goes away, and {what} with it"),
    ):
        if (value := queue.setting(key)) is not None:
            yield _weak(key, queue.name, f"{key} is {value}: {consequence}")


def _dead_letters(places: Places, host: VirtualHost) -> Iterator[Finding]:
    queue = host.queues.get(places.consumption_queue)
    if queue is None:
        return
    exchange = queue.setting("dead-letter-exchange")
    if exchange is None:
        text = "no dead-letter exchange: a crashed task, and one past the delivery limit, vanishes"
        yield _weak("dead-letters-none", queue.name, text)
        return
    if queue.type == "quorum" and queue.setting("dead-letter-strategy") != "at-least-once":
        text = "dead letters go at most once: one that the broker fails to route or to store vanishes"
        yield _weak("dead-letters-at-most-once", queue.name, text)
    key = queue.setting("dead-letter-routing-key")
    # Without a key of its own a dead letter keeps the one it came by: any that leads here, or the queue's name.
    keys = [str(key)] if key is not None else sorted(_keys_to(queue, host))
    for lost in (key for key in keys if not host.reached(str(exchange), key)):
        text = f"dead letters go to exchange {exchange!r} with key {lost!r}, which leads to no queue"
        yield _weak("dead-letters-nowhere", queue.name, text)
    for name in sorted(set[str]().union(*(host.reached(str(exchange), key) for key in keys))):
        dead = host.queues[name]
        yield from _perishable(dead, "dead letters")
        limit = dead.setting("delivery-limit")
        limit = default_delivery_limit(host.broker_version) if limit is None else limit
        if dead.type == "quorum" and isinstance(limit, int) and limit >= 0:
            text = f"a delivery limit of {limit} on dead letters: looking at them that often empties the queue"
            yield _weak("dead-letters-limited", name, text)


def _keys_to(queue: Queue, host: VirtualHost) -> set[str]:
    return {queue.name} | {b.routing_key for b in host.bindings if b.to_queue and b.destination == queue.name}


def _told(word: Literal["logs", "crash"], hop: Hop, places: Places, host: VirtualHost) -> Iterator[Finding]:
    exchange = host.exchanges.get(hop.exchange)
    if hop.exchange and exchange is None:  # said already
        return
    about = hop.exchange or hop.routing_key
    if exchange is not None and not exchange.durable:
        text = "not durable: after a restart of the broker it is missing, and nodes wait for it"
        yield _weak(f"{word}-exchange-not-durable", about, text)
    reached = host.reached(hop.exchange, hop.routing_key)
    if not reached and hop.exchange:
        consequence = "a crashing task is held by its node for ever" if word == "crash" else "events are only counted"
        yield _weak(f"{word}-unbound", about, f"no queue takes the key {hop.routing_key!r}: {consequence}")
    if places.consumption_queue in reached:
        text = f"the key {hop.routing_key!r} leads into {places.consumption_queue}: what nodes tell they take for tasks"
        yield _weak(f"{word}-loop", about, text)
    if word == "crash" and reached and not any(host.queues[name].type == "stream" for name in reached):
        text = f"{', '.join(sorted(reached))} is no stream: who reads a crash report there takes it away from others"
        yield _weak("crash-not-stream", about, text)
