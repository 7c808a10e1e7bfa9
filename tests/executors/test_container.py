"""Containers: verdicts, output, ends. See test_sandbox.py for what holds them, test_engine.py for what breaks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from workbench import NOWHERE, RemoteLine, container_executor, containers_of, inspect, make_job, script_image

from ulos_stream.errors import ExecutorCrashed, ExecutorUnavailable
from ulos_stream.executors.container import ContainerExecutor
from ulos_stream.tasks import Verdict

pytestmark = pytest.mark.usefixtures("docker")
LEAVE_THE_FILE = "mkdir -p results && touch results/passed.log"


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


Open = Callable[..., AbstractAsyncContextManager[ContainerExecutor]]


@pytest.fixture(params=["mounted", "copied"])
async def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Open]:
    """Opens an executor on this machine's engine, or on one that is reached by TCP and TLS and sees no files."""
    if request.param == "mounted":
        yield container_executor
        return
    async with RemoteLine(tmp_path_factory.mktemp("certificates")) as line:
        yield partial(container_executor, line.host, line.certificates)


@pytest.mark.parametrize(
    ("passes", "script", "verdict"),
    [
        ("exit-code", "exit 0", Verdict.PASS),
        ("exit-code", "exit 3", Verdict.FAIL),
        ("exit-code", f"{LEAVE_THE_FILE}; exit 1", Verdict.FAIL),
        ("exit-code", "kill -9 $$", Verdict.FAIL),
        ("verdict-file", LEAVE_THE_FILE, Verdict.PASS),
        ("verdict-file", f"{LEAVE_THE_FILE}; exit 1", Verdict.PASS),
        ("verdict-file", "exit 0", Verdict.FAIL),
        ("both", LEAVE_THE_FILE, Verdict.PASS),
        ("both", f"{LEAVE_THE_FILE}; exit 1", Verdict.FAIL),
        ("both", "exit 0", Verdict.FAIL),
    ],
)
async def test_the_verdict_comes_from_what_the_descriptor_names(
    tmp_path: Path, passes: str, script: str, verdict: Verdict, either: Open
) -> None:
    job, _ = make_job(tmp_path, script)

    async with either(passes=passes) as executor:
        assert await executor.run(job) is verdict

    assert passes == "exit-code" or not (job.directory / "results" / "passed.log").exists()
    assert containers_of(job) == []


async def test_a_verdict_file_that_came_with_the_work_does_not_count(tmp_path: Path, either: Open) -> None:
    job, _ = make_job(tmp_path, "ls results")
    (job.directory / "results").mkdir()
    (job.directory / "results" / "passed.log").write_text("I passed")

    async with either(passes="verdict-file") as executor:
        verdict = await executor.run(job)

    assert verdict is Verdict.FAIL


async def test_a_planted_link_neither_passes_nor_reaches_the_node(tmp_path: Path, either: Open) -> None:
    (tmp_path / "outside").mkdir()
    bait = tmp_path / "outside" / "passed.log"
    bait.write_text("the node's own")
    job, _ = make_job(tmp_path, f"ln -s {bait.parent} results")

    async with either(passes="verdict-file") as executor:
        verdict = await executor.run(job)

    assert verdict is Verdict.FAIL
    assert bait.read_text() == "the node's own"


async def test_output_and_errors_are_merged_and_nothing_is_lost_at_either_end(tmp_path: Path, either: Open) -> None:
    job, printout = make_job(tmp_path, "echo first; echo wrong >&2; seq 5000; echo last")

    async with either() as executor:
        await executor.run(job)

    lines = printout.text().splitlines()
    assert sorted(lines) == sorted(["first", "wrong", *map(str, range(1, 5001)), "last"])


async def test_output_that_is_no_text_arrives_as_it_is(tmp_path: Path, either: Open) -> None:
    job, printout = make_job(tmp_path, "printf '\\377\\303\\0\\377'")

    async with either() as executor:
        await executor.run(job)

    assert printout.getvalue() == b"\xff\xc3\x00\xff"


async def test_output_beyond_the_limit_is_counted_and_its_end_is_kept(tmp_path: Path, either: Open) -> None:
    job, printout = make_job(tmp_path, "yes | head -c 3000000; echo the end", limit_bytes=1000)

    async with either() as executor:
        await executor.run(job)

    assert len(printout.getvalue()) == 1000
    assert job.output.dropped_bytes == 3_000_008 - 1000
    assert job.output.tail().endswith("the end\n")


async def test_output_arrives_while_the_run_goes_on(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "echo started; until [ -e go ]; do sleep 0.05; done; echo ended")

    async with container_executor() as executor, asyncio.TaskGroup() as group:
        running = group.create_task(executor.run(job))
        await printout.shows("started")
        still_running = not running.done()
        (job.directory / "go").touch()

    assert still_running
    assert running.result() is Verdict.PASS
    assert printout.text() == "started\nended\n"


async def test_a_program_that_closes_its_output_is_waited_for(tmp_path: Path, either: Open) -> None:
    job, _ = make_job(tmp_path, "exec >/dev/null 2>&1; sleep 0.5; exit 4")

    async with either() as executor:
        verdict = await executor.run(job)

    assert verdict is Verdict.FAIL


async def test_the_image_is_noted_by_its_digest(tmp_path: Path, either: Open) -> None:
    job, _ = make_job(tmp_path)

    async with either() as executor:
        await executor.run(job)

    assert job.facts["image"].startswith("sha256:")


async def test_a_cancelled_run_leaves_no_container_and_no_file_beside_the_work(tmp_path: Path, either: Open) -> None:
    job, printout = make_job(tmp_path, "echo started; sleep 600")

    async with either() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        running.cancel()
        await asyncio.wait([running])

    assert running.cancelled()
    assert containers_of(job) == []
    assert list(tmp_path.iterdir()) == [job.directory]


async def test_a_run_cancelled_again_and_again_leaves_no_container(tmp_path: Path, either: Open) -> None:
    job, printout = make_job(tmp_path, "echo started; sleep 600")

    async with either() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        while not running.done():
            running.cancel()
            await asyncio.sleep(0)

    assert running.cancelled()
    assert containers_of(job) == []
    assert list(tmp_path.iterdir()) == [job.directory]


async def test_a_container_that_an_earlier_attempt_left_is_removed_first(tmp_path: Path) -> None:
    script = "echo started; until [ -e go ]; do sleep 0.05; done"
    earlier, earlier_printout = make_job(tmp_path, script)
    later, printout = make_job(tmp_path, script)
    later = replace(later, message_id=earlier.message_id)

    async with container_executor() as executor:
        first = asyncio.create_task(executor.run(earlier))
        await earlier_printout.shows("started")
        [left_over] = containers_of(earlier)
        second = asyncio.create_task(executor.run(later))
        await asyncio.wait([first])
        await printout.shows("started")
        containers = containers_of(later)
        (later.directory / "go").touch()
        verdict = await second

    assert first.exception() is not None
    assert left_over not in containers
    assert verdict is Verdict.PASS


async def test_a_missing_image_is_said_with_the_way_to_get_it(tmp_path: Path, either: Open) -> None:
    job, _ = make_job(tmp_path)

    async with either(image="ulos-test/no-such-image") as executor:
        reason = await executor.check()
        with pytest.raises(ExecutorUnavailable) as raised:
            await executor.run(job)

    assert reason == str(raised.value)
    assert "docker pull ulos-test/no-such-image" in reason


async def test_a_missing_engine_is_said(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with container_executor(NOWHERE) as executor:
        reason = await executor.check()
        with pytest.raises(ExecutorUnavailable) as raised:
            await executor.run(job)

    assert reason == str(raised.value)
    assert "/nowhere/docker.sock" in reason


async def test_an_executor_that_can_run_has_nothing_to_say(either: Open) -> None:
    async with either() as executor:
        assert await executor.check() is None


@pytest.mark.parametrize("command", ["no-such-program", "/etc"])
async def test_an_image_without_the_command_is_unavailable(tmp_path: Path, command: str, either: Open) -> None:
    job, _ = make_job(tmp_path)

    async with either(command=[command]) as executor:
        with pytest.raises(ExecutorUnavailable, match=f"cannot start '{command}'"):
            await executor.run(job)

    assert containers_of(job) == []


async def test_a_script_that_ends_with_127_fails(tmp_path: Path, either: Open) -> None:
    job, _ = make_job(tmp_path, "no-such-program")

    async with either() as executor:
        assert await executor.run(job) is Verdict.FAIL


async def test_a_run_that_fills_a_writable_root_is_stopped(tmp_path: Path, either: Open) -> None:
    script = "mkdir /fill; for i in 1 2 3; do head -c 1000000 /dev/zero > /fill/$i; done; sleep 600"
    job, _ = make_job(tmp_path, script)

    async with either(sandbox={"disk_mib": 2, "read_only": False, "user": "image"}) as executor:
        with pytest.raises(ExecutorCrashed, match="more than 2 MiB"):
            await executor.run(job)

    assert containers_of(job) == []


async def test_runs_at_once_do_not_disturb_each_other(tmp_path: Path, either: Open) -> None:
    jobs = [make_job(tmp_path, f"echo {number}; exit {number}") for number in range(6)]

    async with either() as executor:
        verdicts = await asyncio.gather(*(executor.run(job) for job, _ in jobs))

    assert verdicts == [Verdict.PASS, *[Verdict.FAIL] * 5]
    assert [printout.text() for _, printout in jobs] == [f"{number}\n" for number in range(6)]


async def test_a_container_is_labelled_and_not_named_after_the_task(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "echo started; sleep 600")

    async with container_executor() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        details = inspect(job)
        running.cancel()
        await asyncio.wait([running])

    assert details["Config"]["Labels"] == {
        "ulos.node": details["Config"]["Labels"]["ulos.node"],
        "ulos.task": "task-1",
        "ulos.message": job.message_id,
    }
    assert details["Config"]["Labels"]["ulos.node"].startswith("node-")
    assert "task-1" not in details["Name"]
