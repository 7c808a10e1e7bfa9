"""Python functions as executors."""

import asyncio
from pathlib import Path

import pytest
from workbench import make_job

from ulos_stream.errors import ArchiveRejected, Crash, EngineFault, ExecutorCrashed, Fault
from ulos_stream.executors import Job
from ulos_stream.executors.inline import InlineExecutor
from ulos_stream.tasks import Verdict


@pytest.mark.parametrize(
    ("returned", "verdict"),
    [(True, Verdict.PASS), (False, Verdict.FAIL), (Verdict.PASS, Verdict.PASS), (Verdict.FAIL, Verdict.FAIL)],
)
async def test_a_function_returns_a_verdict_or_a_bool(
    tmp_path: Path, returned: Verdict | bool, verdict: Verdict
) -> None:
    async def check(job: Job) -> Verdict | bool:
        return returned

    job, _ = make_job(tmp_path)

    assert await InlineExecutor(check).run(job) is verdict


@pytest.mark.parametrize("returned", [None, 1, 0, "PASS", "x" * 10_000])
async def test_a_function_that_returns_anything_else_crashes(tmp_path: Path, returned: object) -> None:
    async def check(job: Job) -> bool:
        return returned  # type: ignore[return-value]

    job, _ = make_job(tmp_path)

    with pytest.raises(ExecutorCrashed) as raised:
        await InlineExecutor(check).run(job)

    assert repr(returned)[:50] in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("error", [ValueError("no G-code"), KeyError("x"), TimeoutError("slow"), SystemExit(3)])
async def test_a_function_that_raises_crashes_with_its_words(tmp_path: Path, error: BaseException) -> None:
    async def check(job: Job) -> bool:
        raise error

    job, _ = make_job(tmp_path)

    with pytest.raises(ExecutorCrashed) as raised:
        await InlineExecutor(check).run(job)

    assert str(raised.value) == f"{type(error).__name__}: {error}"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [ArchiveRejected("empty"), ExecutorCrashed("broken"), EngineFault("away")])
async def test_a_crash_or_fault_of_a_function_is_its_own(tmp_path: Path, error: Crash | Fault) -> None:
    async def check(job: Job) -> bool:
        raise error

    job, _ = make_job(tmp_path)

    with pytest.raises(type(error)) as raised:
        await InlineExecutor(check).run(job)

    assert raised.value is error


async def test_a_function_that_is_cancelled_from_outside_is_cancelled(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def check(job: Job) -> bool:
        started.set()
        await asyncio.Event().wait()
        return True

    job, _ = make_job(tmp_path)

    running = asyncio.create_task(InlineExecutor(check).run(job))
    await started.wait()
    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()


async def test_a_function_that_cancels_itself_crashes(tmp_path: Path) -> None:
    async def check(job: Job) -> bool:
        raise asyncio.CancelledError

    job, _ = make_job(tmp_path)

    with pytest.raises(ExecutorCrashed, match="cancelled from within"):
        await InlineExecutor(check).run(job)


async def test_a_function_works_in_the_jobs_directory_and_prints_to_its_output(tmp_path: Path) -> None:
    async def check(job: Job) -> bool:
        job.output.write(b"looking\n")
        return (job.directory / "job.sh").exists()

    job, printout = make_job(tmp_path)

    verdict = await InlineExecutor(check).run(job)

    assert verdict is Verdict.PASS
    assert printout.text() == "looking\n"
