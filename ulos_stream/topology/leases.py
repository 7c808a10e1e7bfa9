"""Leases over all nodes of a virtual host: who has declared the exclusive queue `ulos.lease.<device>` holds `device`.

Such a queue belongs to a connection and goes with it, so each lease has a connection of its own: to close it is to
give the lease back, and a holder that is killed has closed it. The broker gives up a silent holder after two to three
heartbeats. The holder gives up a silent broker sooner: a lease is good for `TERM_S` from the last time that the broker
was asked and answered, so that whoever was cut off has stopped when another one may begin.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable

from aiormq.exceptions import AMQPError, ChannelLockedResource

from ulos_stream.errors import BrokerFault
from ulos_stream.executors import finish
from ulos_stream.executors.leases import LocalLeases
from ulos_stream.topology.connection import Access, Channel, Connection, broker_faults, connect

HEARTBEAT_S = 2
"""Seconds; a frozen holder, or one whose machine is gone, is given up within six."""
RENEW_S = 1.0
"""Seconds between two times that the broker is asked."""
TERM_S = 3.0
"""Seconds for which an answer is good."""
TRY_S = 0.5
"""Most seconds between two tries to get a device that is in use, and so what a node pauses that has just had it."""


class BrokerLeases:
    """Exclusive over all nodes that use one virtual host of one broker.

    Args:
        access: To that broker. The user may configure the queues `ulos.lease.*`.
        say_in_use: Told a device that a stage must wait for.
    """

    def __init__(self, access: Access, say_in_use: Callable[[str], None]) -> None:
        self._access = access
        self._say_in_use = say_in_use
        self._here = LocalLeases()
        self._pauses_until: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def hold(self, device: str) -> AsyncIterator[None]:
        """See `Leases`. The stages of one node queue up; a node that has had the device lets every other one try first.

        Without that pause a busy node would take it again long before those that wait try again, every time.
        """
        clock = asyncio.get_running_loop().time
        here = self._here.hold(device)
        if here.locked():
            self._say_in_use(device)
        async with here:
            await asyncio.sleep(self._pauses_until.get(device, 0) - clock())
            with broker_faults(self._access):
                connection = await connect(self._access, heartbeat_s=HEARTBEAT_S)
            try:
                with broker_faults(self._access):
                    channel = await self._acquire(connection, device)
                async with _kept(connection, channel, device):
                    yield
            finally:
                await finish(connection.close())
                self._pauses_until[device] = clock() + TRY_S

    async def _acquire(self, connection: Connection, device: str) -> Channel:
        """Declare the device's queue, and try again as long as it is another connection's."""
        for attempt in itertools.count():
            channel = await connection.channel()
            try:
                await channel.declare_queue(queue_of(device), exclusive=True)
                break
            except ChannelLockedResource:  # which closes the channel
                if attempt == 0:
                    self._say_in_use(device)
                await asyncio.sleep(random.uniform(0, TRY_S))  # noqa: S311 (no secret)
        return channel


def queue_of(device: str) -> str:
    """The queue whose owner holds the lease on `device`."""
    return f"ulos.lease.{device}"


@contextlib.asynccontextmanager
async def _kept(connection: Connection, channel: Channel, device: str) -> AsyncIterator[None]:
    """Cancel the block when the lease cannot be relied upon any more.

    Raises:
        BrokerFault: It was cancelled for that.
    """
    closed = asyncio.Event()
    connection.close_callbacks.add(lambda *_: closed.set())
    try:
        async with asyncio.timeout(TERM_S) as term:
            renewing = asyncio.create_task(_renew(channel, queue_of(device), term, closed))
            try:
                yield
            finally:
                renewing.cancel()
    except TimeoutError as exc:
        if not term.expired():
            raise
        raise BrokerFault(f"the lease on {device} is lost: the broker is away, or does not answer") from exc


async def _renew(channel: Channel, queue: str, term: asyncio.Timeout, closed: asyncio.Event) -> None:
    """Put the end of the term off with every answer of the broker, and end it when the connection does."""
    clock = asyncio.get_running_loop().time
    with contextlib.suppress(AMQPError, OSError, RuntimeError):
        while not closed.is_set():
            asked = clock()
            await channel.declare_queue(queue, passive=True)
            term.reschedule(asked + TERM_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await closed.wait()
    if not term.expired():
        term.reschedule(clock())
