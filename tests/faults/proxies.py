"""Lines between a node and its broker or storage that can be cut, silenced and garbled."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Literal

BLOCK_BYTES = 16 * 1024
HALF_BYTES = 8 * 1024
"""Where a transfer is broken: artifacts are larger."""

TransferFault = Literal["half with 226", "426", "reset", "stall", "control closed", "no 226"]
Judge = Callable[[str, str], TransferFault | None]
"""Given RETR or STOR and a path: what befalls this transfer, if anything."""


class Line:
    """A TCP proxy. New connections are taken as long as it is `up`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.up = True
        self.port = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Line"]:
        """Listen on a free port of the loopback interface."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.drop()

    def drop(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            reset(writer)

    def stall(self) -> None:
        """Keep every connection, and let nothing through."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            return reset(writer)
        try:
            behind_reader, behind = await asyncio.open_connection(*self._target)
        except OSError:
            return reset(writer)
        self._writers |= {writer, behind}
        await asyncio.gather(self._pump(reader, behind), self._pump(behind_reader, writer))
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(BLOCK_BYTES):
                await self._flowing.wait()
                writer.write(block)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)


class FtpLine:
    """A proxy for FTP, data connections included, that breaks the transfers which `judge` names."""

    def __init__(self, host: str, port: int, judge: Judge) -> None:
        self._target = (host, port)
        self._judge = judge
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["FtpLine"]:
        """Listen on a free port of the loopback interface."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._open:
                reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server = await asyncio.open_connection(*self._target)
        except OSError:
            return reset(writer)
        self._open |= {writer, server}
        await _Session(reader, writer, server_reader, server, self._judge).run()
        self._open -= {writer, server}
        return None


class _Session:
    """One control connection, and the data connection that it has announced."""

    def __init__(
        self,
        client_reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        judge: Judge,
    ) -> None:
        self._client_reader, self._client = client_reader, client
        self._server_reader, self._server = server_reader, server
        self._judge = judge
        self._fault: TransferFault | None = None
        self._data: asyncio.Server | None = None

    async def run(self) -> None:
        """Pass commands and replies on until either side closes."""
        passing = [asyncio.create_task(self._commands()), asyncio.create_task(self._replies())]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        for writer in (self._client, self._server):
            writer.close()
        if self._data is not None:
            self._data.close()

    async def _commands(self) -> None:
        while line := await self._client_reader.readline():
            verb, _, path = line.decode().strip().partition(" ")
            if verb in ("RETR", "STOR"):
                self._fault = self._judge(verb, path)
            self._server.write(line)
            await self._server.drain()

    async def _replies(self) -> None:
        while line := await self._server_reader.readline():
            if port := re.search(rb"^227 .*,(\d+),(\d+)\)|^229 .*\|\|\|(\d+)\|", line):
                line = await self._announce(line[:3], port)
            elif self._fault == "426" and line.startswith((b"226", b"426")):
                line, self._fault = b"426 Connection closed; transfer aborted.\r\n", None
            elif self._fault == "no 226" and line.startswith(b"226"):
                self._fault = None
                continue
            self._client.write(line)
            await self._client.drain()

    async def _announce(self, code: bytes, reply: "re.Match[bytes]") -> bytes:
        """Listen for the data connection in the server's place; the reply that says where."""
        high, low, extended = (int(number or 0) for number in reply.groups())
        target = extended or high * 256 + low
        if self._data is not None:
            self._data.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(self._pump(reader, behind[1], writer), self._pump(behind[0], writer, behind[1]))

        self._data = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = self._data.sockets[0].getsockname()[1]
        if code == b"229":
            return b"229 Entering extended passive mode (|||%d|).\r\n" % port
        return b"227 Entering passive mode (127,0,0,1,%d,%d).\r\n" % divmod(port, 256)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        """Pass data on; in the middle of it, do what the fault says."""
        count = 0
        with contextlib.suppress(OSError):
            while block := await reader.read(HALF_BYTES):
                count += len(block)
                if count > HALF_BYTES and self._fault not in (None, "no 226"):
                    await self._break(reader, writer, other)
                    return
                writer.write(block)
                await writer.drain()
        writer.close()

    async def _break(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        match self._fault:
            case "reset":
                reset(writer)
                reset(other)
            case "control closed":
                reset(self._client)
                reset(self._server)
                reset(writer)
            case "stall":
                await other.wait_closed()
            case _:  # the receiver sees a normal end, and the sender a receiver that takes everything
                writer.close()
                while await reader.read(BLOCK_BYTES):
                    pass


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST instead of FIN."""
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
