"""What a node may use, and what is left of it: the machine's, or less in a control group of either version."""

import os
from pathlib import Path

import pytest

from ulos_stream.capacity import IdleTime, cores, free_memory

MEMINFO = "MemTotal:        8388608 kB\nMemFree:          100000 kB\nMemAvailable:    6291456 kB\n"
"""8 GiB, of which three quarters are available."""
MIB = 2**20

V2 = {"proc/self/cgroup": "0::/\n"}
V1 = {"proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/\n0::/\n"}


def a_machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (file := root / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def test_this_machine_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    idle = IdleTime()

    assert 0 < cores() <= (os.cpu_count() or 1)
    assert 0 < free_memory() < 1
    assert 0 <= idle() <= 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8, id="of another system"),
        pytest.param(V2, 8, id="in the group of all"),
        pytest.param(V2 | {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8, id="without a quota"),
        pytest.param(V2 | {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, id="with a quota"),
        pytest.param(V2 | {"sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8, id="with a quota of more than there is"),
        pytest.param(
            V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            8,
            id="without a quota, version 1",
        ),
        pytest.param(
            V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            0.5,
            id="with a quota, version 1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/system.slice/node.service\n"}
            | {"sys/fs/cgroup/system.slice/node.service/cpu.max": "200000 100000\n"},
            2,
            id="with the quota of a service",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/docker/4f2a\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
            2,
            id="in a container that sees its own group alone",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}
            | {"sys/other/cpu.max": "100000 100000\n"},
            2,
            id="in a group outside of what it sees",
        ),
    ],
)
def test_as_many_cores_may_be_kept_busy_as_the_quota_pays_for(
    files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    assert cores(a_machine(tmp_path, files)) == expected


def test_cores_that_the_node_may_not_run_on_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})

    assert cores(tmp_path) == 1


def a_group(limit: str, used_mib: int, files_mib: int, version: int) -> dict[str, str]:
    """The files of a group with so much memory."""
    used, files = f"{used_mib * MIB}\n", f"{files_mib * MIB}\n"
    if version == 2:
        names = "memory.max", "memory.current", "memory.stat", "inactive_file"
        base, known = "sys/fs/cgroup", V2
    else:
        names = "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"
        base, known = "sys/fs/cgroup/memory", V1
    return {
        **known,
        "proc/meminfo": MEMINFO,
        f"{base}/{names[0]}": f"{limit}\n",
        f"{base}/{names[1]}": used,
        f"{base}/{names[2]}": f"anon 4096\n{names[3]} {files}",
    }


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("limit", "used_mib", "files_mib", "expected"),
    [
        pytest.param(f"{1024 * MIB}", 512, 0, 0.5, id="the group has less left"),
        pytest.param(f"{1024 * MIB}", 1024, 256, 0.25, id="files that can be dropped are free"),
        pytest.param(f"{1024 * MIB}", 1100, 0, 0, id="the group is beyond its limit"),
        pytest.param(f"{4096 * MIB}", 256, 0, 0.75, id="the machine has less left"),
        pytest.param("9223372036854771712", 8192, 0, 0.75, id="a limit of more than there is"),
        pytest.param("max", 8192, 0, 0.75, id="no limit"),
    ],
)
def test_the_memory_that_is_free_is_the_machines_or_less_in_a_group(
    limit: str, used_mib: int, files_mib: int, expected: float, version: int, tmp_path: Path
) -> None:
    root = a_machine(tmp_path, a_group(limit, used_mib, files_mib, version))

    assert free_memory(root) == expected


@pytest.mark.parametrize("meminfo", ["", "MemTotal: 100 kB\n", "nonsense"])
def test_memory_of_which_nothing_is_told_is_free(meminfo: str, tmp_path: Path) -> None:
    assert free_memory(a_machine(tmp_path, {"proc/meminfo": meminfo})) == 1


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr("ulos_stream.capacity.time.monotonic", lambda: self.now_s)


def stat(idle: int, busy: int) -> dict[str, str]:
    """What 8 cores have done, in ticks of 10 ms; a fifth of what they idled they waited for a disk."""
    return {"proc/stat": f"cpu  {busy} 0 0 {idle - idle // 5} {idle // 5} 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"}


@pytest.mark.parametrize(
    ("idle", "busy", "used_s", "expected"),
    [
        pytest.param(400, 400, 0.0, 0.5, id="others use the machine"),
        pytest.param(640, 160, 1.5, 0.25, id="the node uses what it may"),
        pytest.param(640, 160, 2.5, 0.0, id="the node uses more than it may"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_time_that_is_left_is_the_machines_or_less_with_a_quota(
    idle: int,
    busy: int,
    used_s: float,
    expected: float,
    version: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def used(seconds: float) -> dict[str, str]:
        if version == 2:
            return {"sys/fs/cgroup/cpu.stat": f"usage_usec {round(seconds * 1e6)}\nuser_usec 1\n"}
        return {"sys/fs/cgroup/cpuacct/cpuacct.usage": f"{round(seconds * 1e9)}\n"}

    quota = {"sys/fs/cgroup/cpu.max": "200000 100000\n"} if version == 2 else {}
    quota |= {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    a_machine(tmp_path, (V2 if version == 2 else V1) | quota | stat(1000, 1000) | used(7))
    clock = Clock(monkeypatch)
    left = IdleTime(tmp_path)

    a_machine(tmp_path, stat(1000 + idle, 1000 + busy) | used(7 + used_s))
    clock.now_s += 1.0

    assert left() == pytest.approx(expected)


@pytest.mark.parametrize("told", ["", "cpu", "cpu what is this"])
def test_cores_of_which_nothing_is_told_are_idle(told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    left = IdleTime(a_machine(tmp_path, {"proc/stat": told}))

    clock.now_s += 1.0

    assert left() == 1
    assert left() == 1  # asked twice at the same moment
