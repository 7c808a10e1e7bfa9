"""Temporary files that killed attempts at a stage have left on the storage, and when they are removed."""

import asyncio
import contextlib
import logging

from ulos_stream.errors import StorageFault
from ulos_stream.storage import Storage

LATE_S = 30.0
"""Seconds after which a server has surely read what a killed node had sent it: 1 s is a lot for a busy one."""
CLOSE_S = 5.0
"""Seconds that a node which ends takes at most for what would be due later."""

_log = logging.getLogger(__name__)


class Leftovers:
    """Removes temporary files twice: at once, and once more when it is late.

    A server that is busy may make the file that a killed node has asked for when another node is done with the stage.
    If the stage is at work once more by then, its upload fails as by any fault of the storage, and is repeated.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._late: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def remove(self, path: str, stage_id: str) -> None:
        """Remove what earlier attempts at a stage left beside the artifact at `path`, if the storage lets us."""
        await self._sweep(path, stage_id)
        late = asyncio.create_task(self._sweep_late(path, stage_id))
        self._late.add(late)
        late.add_done_callback(self._late.discard)

    async def aclose(self) -> None:
        """Do at once what is due later."""
        self._closing.set()
        if self._late:
            _, undone = await asyncio.wait(self._late, timeout=CLOSE_S)
            for late in undone:
                late.cancel()
            await asyncio.gather(*undone, return_exceptions=True)

    async def _sweep_late(self, path: str, stage_id: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE_S):
                await self._closing.wait()
        await self._sweep(path, stage_id)

    async def _sweep(self, path: str, stage_id: str) -> None:
        try:
            await self._storage.sweep(path, stage_id=stage_id)
        except StorageFault as fault:  # the result is there, and such a file is in nobody's way
            _log.warning("a temporary file may be left on the storage: %s", fault)
