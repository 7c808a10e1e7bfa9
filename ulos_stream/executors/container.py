"""Executors that are images: for untrusted code, held by the limits of its sandbox.

sweep ▶ create ▶ send ▶ attach ▶ start ▶ wait ▶ fetch ▶ verdict ▶ remove
        └───────────────────── whatever happens ───────────────────▲
"""

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ulos_stream.errors import EngineFault, ExecutorCrashed, ExecutorUnavailable, UlosError
from ulos_stream.executors import Job, finish
from ulos_stream.executors.copying import Copying
from ulos_stream.executors.descriptor import ContainerDescriptor
from ulos_stream.executors.engine import Engine, Refused
from ulos_stream.executors.mounting import Mounting, Unseen
from ulos_stream.executors.printed import Printed
from ulos_stream.executors.sandbox import MIB, limits
from ulos_stream.executors.verdict import discard_verdict, judge
from ulos_stream.tasks import Verdict

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer
    from aiodocker.stream import Stream

WAIT_S = 30.0
"""Seconds after which a wait is begun anew: an engine that no longer answers is noticed by then."""
DRAIN_S = 5.0
"""Seconds for the rest of the output once the container has ended."""
LATE_S = 1.0
"""Seconds after which a container is there whose creation the engine did not confirm, if it ever is."""
LOOK_S = (0.5, 10.0)
"""Least and most seconds between two looks at the disk; in between, twenty times what a look takes."""
CANNOT_START = (126, 127)
"""Exit codes of an init that finds no such program, or one that it may not execute."""
KILLED = 137
"""Exit code of a program that SIGKILL ended: 128 and the signal's number."""
INITS = (b"[FATAL tini (", b"ERROR (catatonit:")
"""How Docker's and Podman's init begin the line in which they say so."""

_log = logging.getLogger(__name__)


class Files(Protocol):
    """How the job's directory gets into a container, and back: mounted, or copied both ways."""

    def mistake(self) -> str | None:
        """Why this node cannot give the run its files, by what the descriptor asks for; None when it can."""
        ...

    async def create(self, job: Job) -> "DockerContainer":
        """Make a container that has, or can be sent, the files.

        Raises:
            Refused: The engine does not make it; `Unseen` where it would have to be sent the files.
            Crash: The work is more than a run may have.
            Fault: The engine or the node's disk failed.
        """
        ...

    async def send(self, container: "DockerContainer", job: Job) -> None:
        """Have the files in the container before its start."""
        ...

    async def used_bytes(self, container: "DockerContainer", job: Job) -> int | None:
        """What a run takes of the disk right now; None where it is held by a limit, and need not be looked at."""
        ...

    async def fetch(self, container: "DockerContainer", job: Job) -> None:
        """Have what the run left in the job's directory, once it has ended."""
        ...


class ContainerExecutor:
    """Runs an image in a new container, on the files of a job.

    Args:
        descriptor: What to run, and within which limits.
        folder: Where the descriptor lies, and perhaps the image's Dockerfile.
        engine: Where it runs.
    """

    def __init__(self, descriptor: ContainerDescriptor, folder: Path, engine: Engine) -> None:
        self._descriptor = descriptor
        self._folder = folder
        self._engine = engine
        self._copying, self._mounting = Copying(descriptor, engine), Mounting(descriptor, engine)
        self._is_seen = True
        """Whether the engine sees the node's files, as far as is known."""

    @property
    def output_limit_bytes(self) -> int:
        return self._descriptor.sandbox.output_mib * MIB

    @property
    def device(self) -> str | None:
        return self._descriptor.device

    async def run(self, job: Job) -> Verdict:
        if mistake := await self._mistake():
            raise ExecutorUnavailable(mistake)
        await self._sweep(job)
        await finish(asyncio.to_thread(discard_verdict, self._descriptor, job.directory))
        creating = asyncio.create_task(self._create(job))
        try:
            files, container = await asyncio.shield(creating)
            await files.send(container, job)
            with self._engine.counted():
                exit_code = await self._execute(container, files, job)
            job.facts["exit_code"] = str(exit_code)
            await files.fetch(container, job)
            if exit_code == KILLED and await self._engine.ran_out_of_memory(container):
                limit = f"{self._descriptor.sandbox.memory_mib} MiB"
                raise ExecutorCrashed(f"out of memory: killed at its limit of {limit}, files in /tmp included")
            verdict = judge(self._descriptor, exit_code, job.directory)
            if verdict is Verdict.FAIL and await self._engine.was_killed(container):
                raise EngineFault("the container was stopped from outside")
            return verdict
        finally:
            await finish(self._remove(creating, job))

    async def check(self) -> str | None:
        try:
            if mistake := await self._mistake():
                return mistake
            await self._engine.ask(lambda docker: docker.images.inspect(self._descriptor.image))
        except Refused as exc:
            return self._missing() if exc.status == 404 else str(exc)
        except UlosError as exc:
            return str(exc)
        return None

    @property
    def _files(self) -> Files:
        return self._mounting if self._is_seen and self._engine.is_local else self._copying

    async def _mistake(self) -> str | None:
        return self._files.mistake() or await self._wrong_runtime()

    async def _wrong_runtime(self) -> str | None:
        runtime = self._descriptor.sandbox.runtime
        if runtime is None or runtime in (known := await self._engine.runtimes()):
            return None
        return f"sandbox.runtime = {runtime!r} is not known to the container engine; it has {', '.join(known)}"

    def _missing(self) -> str:
        image = self._descriptor.image
        advice = f"get it with `docker pull {image}`, or build it under that name"
        if (self._folder / "Dockerfile").exists():
            advice = f"build it with `ulos executor build {self._folder}`"
        return f"the image {image!r} is not on this node; {advice}"

    async def _create(self, job: Job) -> "tuple[Files, DockerContainer]":
        files = self._files
        try:
            try:
                return files, await files.create(job)
            except Unseen as exc:
                _log.warning(
                    "%s: the engine does not see its files, so they are copied: %s", self._descriptor.image, exc
                )
                self._is_seen = False
                return self._copying, await self._copying.create(job)
        except Refused as exc:
            if exc.status == 404:
                raise ExecutorUnavailable(self._missing()) from exc
            if exc.status == 400:
                raise ExecutorUnavailable(f"the engine cannot make such a container: {exc}") from exc
            raise

    async def _sweep(self, job: Job) -> None:
        """Remove what an earlier attempt of this node at this job has left. Other nodes look after theirs."""
        await self._engine.sweep(f"ulos.node={self._engine.node}", f"ulos.message={job.message_id}")

    async def _remove(self, creating: "asyncio.Task[tuple[Files, DockerContainer]]", job: Job) -> None:
        await asyncio.wait([creating])
        if creating.exception() is None:
            await self._engine.remove(creating.result()[1])
        elif isinstance(creating.exception(), EngineFault):  # it may be made all the same, a little later
            await asyncio.sleep(LATE_S)
            with contextlib.suppress(UlosError):
                await self._sweep(job)
        await self._mounting.clear(job)

    async def _execute(self, container: "DockerContainer", files: Files, job: Job) -> int:
        """Start the container, follow it to its end, and return its exit code."""
        image, program = self._descriptor.image, self._descriptor.command[0]
        printed = Printed(job.output)
        stream = container.attach(stdout=True, stderr=True)
        try:
            # Attached before the start, so that no output is lost.
            await self._engine.ask(lambda _: stream.__aenter__())
            job.facts.update(image=container["Image"], container=container.id)
            job.output.remark(f"{image} {container['Image']}: {limits(self._descriptor.sandbox)}")
            await self._start(container)
            async with asyncio.TaskGroup() as group:
                copying = group.create_task(self._copy(stream, printed))
                watching = group.create_task(self._watch(container, files, job))
                exit_code = await self._wait(container)
                watching.cancel()
                await asyncio.wait([copying], timeout=DRAIN_S)
                copying.cancel()
        except BaseExceptionGroup as several:
            first = several.exceptions[0]
            raise first from first.__cause__
        finally:
            with contextlib.suppress(Exception):
                await stream.close()
        if printed.bytes.total() <= self.output_limit_bytes:
            printed.complete(await self._engine.read_log(container))
        if exit_code in CANNOT_START and printed.head.startswith(INITS):
            raise ExecutorUnavailable(f"the image {image!r} cannot start {program!r}")
        return exit_code

    async def _start(self, container: "DockerContainer") -> None:
        try:
            await self._engine.ask(lambda _: container.start())
        except Refused as exc:
            if exc.status == 400:
                raise ExecutorUnavailable(f"the image {self._descriptor.image!r} cannot be started: {exc}") from exc
            raise

    async def _wait(self, container: "DockerContainer") -> int:
        """Wait for the end, however long that takes, on an engine that keeps answering."""
        while True:
            try:
                async with asyncio.timeout(WAIT_S):
                    end = await self._engine.ask(lambda _: container.wait(), bounded=False)
            except TimeoutError:
                await self._engine.ask(lambda _: container.show())
                continue
            exit_code = end.get("StatusCode", -1)
            if exit_code < 0 or end.get("Error"):
                raise EngineFault(f"the engine cannot tell how the container ended: {end}")
            return int(exit_code)

    async def _copy(self, stream: "Stream", printed: Printed) -> None:
        while True:
            with self._engine.translating():
                message = await stream.read_out()
            if message is None:
                return
            printed.write(message.stream, message.data)

    async def _watch(self, container: "DockerContainer", files: Files, job: Job) -> None:
        """Raise when the run takes more of the disk than it may, where nothing else holds it."""
        limit_mib, pause_s = self._descriptor.sandbox.disk_mib, LOOK_S[0]
        while True:
            await asyncio.sleep(pause_s)
            begun = time.monotonic()
            used_bytes = await files.used_bytes(container, job)
            if used_bytes is None:
                return
            if used_bytes > limit_mib * MIB:
                raise ExecutorCrashed(f"stopped: the run left more than {limit_mib} MiB on the disk")
            pause_s = sorted((*LOOK_S, 20 * (time.monotonic() - begun)))[1]
