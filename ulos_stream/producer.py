"""What lies under the declared publishers: one channel, written to without waiting.

FastStream's own producer sends a message through four layers of objects and waits, holding the channel's lock,
until the socket has taken it: 0.2 ms of processor time each, and a stage publishes seven. Here a publish only
encodes the message, hands it to the connection, and returns the confirmation to be awaited; what is published in
the same turn of the event loop goes out in one write. The frames are those of AMQP 0-9-1 (sections 2.3.5, 4.2.3 and
4.2.6 of its specification, class 60 for `basic`), written here because pamqp takes ten times as long.

This stands on three things inside aiormq's channel, and so on its pinned version: `delivery_tag` counts the
messages on the channel, `confirmations` and `message_id_delivery_tag` say who waits for which, `write_queue` takes
frames. No publish on this channel goes another way, so nothing can come between a number and its message.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from struct import Struct
from typing import Any, NoReturn, cast

from aio_pika.abc import AbstractChannel
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel, Returning
from aiormq.exceptions import ChannelInvalidStateError
from faststream.exceptions import FeatureNotSupportedException
from faststream.rabbit import RabbitBroker
from faststream.rabbit.publisher.producer import AioPikaFastProducer
from faststream.rabbit.response import RabbitPublishCommand
from pamqp.encode import field_table

from ulos_stream.topology import APP_ID

Confirmation = asyncio.Future[Any]
"""Done when the broker has answered: it raises `PublishError` for a message that no queue takes, `DeliveryError` for
one that is refused, `TimeoutError` for one without an answer in time, and what closed the channel where there is no
answer any more."""

SPARE_IDS = 100
"""Ids of answered messages that a line may remember, beside as many as are open."""

_FRAME = Struct(">BHI")
"""Its kind, channel and size."""
_HEADER = Struct(">BHIHHQH")
"""The same, of a frame that begins with class and weight, the size of the body, and which properties follow."""
_END = b"\xce"
_PERSISTENT = b"\x02"


def install(broker: RabbitBroker, timeout_s: float) -> None:
    """Let every publisher that is declared on `broker` publish by a `Producer`."""
    config = broker.config.broker_config
    config.producer = Producer(config.channel_manager.get_channel, timeout_s)


class Producer(AioPikaFastProducer):
    """Writes messages to the broker's default channel: JSON, persistent, mandatory, and marked as ours.

    Args:
        get_channel: Finds or opens that channel.
        timeout_s: Seconds to wait for it, and for each confirmation.
    """

    codec: Any = None
    _parser: Any = None
    _decoder: Any = None

    def __init__(self, get_channel: Callable[[], Awaitable[AbstractChannel]], timeout_s: float) -> None:
        self._get_channel = get_channel
        self._timeout_s = timeout_s
        self._line: Line | None = None

    async def publish(self, cmd: RabbitPublishCommand) -> Confirmation:  # type: ignore[override]
        """Write a message and return its confirmation; never waits on an open channel.

        Raises:
            ChannelInvalidStateError: The channel is closed, and not open again yet.
            TimeoutError: There is no connection.
        """
        line = self._line
        if line is None or line.channel.is_closed:
            line = await self._open_line()
        channel = line.channel
        message_id = cast(str, cmd.message_options["message_id"])
        frames = (
            _publish_frame(channel.number, cmd.exchange.name, cmd.destination),
            _header_frame(channel.number, cmd, message_id),
            *_body_frames(channel.number, cmd.body, channel.max_content_size),
        )
        return line.write(message_id, frames)

    async def _open_line(self) -> "Line":
        async with asyncio.timeout(self._timeout_s):
            channel = cast(Channel, await (await self._get_channel()).get_underlay_channel())
        if channel.is_closed:
            raise ChannelInvalidStateError(f"{channel!r} closed")
        if self._line is None or self._line.channel is not channel:  # another publish, too, has waited for it
            self._line = Line(channel, self._timeout_s)
        return self._line

    async def request(self, cmd: RabbitPublishCommand) -> NoReturn:
        """No node asks another and waits for the answer."""
        raise FeatureNotSupportedException("this producer only publishes")


class Line:
    """One open channel, what is still to be handed to its connection, and what is still to be answered."""

    def __init__(self, channel: Channel, timeout_s: float) -> None:
        self.channel = channel
        self._timeout_s = timeout_s
        self._frames: list[bytes] = []  # in pieces
        self._has_frames = asyncio.Event()
        self._most_ids = SPARE_IDS
        self._open: deque[tuple[float, Confirmation]] = deque()  # and when they are due, the oldest first
        self._overdue: asyncio.TimerHandle | None = None  # one for all: for each by itself it takes as long as to write
        channel.create_task(self._flush())
        channel.closing.add_done_callback(self._give_up)

    def write(self, message_id: str, frames: tuple[bytes, ...]) -> Confirmation:
        """Write the frames of one message, in the order of the calls; see `Producer.publish`."""
        channel = self.channel
        # From here on nothing may fail or wait: the broker counts along.
        channel.delivery_tag += 1
        tag = channel.delivery_tag
        confirmation: Confirmation = channel.loop.create_future()
        channel.confirmations[tag] = confirmation
        channel.message_id_delivery_tag[message_id] = tag
        if len(channel.message_id_delivery_tag) > self._most_ids:
            self._forget_answered()
        self._frames.extend(frames)
        self._has_frames.set()
        while self._open and self._open[0][1].done():
            self._open.popleft()
        due = channel.loop.time() + self._timeout_s
        self._open.append((due, confirmation))
        if self._overdue is None:
            self._overdue = channel.loop.call_at(due, self._give_up_overdue)
        return confirmation

    async def _flush(self) -> None:
        """Hand over what has been written by now; the connection may be slow, or blocked by the broker."""
        while True:
            await self._has_frames.wait()
            self._has_frames.clear()
            frames, self._frames = self._frames, []
            await self.channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))

    def _forget_answered(self) -> None:
        """Forget the ids of messages that are answered, of many at once: to be told each answer takes longer."""
        channel = self.channel
        ids = channel.message_id_delivery_tag
        channel.message_id_delivery_tag = {name: tag for name, tag in ids.items() if tag in channel.confirmations}
        self._most_ids = 2 * len(channel.message_id_delivery_tag) + SPARE_IDS

    def _give_up_overdue(self) -> None:
        loop = self.channel.loop
        self._overdue = None
        while self._open:
            due, confirmation = self._open[0]
            if not confirmation.done():
                if due > loop.time():
                    self._overdue = loop.call_at(due, self._give_up_overdue)
                    return
                confirmation.set_exception(TimeoutError(f"none within {self._timeout_s:g} s"))
            self._open.popleft()

    def _give_up(self, closing: Confirmation) -> None:
        """The channel has closed: what is open gets no answer any more."""
        reason = None if closing.cancelled() else closing.exception()
        reason = reason or ChannelInvalidStateError(f"{self.channel!r} closed")
        for confirmation in self.channel.confirmations.values():
            if not confirmation.done() and not isinstance(confirmation, Returning):
                confirmation.set_exception(reason)


@lru_cache(maxsize=256)
def _publish_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    """`basic.publish` with its mandatory bit; a node sends most messages to the same few places."""
    method = b"\x00\x3c\x00\x28\x00\x00" + _short(exchange) + _short(routing_key) + b"\x01"
    return _FRAME.pack(1, channel, len(method)) + method + _END


def _header_frame(channel: int, cmd: RabbitPublishCommand, message_id: str) -> bytes:
    """The size of the body, and its properties; most are the same for every message of a node."""
    flags, headers = _FLAGS, b""
    if cmd.headers:
        flags, headers = _FLAGS | 0x2000, field_table(cmd.headers)
    ids = _short(cast(str, cmd.correlation_id)) + _short(message_id)
    properties = _CONTENT_TYPE + headers + _PERSISTENT + ids + _APP_ID
    return _HEADER.pack(2, channel, 14 + len(properties), 60, 0, len(cmd.body), flags) + properties + _END


def _body_frames(channel: int, body: bytes, most_bytes: int) -> Iterable[bytes]:
    if len(body) <= most_bytes:
        return (_FRAME.pack(3, channel, len(body)), body, _END) if body else ()
    blocks = (body[start : start + most_bytes] for start in range(0, len(body), most_bytes))
    return [_FRAME.pack(3, channel, len(block)) + block + _END for block in blocks]


def _short(text: str) -> bytes:
    """A short string; a length that does not fit into its one byte is refused."""
    content = text.encode()
    return len(content).to_bytes() + content


_CONTENT_TYPE, _APP_ID = _short("application/json"), _short(APP_ID)
_FLAGS = 0x9488
"""Content type, delivery mode, correlation id, message id, app id."""
