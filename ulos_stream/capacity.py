"""What a node may use of its machine, and what of that is left: processor time and memory.

The machine bounds it, which others use too, and so may the control group of its container, pod or service (cgroups(7),
in either version). What leaves less counts. Not looked at: groups around that one, which a container does not see.
"""

import math
import os
import time
from pathlib import Path

ROOT = Path("/")
"""Where `/proc` and `/sys` are."""


def cores(root: Path = ROOT) -> float:
    """How many cores the node may keep busy: those that it may run on, or a quota of their time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    group, is_unified = _group("cpu", root)
    if is_unified:
        quota, _, period = _read(group / "cpu.max").partition(" ")
    else:
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    return min(allowed, _number(quota) / _number(period, missing=1))


def free_memory(root: Path = ROOT) -> float:
    """The part of the memory that is available, 0 to 1; 1 where that is not told."""
    # proc(5): what can be had without swapping, files that were only read included.
    machine = _told(root / "proc/meminfo", ":")
    total = _number(machine.get("MemTotal", ""))
    left = _number(machine.get("MemAvailable", ""), missing=total) / total if total < math.inf else 1.0

    group, is_unified = _group("memory", root)
    limit = _number(_read(group / ("memory.max" if is_unified else "memory.limit_in_bytes")))
    if limit >= 1024 * total:  # which is told in KiB
        return left
    return min(left, max(0.0, 1 - held_bytes(group) / limit))


def held_bytes(group: Path) -> int:
    """The memory that a control group holds, without cached files that the kernel would give up first."""
    used, files = _read(group / "memory.current"), "inactive_file"
    if not used:  # version 1
        used, files = _read(group / "memory.usage_in_bytes"), "total_inactive_file"
    cached = _told(group / "memory.stat").get(files, "")
    return max(0, round(_number(used, missing=0) - _number(cached, missing=0)))


class IdleTime:
    """What part of the processor time that the node may use was left since it was last asked, 0 to 1."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._cores = cores(root)
        self._last = self._look()

    def __call__(self) -> float:
        last, self._last = self._last, self._look()
        idle, ticks, used_s, at_s = (now - before for now, before in zip(self._last, last, strict=True))
        left = idle / ticks if ticks else 1.0
        return min(left, max(0.0, 1 - used_s / (self._cores * at_s))) if at_s else left

    def _look(self) -> tuple[float, float, float, float]:
        """Idle and all time of the machine's cores, in ticks; the time that the group has used, and the hour, in s."""
        first, _, _ = _read(self._root / "proc/stat").partition("\n")
        times = [int(word) for word in first.split()[1:9] if word.isdecimal()]  # proc(5)
        idle = sum(times[3:5])
        group, is_unified = _group("cpuacct", self._root)
        if is_unified:
            used_s = _number(_told(group / "cpu.stat").get("usage_usec", ""), missing=0) / 1e6
        else:
            used_s = _number(_read(group / "cpuacct.usage"), missing=0) / 1e9
        return idle, sum(times), used_s, time.monotonic()


def _group(controller: str, root: Path) -> tuple[Path, bool]:
    """The folder of the group that bounds this process, and whether it is one of version 2.

    A container may see its own group as the whole tree, under whatever path the machine knows it.
    """
    top, path, is_unified = root / "sys/fs/cgroup", "", True
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, where = line.split(":", 2)
        if controller in controllers.split(","):
            top, path, is_unified = top / controller, where, False
            break
        if not controllers:
            path = where
    own = top / path.lstrip("/")
    return (own if own.is_dir() and ".." not in own.parts else top), is_unified


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _told(file: Path, separator: str = " ") -> dict[str, str]:
    """What a file says line by line."""
    return {name: value for name, _, value in (line.partition(separator) for line in _read(file).splitlines())}


def _number(text: str, *, missing: float = math.inf) -> float:
    """The first number of a text; `missing` where it says `max`, -1 or nothing: no limit."""
    word, *_ = text.split() or [""]
    return float(word) if word.isdecimal() else missing
