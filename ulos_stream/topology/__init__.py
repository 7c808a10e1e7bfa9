"""The only place that names exchanges, queues and bindings.

A node uses what is there: nothing in this module creates or alters an exchange or a queue. The
commands do: `places` names what belongs to a node and how it should be, `declaring` declares it,
`virtual_host` is what is there, `management` fetches that, `checking` finds its weaknesses.
`connection`, `reading` and `sending` are how a command talks to the broker; `leases` makes devices exclusive.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable

import aiormq
from aio_pika import RobustQueue
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity, InvalidFrameError
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue

from ulos_stream.errors import BrokerFault, Unroutable

APP_ID = "ulos-stream"
"""AMQP `app_id` of everything that a node publishes, and so the mark of a task that has left its first stage."""
REACH_S = 5.0
"""Seconds within which the broker's port must answer."""


@functools.lru_cache
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


class Connecting:
    """Connects the brokers of a node, and is never cancelled in the middle of an attempt.

    aio-pika answers the cancellation of an attempt by attempting again for ever, and then the
    process does not end. So an attempt begins only when the port answers, and a shutdown waits
    for it.

    Args:
        host: Of the broker.
        port: Of the broker.
        virtual_host: For the messages.
    """

    def __init__(self, host: str, port: int, virtual_host: str) -> None:
        self._host = host
        self._port = port
        self._address = f"broker {host}:{port}, virtual host {virtual_host!r}"
        self._attempting = asyncio.Lock()

    async def start(self, broker: RabbitBroker) -> None:
        """Start the publishing broker: connect, log in and look up the declared exchanges.

        Raises:
            BrokerFault: The broker, the credentials, the virtual host or an exchange is not there.
        """
        await self._attempt(broker.start)

    async def find_queue(self, broker: RabbitBroker, name: str) -> None:
        """Connect the consuming broker and look whether the queue `name` exists; consume nothing yet.

        Raises:
            BrokerFault: It does not, or the broker is away.
        """

        async def look() -> None:
            connection = await broker.connect()
            async with connection.channel() as channel:
                await channel.get_queue(name)

        await self._attempt(look)

    async def stop(self) -> None:
        """Wait for the attempt that is being made, if any; no other begins. At most 10 s."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * REACH_S):
                await self._attempting.acquire()

    async def _attempt(self, attempt: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(REACH_S):
                _, writer = await asyncio.open_connection(self._host, self._port)
            writer.transport.abort()
            async with self._attempting:
                await attempt()
        except InvalidFrameError as exc:  # all that aiormq says of a refused Connection.Open
            reason = "the virtual host does not exist or is closed to this user"
            raise BrokerFault(f"{self._address}: {reason}") from exc
        except (AMQPError, OSError, RuntimeError) as exc:
            raise BrokerFault(f"{self._address}: {exc or type(exc).__name__}") from exc


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


async def check_connection(broker: RabbitBroker) -> None:
    """See that there is a connection now; asking it for a channel would wait for the next one.

    Raises:
        BrokerFault: There is none.
    """
    connection = await broker.connect()
    if not connection.connected.is_set():
        raise BrokerFault("no connection to the broker")


async def check_consuming(broker: RabbitBroker, queue: RabbitQueue) -> None:
    """See that this node is a consumer of its queue.

    Raises:
        BrokerFault: It is not: the connection, the channel or the queue is gone.
    """
    await check_connection(broker)
    try:
        channel = await _own_channel(await broker.declare_queue(queue))
    except (AMQPError, OSError, RuntimeError) as exc:
        raise BrokerFault(f"no channel to consume on: {exc or type(exc).__name__}") from exc
    if channel.is_closed or not channel.consumers:
        raise BrokerFault(f"not a consumer of queue {queue.name!r}")


async def cancel_consumers(broker: RabbitBroker, queue: RabbitQueue) -> None:
    """Take no more messages; what was delivered stays with the node.

    The broker object returns the subscriber's own queue for an equal declaration, and the
    queue object, unlike its channel, forgets the consumer for good: it is not restored by a reconnect.
    """
    own = await broker.declare_queue(queue)
    for tag in list((await _own_channel(own)).consumers):
        await own.cancel(tag)


async def _own_channel(queue: RobustQueue) -> aiormq.Channel:
    channel = await queue.channel.get_underlay_channel()
    assert isinstance(channel, aiormq.Channel)  # noqa: S101 (aio_pika types it by its abstract base)
    return channel
