"""Artifacts on an FTP server, plain or with explicit TLS, over a pool of kept connections."""

import asyncio
import contextlib
import os
import ssl
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import aioftp
from pydantic import SecretStr

from ulos_stream.errors import ArchiveRejected, ArtifactChanged, ArtifactMissing, StorageFault
from ulos_stream.storage import Version, temporary_name, temporary_prefix
from ulos_stream.storage.ftpclient import FtpClient, Missing, Refused, Unusable

BLOCK_BYTES = 256 * 1024
ASIDE_S = 5.0
"""Longest time for what is done aside from transfers, in seconds: removing what an upload left, asking for a time."""
DATED_S = 0.1
"""Seconds after a download after which the artifact's time is asked for. A light stage is done by then, and has saved
its server one of ten questions."""
MODIFIED_S = 1.0
"""A stage that is done sooner than this, in seconds, has no use for the time: MDTM tells whole seconds."""
T = TypeVar("T")


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
        self._idle: list[FtpClient] = []
        self._aside: set[asyncio.Task[None]] = set()
        """What goes on after its caller has left, or aside from it."""
        self._closed = False

    async def check(self) -> None:
        await self._run("check", lambda client: client.ask("NOOP", "2"))

    async def download(self, path: str, target: BinaryIO) -> Version:
        def bounded(size: int) -> int:
            if size > self.max_bytes:
                raise ArchiveRejected(f"{path!r} has {size} bytes, and {self.max_bytes} are allowed")
            return size

        async def fetch(client: FtpClient) -> Version:
            try:
                began_s = time.monotonic()
                asked = None if client.announces else bounded(await client.size(path))
                target.seek(0)
                target.truncate()
                transfer, opening = await client.transfer(f"RETR {path}", target.write, self.max_bytes)
                transfer.most = size = bounded(client.size_to_come(opening, asked))
                await transfer.ended()
                await client.ask(None, "2")
                if transfer.count != size:  # the server may have reported success all the same
                    raise Unusable(f"{transfer.count} bytes came, and {size} were announced")
                return Version(size, None, began_s)
            except Missing as exc:
                raise ArtifactMissing(f"there is no {path!r} on {self.host}:{self.port}: {exc}") from exc

        version = await self._run(f"download of {path!r}", fetch)
        asyncio.get_running_loop().call_later(DATED_S, self._date_if_kept, path, weakref.ref(version))
        return version

    async def date(self, path: str, version: Version) -> None:
        version.modified = await self._run(f"time of {path!r}", lambda client: client.modified(path), ASIDE_S)

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        temporary = temporary_name(path, stage_id)
        begun = False

        async def replace(client: FtpClient) -> None:
            nonlocal begun
            begun = True
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            transfer, _ = await client.transfer(f"STOR {temporary}")
            while (block := source.read(BLOCK_BYTES)) and await transfer.write(block):
                pass
            transfer.close()
            await client.ask(None, "2")  # where the server has broken off, this says why
            if (stored := await client.size(temporary)) != size:
                raise Unusable(f"{stored} of {size} bytes arrived")
            if expected is not None and not await _is_still(client, path, expected):
                raise ArtifactChanged(f"{path!r} on {self.host}:{self.port} is not what was downloaded any more")
            await client.ask(f"RNFR {temporary}", "350")
            await client.ask(f"RNTO {path}", "2")

        try:
            await self._run(f"upload of {path!r}", replace)
        except BaseException:
            if begun:
                await asyncio.shield(self._do_aside(self._remove(temporary)))
            raise

    async def sweep(self, path: str, *, stage_id: str) -> None:
        folder, prefix = temporary_prefix(path, stage_id)

        async def remove(client: FtpClient) -> None:
            for name in await client.names(folder or "/"):
                if name.startswith(prefix):
                    with contextlib.suppress(Missing):
                        await client.ask(f"DELE {folder}/{name}", "2")

        await self._run(f"sweep beside {path!r}", remove)

    async def aclose(self) -> None:
        self._closed = True
        if self._aside:
            await asyncio.wait(self._aside)
        self._close_idle()

    def _date_if_kept(self, path: str, kept: "weakref.ref[Version]") -> None:
        """Let a version know its time, unless the stage that it was for is over."""

        async def date(version: Version) -> None:
            with contextlib.suppress(StorageFault):  # then the size alone tells versions apart
                await self.date(path, version)

        if (version := kept()) is not None and not self._closed:
            self._do_aside(date(version))

    def _do_aside(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return task

    async def _remove(self, temporary: str) -> None:
        self._close_idle()  # a new connection gives the server time to notice that the old one is gone
        with contextlib.suppress(StorageFault):
            await self._run("removal", lambda client: client.ask(f"DELE {temporary}", "2"), limit_s=ASIDE_S)

    async def _run(
        self, doing: str, operation: Callable[[FtpClient], Awaitable[T]], limit_s: float = float("inf")
    ) -> T:
        """Lend a client to `operation`; translate what goes wrong."""
        try:
            async with asyncio.timeout(min(self.timeout_s, limit_s)), self._slots:
                if self._idle:
                    client = self._idle.pop()
                    client.answered = False
                    try:
                        return await self._lend(client, operation)
                    except (OSError, Refused):
                        if client.answered:
                            raise
                connect = FtpClient.connect(
                    self.host, self.port, self.tls, self.username, self.password.get_secret_value()
                )
                return await self._lend(await connect, operation)
        except (OSError, ValueError, LookupError, aioftp.AIOFTPException, Unusable) as exc:
            if isinstance(exc, OSError):
                self._close_idle()  # what broke this connection may have broken them all
            reason = _reason(exc)
            if password := self.password.get_secret_value():  # which some servers repeat where they refuse it
                reason = reason.replace(password, "******")
            raise StorageFault(f"{doing} on {self.host}:{self.port} failed: {reason}") from exc

    async def _lend(self, client: FtpClient, operation: Callable[[FtpClient], Awaitable[T]]) -> T:
        try:
            result = await operation(client)
        except BaseException:
            client.close()
            raise
        self._idle.append(client)
        if self._closed:
            self._close_idle()
        return result

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


async def _is_still(client: FtpClient, path: str, version: Version) -> bool:
    try:
        if version.size != await client.size(path):
            return False
        told_apart = time.monotonic() - version.seen_s >= MODIFIED_S and version.modified is not None
        return not told_apart or version.modified == await client.modified(path)
    except Missing:
        return False


def _reason(exc: Exception) -> str:
    """One line, even if the error has no text or several lines."""
    text = str(exc)
    if isinstance(exc, aioftp.StatusCodeError):
        text = f"the server said {exc.received_codes[-1]} {''.join(exc.info[-1:])}"
    elif isinstance(exc, OSError) and not text:
        text = "it took too long" if isinstance(exc, TimeoutError) else "the server closed the connection"
    return " ".join(text.split())
