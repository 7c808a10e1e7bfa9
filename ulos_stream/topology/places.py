"""What belongs to a node on the broker: its names, and how each thing should be. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ulos_stream.tasks import Hop

DELIVERY_LIMIT = 20
"""Deliveries of one task: each drain of a node costs one, so a limit of 3 kills healthy tasks in rolling restarts."""
LOG_BYTES = 256 * 1024 * 1024
"""Most bytes of log messages kept: a log queue that nobody reads must not fill the broker's disk."""
CRASH_BYTES = 1024 * 1024 * 1024
"""Most bytes of crash reports kept, the oldest going first: some hundred thousand."""
CRASH_SEGMENT_BYTES = 64 * 1024 * 1024
"""A stream drops its oldest reports by whole segments of this size."""

COLLECTED = ("task.done", "task.failed")
"""Routing keys at which routes end, by custom: somebody collects there what is done."""
COLLECTED_MESSAGES = 1_000
"""Kept of those where nodes are tried out and nobody collects them."""


@dataclass(frozen=True, slots=True)
class Places:
    """The names around one consumption queue: those of the environment, and those that follow from them."""

    consumption_queue: str
    logs: Hop
    crashes: Hop

    @property
    def dead_letter_exchange(self) -> str:
        """A fanout: dead letters keep the routing key they had."""
        return f"{self.consumption_queue}.dead-letters"

    @property
    def dead_letter_queue(self) -> str:
        """Where crashed tasks lie."""
        return f"{self.consumption_queue}.dead-letters"

    @property
    def log_queue(self) -> str:
        """Nodes that log to one place share it."""
        return _queue_at(self.logs)

    @property
    def crash_queue(self) -> str:
        """Nodes that report to one place share it."""
        return _queue_at(self.crashes)


@dataclass(frozen=True, slots=True)
class WantedExchange:
    """A durable exchange; with `lenient`, one of another type is as good."""

    name: str
    type: str
    lenient: bool


@dataclass(frozen=True, slots=True)
class WantedQueue:
    """A durable queue."""

    name: str
    arguments: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class WantedBinding:
    """A way from an exchange to a queue."""

    queue: str
    exchange: str
    routing_key: str


Wanted = WantedExchange | WantedQueue | WantedBinding


def wanted(places: Places, binds: Iterable[Hop], broker_version: str) -> list[Wanted]:
    """Everything to declare, in an order in which each thing finds what it refers to.

    Args:
        places: The names.
        binds: Where tasks for the consumption queue are published.
        broker_version: As RabbitMQ tells it, such as `3.10.8`.
    """
    binds = list(binds)
    dead = places.dead_letter_queue
    named = dict.fromkeys(hop.exchange for hop in (places.logs, places.crashes, *binds) if hop.exchange)
    things: list[Wanted] = [WantedExchange(name, "direct", lenient=True) for name in named]
    things += [
        WantedExchange(places.dead_letter_exchange, "fanout", lenient=False),
        WantedQueue(dead, {"x-queue-type": "quorum", **_no_delivery_limit(broker_version)}),
        WantedBinding(dead, places.dead_letter_exchange, ""),
        WantedQueue(
            places.consumption_queue,
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": places.dead_letter_exchange,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        ),
        WantedQueue(
            places.crash_queue,
            {
                "x-queue-type": "stream",
                "x-max-length-bytes": CRASH_BYTES,
                "x-stream-max-segment-size-bytes": CRASH_SEGMENT_BYTES,
            },
        ),
    ]
    if places.logs != places.crashes:
        things.append(WantedQueue(places.log_queue, {"x-queue-type": "quorum", "x-max-length-bytes": LOG_BYTES}))
    ways = [(places.crash_queue, places.crashes), (places.log_queue, places.logs)]
    ways += [(places.consumption_queue, hop) for hop in binds]
    things += [
        WantedBinding(queue, hop.exchange, hop.routing_key) for queue, hop in dict.fromkeys(ways) if hop.exchange
    ]
    return things


def wanted_for_trying(places: Places, routing_keys: Iterable[str], broker_version: str) -> list[Wanted]:
    """What a node needs that is tried out: `wanted`, its stages bound, and a queue at each of `COLLECTED`.

    Args:
        places: The names; the logs' exchange is that of every hop.
        routing_keys: Of the stages.
        broker_version: As RabbitMQ tells it.
    """
    exchange = places.logs.exchange
    stages = [Hop(exchange=exchange, routing_key=key) for key in routing_keys]
    things = wanted(places, stages, broker_version)
    for end in (Hop(exchange=exchange, routing_key=key) for key in COLLECTED):
        things.append(WantedQueue(_queue_at(end), {"x-queue-type": "classic", "x-max-length": COLLECTED_MESSAGES}))
        things.append(WantedBinding(_queue_at(end), end.exchange, end.routing_key))
    return things


def default_delivery_limit(broker_version: str) -> int | None:
    """What a quorum queue without a limit of its own has: 20 from RabbitMQ 4 on, before that none.

    Source: release notes of RabbitMQ 4.0.
    """
    return 20 if int(broker_version.partition(".")[0] or 0) >= 4 else None


def _no_delivery_limit(broker_version: str) -> dict[str, str | int]:
    """Looking at a dead letter counts as a delivery, so none may be one too many.

    RabbitMQ 3 knows no -1: there it would be a limit that every message exceeds.
    """
    return {} if default_delivery_limit(broker_version) is None else {"x-delivery-limit": -1}


def _queue_at(hop: Hop) -> str:
    """The default exchange leads to the queue that the key names; elsewhere the name says where it hangs."""
    return f"{hop.exchange}.{hop.routing_key}" if hop.exchange else hop.routing_key
