"""What runs a stage: one contract for Python functions, processes and containers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from ulos_stream.tasks import Verdict

TAIL_BYTES = 4096
DAY_S = 86_400.0
T = TypeVar("T")


class Output:
    """Takes what a run prints: merged stdout and stderr, capped, the tail kept for crash reports.

    What the node itself has to say of the run stands around it, in lines that begin with `# `.

    Args:
        file: Open for writing bytes; becomes `output_<exchange>_<routingKey>.txt`.
        limit_bytes: How much is kept. The rest is counted, not stored.
    """

    def __init__(self, file: BinaryIO, limit_bytes: int) -> None:
        self._file = file
        self._left = limit_bytes
        self._tail = b""
        self._last = b"\n"
        self._is_closed = False
        self.dropped_bytes = 0

    def write(self, data: bytes) -> None:
        """Append `data`; what exceeds the limit only moves the tail."""
        kept = data[: self._left]
        self._file.write(kept)
        self._last = kept[-1:] or self._last
        self._left -= len(kept)
        self.dropped_bytes += len(data) - len(kept)
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def remark(self, text: str) -> None:
        """Add a line of the node's own; it counts neither for the limit nor for the tail."""
        start = b"" if self._last == b"\n" else b"\n"
        self._last = b"\n"
        self._file.write(start + f"# {text}\n".encode())

    def close(self, ending: str = "") -> None:
        """Say how much was dropped, if anything, and how the run ended. Idempotent; the file stays open."""
        if not self._is_closed:
            self._is_closed = True
            if self.dropped_bytes:
                self.remark(f"output cut: {self.dropped_bytes} more bytes")
            if ending:
                self.remark(ending)
            self._file.flush()

    def tail(self) -> str:
        """The last 4 KiB as text, at most 4 KiB again when encoded."""
        return self._tail.decode("utf-8", "replace").encode()[-TAIL_BYTES:].decode("utf-8", "ignore")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of an executor."""

    directory: Path
    """The unpacked artifact. The executor works in it; what it leaves there is the result."""
    output: Output
    """Where everything that the run prints goes."""
    message_id: str
    """Identifies the stage; labels whatever the run starts outside this process."""
    task_id: str
    facts: dict[str, str] = field(default_factory=dict)
    """What the run tells of itself: `exit_code`; a container its id as `container`, and its `image` by digest, which
    the journal keeps; a process its id as `process`."""
    clock: asyncio.Timeout | None = None
    """What ends the run when the task's time is up; None: nothing does."""

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Stop the clock: in here the run waits for the infrastructure, which is not the task's time."""
        clock, now = self.clock, asyncio.get_running_loop().time
        if clock is None or clock.expired() or (end := clock.when()) is None:
            yield
            return
        left_s = end - now()
        clock.reschedule(None)
        try:
            yield
        finally:
            clock.reschedule(now() + left_s)

    def left_s(self) -> float:
        """Seconds that the run still has; a day where nothing ends it."""
        end = self.clock.when() if self.clock else None
        return DAY_S if end is None else max(0.0, end - asyncio.get_running_loop().time())


class Executor(Protocol):
    """Given a directory, do the work in it and say what it is worth.

    On cancellation (a timeout is one) nothing that the run started is left running, and
    `run` raises only after that. A second attempt needs a freshly unpacked directory: what
    the first one left there is not to be trusted.
    """

    @property
    def output_limit_bytes(self) -> int:
        """How much of a run's output is kept."""
        ...

    @property
    def device(self) -> str | None:
        """The machine that it must have for itself while it runs; see `Leases`."""
        ...

    async def run(self, job: Job) -> Verdict:
        """Do the work in `job.directory`, print to `job.output`, return the verdict.

        Raises:
            Crash: The work could not be done: `ExecutorCrashed`, `ExecutorUnavailable`.
            Fault: The infrastructure failed; the stage is tried again.
        """
        ...

    async def check(self) -> str | None:
        """Why this executor cannot run on this node now, in one line; None when it can."""
        ...


async def finish(work: Awaitable[T]) -> T:
    """Await `work` to its end, whatever cancels the caller meanwhile; only then be cancelled.

    For what must not stay half done: killing, reaping, removing.
    """
    task = asyncio.ensure_future(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
    return task.result()
