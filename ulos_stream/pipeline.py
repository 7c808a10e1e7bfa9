"""The five steps of a stage: download → unpack → execute → pack → upload.

A fault of the infrastructure repeats the step that met it, from a clean directory, and never
counts as the task's own doing. The task's timeout covers unpack, execute and pack. A stage that
the artifact's journal shows as done is not carried out again.
"""

import asyncio
import contextlib
import io
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from ulos_stream import archive, journal
from ulos_stream.archive import Artifact
from ulos_stream.errors import (
    ArtifactChanged,
    ArtifactMissing,
    Crash,
    DeviceFault,
    EngineFault,
    Fault,
    FaultBudgetSpent,
    NodeFault,
    Poison,
    StageTimeout,
    StorageFault,
    UlosError,
)
from ulos_stream.executors import Executor, Job, Output, finish
from ulos_stream.executors.inline import InlineExecutor
from ulos_stream.executors.leases import Leases, LocalLeases
from ulos_stream.executors.registry import Registry
from ulos_stream.journal import Done, Entry, Journal, Origin
from ulos_stream.retry import retry
from ulos_stream.routing import POISON_DEATHS
from ulos_stream.storage import Storage, Version, mark_name
from ulos_stream.tasks import Event, Task, Verdict, now
from ulos_stream.telemetry.watch import Unwatched, Watch
from ulos_stream.workspace import NodeDirectory, Workspace

T = TypeVar("T")

TROUBLE_S = 10.0
"""Seconds after the begin of another attempt from which on it seems to go well: a run may last for hours."""
LEAST_LEASE_WAIT_S = 30.0
"""Seconds that each attempt at a stage waits for its device at least: to take an idle one needs a moment."""
SWEEP_S = 5.0
"""Seconds that the storage gets to remove what attempts have left: a node that is about to end may wait for it."""

_log = logging.getLogger(__name__)


class Report(Protocol):
    """Told each event of a stage the moment it happens."""

    def __call__(self, event: Event, text: str, verdict: Verdict | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Carries stages out; used by many at once, one at a time for each artifact."""

    storage: Storage
    executors: Registry
    limits: archive.Limits
    directory: NodeDirectory
    node: str
    """Name of this node, for the journal."""
    journal_key: bytes
    fault_budget_s: float
    """Seconds for which a fault is retried in each step."""
    report_fault: Callable[[Fault, float], None]
    watch: Watch = field(default_factory=Unwatched)
    memory: NodeDirectory | None = None
    """Another directory, on a file system in memory, for light work that a function of this process does: what the node
    needs of the system to make and remove files costs a tenth there. Never for programs, which may fill it."""
    observe: Callable[[float], None] = lambda overhead_s: None
    """Told what each stage that reached its end took beside its run, in seconds."""
    hold_back: Callable[[str], AbstractContextManager[object]] = lambda key: contextlib.nullcontext()
    """Entered while the engine under an executor, named by the key it claims, is in trouble: see `_persistently`."""
    leases: Leases = field(default_factory=LocalLeases)
    """On the devices that executors need."""
    delivery_timeout_s: float = 1_800
    """Seconds for which the broker lets this node hold a message."""
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _troubles: dict[object, tuple[Fault, float]] = field(default_factory=dict)
    """What is tried again now, and until when it counts as standing still."""

    async def run(self, task: Task, origin: Origin, report: Report) -> Done:
        """Carry out the current stage of `task`, up to the uploaded result, unless it is done already.

        Raises:
            Crash: The stage could not be carried out; the artifact on the storage is as it was.
        """
        async with self._locks.setdefault(task.file_path, asyncio.Lock()):
            try:
                return await self._attempt(task, origin, report)
            except ArtifactChanged:  # perhaps by this very stage, on another node: its journal tells
                done = await self._retry(lambda: self._begin_anew(task, origin, report))
                await self.sweep(task, origin)
                return done

    async def sweep(self, task: Task, origin: Origin) -> None:
        """Remove what attempts at a stage have left on the storage beside the artifact, if it lets us.

        Not before the stage has ended: a server may still be about to make the file that a killed node asked for.
        """
        try:
            async with asyncio.timeout(SWEEP_S):
                await retry(
                    lambda: self.storage.sweep(task.file_path, stage_id=origin.stage_id),
                    budget_s=SWEEP_S,
                    report=self.report_fault,
                )
        except (TimeoutError, UlosError) as kept:  # such a file is in nobody's way
            reason = str(kept) or f"no answer within {SWEEP_S:.0f} s"
            _log.warning("a temporary file may be left beside %s: %s", task.file_path, reason)

    async def count_deaths(self, task: Task, origin: Origin) -> int:
        """How many nodes have died while they carried a suspect's stage out, by the marks that they left.

        Raises:
            FaultBudgetSpent: The storage does not say.
        """

        async def count() -> int:
            for number in range(POISON_DEATHS):
                try:
                    await self.storage.download(mark_name(task.file_path, origin.stage_id, number), io.BytesIO())
                except ArtifactMissing:
                    return number
            return POISON_DEATHS

        return await self._retry(count)

    async def check(self) -> None:
        """See that no stage stands still for what is around the node.

        Raises:
            Fault: One did, and has not been attempted for long enough since to say that it goes on.
        """
        for fault, until in self._troubles.values():
            if time.monotonic() < until:
                raise Fault(str(fault))

    async def _begin_anew(self, task: Task, origin: Origin, report: Report) -> Done:
        try:
            return await self._attempt(task, origin, report)
        except ArtifactChanged as changed:
            raise StorageFault(f"the stage begins anew: {changed}") from changed

    async def _attempt(self, task: Task, origin: Origin, report: Report) -> Done:
        space = self.directory.new_stage()
        try:
            with contextlib.ExitStack() as opened:
                return await self._carry_out(task, origin, space, opened, report)
        finally:
            if space.is_light:
                space.remove()
            else:
                await finish(asyncio.to_thread(space.remove))

    async def _carry_out(
        self, task: Task, origin: Origin, space: Workspace, stack: contextlib.ExitStack, report: Report
    ) -> Done:
        begun = time.monotonic()
        with self.watch.step("download"):
            version = await self._retry(lambda: self.storage.download(task.file_path, space.artifact))
            self.watch.transferred("download", version.size)
        report("downloaded", f"downloaded {task.file_path}")

        artifact = await self._retry(lambda: self._open(space, stack))
        known, done = await self._retry(lambda: self._look(task, origin, artifact))
        if done is not None:
            self.watch.skipped()
            report(_EVENTS[done.verdict], f"the verdict was {done.verdict}", done.verdict)
            report("uploaded", f"uploaded {task.file_path} before", done.verdict)
            return done

        if origin.is_poison:
            raise Poison(f"delivered {origin.deliveries} times; {origin.deaths} of its nodes died while it ran")
        executor = self.executors.find(task.routing_tree.routing_key)
        if artifact.is_light and isinstance(executor, InlineExecutor) and self.memory and self.memory.has_room():
            space.move(self.memory.path)
        device = executor.device if task.timeout else None  # 0 times out at once, whoever has the device
        latest = time.monotonic() + self.delivery_timeout_s - self.fault_budget_s - task.timeout

        async def attempt() -> Verdict:
            wait_s = max(LEAST_LEASE_WAIT_S, latest - time.monotonic())
            async with (
                contextlib.nullcontext() if device is None else self._device(device, wait_s),
                self._marked(task, origin) if origin.is_suspect else contextlib.nullcontext(),
            ):
                return await self._process(task, origin, executor, known, artifact, space)

        verdict = await self._persistently(attempt, task.routing_tree.routing_key)
        space.forget_artifact()
        report(_EVENTS[verdict], f"the verdict is {verdict}", verdict)

        with self.watch.step("upload"):
            await self._upload(task, origin, space, version)
            self.watch.transferred("upload", space.result.tell())
        report("uploaded", f"uploaded {task.file_path}", verdict)
        self.observe(time.monotonic() - begun - space.ran_s)
        return Done(origin.message_id, verdict)

    @contextlib.asynccontextmanager
    async def _marked(self, task: Task, origin: Origin) -> AsyncIterator[None]:
        """Have a mark on the storage while a suspect runs: it stays if the node dies."""
        mark = mark_name(task.file_path, origin.stage_id, origin.deaths)
        await self.storage.upload(io.BytesIO(), mark, stage_id=origin.stage_id)
        try:
            yield
        finally:
            await self.sweep(task, origin)

    async def _upload(self, task: Task, origin: Origin, space: Workspace, version: Version) -> None:
        """Replace the artifact; then remove what attempts that met a fault may have left beside it."""
        attempts = itertools.count(1)

        async def attempt() -> bool:
            again = next(attempts) > 1
            await self.storage.upload(space.result, task.file_path, stage_id=origin.stage_id, expected=version)
            return again

        if await self._retry(attempt):
            await self.sweep(task, origin)

    async def _open(self, space: Workspace, stack: contextlib.ExitStack) -> Artifact:
        """The downloaded artifact, open until the end of the stage."""
        with _OwnDisk():
            inline = archive.opens_at_once(space.artifact)
            return await _do(lambda _: stack.enter_context(archive.opened(space.artifact, self.limits)), inline=inline)

    async def _look(self, task: Task, origin: Origin, artifact: Artifact) -> tuple[Journal, Done | None]:
        """The artifact's journal, and what it says of this stage."""

        def look(stop: threading.Event | None) -> tuple[Journal, Done | None]:
            known = Journal.parse(self.journal_key, task.file_path, artifact.journal(journal.MOST_BYTES))
            return known, known.find_done(origin, lambda: artifact.fingerprint(stop))

        with _OwnDisk():
            return await _do(look, inline=artifact.is_light)

    @contextlib.asynccontextmanager
    async def _device(self, device: str, wait_s: float) -> AsyncIterator[None]:
        """Have a device to oneself; the wait for it is not the task's time.

        It ends before the broker would take the message away. Then the task crashes as by any fault that did not
        pass: back in its queue it would be the next one again.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(wait_s):
                    await stack.enter_async_context(self.leases.hold(device))
            except TimeoutError:
                in_use = DeviceFault(f"{device} was in use by other stages for {wait_s:.0f} s")
                raise FaultBudgetSpent(f"given up: {in_use}") from in_use
            yield

    async def _process(
        self, task: Task, origin: Origin, executor: Executor, known: Journal, artifact: Artifact, space: Workspace
    ) -> Verdict:
        """Unpack, execute and pack, in a fresh directory and within the task's timeout."""
        tree = task.routing_tree
        extra = {archive.output_name(tree.exchange, tree.routing_key): space.output}
        with _OwnDisk():
            if space.is_light:
                space.empty()
            else:
                await finish(asyncio.to_thread(space.empty))
            output = Output(space.output, executor.output_limit_bytes)
            try:
                if task.timeout == 0:
                    raise StageTimeout("a timeout of 0 s leaves no time to execute anything")
                async with asyncio.timeout(task.timeout) as clock:
                    job = Job(space.files, output, origin.message_id, task.task_id, clock=clock)
                    with self.watch.step("unpack"):
                        given = await _do(partial(artifact.unpack, space.files), inline=artifact.is_light)
                    begun = time.monotonic()
                    where = f" on {executor.device}" if executor.device else ""
                    output.remark(f"{tree.routing_key}{where}, started {now()}, timeout {task.timeout} s")
                    with self.watch.step("execute"):
                        verdict = await executor.run(job)
                    await self.directory.check()  # what ran on a full disk is not to blame for its verdict
                    space.ran_s = time.monotonic() - begun
                    output.close(_ending(verdict, job, space.ran_s))
                    sign = partial(self._sign, known, origin, tree.routing_key, job, verdict, given)
                    pack = partial(
                        archive.pack,
                        space.files,
                        space.result,
                        extra,
                        self.limits,
                        extracted=artifact.extracted,
                        journal=sign,
                    )
                    with self.watch.step("pack"):
                        await _do(pack, inline=space.is_light)
                    return verdict
            except TimeoutError as late:
                raise StageTimeout(f"not done within {task.timeout} s", output_tail=output.tail()) from late
            except Crash as crash:
                crash.output_tail = output.tail()
                raise
            finally:
                output.close()

    def _sign(
        self, known: Journal, origin: Origin, executor: str, job: Job, verdict: Verdict, given: str, left: str
    ) -> bytes:
        """The journal with this stage's entry."""
        return known.continued(
            Entry(
                message_id=origin.message_id,
                body_sha256=origin.body_sha256,
                executor=executor,
                image=job.facts.get("image"),
                verdict=verdict,
                input=given,
                output=left,
                node=self.node,
                at=now(),
            )
        )

    async def _persistently(self, attempt: Callable[[], Awaitable[Verdict]], routing_key: str) -> Verdict:
        """Attempt a run until the engine does its part. Meanwhile no other of this executor begins: it would only wait
        too, and spend its budget.
        """
        is_held_back = False
        with contextlib.ExitStack() as trouble:

            async def once_more() -> Verdict:
                nonlocal is_held_back
                try:
                    return await attempt()
                except EngineFault:
                    if not is_held_back:
                        is_held_back = True
                        trouble.enter_context(self.hold_back(self.executors.name_of(routing_key)))
                    raise

            return await self._retry(once_more)

    async def _retry(self, step: Callable[[], Awaitable[T]]) -> T:
        """Attempt a step until it meets no fault; mostly it meets none."""
        try:
            return await step()
        except Fault as fault:
            met = fault
        return await self._insist(step, met)

    async def _insist(self, step: Callable[[], Awaitable[T]], met: Fault) -> T:
        """Attempt a step again, which has met a fault, until it meets none.

        Raises:
            FaultBudgetSpent: It always did.
        """

        def report(fault: Fault, wait_s: float) -> None:
            self._troubles[step] = fault, time.monotonic() + wait_s + TROUBLE_S
            self.watch.fault(fault)
            self.report_fault(fault, wait_s)

        try:
            return await retry(step, budget_s=self.fault_budget_s, report=report, met=met)
        finally:
            self._troubles.pop(step, None)


def _ending(verdict: Verdict, job: Job, took_s: float) -> str:
    """The last line of a run's output."""
    exit_code = f", exit code {job.facts['exit_code']}" if "exit_code" in job.facts else ""
    return f"{verdict}{exit_code}, after {took_s:.1f} s"


_EVENTS: dict[Verdict, Event] = {Verdict.PASS: "passed", Verdict.FAIL: "failed"}


class _OwnDisk:
    """What goes wrong in here with a file is this node's fault, and nobody else's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, broken: BaseException | None, traceback: object) -> None:
        if isinstance(broken, OSError):
            raise NodeFault(f"the node's own disk: {broken}") from broken


async def _do(work: Callable[[threading.Event | None], T], *, inline: bool) -> T:
    """Run blocking `work` at once where it is light, else in a thread; on cancellation tell it to stop and wait."""
    if inline:
        return work(None)
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(Crash):  # it says that it was stopped
            await finish(running)
        raise
