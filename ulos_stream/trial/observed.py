"""An executor with somebody looking on: what its run prints, how long it takes, what it has in memory."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from ulos_stream.executors import Executor, Job, Output
from ulos_stream.executors.memory import memory_bytes
from ulos_stream.tasks import Verdict

LOOK_S = 0.02
"""Seconds between two looks at the memory; one takes a few milliseconds."""


class Observed:
    """Is an executor itself, so that a pipeline runs it as any other.

    Args:
        executor: The one that does the work.
        show: Given what it prints, as far as it is kept, as it comes.
    """

    def __init__(self, executor: Executor, show: Callable[[bytes], None]) -> None:
        self._executor = executor
        self._show = show
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self.took_s: float | None = None
        """Seconds that the run took; None if there was none."""
        self.peak_bytes: int | None = None
        """The most memory that was seen; None if it could not be had."""

    @property
    def output_limit_bytes(self) -> int:
        return self._executor.output_limit_bytes

    @property
    def device(self) -> str | None:
        return self._executor.device

    async def run(self, job: Job) -> Verdict:
        begun = time.monotonic()
        looking = asyncio.create_task(self._look(job))
        try:
            return await self._executor.run(replace(job, output=_Shown(job.output, self._show)))
        finally:
            self.took_s = time.monotonic() - begun
            looking.cancel()
            await asyncio.wait([looking])

    async def check(self) -> str | None:
        return await self._executor.check()

    async def _look(self, job: Job) -> None:
        while True:
            if taken := await asyncio.to_thread(memory_bytes, job):
                self.peak_bytes = max(taken, self.peak_bytes or 0)
            await asyncio.sleep(LOOK_S)


class _Shown(Output):
    """An output of which everything that is kept is shown as well."""

    def __init__(self, output: Output, show: Callable[[bytes], None]) -> None:
        self._output = output
        self._show = show

    def write(self, data: bytes) -> None:
        dropped_bytes = self._output.dropped_bytes
        self._output.write(data)
        self._show(data[: len(data) - (self._output.dropped_bytes - dropped_bytes)])

    def remark(self, text: str) -> None:
        self._output.remark(text)
