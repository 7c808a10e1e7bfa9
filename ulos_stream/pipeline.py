"""The five steps of a stage: download → unpack → execute → pack → upload.

A fault of the infrastructure repeats the step that met it, from a clean directory, and never
counts as the task's own doing. The task's timeout covers unpack, execute and pack.
"""

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from ulos_stream import archive
from ulos_stream.errors import Crash, Fault, NodeFault, StageTimeout
from ulos_stream.executors import Executor, Job, Output, finish
from ulos_stream.executors.registry import Registry
from ulos_stream.retry import retry
from ulos_stream.storage import Storage
from ulos_stream.tasks import Event, Task, Verdict

T = TypeVar("T")


class Report(Protocol):
    """Told each event of a stage the moment it happens."""

    def __call__(self, event: Event, text: str, verdict: Verdict | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Carries stages out; used by many at once."""

    storage: Storage
    executors: Registry
    limits: archive.Limits
    work_dir: Path
    """Where the directories of running stages are made."""
    fault_budget_s: float
    """Seconds for which a fault is retried in each step."""
    report_fault: Callable[[Fault, float], None]

    async def run(self, task: Task, message_id: str, report: Report) -> Verdict:
        """Carry out the current stage of `task`, up to the uploaded result.

        Raises:
            Crash: The stage could not be carried out; the artifact on the storage is as it was.
        """
        executor = self.executors.find(task.routing_tree.routing_key)
        space = await self._retry(lambda: _make_workspace(self.work_dir))
        try:
            await self._retry(lambda: self.storage.download(task.file_path, space.artifact))
            report("downloaded", f"downloaded {task.file_path}")

            verdict = await self._retry(lambda: _process(task, message_id, executor, space, self.limits))
            report("passed" if verdict is Verdict.PASS else "failed", f"the verdict is {verdict}", verdict)

            await self._retry(lambda: self.storage.upload(space.result, task.file_path, message_id=message_id))
            report("uploaded", f"uploaded {task.file_path}", verdict)
            return verdict
        finally:
            await finish(asyncio.to_thread(archive.remove_tree, space.directory))

    async def _retry(self, step: Callable[[], Awaitable[T]]) -> T:
        return await retry(step, budget_s=self.fault_budget_s, report=self.report_fault)


@dataclass(frozen=True, slots=True)
class _Workspace:
    """The directory of one stage. What runs sees `files` alone."""

    directory: Path

    @property
    def artifact(self) -> Path:
        return self.directory / "artifact.zip"

    @property
    def files(self) -> Path:
        return self.directory / "files"

    @property
    def output(self) -> Path:
        return self.directory / "output.txt"

    @property
    def result(self) -> Path:
        return self.directory / "result.zip"


async def _make_workspace(parent: Path) -> _Workspace:
    try:
        return _Workspace(Path(tempfile.mkdtemp(prefix="ulos-stage-", dir=parent)))
    except OSError as broken:
        raise NodeFault(f"the work directory {parent}: {broken.strerror}") from broken


async def _process(
    task: Task, message_id: str, executor: Executor, space: _Workspace, limits: archive.Limits
) -> Verdict:
    """Unpack, execute and pack, in a fresh directory and within the task's timeout."""
    tree = task.routing_tree
    extra = {archive.output_name(tree.exchange, tree.routing_key): space.output}
    try:
        await finish(asyncio.to_thread(_empty, space))
        output = Output(space.output.open("wb"), executor.output_limit_bytes)
        try:
            if task.timeout == 0:
                raise StageTimeout("a timeout of 0 s leaves no time to execute anything")
            async with asyncio.timeout(task.timeout):
                await _in_thread(partial(archive.unpack, space.artifact, space.files, limits))
                verdict = await executor.run(Job(space.files, output, message_id, task.task_id))
                output.close()
                await _in_thread(partial(archive.pack, space.files, space.result, extra, limits))
                return verdict
        except TimeoutError as late:
            raise StageTimeout(f"not done within {task.timeout} s", output_tail=output.tail()) from late
        except Crash as crash:
            crash.output_tail = output.tail()
            raise
        finally:
            output.close()
    except OSError as broken:
        raise NodeFault(f"the node's own disk: {broken}") from broken


def _empty(space: _Workspace) -> None:
    if space.files.exists():
        archive.remove_tree(space.files)
    space.files.mkdir()
    space.result.unlink(missing_ok=True)


async def _in_thread(work: Callable[[threading.Event], None]) -> None:
    """Run blocking `work` in a thread; on cancellation tell it to stop and wait until it has."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(Crash):  # it says that it was stopped
            await finish(running)
        raise
