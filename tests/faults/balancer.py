"""What stands before a cluster: a TCP proxy that looks after its members, as load balancers do."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from .members import PORT, Member

LOOK_S = 1.0
"""Seconds between two looks at a member, and in which it must answer."""


@dataclass
class Balancer:
    """A TCP proxy: each new connection goes to a member that answers; those to one that does not are reset."""

    members: list[Member]
    port: int = 0
    _turn: Iterator[int] = field(default_factory=itertools.count)
    _open: dict[str, set[asyncio.StreamWriter]] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen on a free port of the loopback interface."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        looking = [asyncio.create_task(self._look(member)) for member in self.members]
        try:
            yield
        finally:
            server.close()
            for task in looking:
                task.cancel()
            for member in self.members:
                self._reset(member)

    async def _look(self, member: Member) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    _, writer = await asyncio.open_connection(member.address, PORT)
                writer.transport.abort()
            except OSError:
                self._reset(member)
            await asyncio.sleep(LOOK_S)

    def _reset(self, member: Member) -> None:
        for writer in self._open.pop(member.address, set()):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(self._turn)
        for member in (self.members[(first + turn) % 3] for turn in range(3)):
            with contextlib.suppress(OSError):
                async with asyncio.timeout(LOOK_S):
                    behind = await asyncio.open_connection(member.address, PORT)
                break
        else:
            writer.transport.abort()
            return
        mine = {writer, behind[1]}
        self._open.setdefault(member.address, set()).update(mine)
        await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer))
        self._open.get(member.address, set()).difference_update(mine)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    writer.transport.abort()
