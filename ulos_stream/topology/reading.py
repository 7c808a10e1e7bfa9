"""Reading the crash reports and the dead letters without taking them away."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import ChannelLockedResource, ChannelNotFoundEntity, ChannelPreconditionFailed

from ulos_stream.errors import TopologyMismatch
from ulos_stream.topology.connection import Channel, Connection

PREFETCH = 200
QUIET_S = 0.2
"""Seconds without a message after which a stream may be at its end, which the broker is then asked."""
MOST = 65_535
"""Dead letters looked at: what a channel may hold. The oldest come first, so a second run sees the rest."""


@dataclass(frozen=True, slots=True, eq=False)
class Letter:
    """A message that was read: a crash report, or a dead letter."""

    body: bytes
    message_id: str | None = None
    correlation_id: str | None = None
    app_id: str | None = None
    timestamp: datetime | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    raw: AbstractIncomingMessage | None = field(default=None, repr=False)

    @property
    def died(self) -> Mapping[str, Any]:
        """What the broker noted when it put the message aside last: `queue`, `reason`, `time` and more, or nothing."""
        deaths = self.headers.get("x-death")
        return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}

    @property
    def offset(self) -> int:
        """Place in the stream that it was read from."""
        offset = self.headers.get("x-stream-offset")
        return offset if isinstance(offset, int) else 0

    async def take_off(self) -> None:
        """Remove a dead letter for good, while it is held."""
        if self.raw is not None:
            await self.raw.ack()


async def read_stream(connection: Connection, name: str) -> list[Letter]:
    """Everything that a stream holds now, oldest first. Reading a stream takes nothing away.

    Raises:
        TopologyMismatch: There is no such queue, or it is no stream.
    """
    messages: list[Letter] = []
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await _find(channel, name)
    try:
        tag = await queue.consume(arrived.put, arguments={"x-stream-offset": "first"})
    except ChannelPreconditionFailed as other:
        text = f"{name} is no stream, so reading it would take reports away: see ulos topology check"
        raise TopologyMismatch(text) from other
    while (message := await _next(channel, name, arrived)) is not None:
        messages.append(_letter(message))
        await message.ack()
    await queue.cancel(tag)
    return messages


async def dead_letters(connection: Connection, name: str) -> tuple[Letter, ...]:
    """Hold the dead letters that lie in a queue now, oldest first, until the connection is closed.

    Those not taken off go back then. On a quorum queue each look counts as a delivery, which does no
    harm without a delivery limit: so `ulos topology apply` makes the queue, and `check` looks at it.

    Raises:
        TopologyMismatch: There is no such queue, or another command holds its messages.
    """
    channel = await connection.channel()
    queue = await _find(channel, name)
    try:  # quorum queues of RabbitMQ 3.10 do not refuse a second exclusive consumer; a queue is a lock everywhere
        await channel.declare_queue(f"{name}.being-read", exclusive=True, auto_delete=True)
    except ChannelLockedResource as locked:
        raise TopologyMismatch(f"another command is reading {name}: wait until it has ended") from locked
    count = min(queue.declaration_result.message_count or 0, MOST)
    if not count:
        return ()
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    letters: list[Letter] = []
    await channel.set_qos(prefetch_count=count)
    tag = await queue.consume(arrived.put)
    while len(letters) < count and (letter := await _next(channel, name, arrived)) is not None:
        letters.append(_letter(letter))
    await queue.cancel(tag)
    return tuple(letters)


async def _next(
    channel: Channel, name: str, arrived: "asyncio.Queue[AbstractIncomingMessage]"
) -> AbstractIncomingMessage | None:
    """The next message, or None at the end.

    A broker does not say where a stream ends, and its count of them is 0. But it answers on a
    channel in order: what it had to deliver has come when it answers a question asked later.
    """
    for ask in (True, False):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                return await arrived.get()
        if ask:
            await channel.declare_queue(name, passive=True)
    return None


async def _find(channel: Channel, name: str) -> AbstractQueue:
    try:
        return await channel.declare_queue(name, passive=True)
    except ChannelNotFoundEntity as missing:
        raise TopologyMismatch(f"there is no queue {name}: ulos topology apply makes it") from missing


def _letter(raw: AbstractIncomingMessage) -> Letter:
    return Letter(raw.body, raw.message_id, raw.correlation_id, raw.app_id, raw.timestamp, raw.headers, raw)
