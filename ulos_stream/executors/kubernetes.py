"""Container executors as Jobs of a Kubernetes cluster: the same descriptor, another engine (experimental).

create ▶ send the files ▶ wait ▶ fetch what is left ▶ verdict ▶ remove
└────────────────────────── whatever happens ─────────────────────▲

The pod has no access to anything: files go in and out through the API server, see `pod`.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, BinaryIO, cast

from ulos_stream.errors import EngineFault, ExecutorCrashed, ExecutorUnavailable, UlosError
from ulos_stream.executors import Job, finish
from ulos_stream.executors.cluster import Cluster
from ulos_stream.executors.container import KILLED, LATE_S
from ulos_stream.executors.descriptor import ContainerDescriptor
from ulos_stream.executors.directory import Overgrown
from ulos_stream.executors.engine import Refused
from ulos_stream.executors.pod import GIVE, limits, manifest, name_of, refusal, taking
from ulos_stream.executors.podstate import End, end_of, has_started, is_receiving, state_of
from ulos_stream.executors.printed import Printed
from ulos_stream.executors.sandbox import MIB
from ulos_stream.executors.tar import Limited, TooMuch, unpack, write_tar
from ulos_stream.executors.verdict import discard_verdict, judge
from ulos_stream.tasks import Verdict

if TYPE_CHECKING:
    from lightkube.resources.core_v1 import Pod

DRAIN_S = 5.0
"""Seconds for the rest of the output once the run has ended."""
LOG_TIMES = 4
"""How many times the kept output is read: a run that floods must not occupy the API server. The rest is not counted."""


class KubernetesExecutor:
    """Runs an image in a new Job of a cluster.

    Args:
        descriptor: What to run, and within which limits.
        cluster: Where it runs.
    """

    def __init__(self, descriptor: ContainerDescriptor, cluster: Cluster) -> None:
        self._descriptor = descriptor
        self._cluster = cluster

    @property
    def output_limit_bytes(self) -> int:
        return self._descriptor.sandbox.output_mib * MIB

    @property
    def device(self) -> str | None:
        return self._descriptor.device

    async def run(self, job: Job) -> Verdict:
        if reason := await self._shortcoming():
            raise ExecutorUnavailable(reason)
        discard_verdict(self._descriptor, job.directory)
        creating = asyncio.create_task(self._create(job))
        ended = False
        try:
            await asyncio.shield(creating)
            with self._cluster.counted():
                end = await self._execute(job)
            ended = True
        finally:
            await finish(self._remove(creating, name_of(job, self._cluster.node), ended=ended))
        job.facts["exit_code"] = str(end.exit_code)
        if end.out_of_memory and end.exit_code == KILLED:
            limit = f"{self._descriptor.sandbox.memory_mib} MiB"
            raise ExecutorCrashed(f"out of memory: killed at its limit of {limit}, files in /tmp included")
        return judge(self._descriptor, end.exit_code, job.directory)

    async def check(self) -> str | None:
        try:
            return await self._shortcoming()
        except UlosError as exc:
            return str(exc)

    async def _shortcoming(self) -> str | None:
        """Why it cannot run here. Asked before each run: without its policy, student code would have a network."""
        sandbox = self._descriptor.sandbox
        return refusal(sandbox, self._cluster.options) or await self._cluster.shortcoming(sandbox.network)

    async def _create(self, job: Job) -> None:
        owner = await self._cluster.owner()
        body = manifest(self._descriptor, job, self._cluster.options, node=self._cluster.node, owner=owner)
        try:
            with job.waiting():
                await self._cluster.create(body)
        except Refused as exc:
            if exc.status in (400, 422):
                raise ExecutorUnavailable(f"the cluster cannot make such a Job: {exc}") from exc
            raise

    async def _remove(self, creating: "asyncio.Task[None]", name: str, *, ended: bool) -> None:
        await asyncio.wait([creating])
        if isinstance(creating.exception(), EngineFault):  # it may be made all the same, a little later
            await asyncio.sleep(LATE_S)
        if ended:
            await self._cluster.dismiss(name)
        else:
            await self._cluster.remove(name)

    async def _execute(self, job: Job) -> End:
        """Send the files, follow the run to its end, and fetch what it left."""
        name = name_of(job, self._cluster.node)
        async with self._on_the_cluster(job, name):
            pod = await self._cluster.follow(name, lambda pod: pod if is_receiving(pod) else None)
            with _scratch(job) as tar:
                await asyncio.to_thread(write_tar, job.directory, tar, last=f".{name}")
                await self._cluster.send(_name(pod), "receive", taking(f".{name}"), tar)
            pod = await self._cluster.follow(name, lambda pod: pod if has_started(pod) else None)
        self._note(pod, job)
        printed = Printed(job.output)
        copying = asyncio.create_task(self._copy(_name(pod), printed))
        try:
            end = await self._cluster.follow(name, end_of)
            await asyncio.wait([copying], timeout=DRAIN_S)
        finally:
            copying.cancel()
            await asyncio.wait([copying])
        async with self._on_the_cluster(job, name):
            if copying.cancelled() or copying.exception():
                await self._complete(_name(pod), printed)
            await self._fetch(_name(pod), job)
        return end

    @contextlib.asynccontextmanager
    async def _on_the_cluster(self, job: Job, name: str) -> AsyncIterator[None]:
        """Where the cluster is at work, and not the run: not in the task's time, but in time."""
        start_s = self._cluster.options.start_s
        with job.waiting():
            try:
                async with asyncio.timeout(start_s):
                    yield
            except TimeoutError as late:
                reason = await self._cluster.hindrance(name)
                raise EngineFault(f"the cluster was not ready within {start_s:g} s: {reason or 'busy'}") from late

    def _note(self, pod: "Pod", job: Job) -> None:
        status = state_of(pod, "run")
        digest = status.imageID.rpartition("@")[2] if status and status.imageID else "?"
        job.facts.update(image=digest, pod=_name(pod))
        job.output.remark(f"{self._descriptor.image} {digest}: {limits(self._descriptor.sandbox)}")

    async def _copy(self, pod: str, printed: Printed) -> None:
        async with contextlib.aclosing(self._log(pod, follow=True)) as log:
            async for data in log:
                printed.write(1, data)

    async def _complete(self, pod: str, printed: Printed) -> None:
        """Read the log once more, from its begin, where it broke off."""
        whole = bytearray()

        async def read() -> None:
            whole.clear()
            async for data in self._log(pod, follow=False):
                whole.extend(data)

        await self._cluster.patiently(read)
        printed.complete({1: bytes(whole)})

    def _log(self, pod: str, *, follow: bool) -> AsyncGenerator[bytes, None]:
        return self._cluster.log(pod, "run", follow=follow, limit_bytes=LOG_TIMES * self.output_limit_bytes)

    async def _fetch(self, pod: str, job: Job) -> None:
        """Put what the run left in the place of what it was given."""
        disk_mib = self._descriptor.sandbox.disk_mib
        with _scratch(job) as tar:

            def anew() -> Limited:
                tar.seek(0)
                tar.truncate()
                return Limited(tar, disk_mib)

            try:
                await self._cluster.fetch(pod, "carry", GIVE, anew)
                await finish(asyncio.to_thread(unpack, tar, job.directory, disk_mib * MIB))
            except TooMuch as exc:
                raise ExecutorCrashed(f"the run left more than {disk_mib} MiB on the disk") from exc
            except Overgrown as exc:
                raise ExecutorCrashed(f"the run left {exc}") from exc


def _scratch(job: Job) -> BinaryIO:
    """An empty file on the disk of the work, which is gone once it is closed."""
    return cast(BinaryIO, tempfile.TemporaryFile(dir=job.directory.parent))


def _name(pod: "Pod") -> str:
    return str(pod.metadata and pod.metadata.name)
