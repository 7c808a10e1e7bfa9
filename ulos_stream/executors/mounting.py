"""A run's files on an engine that sees those of the node: nothing travels."""

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ulos_stream.errors import ExecutorCrashed
from ulos_stream.executors import Job, finish
from ulos_stream.executors.descriptor import ContainerDescriptor
from ulos_stream.executors.directory import Overgrown, give, measure
from ulos_stream.executors.disk import Unlimited, enclose, release, settle, withdraw
from ulos_stream.executors.engine import Engine, Refused
from ulos_stream.executors.sandbox import LOCALHOST, configuration, hosts_file, owner

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

_log = logging.getLogger(__name__)


class Unseen(Refused):
    """The engine does not find the job's directory where the node has it."""


class Mounting:
    """The job's directory is mounted, in a file system of its own where the node can make one.

    Args:
        descriptor: What runs, and within which limits.
        engine: Where it runs.
    """

    def __init__(self, descriptor: ContainerDescriptor, engine: Engine) -> None:
        self._descriptor = descriptor
        self._engine = engine
        self._unlimited = ""

    def mistake(self) -> str | None:
        owns = owner(self._descriptor.sandbox)
        if owns is None or os.getuid() == 0 or owns == (os.getuid(), os.getgid()):
            return None
        return f"sandbox.user = {self._descriptor.sandbox.user!r} needs a node that runs as root"

    async def create(self, job: Job) -> "DockerContainer":
        work = await asyncio.to_thread(self._prepare, job)
        try:
            return await self._create_with(work, job)
        except Unseen:
            if work == job.directory:
                raise
        await asyncio.to_thread(release, job.directory)
        self._watch_instead("the engine does not see what this node mounts")
        return await self._create_with(job.directory, job)

    async def send(self, container: "DockerContainer", job: Job) -> None:
        """Nothing: it is there."""

    async def used_bytes(self, container: "DockerContainer", job: Job) -> int | None:
        read_only, enclosed = self._descriptor.sandbox.read_only, job.directory.is_mount()
        if enclosed and read_only:
            return None
        try:
            used_bytes = 0 if enclosed else await asyncio.to_thread(measure, job.directory)
        except Overgrown as exc:
            raise ExecutorCrashed(f"stopped: the run left {exc}") from exc
        return used_bytes if read_only else used_bytes + await self._engine.written_bytes(container)

    async def fetch(self, container: "DockerContainer", job: Job) -> None:
        await finish(asyncio.to_thread(settle, job.directory))

    async def clear(self, job: Job) -> None:
        hosts_file(job).unlink(missing_ok=True)
        await asyncio.to_thread(withdraw, job.directory)

    def _prepare(self, job: Job) -> Path:
        """Make all ready for the container; returns what it is given as the job's directory."""
        owns = owner(self._descriptor.sandbox)
        if owns is not None and os.getuid() == 0:
            give(job.directory, *owns)
        hosts_file(job).write_text(LOCALHOST)
        hosts_file(job).chmod(0o644)
        if not self._unlimited:
            try:
                return enclose(job.directory, self._descriptor.sandbox.disk_mib)
            except Unlimited as exc:
                self._watch_instead(str(exc))
        return job.directory

    def _watch_instead(self, reason: str) -> None:
        """Do without a disk for each run from now on, and say so: looking at it is coarser than a limit."""
        self._unlimited = reason
        _log.warning("%s: no disk of a run's own, it is only looked at: %s", self._descriptor.image, reason)

    async def _create_with(self, work: Path, job: Job) -> "DockerContainer":
        mounted = configuration(self._descriptor, job, work, node=self._engine.node, cpus=self._engine.cpus)
        try:
            return await self._engine.create(mounted)
        except Refused as exc:
            if str(work) in str(exc):  # every engine names the path that it misses
                raise Unseen(str(exc), exc.status) from exc
            raise
