"""What a user may do on the broker, found out without doing it."""

import aio_pika
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelClosed,
    ChannelPreconditionFailed,
)

from ulos_stream.tasks import Hop
from ulos_stream.topology.connection import Connection
from ulos_stream.topology.leases import queue_of


async def publishing_refused(connection: Connection, hop: Hop) -> str:
    """Why nothing may be published to a hop whose exchange is there; empty when it may.

    Permissions are looked at when a message arrives, and in a transaction it is routed only at the
    commit. There is none: the message goes nowhere, whatever is bound there.
    """
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            transaction = channel.transaction()
            await transaction.select()
            exchange = (
                await channel.get_exchange(hop.exchange, ensure=False) if hop.exchange else channel.default_exchange
            )
            await exchange.publish(aio_pika.Message(b""), hop.routing_key, mandatory=False)
            await transaction.rollback()
    except ChannelClosed as refused:
        return _words(refused)
    return ""


async def consuming_refused(connection: Connection, queue: str) -> str:
    """Why a queue that is there may not be consumed; empty when it may.

    Permissions are looked at before the arguments of a consumer, and a priority that is no number ends it
    there: nothing is delivered, which would count as a delivery.
    """
    try:
        async with connection.channel() as channel:
            declared = await channel.get_queue(queue, ensure=False)
            await declared.consume(_ignore, arguments={"x-priority": "none"})
    except ChannelPreconditionFailed:
        return ""
    except ChannelClosed as refused:
        return _words(refused)
    return "the broker took a consumer that it was to refuse"


async def leasing_refused(connection: Connection, device: str) -> str:
    """Why no lease on a device may be had; empty when one may.

    Permissions are looked at before the arguments of a queue, and a lifetime that is no number ends it there.
    """
    try:
        async with connection.channel() as channel:
            await channel.declare_queue(queue_of(device), exclusive=True, arguments={"x-expires": "none"})
    except ChannelAccessRefused as refused:
        return _words(refused)
    except ChannelClosed:
        return ""
    return "the broker made a queue that it was to refuse"


async def _ignore(message: object) -> None:
    """Nothing is ever delivered."""


def _words(refused: ChannelClosed) -> str:
    return str(refused.args[-1]) if refused.args else type(refused).__name__
