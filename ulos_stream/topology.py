"""The only place that names exchanges, queues and bindings.

A node uses what is there: nothing in this module creates or alters an exchange or a queue.
"""

import aiormq
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity, InvalidFrameError
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue

from ulos_stream.errors import BrokerFault, Unroutable


def exchange(name: str) -> RabbitExchange:
    """An exchange that exists already, looked up passively on first use.

    Not robust: aio-pika restores a robust one after a reconnect, for ever in vain if it was
    deleted meanwhile, and the connection never comes back.
    """
    return RabbitExchange(name, declare=False, robust=False)


def consumption_queue(name: str) -> RabbitQueue:
    """The queue a node consumes: whatever its type and arguments, it is not declared."""
    return RabbitQueue(name, declare=False)


def consuming_channel(prefetch: int) -> Channel:
    """The channel of the subscriber, holding at most `prefetch` unacknowledged messages."""
    return Channel(prefetch_count=prefetch)


def publishing_channel() -> Channel:
    """The channel of all publishers: confirms, and raises for a message that no queue takes."""
    return Channel(on_return_raises=True)


async def start_publishing(broker: RabbitBroker, address: str) -> None:
    """Start the publishing broker: connect, log in and look up the declared exchanges.

    Raises:
        BrokerFault: The broker, the credentials, the virtual host or an exchange is not there.
    """
    try:
        await broker.start()
    except (AMQPError, OSError, RuntimeError) as exc:
        raise _fault(address, exc) from exc


async def find_queue(broker: RabbitBroker, name: str, address: str) -> None:
    """Connect the consuming broker and look whether the queue `name` exists; consume nothing yet.

    Raises:
        BrokerFault: It does not, or the broker is away.
    """
    try:
        connection = await broker.connect()
        async with connection.channel() as channel:
            await channel.get_queue(name)
    except (AMQPError, OSError, RuntimeError) as exc:
        raise _fault(address, exc) from exc


async def find_exchange(broker: RabbitBroker, name: str) -> None:
    """Look whether the exchange `name` exists, on a channel of its own.

    A publish to a missing exchange closes its channel, and every other publish on it becomes unknown.

    Raises:
        Unroutable: It does not exist.
        BrokerFault: The broker is away.
    """
    try:
        connection = await broker.connect()
        async with connection.channel() as channel:
            await channel.declare_exchange(name, passive=True, robust=False)
    except ChannelNotFoundEntity as exc:
        raise Unroutable(f"exchange {name!r} does not exist") from exc
    except (AMQPError, OSError, RuntimeError) as exc:
        raise BrokerFault(f"cannot look up exchange {name!r}: {exc or type(exc).__name__}") from exc


async def cancel_consumers(broker: RabbitBroker, queue: RabbitQueue) -> None:
    """Take no more messages; what was delivered stays with the node.

    The broker object returns the subscriber's own queue for an equal declaration, and the
    queue object, unlike its channel, forgets the consumer for good: it is not restored by a reconnect.
    """
    own = await broker.declare_queue(queue)
    channel = await own.channel.get_underlay_channel()
    assert isinstance(channel, aiormq.Channel)  # noqa: S101 (aio_pika types it by its abstract base)
    for tag in list(channel.consumers):
        await own.cancel(tag)


def _fault(address: str, exc: Exception) -> BrokerFault:
    if isinstance(exc, InvalidFrameError):  # all that aiormq says of a refused Connection.Open
        return BrokerFault(f"broker {address}: the virtual host does not exist or is closed to this user")
    return BrokerFault(f"broker {address}: {exc or type(exc).__name__}")
