"""Sending a task on its way, as a command does."""

import asyncio

import aio_pika
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelNotFoundEntity, PublishError

from ulos_stream.errors import BrokerFault, Unroutable
from ulos_stream.tasks import Hop
from ulos_stream.topology.connection import Connection


async def send(connection: Connection, hop: Hop, body: bytes, *, message_id: str, timeout_s: float) -> None:
    """Publish `body`, persistent, and await the confirmation.

    Args:
        connection: To the broker.
        hop: Where it goes.
        body: A task message.
        message_id: For those downstream to recognise it by.
        timeout_s: Seconds to wait.

    Raises:
        Unroutable: No queue takes it.
        BrokerFault: No confirmation came; whether the broker has the message is unknown.
    """
    message = aio_pika.Message(
        body,
        message_id=message_id,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    where = f"exchange {hop.exchange!r} with routing key {hop.routing_key!r}"
    try:
        async with asyncio.timeout(timeout_s), connection.channel(on_return_raises=True) as channel:
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
