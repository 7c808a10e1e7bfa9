"""What FTP is on the wire: a control connection with its replies, and a data connection for each transfer.

aioftp connects and logs in. Then its transport is taken over: a reply is read where it arrives, and content is written
to its file where it arrives, with no stream in between, no throttle, and no time limit for each line, which took more
processor time than all else. Data connections are opened here too: aioftp's begin TLS before they send the command,
vsftpd after it has the command, and both would wait for ever.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from typing import cast

import aioftp
from aioftp.common import SSLSessionBoundContext

REPLY_BYTES = 64 * 1024
"""The longest reply that is read."""
LISTING_BYTES = 8 * 1024 * 1024
"""The longest listing of a folder that is read: some hundred thousand names."""
_ANNOUNCED = re.compile(r"\((\d+) bytes\)\W*$", re.ASCII)
"""How most servers end the reply with which a download begins; RFC 959 leaves its text to them."""


class Unusable(Exception):
    """The server kept to the protocol, and still its answer is worth nothing."""


class Refused(Unusable):
    """It says no."""


class Missing(Refused):
    """It has no such file, or does not give it to us (FTP does not tell these apart)."""


class FtpClient(asyncio.Protocol):
    """A control connection that is logged in; for one operation at a time.

    All methods raise `OSError` when a connection breaks, `ValueError` or `LookupError` at a reply that makes no sense.
    After any of these, or when it was cancelled, the client may be out of step with its server: close it.

    Args:
        ftp: Logged in.
    """

    def __init__(self, ftp: aioftp.Client) -> None:
        self.answered = False
        """Whether the server has spoken since this was last set."""
        self.announces = False
        """The server says how much it sends when it begins, and said the truth when it was compared."""
        self._ftp = ftp
        self._transport = cast(asyncio.Transport, ftp.stream.writer.transport)
        peer = self._transport.get_extra_info("peername")
        if peer is None:
            raise ConnectionResetError
        self._peer: str = peer[0]
        self._tls = self._transport.get_extra_info("ssl_object")
        self._loop = asyncio.get_running_loop()
        self._passive = "EPSV"
        self._unread = b""
        self._broken: Exception | None = None
        self._spoken: asyncio.Future[None] | None = None
        """Who waits for the server to say something, or to go."""
        self._data: Transfer | None = None
        """The last one."""
        self._transport.set_protocol(self)

    @classmethod
    async def connect(
        cls, host: str, port: int, tls: ssl.SSLContext | None, username: str, password: str
    ) -> "FtpClient":
        """A new one; with `tls`, control and data connections are encrypted.

        Raises:
            aioftp.AIOFTPException: The server answers something else than it should.
        """
        ftp = aioftp.Client()
        try:
            await ftp.connect(host, port)
            if tls:
                await ftp.upgrade_to_tls(tls)
            await ftp.login(username, password)
            client = cls(ftp)
            await client.ask("TYPE I", "200")
        except BaseException:
            with contextlib.suppress(ConnectionError):  # never opened
                ftp.stream.writer.transport.abort()
            raise
        return client

    async def ask(self, command: str | None, *expected: str) -> tuple[str, str]:
        """Send `command`, if any; return code and last line of the reply, if its code begins with one `expected`.

        Raises:
            Missing: The code is 550.
            Refused: It is another one.
        """
        if command is not None:
            if "\r" in command or "\n" in command:
                raise ValueError("a command holds a line break")
            if self._transport.is_closing():
                raise self._broken or ConnectionResetError()
            self._transport.write(f"{command}\r\n".encode())
        while (reply := self._take()) is None:
            if self._broken:
                raise self._broken
            self._spoken = self._loop.create_future()
            await self._spoken
        code, text = reply
        self.answered |= code != "421"  # how a server takes its leave
        if code.startswith(expected):
            return reply
        kind = Missing if command and code == "550" else Refused
        raise kind(f"the server said {code} {text}")

    def _take(self) -> tuple[str, str] | None:
        """The next reply (RFC 959, section 4.2): `213 text`, or `213-text` and further lines up to `213 text`."""
        start = 0
        while (end := self._unread.find(b"\n", start)) >= 0:
            line = self._unread[start:end]
            if line[:3] == self._unread[:3] and line[3:4] != b"-":
                self._unread = self._unread[end + 1 :]
                text = line.decode(errors="replace")
                return text[:3], text[4:].strip()
            start = end + 1
        return None

    async def size(self, path: str) -> int:
        """The size of a file, in bytes."""
        code, text = await self.ask(f"SIZE {path}", "213", "500", "502")
        if code != "213":
            raise Unusable("the server does not implement SIZE, without which no transfer can be trusted")
        return int(text)

    async def modified(self, path: str) -> str | None:
        """When a file was last written (RFC 3659, section 3); None if the server does not tell."""
        code, text = await self.ask(f"MDTM {path}", "213", "50")
        return text if code == "213" else None

    async def names(self, folder: str) -> list[str]:
        """What is in a folder. Some servers answer with paths."""
        listing: list[bytes] = []
        transfer, _ = await self.transfer(f"NLST {folder}", listing.append, LISTING_BYTES)
        await transfer.ended()
        await self.ask(None, "2")
        return [line.rpartition("/")[2] for line in b"".join(listing).decode(errors="replace").splitlines()]

    def size_to_come(self, opening: str, asked: int | None) -> int:
        """How many bytes a transfer has that the reply `opening` began: as SIZE said, if it was `asked`, else that."""
        announced = int(found[1]) if (found := _ANNOUNCED.search(opening)) else None
        if asked is not None:
            self.announces = asked == announced
            return asked
        if announced is None:
            raise Unusable(f"the server does not say any more how much it sends: {opening}")
        return announced

    async def transfer(
        self, command: str, take: Callable[[bytes], object] | None = None, most: int = 0
    ) -> tuple["Transfer", str]:
        """Open a data connection for `command`; also return the reply with which the server begins.

        Args:
            command: RETR, NLST or STOR.
            take: Called with what arrives; may be before that reply is there.
            most: How much may arrive, in bytes; `Transfer.most` narrows it.
        """
        code, text = await self.ask(self._passive, "227", "229", "50")
        if code[:2] == "50":
            self._passive = "PASV"
            code, text = await self.ask(self._passive, "227")
        parse = self._ftp.parse_pasv_response if code == "227" else self._ftp.parse_epsv_response
        self._data = data = Transfer(take, most)
        # To the peer of the control connection: the address in a PASV reply is wrong behind NAT, and may be forged.
        await self._loop.create_connection(lambda: data, self._peer, parse(text)[1])
        _, opening = await self.ask(command, "1")
        if self._tls:  # resumed: servers take that as proof of the same client
            context = SSLSessionBoundContext(ssl.PROTOCOL_TLS_CLIENT, self._tls.context, self._tls.session)
            await data.encrypt(context, self._ftp.server_host)
        return data, opening

    def close(self) -> None:
        """Close the connection at once, and that of its transfer. Idempotent."""
        self._transport.abort()
        if self._data is not None:
            self._data.abort()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._unread += data
        if len(self._unread) > REPLY_BYTES:
            self._broken = ValueError(f"a reply of more than {REPLY_BYTES} bytes")
            self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._broken = self._broken or exc or ConnectionResetError()
        self._wake()

    def _wake(self) -> None:
        if self._spoken is not None and not self._spoken.done():
            self._spoken.set_result(None)


class Transfer(asyncio.Protocol):
    """A data connection, in either direction; see `FtpClient.transfer`."""

    def __init__(self, take: Callable[[bytes], object] | None, most: int) -> None:
        self.count = 0
        """How many bytes have arrived."""
        self.most = most
        """With more, the transfer is broken off."""
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._ended = self._loop.create_future()
        self._broken: Exception | None = None
        self._paused: asyncio.Future[None] | None = None

    async def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        """Begin TLS."""
        assert self._transport is not None  # noqa: S101
        if self._transport.is_closing():
            raise ConnectionResetError
        self._transport = await self._loop.start_tls(self._transport, self, context, server_hostname=host)

    async def ended(self) -> None:
        """Wait until the server has sent everything, or enough."""
        await self._ended
        if self._broken:
            raise self._broken

    async def write(self, block: bytes) -> bool:
        """Send a block, as soon as there is room for it; whether the server takes more."""
        assert self._transport is not None  # noqa: S101
        if self._transport.is_closing():  # uvloop's raises a `RuntimeError` then
            return False
        self._transport.write(block)
        if self._paused is not None:
            await self._paused
        return not self._transport.is_closing()

    def close(self) -> None:
        """Say that this is all, when everything has been sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.count += len(data)
        try:
            if self._take is not None:
                self._take(data)
        except OSError as broken:
            self._broken = broken
        if self._broken or self.count > self.most:
            self.abort()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._end()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = self._loop.create_future()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self._paused is not None and not self._paused.done():
            self._paused.set_result(None)
        self._paused = None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._broken = self._broken or exc
        self._end()
        self.resume_writing()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
