"""What holds a container, seen from inside it and in what the engine was told."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from workbench import EAT_UP_MEMORY, container, container_executor, inspect, make_job, script_image

from ulos_stream.errors import ExecutorCrashed, ExecutorUnavailable
from ulos_stream.executors.sandbox import UNPRIVILEGED, configuration, shortcoming
from ulos_stream.tasks import Verdict

pytestmark = pytest.mark.usefixtures("docker")


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


async def said(tmp_path: Path, script: str, **descriptor: Any) -> str:
    """What `script` prints in a container."""
    job, printout = make_job(tmp_path, script)
    async with container_executor(**descriptor) as executor:
        await executor.run(job)
    return printout.text()


async def told(tmp_path: Path, **descriptor: Any) -> dict[str, Any]:
    """What the engine says of a container while it runs."""
    job, printout = make_job(tmp_path, "echo started; sleep 600")
    async with container_executor(**descriptor) as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        details = inspect(job)
        running.cancel()
        await asyncio.wait([running])
    return details


async def test_the_engine_is_told_every_limit_of_the_descriptor(tmp_path: Path) -> None:
    sandbox = {"pids": 20, "memory_mib": 100, "cpus": 0.5, "tmpfs_mib": 8, "disk_mib": 16}

    host = (await told(tmp_path, sandbox=sandbox))["HostConfig"]

    assert host["PidsLimit"] == 20
    assert host["Memory"] == host["MemorySwap"] == 100 * 1024 * 1024
    assert host["NanoCpus"] == 500_000_000
    assert host["ShmSize"] == 8 * 1024 * 1024
    me = os.getuid() or UNPRIVILEGED, os.getgid() or UNPRIVILEGED
    assert host["Tmpfs"] == {
        "/tmp": "rw,noexec,nosuid,nodev,size=8388608,nr_inodes=16384,mode=1777,uid={},gid={}".format(*me)
    }
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {
        "nofile": 4096,
        "core": 0,
        "fsize": 16 * 1024 * 1024,
    }


async def test_the_engine_is_told_to_hold_everything_by_default(tmp_path: Path) -> None:
    details = await told(tmp_path)

    host = details["HostConfig"]
    held = {name: host[name] for name in ("CapDrop", "CapAdd", "SecurityOpt", "Privileged", "ReadonlyRootfs")}
    assert held == {
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "ReadonlyRootfs": True,
    }
    assert (host["NetworkMode"], host["IpcMode"], host["CgroupnsMode"]) == ("none", "private", "private")
    assert (host["Init"], host["AutoRemove"], host["RestartPolicy"]["Name"]) == (True, False, "no")
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "1", "max-size": "4m"}}
    assert details["Config"]["NetworkDisabled"] is True
    assert details["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    assert {mount["Destination"]: mount["RW"] for mount in details["Mounts"]} == {"/work": True, "/etc/hosts": False}


async def test_an_image_that_is_run_as_built_keeps_its_user_and_few_capabilities(tmp_path: Path) -> None:
    script = "id -u; touch /anywhere && echo writable; grep CapEff /proc/self/status"

    printed = await said(tmp_path, script, sandbox={"user": "image", "read_only": False})

    chown_dac_fowner_fsetid_kill_setgid_setuid_setpcap_bind_chroot = 0x405FB
    assert printed.split() == [
        "0",
        "writable",
        "CapEff:",
        f"{chown_dac_fowner_fsetid_kill_setgid_setuid_setpcap_bind_chroot:016x}",
    ]


async def test_a_root_that_is_granted_it_can_change_users_and_do_nothing_else(tmp_path: Path) -> None:
    sandbox = {"user": "0:0", "capabilities": ["SETUID", "SETGID"]}

    printed = await said(tmp_path, "id -u; grep CapEff /proc/self/status", sandbox=sandbox)

    setgid_setuid = 1 << 6 | 1 << 7
    assert printed.split() == ["0", "CapEff:", f"{setgid_setuid:016x}"]


async def test_a_run_is_an_unprivileged_user_without_capabilities_who_owns_the_work(tmp_path: Path) -> None:
    me = os.getuid() or UNPRIVILEGED

    printed = await said(tmp_path, "id -u; grep CapEff /proc/self/status; stat -c %u . job.sh; echo kept > result")

    assert printed.split() == [str(me), "CapEff:", "0" * 16, str(me), str(me)]


async def test_the_root_file_system_is_read_only_and_tmp_holds_no_programs(tmp_path: Path) -> None:
    script = "touch /anywhere; cp /bin/busybox /tmp/ls && /tmp/ls; touch /tmp/fine ./fine && echo written"

    printed = await said(tmp_path, script)

    assert "/anywhere: Read-only file system" in printed
    assert "/tmp/ls: Permission denied" in printed
    assert "written" in printed


async def test_a_run_sees_no_processes_messages_names_or_groups_but_its_own(tmp_path: Path) -> None:
    kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]

    printed = await said(
        tmp_path, f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done; ls -d /proc/[0-9]*"
    )

    inside = printed.split()
    nodes_own = {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    assert [namespace.partition(":")[0] for namespace in inside[:6]] == kinds
    assert nodes_own & set(inside) == set()
    assert len(inside) - len(kinds) <= 4  # init, the script, ls and what it asks


async def test_open_files_and_core_dumps_are_limited(tmp_path: Path) -> None:
    printed = await said(tmp_path, "ulimit -n; ulimit -Hn; ulimit -Hc; ulimit -n 5000 2>/dev/null || echo refused")

    assert printed.splitlines()[:3] == ["4096", "4096", "0"]
    assert "refused" in printed


async def test_tmp_and_shared_memory_hold_no_more_than_they_may(tmp_path: Path) -> None:
    script = "for place in /tmp /dev/shm; do dd if=/dev/zero of=$place/fill bs=1M count=9; stat -c %s $place/fill; done"

    printed = await said(tmp_path, script, sandbox={"tmpfs_mib": 2})

    assert printed.split().count(str(2 * 1024 * 1024)) == 2
    assert printed.count("No space left on device") == 2


async def test_there_is_no_network(tmp_path: Path) -> None:
    printed = await said(tmp_path, "ls /sys/class/net; cat /proc/net/route; wget -q -T 2 http://1.1.1.1 || echo failed")

    assert "lo" in printed.split()  # not always first: output and errors come by two ways
    assert "eth" not in printed
    assert "00000000" not in printed  # no default route
    assert "failed" in printed


async def test_without_a_network_there_is_still_a_localhost_by_name(tmp_path: Path) -> None:
    script = "echo hello > page; httpd -p 127.0.0.1:8080 -h .; wget -qO- http://localhost:8080/page"

    printed = await said(tmp_path, script)

    assert printed == "hello\n"


@pytest.mark.parametrize("network", ["bridge", "host"])
async def test_another_network_is_there_when_the_descriptor_says_so(tmp_path: Path, network: str) -> None:
    details = await told(tmp_path, sandbox={"network": network})

    assert details["HostConfig"]["NetworkMode"] == network
    assert not details["Config"].get("NetworkDisabled")


async def test_the_engine_is_told_the_runtime_of_the_descriptor(tmp_path: Path) -> None:
    details = await told(tmp_path, sandbox={"runtime": "io.containerd.runc.v2"})

    assert details["HostConfig"]["Runtime"] == "io.containerd.runc.v2"


async def test_a_runtime_that_the_engine_does_not_have_is_said_with_those_that_it_has(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with container_executor(sandbox={"runtime": "runsc"}) as executor:
        reason = await executor.check()
        with pytest.raises(ExecutorUnavailable) as raised:
            await executor.run(job)

    assert reason == str(raised.value)
    assert "'runsc' is not known to the container engine; it has io.containerd.runc.v2, " in reason
    assert reason.endswith(", runc")


async def test_the_descriptors_environment_arrives_and_the_nodes_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESSAGE_BROKER_PASSWORD", "canary")

    printed = await said(tmp_path, "env", environment={"UNITS": "mm", "EMPTY": "", "ODD": "a=b c\n"})

    assert "UNITS=mm\n" in printed
    assert "EMPTY=\n" in printed
    assert "ODD=a=b c\n" in printed
    assert "HOME=/tmp\n" in printed
    assert "canary" not in printed
    assert "MESSAGE_BROKER" not in printed


async def test_the_work_is_mounted_and_the_program_started_where_the_descriptor_says(tmp_path: Path) -> None:
    fields = {"mount": "/mnt/tests/", "working_dir": "/mnt/tests/", "command": ["sh", "job.sh"]}

    printed = await said(tmp_path, "pwd; ls", **fields)

    assert printed.split() == ["/mnt/tests", "job.sh"]


async def test_a_fork_bomb_stays_inside(tmp_path: Path) -> None:
    script = 'i=0; while [ $i -lt 100 ]; do sleep 20 & i=$((i+1)); done; echo "no end"'

    printed = await said(tmp_path, script, sandbox={"pids": 20})

    assert "no end" not in printed or "can't fork" in printed


async def test_a_run_that_is_killed_over_its_memory_crashes_and_says_so(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, f"echo started; {EAT_UP_MEMORY}")

    async with container_executor(sandbox={"memory_mib": 32}) as executor:
        with pytest.raises(ExecutorCrashed, match="out of memory: killed at its limit of 32 MiB"):
            await executor.run(job)

    assert job.output.tail().startswith("started\n")


async def test_a_run_that_lives_on_after_a_kill_over_memory_has_a_verdict(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "tail /dev/zero; exit 0")

    async with container_executor(sandbox={"memory_mib": 32}) as executor:
        assert await executor.run(job) is Verdict.PASS


async def test_a_run_that_kills_itself_fails(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "kill -9 $$")

    async with container_executor() as executor:
        assert await executor.run(job) is Verdict.FAIL


async def test_a_single_file_is_no_larger_than_the_disk_limit(tmp_path: Path) -> None:
    script = "trap '' XFSZ; head -c 3000000 /dev/zero > big; stat -c %s big"

    printed = await said(tmp_path, script, sandbox={"disk_mib": 2})

    assert str(2 * 1024 * 1024) in printed.split()


def test_no_more_cores_are_asked_for_than_the_engine_has(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    asked = configuration(container(sandbox={"cpus": 64.0}), job, job.directory, node="n", cpus=2.0)

    assert asked["HostConfig"]["NanoCpus"] == 2_000_000_000


SOUND = {
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "CgroupVersion": "1",
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
}


@pytest.mark.parametrize(
    ("differently", "reason"),
    [
        ({}, None),
        ({"SecurityOptions": ["name=seccomp,profile=/etc/docker/seccomp.json"]}, None),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"], "CgroupVersion": "2"}, None),
        ({"MemoryLimit": False}, "it cannot limit memory"),
        ({"PidsLimit": None, "CpuCfsQuota": False}, "it cannot limit processes and processor time"),
        ({"SwapLimit": False}, "it cannot limit swap (the kernel may need swapaccount=1)"),
        ({"SecurityOptions": None}, "it filters no system calls (seccomp)"),
        ({"SecurityOptions": ["name=apparmor"]}, "it filters no system calls (seccomp)"),
        ({"SecurityOptions": ["name=seccomp,profile=unconfined"]}, "it filters no system calls (seccomp)"),
        (
            {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]},
            "it runs rootless on cgroup v1, where it ignores every limit; boot with cgroup v2, or run it as root",
        ),
    ],
)
def test_an_engine_that_cannot_hold_a_container_is_told_why(differently: dict[str, object], reason: str | None) -> None:
    assert shortcoming(SOUND | differently) == reason
