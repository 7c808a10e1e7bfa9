"""Overhearing what nodes publish, without taking it from anybody: by a queue of our own that ends with us."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from aio_pika.abc import AbstractQueue
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity

from ulos_stream.errors import BrokerFault, TopologyMismatch
from ulos_stream.tasks import Hop
from ulos_stream.topology.connection import Connection

PREFETCH = 200
MOST_BYTES = 64 * 1024 * 1024
"""Messages that wait for us, the oldest going first: one who listens and stops must not fill the broker's memory."""


@dataclass(frozen=True, slots=True)
class Overheard:
    """A message that somebody published."""

    body: bytes
    message_id: str | None
    correlation_id: str | None


@contextlib.asynccontextmanager
async def overhearing(connection: Connection, hops: Iterable[Hop]) -> AsyncIterator[AsyncIterator[Overheard]]:
    """Everything that is published to `hops` from now on, in order.

    Raises:
        TopologyMismatch: One of them cannot be overheard.
        BrokerFault: The connection is lost; raised by the iteration.
    """
    async with connection.channel() as channel:
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.declare_queue(exclusive=True, arguments={"x-max-length-bytes": MOST_BYTES})
        for hop in dict.fromkeys(hops):
            await _bind(queue, hop)
        yield _messages(queue)


async def _bind(queue: AbstractQueue, hop: Hop) -> None:
    if not hop.exchange:
        text = f"messages for queue {hop.routing_key!r} go there by the default exchange, where nobody can listen in"
        raise TopologyMismatch(f"{text}; publish them to an exchange of their own")
    try:
        await queue.bind(hop.exchange, hop.routing_key)
    except (ChannelNotFoundEntity, ChannelAccessRefused) as refused:
        reason = "does not exist" if isinstance(refused, ChannelNotFoundEntity) else "is closed to this user"
        raise TopologyMismatch(f"exchange {hop.exchange!r} {reason}, so nobody can listen to it") from refused


async def _messages(queue: AbstractQueue) -> AsyncIterator[Overheard]:
    async with queue.iterator() as messages:
        async for raw in messages:
            await raw.ack()
            yield Overheard(raw.body, raw.message_id, raw.correlation_id)
    raise BrokerFault("the connection to the broker is lost")
