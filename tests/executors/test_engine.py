"""An engine that is away, falls silent, breaks off or is meddled with: faults, never verdicts."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from workbench import Line, container, container_executor, containers_of, make_job, open_engine, script_image

from ulos_stream.errors import EngineFault, ExecutorUnavailable
from ulos_stream.executors.container import ContainerExecutor
from ulos_stream.tasks import Verdict

pytestmark = pytest.mark.usefixtures("docker")
UNTIL_GO = "echo started; until [ -e go ]; do sleep 0.05; done"


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


def on(call: bytes, act: Callable[[], object]) -> Callable[[bytes], None]:
    """Act when the engine has just been sent this call."""

    def on_request(data: bytes) -> None:
        if call in data.partition(b"\r\n")[0]:
            act()

    return on_request


async def test_an_engine_that_was_there_and_is_away_is_a_fault(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with Line() as line, container_executor(line.host) as executor:
        ready = await executor.check()
        line.cut()
        with pytest.raises(EngineFault):
            await executor.run(job)

    assert ready is None


async def test_an_engine_that_was_never_there_makes_the_executor_unavailable(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with Line() as line, container_executor(line.host) as executor:
        line.cut()
        with pytest.raises(ExecutorUnavailable):
            await executor.run(job)


async def test_an_engine_that_comes_back_is_used_again(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with Line() as line, container_executor(line.host) as executor:
        await executor.check()
        line.cut()
        away = await executor.check()
        await line.__aenter__()
        verdict = await executor.run(job)

    assert away is not None
    assert verdict is Verdict.PASS


async def test_a_broken_connection_during_the_run_is_a_fault_and_the_next_attempt_cleans_up(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, UNTIL_GO)

    async with Line() as line, container_executor(line.host) as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        [left_over] = containers_of(job)
        line.cut()
        await line.__aenter__()
        with pytest.raises(EngineFault):
            await running
        (job.directory / "go").touch()
        verdict = await executor.run(job)

    assert left_over not in containers_of(job)
    assert verdict is Verdict.PASS


async def test_an_engine_that_falls_silent_is_a_fault(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with Line() as line, open_engine(line.host, call_s=1.0) as engine:
        executor = ContainerExecutor(container(), Path("/"), engine)
        await executor.check()
        line.silence()
        with pytest.raises(EngineFault, match="does not answer"):
            await executor.run(job)


@pytest.mark.parametrize("call", [b"/containers/create", b"/attach?", b"/start", b"/wait"])
async def test_a_run_that_is_cancelled_during_a_call_leaves_no_container(tmp_path: Path, call: bytes) -> None:
    job, _ = make_job(tmp_path, "sleep 600")

    async with Line() as line, container_executor(line.host) as executor:
        await executor.check()
        running = asyncio.create_task(executor.run(job))
        line.on_request = on(call, running.cancel)
        await asyncio.wait([running])

    assert running.cancelled()
    assert containers_of(job) == []


@pytest.mark.parametrize("call", [b"/containers/create", b"/attach?", b"/start", b"/wait"])
async def test_a_connection_that_breaks_during_a_call_is_a_fault_and_leaves_no_container(
    tmp_path: Path, call: bytes
) -> None:
    job, _ = make_job(tmp_path, "sleep 600")

    async with Line() as line, container_executor(line.host) as executor:
        await executor.check()
        line.on_request = on(call, line.drop)
        with pytest.raises(EngineFault):
            await executor.run(job)

    assert containers_of(job) == []


async def test_output_that_the_engine_does_not_send_in_time_is_read_from_its_log(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "echo fine; echo wrong >&2")

    async with Line() as line, container_executor(line.host) as executor:
        line.lost = b"\x02\x00\x00\x00\x00\x00\x00\x06wrong\n"
        await executor.run(job)

    assert printout.text() == "fine\nwrong\n"


async def test_an_exit_code_below_zero_is_a_fault(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "exit 10")

    async with Line() as line, container_executor(line.host) as executor:
        line.replies = {b'"StatusCode":10': b'"StatusCode":-1'}
        with pytest.raises(EngineFault, match="cannot tell"):
            await executor.run(job)


@pytest.mark.parametrize("command", ["kill", "stop", "rm"])
async def test_a_container_that_somebody_stops_is_a_fault_and_no_failure(tmp_path: Path, command: str) -> None:
    job, printout = make_job(tmp_path, "trap 'exit 1' TERM; echo started; while :; do sleep 0.05; done")

    async with container_executor() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        force = ["--force"] if command == "rm" else []
        await asyncio.to_thread(subprocess.run, ["docker", command, *force, *containers_of(job)], check=True)
        with pytest.raises(EngineFault):
            await running


async def test_an_engine_without_limits_runs_nothing(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with Line() as line, container_executor(line.host) as executor:
        line.replies = {b'"PidsLimit":true': b'"PidsLimit":null'}
        reason = await executor.check()
        with pytest.raises(ExecutorUnavailable, match="cannot limit processes") as raised:
            await executor.run(job)

    assert reason == str(raised.value)


async def test_a_sweep_removes_the_containers_of_abandoned_nodes_and_no_others(tmp_path: Path) -> None:
    dead_job, dead_printout = make_job(tmp_path, UNTIL_GO)
    living_job, living_printout = make_job(tmp_path, UNTIL_GO)

    async with open_engine() as dead, open_engine() as living:
        doomed = asyncio.create_task(ContainerExecutor(container(), Path("/"), dead).run(dead_job))
        running = asyncio.create_task(ContainerExecutor(container(), Path("/"), living).run(living_job))
        await dead_printout.shows("started")
        await living_printout.shows("started")
        await living.sweep("ulos.node", abandoned=lambda labels: labels["ulos.node"] == dead.node)
        left = containers_of(dead_job), len(containers_of(living_job))
        (living_job.directory / "go").touch()
        verdict = await running
        await asyncio.wait([doomed])

    assert left == ([], 1)
    assert verdict is Verdict.PASS


async def test_more_runs_at_once_than_a_client_has_connections_do_not_wait_for_each_other() -> None:
    async with open_engine() as engine:
        limit = await engine.ask(lambda docker: asyncio.sleep(0, docker.connector.limit))

    assert limit == 0


@pytest.mark.parametrize("host", ["docker.sock", "unix:///nowhere"])
async def test_a_wrong_address_is_said_as_it_is(host: str) -> None:
    async with container_executor(host) as executor:
        reason = await executor.check()

    assert reason is not None
    assert host.removeprefix("unix://") in reason


async def test_a_node_without_any_engine_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiodocker.docker._sock_search_paths", [])
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    job, _ = make_job(tmp_path)

    async with container_executor() as executor:
        with pytest.raises(ExecutorUnavailable) as raised:
            await executor.run(job)

    assert str(raised.value) == "no container engine is to be found on this node; set DOCKER_HOST"
