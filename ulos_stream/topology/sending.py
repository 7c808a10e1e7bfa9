"""Sending a task on its way, or a dead letter on its way again."""

import asyncio
import time

import aio_pika
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelNotFoundEntity, PublishError

from ulos_stream.errors import BrokerFault, Unroutable
from ulos_stream.tasks import SENT_AT, Hop
from ulos_stream.topology.connection import Channel, Connection
from ulos_stream.topology.reading import Letter

OF_THE_BROKER = (
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
    "x-stream-offset",
)
"""How headers begin that the broker added on the way."""


async def open_channel(connection: Connection) -> Channel:
    """A channel to send on: confirms, and raises for a message that no queue takes."""
    return await connection.channel(on_return_raises=True)


async def send(
    channel: Channel,
    hop: Hop,
    body: bytes,
    *,
    message_id: str,
    like: Letter | None,
    timeout_s: float,
) -> None:
    """Publish `body`, persistent, and await the confirmation.

    Args:
        channel: Of `open_channel`.
        hop: Where it goes.
        body: A task message.
        message_id: Deterministic, so that a second attempt can be recognised.
        like: What it repeats, and whose marks it bears but for those of the broker; None for a new message.
        timeout_s: Seconds to wait.

    Raises:
        Unroutable: No queue takes it.
        BrokerFault: No confirmation came; whether the broker has the message is unknown.
    """
    marks = like or Letter(body, headers={SENT_AT: time.time_ns() // 1_000_000})
    message = aio_pika.Message(
        body,
        message_id=message_id,
        headers={name: value for name, value in marks.headers.items() if not name.startswith(OF_THE_BROKER)},
        correlation_id=marks.correlation_id,
        app_id=marks.app_id,
        timestamp=marks.timestamp,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    where = f"exchange {hop.exchange!r} with routing key {hop.routing_key!r}"
    try:
        async with asyncio.timeout(timeout_s):
            exchange = (
                await channel.get_exchange(hop.exchange, ensure=False) if hop.exchange else channel.default_exchange
            )
            await exchange.publish(message, hop.routing_key, mandatory=True)
    except PublishError as returned:
        raise Unroutable(f"no queue takes {where}") from returned
    except (ChannelNotFoundEntity, ChannelAccessRefused) as closed:
        raise Unroutable(f"{where}: it does not exist, or is closed to this user") from closed
    except (AMQPError, OSError, RuntimeError) as broken:
        raise BrokerFault(f"no confirmation of a message to {where}: {broken or type(broken).__name__}") from broken
