"""What lies under the declared publishers: one channel, written to without waiting.

FastStream's own producer sends a message through four layers of objects and waits, holding the channel's lock,
until the socket has taken it: 0.2 ms of processor time each, and a stage publishes seven. Here a publish only
encodes the message, hands it to the connection, and returns the confirmation to be awaited; what is published in
the same turn of the event loop goes out in one write.

This stands on three things inside aiormq's channel, and so on its pinned version: `delivery_tag` counts the
messages on the channel, `confirmations` and `message_id_delivery_tag` say who waits for which, `write_queue` takes
frames. No publish on this channel goes another way, so nothing can come between a number and its message.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, cast

from aio_pika.abc import AbstractChannel
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import ChannelInvalidStateError
from faststream.exceptions import FeatureNotSupportedException
from faststream.rabbit import RabbitBroker
from faststream.rabbit.publisher.producer import AioPikaFastProducer
from faststream.rabbit.response import RabbitPublishCommand
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

Confirmation = asyncio.Future[Any]
"""Done when the broker has answered: it raises `PublishError` for a message that no queue takes, `DeliveryError` for
one that is refused, and what closed the channel where there is no answer any more."""


def install(broker: RabbitBroker) -> None:
    """Let every publisher that is declared on `broker` publish by a `Producer`."""
    config = broker.config.broker_config
    config.producer = Producer(config.channel_manager.get_channel)


class Producer(AioPikaFastProducer):
    """Writes messages to the broker's default channel.

    Args:
        get_channel: Finds or opens that channel.
    """

    codec: Any = None
    _parser: Any = None
    _decoder: Any = None

    def __init__(self, get_channel: Callable[[], Awaitable[AbstractChannel]]) -> None:
        self._get_channel = get_channel
        self._line: Line | None = None

    async def publish(self, cmd: RabbitPublishCommand) -> Confirmation:  # type: ignore[override]
        """Write a message, persistent and mandatory, and return its confirmation; never waits on an open channel.

        Raises:
            ChannelInvalidStateError: The channel is closed, and not open again yet.
        """
        channel = await (await self._get_channel()).get_underlay_channel()
        if self._line is None or self._line.channel is not channel:
            self._line = Line(cast(Channel, channel))
        properties = Basic.Properties(
            content_type=cmd.message_options.get("content_type"),
            headers=cmd.headers,
            delivery_mode=2,
            correlation_id=cmd.correlation_id,
            message_id=cmd.message_options["message_id"],
            app_id=cmd.message_options.get("app_id"),
        )
        return self._line.write(cmd.exchange.name, cmd.destination, properties, cast(bytes, cmd.body))

    async def request(self, cmd: RabbitPublishCommand) -> NoReturn:
        """No node asks another and waits for the answer."""
        raise FeatureNotSupportedException("this producer only publishes")


class Line:
    """One open channel, and what is still to be handed to its connection."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._frames: list[bytes] = []
        self._is_flushing = False

    def write(self, exchange: str, routing_key: str, properties: Basic.Properties, body: bytes) -> Confirmation:
        """Write one message, in the order of the calls; see `Producer.publish`."""
        channel = self.channel
        if channel.is_closed:
            raise ChannelInvalidStateError(f"{channel!r} closed")
        publish = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
        header = ContentHeader(properties=properties, body_size=len(body))
        size = channel.max_content_size
        content = [ContentBody(body[start : start + size]) for start in range(0, len(body), size)]
        frame = ChannelFrame.marshall(channel.number, [publish, header, *content])
        # From here on nothing may fail or wait: the broker counts along.
        channel.delivery_tag += 1
        tag, message_id = channel.delivery_tag, str(properties.message_id)
        confirmation = channel.create_future()
        channel.confirmations[tag] = confirmation
        channel.message_id_delivery_tag[message_id] = tag
        confirmation.add_done_callback(partial(_forget, channel, message_id, tag))
        self._frames.append(frame.payload)
        if not self._is_flushing:
            self._is_flushing = True
            channel.create_task(self._flush())
        return confirmation

    async def _flush(self) -> None:
        """Hand over what has been written by now; the connection may be slow, or blocked by the broker."""
        while self._frames:
            frames, self._frames = self._frames, []
            await self.channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))
        self._is_flushing = False


def _forget(channel: Channel, message_id: str, tag: int, _: Confirmation) -> None:
    """An answer has come, or will not: the message's id is free again."""
    if channel.message_id_delivery_tag.get(message_id) == tag:
        del channel.message_id_delivery_tag[message_id]
