"""The processes of a worker, with all below them: started, measured by Linux's own books, and ended."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOT = Path(__file__).parent.parent
END_S = 30.0
"""Seconds within which a worker must end when it is asked to."""
TAIL_BYTES = 4000
TICKS = os.sysconf("SC_CLK_TCK")


class WorkerFailed(Exception):
    """A worker did not end well; the text has its last words."""


@dataclass(frozen=True, slots=True)
class Process:
    """A worker as it was started; it may have made others."""

    popen: "subprocess.Popen[bytes]"
    output: IO[bytes]

    def cpu_s(self) -> float:
        """CPU time of the whole tree so far."""
        return sum(_cpu_s(pid) for pid in _tree(self.popen.pid))

    def peak_rss_mb(self) -> float:
        """The peaks of all processes of the tree; pages that they share are in each of them."""
        return sum(_peak_rss_mb(pid) for pid in _tree(self.popen.pid))

    def ended(self) -> bool:
        """Whether the process that was started is gone."""
        return self.popen.poll() is not None

    def said(self) -> str:
        """The end of its output."""
        file = self.output.fileno()
        start = max(0, os.fstat(file).st_size - TAIL_BYTES)
        return os.pread(file, TAIL_BYTES, start).decode(errors="replace").strip()

    def stop(self) -> None:
        """Ask it to end, and wait for that.

        Raises:
            WorkerFailed: It does not, or says that something was wrong.
        """
        self.popen.terminate()
        try:
            code = self.popen.wait(END_S)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(f"still there {END_S:g} s after SIGTERM: {self.said()}") from None
        if code not in (0, -signal.SIGTERM):
            raise WorkerFailed(f"ended with {code}: {self.said()}")


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Process]:
    """A started process; whatever is left of it is killed afterwards."""
    with TemporaryFile() as output:
        popen = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield Process(popen, output)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def _tree(pid: int) -> Iterator[int]:
    """This process and all below it, where they still are."""
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))


def _cpu_s(pid: int) -> float:
    """Own time in user and kernel, and that of ended children."""
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS
    return 0


def _peak_rss_mb(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0
