"""Processes: verdicts, output, environment, and that nothing of them is left."""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import uvloop
from workbench import make_job, process

from ulos_stream.errors import DeviceFault, ExecutorUnavailable
from ulos_stream.tasks import Verdict

LEAVE_THE_FILE = "mkdir -p results && touch results/passed.log"


def is_running(pid: str) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def end(pids: list[str]) -> None:
    """Wait for processes that are not ours to wait for; killed ones take a moment to be gone."""
    async with asyncio.timeout(5):
        while any(is_running(pid) for pid in pids):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("passes", "script", "verdict"),
    [
        ("exit-code", "exit 0", Verdict.PASS),
        ("exit-code", "exit 3", Verdict.FAIL),
        ("exit-code", "kill -9 $$", Verdict.FAIL),
        ("verdict-file", f"{LEAVE_THE_FILE}; exit 1", Verdict.PASS),
        ("verdict-file", "exit 0", Verdict.FAIL),
        ("both", LEAVE_THE_FILE, Verdict.PASS),
        ("both", f"{LEAVE_THE_FILE}; exit 1", Verdict.FAIL),
        ("both", "exit 0", Verdict.FAIL),
    ],
)
async def test_the_verdict_comes_from_what_the_descriptor_names(
    tmp_path: Path, passes: str, script: str, verdict: Verdict
) -> None:
    job, _ = make_job(tmp_path, script)

    assert await process(passes=passes).run(job) is verdict

    assert not (job.directory / "results" / "passed.log").exists()


async def test_a_verdict_file_that_came_with_the_work_does_not_count(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)
    (job.directory / "results").mkdir()
    (job.directory / "results" / "passed.log").touch()

    assert await process(passes="verdict-file").run(job) is Verdict.FAIL


async def test_output_and_errors_are_merged_in_order(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "echo one; echo two >&2; echo three")

    await process().run(job)

    assert printout.text() == "one\ntwo\nthree\n"


async def test_output_beyond_the_limit_is_counted_and_its_end_is_kept(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "yes | head -c 3000000; echo the end", limit_bytes=1000)

    await process().run(job)

    assert len(printout.getvalue()) == 1000
    assert job.output.dropped_bytes == 3_000_008 - 1000
    assert job.output.tail().endswith("the end\n")


async def test_a_run_sees_the_descriptors_environment_and_nothing_of_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESSAGE_BROKER_PASSWORD", "canary")
    job, printout = make_job(tmp_path)

    await process("env", environment={"UNITS": "mm"}).run(job)

    assert sorted(printout.text().splitlines()) == [
        f"HOME={job.directory}",
        "LANG=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "UNITS=mm",
    ]


async def test_a_run_starts_in_the_jobs_directory_and_has_no_input(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "pwd; cat; echo read")
    readable, writable = os.pipe()
    os.write(writable, b"the node's own input\n")
    os.close(writable)
    kept = os.dup(0)
    os.dup2(readable, 0)

    try:
        await process().run(job)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(readable)

    assert printout.text() == f"{job.directory}\nread\n"


async def test_a_path_in_the_command_starts_at_the_descriptors_folder(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "check"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "checking $1"\n')
    program.chmod(0o755)
    job, printout = make_job(tmp_path)
    executor = process("bin/check", "this", folder=tmp_path)

    reason = await executor.check()
    await executor.run(job)

    assert reason is None
    assert printout.text() == "checking this\n"


async def test_a_cancelled_run_takes_its_grandchildren_with_it(tmp_path: Path) -> None:
    script = "trap '' TERM HUP INT; sh -c 'trap \"\" TERM; sleep 600 & echo $! $$; wait' & echo $$ started; wait"
    job, printout = make_job(tmp_path, script)

    running = asyncio.create_task(process().run(job))
    await printout.shows("started")
    while len(pids := printout.text().replace("started", "").split()) < 3:
        await asyncio.sleep(0.01)
    alive = [is_running(pid) for pid in pids]
    running.cancel()
    await asyncio.wait([running])

    assert alive == [True, True, True]
    assert running.cancelled()
    await end(pids)


async def test_a_run_cancelled_again_and_again_leaves_nothing(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "echo $$; exec sleep 600")

    running = asyncio.create_task(process().run(job))
    await printout.shows("\n")
    while not running.done():
        running.cancel()
        await asyncio.sleep(0)

    assert running.cancelled()
    await end(printout.text().split())


async def test_a_run_cancelled_before_it_has_started_leaves_nothing(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "echo $$ > pid; exec sleep 600")

    running = asyncio.create_task(process().run(job))
    while not running.done():
        await asyncio.sleep(0)
        running.cancel()

    assert running.cancelled()
    pid = (job.directory / "pid").read_text() if (job.directory / "pid").exists() else "0"
    assert not is_running(pid.strip())


MACHINE = """
trap 'sleep 0.3; echo at rest; exit 0' TERM
echo moving
while :; do sleep 0.05; done
"""


async def test_a_cancelled_run_may_bring_its_machine_to_rest(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, MACHINE)

    running = asyncio.create_task(process(stop_s=20).run(job))
    await printout.shows("moving")
    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
    assert printout.text() == "moving\nat rest\n"


async def test_a_run_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "trap '' TERM; echo $$; while :; do sleep 0.05; done")

    running = asyncio.create_task(process(stop_s=0.2).run(job))
    await printout.shows("\n")
    running.cancel()
    await asyncio.wait([running], timeout=10)

    assert running.cancelled()
    await end(printout.text().split())


async def test_a_program_can_say_that_its_machine_failed(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "echo one; echo the emergency stop is pressed >&2; exit 75")

    with pytest.raises(DeviceFault, match=r"^arm-1: the emergency stop is pressed$"):
        await process(device="arm-1").run(job)


async def test_without_a_machine_that_exit_code_is_a_verdict(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "exit 75")

    assert await process().run(job) is Verdict.FAIL


NODE = """if True:
    import asyncio, pathlib, sys
    from workbench import make_job, process
    job, _ = make_job(pathlib.Path(sys.argv[1]), "sleep 600 & echo $$ $! > ../pids.new; mv ../pids.new ../pids; wait")
    asyncio.run(process().run(job))
"""


async def test_the_group_ends_with_a_node_that_is_killed(tmp_path: Path) -> None:
    node = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NODE, str(tmp_path)), env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    )
    async with asyncio.timeout(10):
        while not (tmp_path / "pids").exists() or len(children(node.pid)) < 2:
            await asyncio.sleep(0.01)

    node.kill()
    await node.wait()

    await end((tmp_path / "pids").read_text().split())


def children(pid: int) -> list[str]:
    """The command, and the guard of its group."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_a_grandchild_that_keeps_the_pipe_open_does_not_hold_up_the_run(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "sleep 600 & echo $!")

    async with asyncio.timeout(10):
        verdict = await process().run(job)

    assert verdict is Verdict.PASS
    await end(printout.text().split())


async def test_a_grandchild_that_left_the_group_does_not_hold_up_the_run(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "setsid sh -c 'echo $$; exec sleep 600' & echo parent; sleep 0.2")

    try:
        async with asyncio.timeout(10):
            verdict = await process().run(job)
    finally:
        for pid in printout.text().replace("parent", "").split():
            os.kill(int(pid), 9)

    assert verdict is Verdict.PASS
    assert "parent\n" in printout.text()


@pytest.mark.parametrize("command", ["no-such-program", "/no/such/program", "/etc/passwd", "/etc/passwd/program"])
async def test_a_program_that_cannot_be_started_makes_the_executor_unavailable(tmp_path: Path, command: str) -> None:
    job, _ = make_job(tmp_path)
    executor = process(command)

    reason = await executor.check()
    with pytest.raises(ExecutorUnavailable, match=command):
        await executor.run(job)

    assert reason is not None
    assert command in reason


async def test_a_program_in_an_unknown_format_makes_the_executor_unavailable(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x00\x01\x02")
    program.chmod(0o755)
    job, _ = make_job(tmp_path)

    with pytest.raises(ExecutorUnavailable, match="Exec format error"):
        await process(str(program)).run(job)


async def test_no_file_or_process_is_left_open(tmp_path: Path) -> None:
    await process().run(make_job(tmp_path, "echo warm up")[0])
    before = sorted(os.listdir("/proc/self/fd"))

    for script in ("echo $$", "exit 1", "sleep 600 &"):
        await process().run(make_job(tmp_path, script)[0])
    with pytest.raises(ExecutorUnavailable):
        await process("no-such-program").run(make_job(tmp_path)[0])
    await asyncio.sleep(0)

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_no_run_closes_a_file_that_another_thread_has_just_opened(tmp_path: Path) -> None:
    """A race: a descriptor closed twice is met here in most runs of the test, not in all."""
    ended, lost = threading.Event(), []

    def open_and_close() -> None:
        while not ended.is_set():
            try:
                files = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
                time.sleep(0)  # let another thread in
                for file in files:
                    os.close(file)
            except OSError as exc:
                lost.append(exc)

    async def run_many() -> None:
        for _ in range(60):
            job, _ = make_job(tmp_path)
            await process("true").run(job)

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    try:
        uvloop.run(run_many())
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval_s)

    assert lost == []
