"""How the broker is reached by a command, and by a node for its leases."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    InvalidFrameError,
)
from pydantic import SecretStr

from ulos_stream.errors import BrokerFault

Connection = AbstractConnection
Channel = AbstractChannel
CONNECT_S = 10.0
"""Seconds within which the broker must have let us in."""


@dataclass(frozen=True, slots=True)
class Access:
    """A broker and the credentials for it."""

    host: str
    port: int
    virtual_host: str
    username: str
    password: SecretStr
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What AMQP alone shows of named exchanges and queues: "" for one that is there, else why a node cannot use it."""

    exchanges: dict[str, str]
    queues: dict[str, str]


class _Closed(aio_pika.Connection):
    """A connection that its owner closes.

    Left to itself, one that was never made closes itself when Python finds it, perhaps after the loop has stopped, and
    warns of that on standard error.
    """

    def __del__(self) -> None:
        """Leave it as it is."""


@contextlib.asynccontextmanager
async def connected(access: Access) -> AsyncIterator[Connection]:
    """A connection to the broker; it is closed afterwards, and its channels with it.

    Raises:
        BrokerFault: The broker is away or refuses, now or while the connection is in use.
    """
    with broker_faults(access):
        # Its end is bounded, unlike that of a channel: a frozen broker is given two seconds to say goodbye.
        async with await connect(access) as connection:
            yield connection


async def connect(access: Access, *, heartbeat_s: int | None = None) -> Connection:
    """A connection to the broker, which the caller closes.

    Args:
        access: To which broker, and as whom.
        heartbeat_s: Seconds of silence of which the broker bears one or two more; its own default otherwise.
    """
    return await aio_pika.connect(
        connection_class=_Closed,
        host=access.host,
        port=access.port,
        login=access.username,
        password=access.password.get_secret_value(),
        virtualhost=access.virtual_host,
        ssl=access.tls is not None,
        ssl_context=access.tls,
        timeout=CONNECT_S,
        heartbeat=heartbeat_s,
    )


@contextlib.contextmanager
def broker_faults(access: Access) -> Iterator[None]:
    """Translate what goes wrong between us and the broker.

    Raises:
        BrokerFault: In place of every such error.
    """
    address = f"broker {access.host}:{access.port}, virtual host {access.virtual_host!r}"
    try:
        yield
    except InvalidFrameError as exc:  # all that aiormq says of a refused Connection.Open
        raise BrokerFault(f"{address}: it does not exist or is closed to this user") from exc
    except (AMQPError, OSError, RuntimeError) as exc:
        raise BrokerFault(f"{address}: {exc or type(exc).__name__}") from exc


def version(connection: Connection) -> str:
    """The broker's version, as it told when it was connected."""
    assert connection.transport is not None  # noqa: S101 (it is connected)
    told = connection.transport.connection.server_properties.get("version", "")
    return told.decode() if isinstance(told, bytes) else str(told)


async def look(connection: Connection, exchanges: Iterable[str], queues: Iterable[str]) -> Shown:
    """Look passively whether exchanges and queues are there; the default exchange always is."""
    return Shown(
        {name: await _reason(connection, name, is_queue=False) for name in exchanges if name},
        {name: await _reason(connection, name, is_queue=True) for name in queues},
    )


async def _reason(connection: Connection, name: str, *, is_queue: bool) -> str:
    """A channel of its own for each: a refusal closes it."""
    try:
        async with connection.channel() as channel:
            if is_queue:
                await channel.declare_queue(name, passive=True)
            else:
                await channel.declare_exchange(name, passive=True)
    except ChannelNotFoundEntity:
        return "does not exist"
    except ChannelAccessRefused:
        return "is closed to this user"
    except ChannelLockedResource:
        return "belongs to another connection alone"
    return ""
