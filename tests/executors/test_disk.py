"""A run's disk: a file system of its own where the node can make one, else a look at it now and then."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workbench import container_executor, containers_of, make_job, script_image

from ulos_stream.errors import ExecutorCrashed
from ulos_stream.executors import Job
from ulos_stream.executors.disk import Unlimited, enclose, release, settle, withdraw
from ulos_stream.tasks import Verdict

pytestmark = pytest.mark.usefixtures("docker")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
FILL = "for i in 1 2 3 4 5 6; do dd if=/dev/zero of=$i bs=1000000 count=1 || exit 9; done"
MIB = 1024 * 1024


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


@pytest.fixture
def no_mkfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.fixture
def nearly_full(tmp_path: Path) -> Iterator[Path]:
    """A work directory on a disk with 24 MiB left."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmp_path], check=True)
    yield tmp_path
    release(tmp_path)


async def ended(job: Job, **sandbox: object) -> Verdict:
    async with container_executor(sandbox=sandbox) as executor:
        return await executor.run(job)


def a_directory(parent: Path) -> Path:
    (parent / "files").mkdir()
    return parent / "files"


@as_root
async def test_a_run_that_fills_its_disk_is_told_so_and_ends_as_it_likes(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, FILL)

    verdict = await ended(job, disk_mib=4)

    assert verdict is Verdict.FAIL
    assert "No space left on device" in printout.text()
    assert (job.directory / "1").stat().st_size == 1_000_000


@as_root
async def test_files_that_are_deleted_and_still_open_take_their_place(tmp_path: Path) -> None:
    script = (
        "exec 11<>a 12<>b 13<>c 14<>d 15<>e 16<>f; rm ?; for fd in 11 12 13 14 15 16; do"
        " dd if=/dev/zero of=/proc/self/fd/$fd bs=1000000 count=1 || exit 0; done; exit 9"
    )
    job, printout = make_job(tmp_path, script)

    verdict = await ended(job, disk_mib=4)

    assert verdict is Verdict.PASS
    assert "No space left on device" in printout.text()


@as_root
async def test_empty_files_run_out_too(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "i=0; while [ $i -lt 5000 ]; do touch $i || exit 0; i=$((i+1)); done; exit 9")

    verdict = await ended(job, disk_mib=4)

    assert "No space left on device" in printout.text()
    assert verdict is Verdict.PASS


@as_root
async def test_the_work_keeps_its_content_owner_mode_and_time_and_holds_no_devices_nor_set_ids(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "stat -c '%n %a %u %Y' tool; ls -A; grep ' /work ' /proc/mounts")
    (job.directory / "tool").write_text("#!/bin/sh\n")
    (job.directory / "tool").chmod(0o755)
    os.utime(job.directory / "tool", (86_400, 86_400))

    await ended(job)

    file, *names, mount = printout.text().splitlines()
    assert file == "tool 755 65532 86400"
    assert names == ["job.sh", "tool"]
    assert " ext4 rw,nosuid,nodev," in mount


@as_root
@pytest.mark.parametrize("limit_mib", [1, 16, 512, 16_384])
def test_a_disk_has_what_it_promises_and_little_more(tmp_path: Path, limit_mib: int) -> None:
    directory = a_directory(tmp_path)

    enclose(directory, limit_mib)

    room = os.statvfs(directory)
    assert limit_mib * MIB <= room.f_bavail * room.f_frsize + 2 * 4096 <= limit_mib * MIB * 1.1 + MIB
    assert room.f_ffree > limit_mib * 256


@as_root
def test_what_is_released_is_as_it_was_before(tmp_path: Path) -> None:
    directory = a_directory(tmp_path)
    (directory / "a").write_text("before")
    enclose(directory, 16)
    (directory / "a").write_text("after")
    withdraw(directory)

    still_there = (directory / "a").read_text(), directory.is_mount()
    release(tmp_path)

    assert still_there == ("after", True)
    assert (directory / "a").read_text() == "before"
    assert list(tmp_path.iterdir()) == [directory]


@as_root
def test_a_disk_that_somebody_uses_is_released_all_the_same(tmp_path: Path) -> None:
    directory = a_directory(tmp_path)
    enclose(directory, 16)

    with (directory / "open").open("w"):
        release(tmp_path)

    assert not directory.is_mount()


@as_root
def test_a_directory_with_an_odd_name_is_released_and_its_neighbour_is_not(tmp_path: Path) -> None:
    odd, neighbour = tmp_path / "a b\\c\n", tmp_path / "a b"
    for directory in (odd, neighbour):
        directory.mkdir()
        enclose(directory, 1)

    release(odd)

    assert (odd.is_mount(), neighbour.is_mount()) == (False, True)


@as_root
def test_the_mounts_of_a_process_that_was_killed_are_released(tmp_path: Path) -> None:
    directory = a_directory(tmp_path)
    program = (
        "import os, pathlib, sys; from ulos_stream.executors.disk import enclose;"
        "enclose(pathlib.Path(sys.argv[1]), 16); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, directory], check=False)
    left = directory.is_mount()

    release(tmp_path)

    assert killed.returncode == -9
    assert left
    assert not directory.is_mount()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_releasing_where_nothing_is_mounted_does_nothing(tmp_path: Path) -> None:
    release(tmp_path)
    release(tmp_path / "missing")


@as_root
async def test_work_that_does_not_fit_crashes(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)
    (job.directory / "large").write_bytes(b"x" * 3 * MIB)

    with pytest.raises(ExecutorCrashed, match="takes more than the 1 MiB"):
        await ended(job, disk_mib=1)

    assert containers_of(job) == []


@as_root
async def test_a_run_whose_writes_a_full_node_loses_is_a_fault_of_the_node(nearly_full: Path) -> None:
    job, _ = make_job(nearly_full, "head -c 40000000 /dev/zero | tr '\\0' x > large")

    with pytest.raises(OSError, match="error syncing") as raised:
        await ended(job, disk_mib=64)

    assert raised.value.errno in (errno.EIO, errno.ENOSPC)


@as_root
def test_a_node_without_room_for_an_empty_disk_says_so(nearly_full: Path) -> None:
    directory = a_directory(nearly_full)
    with pytest.raises(OSError, match="No space left"):
        (nearly_full / "filler").write_bytes(b"x" * 30 * MIB)

    with pytest.raises(OSError, match="No space left") as raised:
        enclose(directory, 16)

    assert raised.value.errno == errno.ENOSPC


@as_root
def test_what_reached_the_disk_is_settled(nearly_full: Path) -> None:
    directory = a_directory(nearly_full)
    enclose(directory, 64)
    (directory / "small").write_bytes(b"x" * MIB)

    settle(directory)

    assert (directory / "small").stat().st_size == MIB


@as_root
def test_a_node_without_mkfs_says_so(tmp_path: Path, no_mkfs: None) -> None:
    with pytest.raises(Unlimited, match=r"there is no mkfs\.ext4"):
        enclose(a_directory(tmp_path), 16)


@as_root
@pytest.mark.usefixtures("no_mkfs")
async def test_without_a_disk_of_its_own_a_run_is_looked_at_and_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = make_job(tmp_path, f"{FILL}; sleep 600")
    second, _ = make_job(tmp_path)

    async with container_executor(sandbox={"disk_mib": 2}) as executor:
        with pytest.raises(ExecutorCrashed, match="more than 2 MiB"):
            await executor.run(first)
        verdict = await executor.run(second)

    assert verdict is Verdict.PASS
    assert containers_of(first) == []
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "no disk of a run's own, it is only looked at: there is no mkfs.ext4 on its PATH"
    ]


@pytest.mark.usefixtures("no_mkfs")
async def test_a_run_that_is_looked_at_and_digs_without_end_is_stopped(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "i=0; while [ $i -lt 200 ]; do mkdir d && cd d; i=$((i+1)); done; sleep 600")

    with pytest.raises(ExecutorCrashed, match="more than 64 levels"):
        await ended(job)

    assert containers_of(job) == []


@as_root
async def test_an_engine_that_does_not_see_the_nodes_mounts_is_noticed_and_does_without(tmp_path: Path) -> None:
    """The node runs in a mount namespace of its own, as in a container that is given the engine's socket."""
    program = """if True:
        import asyncio, logging, pathlib, sys
        from workbench import container_executor, make_job
        logging.basicConfig()
        async def main():
            job, printout = make_job(pathlib.Path(sys.argv[1]), "echo kept > result; touch results/passed.log")
            (job.directory / "results").mkdir()
            async with container_executor(passes="verdict-file") as executor:
                print(await executor.run(job), (job.directory / "result").read_text())
        asyncio.run(main())
    """
    node = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", sys.executable, "-c", program, str(tmp_path)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, said = await node.communicate()

    assert printed.decode().split() == ["PASS", "kept"]
    assert "the engine does not see what this node mounts" in said.decode()
