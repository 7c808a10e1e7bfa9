"""`ulos topology apply`: declare what is missing, alter nothing, and say each thing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelClosed,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from ulos_stream.topology.places import Wanted, WantedBinding, WantedExchange, WantedQueue

State = Literal["created", "as it should be", "bound", "otherwise", "refused", "not done"]
GOOD: frozenset[State] = frozenset({"created", "as it should be", "bound"})
"""`bound` is a binding that is there now: AMQP does not say whether it was there before."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What became of one wanted thing."""

    thing: Wanted
    state: State
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether it is there as it should be."""
        return self.state in GOOD


async def declare(connection: AbstractConnection, things: Sequence[Wanted]) -> list[Declared]:
    """Declare each thing, whatever becomes of the others; a binding between things that failed is left out."""
    done: list[Declared] = []
    failed: set[tuple[str, str]] = set()
    for thing in things:
        if isinstance(thing, WantedBinding):
            lacking = failed & {("exchange", thing.exchange), ("queue", thing.queue)}
        else:
            lacking = set()
        if lacking:
            note = "because of " + " and ".join(f"{kind} {name}" for kind, name in sorted(lacking))
            declared = Declared(thing, "not done", note)
        else:
            declared = await _declare(connection, thing)
        done.append(declared)
        if not declared.good and not isinstance(thing, WantedBinding):
            failed.add(("queue" if isinstance(thing, WantedQueue) else "exchange", thing.name))
    return done


async def _declare(connection: AbstractConnection, thing: Wanted) -> Declared:
    try:
        if isinstance(thing, WantedBinding):
            async with connection.channel() as channel:
                queue = await channel.get_queue(thing.queue, ensure=False)
                await queue.bind(thing.exchange, thing.routing_key)
            return Declared(thing, "bound")
        there = await _is_there(connection, thing)
        if not (there and isinstance(thing, WantedExchange) and thing.lenient):
            async with connection.channel() as channel:
                await _declare_as_wanted(channel, thing)
    except ChannelPreconditionFailed as conflict:
        return Declared(thing, "otherwise", _words(conflict))
    except (ChannelAccessRefused, ChannelLockedResource, ChannelNotFoundEntity) as refused:
        return Declared(thing, "refused", _words(refused))
    return Declared(thing, "as it should be" if there else "created")


async def _is_there(connection: AbstractConnection, thing: WantedExchange | WantedQueue) -> bool:
    try:
        async with connection.channel() as channel:
            if isinstance(thing, WantedQueue):
                await channel.declare_queue(thing.name, passive=True)
            else:
                await channel.declare_exchange(thing.name, passive=True)
    except ChannelNotFoundEntity:
        return False
    return True


async def _declare_as_wanted(channel: AbstractChannel, thing: WantedExchange | WantedQueue) -> None:
    if isinstance(thing, WantedQueue):
        await channel.declare_queue(thing.name, durable=True, arguments=dict(thing.arguments))
    else:
        await channel.declare_exchange(thing.name, thing.type, durable=True)


def _words(refusal: ChannelClosed) -> str:
    """The broker's own words."""
    return str(refusal.args[-1]) if refusal.args else type(refusal).__name__
