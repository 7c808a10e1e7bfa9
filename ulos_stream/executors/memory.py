"""What a run has in memory now, by the kernel's own accounts; an engine on another machine has others."""

import contextlib
import os
from pathlib import Path

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
    """Without the cached files that the kernel would give up first. The engines put their ids into names."""
    for statistics in CGROUPS.rglob(f"*{container_id}*/memory.stat"):
        fields = dict(line.split() for line in statistics.read_text().splitlines())
        if (current := statistics.with_name("memory.current")).exists():  # cgroup v2
            return int(current.read_text()) - int(fields["inactive_file"])
        usage = statistics.with_name("memory.usage_in_bytes")
        return int(usage.read_text()) - int(fields["total_inactive_file"])
    return None


def _of_group(leader: int) -> int | None:
    """The programs of a process group; what they share counts for each of them."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()  # proc(5); a program's name may hold anything
            total += int(fields[21]) * PAGE_BYTES * (int(fields[2]) == leader)
    return total or None
