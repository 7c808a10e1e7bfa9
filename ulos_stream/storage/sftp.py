"""Artifacts on an SFTP server, over channels of one kept SSH connection.

The protocol's own rename fails where the new name exists (draft-ietf-secsh-filexfer-02, section 6.5, which OpenSSH
and most others speak). Only `posix-rename@openssh.com` replaces a file at once, so a server without it is refused:
to remove the old file first would lose the artifact to whoever is killed in between.
"""

import asyncio
import contextlib
import os
import shlex
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import asyncssh
from pydantic import SecretStr

from ulos_stream.errors import (
    ArchiveRejected,
    ArtifactChanged,
    ArtifactMissing,
    ConfigurationError,
    StorageFault,
    UlosError,
)
from ulos_stream.storage import Version, temporary_name, temporary_prefix

BLOCK_BYTES = 32 * 1024
"""Of one request; servers need not take larger ones (draft-ietf-secsh-filexfer-02, section 3)."""
IN_FLIGHT = 32
"""Requests of one transfer that are not answered yet: 1 MiB, so a round trip of 20 ms allows 50 MiB/s."""
CHANNELS = 8
"""Most channels of the connection; OpenSSH allows ten (`MaxSessions`)."""
KEEPALIVE_S = 15
"""The connection of a server that answers nothing at all is lost after three times this, in seconds."""
SSH_PORT = 22
TIDY_S = 5.0
"""Longest time for removing what a broken upload left, in seconds."""
T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class SftpStorage:
    """One SSH connection, and on it a pool of SFTP channels, each lent to one operation at a time.

    A channel whose operation failed is closed, and so are the files that were open on it. A connection that is lost
    is made anew by the next operation.
    """

    host: str
    """Name or address of the server; the name under which its key is known."""
    port: int
    username: str
    password: SecretStr
    """Not sent where there is a private key."""
    private_key: asyncssh.SSHKey | None
    known_hosts: Path
    """Keys of servers, in the format of OpenSSH; read for each connection. One that is not in there is refused."""
    folder: str
    """Which holds the artifacts on the server; empty for its `/`."""
    connections: int
    """The most operations at once, of which `CHANNELS` are a limit in any case."""
    timeout_s: float
    """Limit of an operation as a whole, the wait for a free channel included, in seconds."""
    max_bytes: int
    """The largest artifact that is downloaded."""

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(min(self.connections, CHANNELS))
        self._connecting = asyncio.Lock()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._idle: list[asyncssh.SFTPClient] = []
        self._tidying: set[asyncio.Task[None]] = set()

    async def check(self) -> None:
        async def look(client: asyncssh.SFTPClient) -> None:
            if not await client.isdir(self.folder or "/"):
                raise _Unusable(f"there is no folder {self.folder} on it")
            # Of what is not there: it fails with another error if the server can do it.
            missing = f"{self.folder}/.ulos-check"
            with contextlib.suppress(asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied):
                await client.posix_rename(missing, missing)

        await self._run("check", look)

    async def download(self, path: str, target: BinaryIO) -> Version:
        async def fetch(client: asyncssh.SFTPClient) -> Version:
            version = await _version_if_any(client, self.folder + path)
            if version is None:
                raise ArtifactMissing(f"there is no file {path!r} on {self.host}:{self.port}")
            if (size := version.size) > self.max_bytes:
                raise ArchiveRejected(f"{path!r} has {size} bytes, and {self.max_bytes} are allowed")
            target.seek(0)
            target.truncate()
            file = await client.open(self.folder + path, "rb", block_size=0)

            async def copy(offset: int) -> None:
                end = min(offset + BLOCK_BYTES, size)
                while offset < end:
                    block = cast(bytes, await file.read(end - offset, offset))
                    if not block:
                        raise _Unusable(f"it ends before the {size} bytes that were announced")
                    target.seek(offset)
                    offset += target.write(block)

            await _together(copy, range(0, size, BLOCK_BYTES))
            await file.close()
            return version

        return await self._run(f"download of {path!r}", fetch)

    async def date(self, path: str, version: Version) -> None:
        """A version has been told its time."""

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        target, temporary = self.folder + path, temporary_name(self.folder + path, stage_id)

        async def replace(client: asyncssh.SFTPClient) -> None:
            size = source.seek(0, os.SEEK_END)
            try:
                file = await client.open(temporary, "xb", block_size=0)

                async def copy(offset: int) -> None:
                    source.seek(offset)
                    await file.write(source.read(BLOCK_BYTES), offset)

                await _together(copy, range(0, size, BLOCK_BYTES))
                with contextlib.suppress(asyncssh.SFTPOpUnsupported):
                    await file.fsync()
                stored = (await file.stat()).size
                await file.close()
                if stored != size:
                    raise _Unusable(f"{stored} of {size} bytes arrived")
                if expected is not None and expected != await _version_if_any(client, target):
                    raise ArtifactChanged(f"{path!r} on {self.host}:{self.port} is not what was downloaded any more")
                await client.posix_rename(temporary, target)
            except BaseException:
                # On the same channel, whose requests the server takes in order.
                tidying = asyncio.create_task(_remove(client, temporary))
                self._tidying.add(tidying)
                tidying.add_done_callback(self._tidying.discard)
                await asyncio.shield(tidying)
                raise

        await self._run(f"upload of {path!r}", replace)

    async def sweep(self, path: str, *, stage_id: str) -> None:
        folder, prefix = temporary_prefix(self.folder + path, stage_id)

        async def remove(client: asyncssh.SFTPClient) -> None:
            # Of its own, for when it is cancelled it waits for an answer to the last request, which may never come.
            listing = asyncio.ensure_future(client.listdir(folder or "/"))
            listing.add_done_callback(lambda done: done.cancelled() or done.exception())
            for name in await asyncio.shield(listing):
                if name.startswith(prefix):
                    with contextlib.suppress(asyncssh.SFTPNoSuchFile):
                        await client.remove(f"{folder}/{name}")

        await self._run(f"sweep beside {path!r}", remove)

    async def aclose(self) -> None:
        if self._tidying:
            await asyncio.wait(self._tidying)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.wait_closed(), TIDY_S)
            connection.abort()

    async def _run(self, doing: str, operation: Callable[[asyncssh.SFTPClient], Awaitable[T]]) -> T:
        """Lend a channel to `operation`; translate what goes wrong."""
        try:
            async with asyncio.timeout(self.timeout_s), self._slots:
                connection = await self._connected()
                client = self._idle.pop() if self._idle else await _open_channel(connection)
                return await self._lend(connection, client, operation)
        except (OSError, ValueError, asyncssh.Error, _Unusable) as exc:
            reason = self._reason(exc)
            if password := self.password.get_secret_value():  # which a server may repeat where it refuses it
                reason = reason.replace(password, "******")
            raise StorageFault(f"{doing} on {self.host}:{self.port} failed: {reason}") from exc

    async def _lend(
        self,
        connection: asyncssh.SSHClientConnection,
        client: asyncssh.SFTPClient,
        operation: Callable[[asyncssh.SFTPClient], Awaitable[T]],
    ) -> T:
        usable = False
        try:
            result = await operation(client)
            usable = True
            return result
        except UlosError:  # about the artifact, and told by a server that answers as it should
            usable = True
            raise
        finally:
            if usable and connection is self._connection:
                self._idle.append(client)
            else:
                client.exit()

    async def _connected(self) -> asyncssh.SSHClientConnection:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                self._idle.clear()
                self._connection = await asyncssh.connect(
                    self.host,
                    self.port,
                    username=self.username,
                    password=None if self.private_key else self.password.get_secret_value(),
                    client_keys=[self.private_key] if self.private_key else None,
                    known_hosts=str(self.known_hosts) if self.known_hosts.exists() else b"",
                    config=None,  # nothing but the settings counts: no file of the user, no agent
                    agent_path=None,
                    keepalive_interval=KEEPALIVE_S,
                )
            return self._connection

    def _reason(self, exc: Exception) -> str:
        """One line; of what a person has to do, the next step too."""
        if isinstance(exc, TimeoutError):
            return "it took too long"
        if isinstance(exc, asyncssh.HostKeyNotVerifiable):
            return self._about_the_host_key()
        if isinstance(exc, asyncssh.SFTPOpUnsupported):
            return "the server lacks posix-rename@openssh.com, without which it cannot replace a file at once"
        if isinstance(exc, asyncssh.SFTPError) and not isinstance(exc, asyncssh.SFTPConnectionLost):
            return " ".join(f"the server said {exc.reason or type(exc).__name__}".split())
        return " ".join((str(exc) or type(exc).__name__).split())

    def _about_the_host_key(self) -> str:
        file = shlex.quote(str(self.known_hosts))
        scan = f"ssh-keyscan -p {self.port} {shlex.quote(self.host)} >> {file}"
        known = self.known_hosts.exists() and any(
            asyncssh.match_known_hosts(str(self.known_hosts), self.host, "", self.port)
        )
        if not known:
            return f"its host key is not in {file}; compare what this adds with what its owner tells: {scan}"
        name = self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"
        return (
            f"its host key is another one than in {file}: ask its owner, for it may be somebody else's server; "
            f"if not: ssh-keygen -R {shlex.quote(name)} -f {file}; {scan}"
        )


def read_private_key(file: Path, passphrase: SecretStr) -> asyncssh.SSHKey:
    """The key in a file, which need not be encrypted.

    Raises:
        ConfigurationError: It holds none, or it takes another passphrase.
    """
    try:
        return asyncssh.read_private_key(file, passphrase.get_secret_value() or None)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as wrong:
        raise ConfigurationError(f"{file}: holds no private key that REMOTE_STORAGE_PASSWORD opens: {wrong}") from wrong


class _Unusable(Exception):
    """The server kept to the protocol, and still its answer is worth nothing."""


async def _open_channel(connection: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
    """A new channel; closed as soon as it is there, if nobody waits for it any more."""
    opening = asyncio.ensure_future(connection.start_sftp_client())
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_exit)
        raise


def _exit(opened: "asyncio.Future[asyncssh.SFTPClient]") -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().exit()


async def _together(copy: Callable[[int], Awaitable[None]], offsets: Sequence[int]) -> None:
    """Await `copy` of each offset, some of them at once; what the first that fails raises."""
    left = iter(offsets)

    async def work() -> None:
        for offset in left:
            await copy(offset)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT, len(offsets))):
                group.create_task(work())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _version_if_any(client: asyncssh.SFTPClient, path: str) -> Version | None:
    """None if there is no file; a folder or a pipe is none."""
    try:
        found = await client.stat(path)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return None
    if found.type != asyncssh.FILEXFER_TYPE_REGULAR:
        return None
    if found.size is None:
        raise _Unusable("the server tells no size, without which no transfer can be trusted")
    return Version(found.size, None if found.mtime is None else str(int(found.mtime)))


async def _remove(client: asyncssh.SFTPClient, path: str) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        async with asyncio.timeout(TIDY_S):
            await client.remove(path)
