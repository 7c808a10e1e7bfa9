"""Artifacts on an FTP server, plain or with explicit TLS, over a pool of kept connections.

aioftp connects and logs in. From then on its two streams are spoken on directly, which costs a third: an operation
has one time limit as a whole, not one for each line, and no throttle. Data connections are opened here too: aioftp's
begin TLS before they send the command, vsftpd after it has the command, and both would wait for ever.
"""

import asyncio
import contextlib
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import aioftp
from aioftp.common import SSLSessionBoundContext
from pydantic import SecretStr

from ulos_stream.errors import ArchiveRejected, ArtifactChanged, ArtifactMissing, StorageFault
from ulos_stream.storage import Version, temporary_name, temporary_prefix

BLOCK_BYTES = 256 * 1024
LISTING_BYTES = 8 * 1024 * 1024
"""The longest listing of a folder that is read: some hundred thousand names."""
TIDY_S = 5.0
"""Longest time for removing what a broken upload left, in seconds."""
MODIFIED_S = 1.0
"""A stage that is done sooner than this, in seconds, saves the question for the time; MDTM tells whole seconds."""
T = TypeVar("T")
_ANNOUNCED = re.compile(r"\((\d+) bytes\)\W*$", re.ASCII)
"""How most servers end the reply with which a download begins; RFC 959 leaves its text to them."""


@dataclass(kw_only=True, eq=False)
class FtpStorage:
    """A pool of logged-in FTP clients, each lent to one operation at a time.

    A client whose operation failed is closed: it may be out of step with its server. One that
    the server closed while it was idle is replaced silently, once in an operation.
    """

    host: str
    """Name or address of the server; the name its certificate must bear."""
    port: int
    username: str
    password: SecretStr
    tls: ssl.SSLContext | None
    """For explicit TLS (AUTH TLS) on control and data connections; None for plain FTP."""
    connections: int
    """The most clients open at once."""
    timeout_s: float
    """Limit of an operation as a whole, the wait for a free client included, in seconds."""
    max_bytes: int
    """The largest artifact that is downloaded."""

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.connections)
        self._idle: list[_Client] = []
        self._tidying: set[asyncio.Task[None]] = set()
        self._closed = False

    async def check(self) -> None:
        await self._run("check", lambda client: client.ask("NOOP", "2"))

    async def download(self, path: str, target: BinaryIO) -> Version:
        def bounded(size: int) -> int:
            if size > self.max_bytes:
                raise ArchiveRejected(f"{path!r} has {size} bytes, and {self.max_bytes} are allowed")
            return size

        async def fetch(client: _Client) -> Version:
            try:
                began_s, modified = time.monotonic(), await client.modified(path)
                asked = None if client.announces else bounded(await client.size(path))
                count = target.seek(0)
                target.truncate()
                async with client.data(f"RETR {path}") as (reader, _, opening):
                    size = bounded(client.size_to_come(opening, asked))
                    while count <= size and (block := await reader.read(BLOCK_BYTES)):
                        count += target.write(block)
                if count != size:  # the server may have reported success all the same
                    raise _Unusable(f"{count} bytes came, and {size} were announced")
                return Version(size, modified, began_s)
            except _Missing as exc:
                raise ArtifactMissing(f"there is no {path!r} on {self.host}:{self.port}: {exc}") from exc

        return await self._run(f"download of {path!r}", fetch)

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        temporary = temporary_name(path, stage_id)
        begun = False

        async def replace(client: _Client) -> None:
            nonlocal begun
            begun = True
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            async with client.data(f"STOR {temporary}") as (_, writer, _):
                # When the server breaks off, its reply on the control connection says why.
                with contextlib.suppress(ConnectionError):
                    while not writer.is_closing() and (block := source.read(BLOCK_BYTES)):
                        writer.write(block)
                        await writer.drain()
            if (stored := await client.size(temporary)) != size:
                raise _Unusable(f"{stored} of {size} bytes arrived")
            if expected is not None and not await client.is_still(path, expected):
                raise ArtifactChanged(f"{path!r} on {self.host}:{self.port} is not what was downloaded any more")
            await client.ask(f"RNFR {temporary}", "350")
            await client.ask(f"RNTO {path}", "2")

        try:
            await self._run(f"upload of {path!r}", replace)
        except BaseException:
            if begun:
                tidying = asyncio.create_task(self._remove(temporary))
                self._tidying.add(tidying)
                tidying.add_done_callback(self._tidying.discard)
                await asyncio.shield(tidying)
            raise

    async def sweep(self, path: str, *, stage_id: str) -> None:
        folder, prefix = temporary_prefix(path, stage_id)

        async def remove(client: _Client) -> None:
            for name in await client.names(folder or "/"):
                if name.startswith(prefix):
                    with contextlib.suppress(_Missing):
                        await client.ask(f"DELE {folder}/{name}", "2")

        await self._run(f"sweep beside {path!r}", remove)

    async def aclose(self) -> None:
        self._closed = True
        if self._tidying:
            await asyncio.wait(self._tidying)
        self._close_idle()

    async def _remove(self, temporary: str) -> None:
        self._close_idle()  # a new connection gives the server time to notice that the old one is gone
        with contextlib.suppress(StorageFault):
            await self._run("removal", lambda client: client.ask(f"DELE {temporary}", "2"), limit_s=TIDY_S)

    async def _run(
        self, doing: str, operation: Callable[["_Client"], Awaitable[T]], limit_s: float = float("inf")
    ) -> T:
        """Lend a client to `operation`; translate what goes wrong."""
        try:
            async with asyncio.timeout(min(self.timeout_s, limit_s)), self._slots:
                if self._idle:
                    client = self._idle.pop()
                    client.answered = False
                    try:
                        return await self._lend(client, operation)
                    except (OSError, _Refused):
                        if client.answered:
                            raise
                return await self._lend(await self._connect(), operation)
        except (OSError, ValueError, LookupError, aioftp.AIOFTPException, _Unusable) as exc:
            if isinstance(exc, OSError):
                self._close_idle()  # what broke this connection may have broken them all
            reason = _reason(exc)
            if password := self.password.get_secret_value():  # which some servers repeat where they refuse it
                reason = reason.replace(password, "******")
            raise StorageFault(f"{doing} on {self.host}:{self.port} failed: {reason}") from exc

    async def _lend(self, client: "_Client", operation: Callable[["_Client"], Awaitable[T]]) -> T:
        try:
            result = await operation(client)
        except BaseException:
            client.close()
            raise
        self._idle.append(client)
        if self._closed:
            self._close_idle()
        return result

    async def _connect(self) -> "_Client":
        client = _Client(aioftp.Client())
        try:
            await client.ftp.connect(self.host, self.port)
            if self.tls:
                await client.ftp.upgrade_to_tls(self.tls)
            await client.ftp.login(self.username, self.password.get_secret_value())
            await client.ask("TYPE I", "200")
        except BaseException:
            client.close()
            raise
        return client

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


class _Client:
    """A control connection."""

    def __init__(self, ftp: aioftp.Client) -> None:
        self.ftp = ftp
        self.answered = False
        """Since it was last lent, the server has spoken on it."""
        self.announces = False
        """The server says how much it sends when it begins, and said the truth when it was compared."""
        self._passive = "EPSV"

    async def ask(self, command: str | None, *expected: str) -> tuple[str, str]:
        """Send `command`, if any; return code and last line of the reply, if its code begins with one `expected`."""
        if command is not None:
            if "\r" in command or "\n" in command:
                raise ValueError("a command holds a line break")
            self.ftp.stream.writer.write(f"{command}\r\n".encode())
        code, text = await self._reply()
        self.answered |= code != "421"  # how a server takes its leave
        if code.startswith(expected):
            return code, text
        kind = _Missing if command and code == "550" else _Refused
        raise kind(f"the server said {code} {text}")

    async def _reply(self) -> tuple[str, str]:
        """One reply (RFC 959, section 4.2): `213 text`, or `213-text` and further lines up to `213 text`."""
        first = line = await self._line()
        while line[:3] != first[:3] or line[3:4] == "-":
            line = await self._line()
        return line[:3], line[4:].strip()

    async def _line(self) -> str:
        line = await self.ftp.stream.reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError
        return line.decode(errors="replace").rstrip("\r\n")

    async def size(self, path: str) -> int:
        code, text = await self.ask(f"SIZE {path}", "213", "500", "502")
        if code != "213":
            raise _Unusable("the server does not implement SIZE, without which no transfer can be trusted")
        return int(text)

    async def modified(self, path: str) -> str | None:
        code, text = await self.ask(f"MDTM {path}", "213", "50")  # RFC 3659, section 3
        return text if code == "213" else None

    async def is_still(self, path: str, version: Version) -> bool:
        try:
            if version.size != await self.size(path):
                return False
            told_apart = time.monotonic() - version.seen_s >= MODIFIED_S and version.modified is not None
            return not told_apart or version.modified == await self.modified(path)
        except _Missing:
            return False

    def size_to_come(self, opening: str, asked: int | None) -> int:
        """How many bytes a transfer has that the reply `opening` began: as SIZE said, if it was `asked`, else that."""
        announced = int(found[1]) if (found := _ANNOUNCED.search(opening)) else None
        if asked is not None:
            self.announces = asked == announced
            return asked
        if announced is None:
            raise _Unusable(f"the server does not say any more how much it sends: {opening}")
        return announced

    async def names(self, folder: str) -> list[str]:
        """What is in a folder. Some servers answer with paths."""
        listing = b""
        async with self.data(f"NLST {folder}") as (reader, _, _):
            while len(listing) <= LISTING_BYTES and (block := await reader.read(BLOCK_BYTES)):
                listing += block
        return [line.rpartition("/")[2] for line in listing.decode(errors="replace").splitlines()]

    @contextlib.asynccontextmanager
    async def data(self, command: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, str]]:
        """Open a data connection for `command`, with which the server replies; at its end it must report success."""
        code, text = await self.ask(self._passive, "227", "229", "50")
        if code[:2] == "50":
            self._passive = "PASV"
            code, text = await self.ask(self._passive, "227")
        parse = self.ftp.parse_pasv_response if code == "227" else self.ftp.parse_epsv_response
        port = parse(text)[1]
        control = self.ftp.stream.writer
        # To the peer of the control connection: the address in a PASV reply is wrong behind NAT, and may be forged.
        reader, writer = await asyncio.open_connection(control.get_extra_info("peername")[0], port)
        try:
            _, opening = await self.ask(command, "1")
            if tls := control.get_extra_info("ssl_object"):  # resumed: servers take that as proof of the same client
                context = SSLSessionBoundContext(ssl.PROTOCOL_TLS_CLIENT, tls.context, tls.session)
                await writer.start_tls(context, server_hostname=self.ftp.server_host)
            yield reader, writer, opening
            writer.close()
            await self.ask(None, "2")
        except BaseException:
            writer.transport.abort()
            raise

    def close(self) -> None:
        with contextlib.suppress(ConnectionError):  # never opened
            self.ftp.stream.writer.transport.abort()


class _Unusable(Exception):
    """The server kept to the protocol, and still its answer is worth nothing."""


class _Refused(_Unusable):
    """It says no."""


class _Missing(_Refused):
    """It has no such file, or does not give it to us (FTP does not tell these apart)."""


def _reason(exc: Exception) -> str:
    """One line, even if the error has no text or several lines."""
    text = str(exc)
    if isinstance(exc, aioftp.StatusCodeError):
        text = f"the server said {exc.received_codes[-1]} {''.join(exc.info[-1:])}"
    elif isinstance(exc, OSError) and not text:
        text = "it took too long" if isinstance(exc, TimeoutError) else "the server closed the connection"
    return " ".join(text.split())
