"""What a run has in memory now, by the kernel's own accounts; an engine on another machine has others."""

import contextlib
import os
from pathlib import Path

from ulos_stream.capacity import held_bytes
from ulos_stream.executors import Job

CGROUPS = Path("/sys/fs/cgroup")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def memory_bytes(job: Job) -> int | None:
    """What a run takes; None if it does not run, runs in this process, or the kernel does not tell."""
    with contextlib.suppress(OSError):  # it ends while we look
        if container := job.facts.get("container"):
            return _of_container(container)
        if leader := job.facts.get("process"):
            return _of_group(int(leader))
    return None


def _of_container(container_id: str) -> int | None:
    """What its control group holds, into whose name the engines put the container's id."""
    for statistics in CGROUPS.rglob(f"*{container_id}*/memory.stat"):
        return held_bytes(statistics.parent) or None
    return None


def _of_group(leader: int) -> int | None:
    """The programs of a process group; what they share counts for each of them."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()  # proc(5); a program's name may hold anything
            total += int(fields[21]) * PAGE_BYTES * (int(fields[2]) == leader)
    return total or None
