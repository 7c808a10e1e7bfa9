"""The Jobs of a Kubernetes cluster: made, followed, talked to and removed, whatever its API server does meanwhile."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from ulos_stream.errors import EngineFault, ExecutorUnavailable, UlosError
from ulos_stream.executors.apiserver import CALL_S, ApiServer, Away
from ulos_stream.executors.engine import Refused
from ulos_stream.executors.pod import Kubernetes
from ulos_stream.executors.podstate import waiting_for

if TYPE_CHECKING:
    from lightkube import AsyncClient
    from lightkube.resources.core_v1 import Pod

T = TypeVar("T")

AWAY_S = 90.0
"""Seconds for which a running Job is not given up while the API server is away: as long as it takes to upgrade one."""
WATCH_S = 15.0
"""Seconds after which a watch is begun anew: a connection that went silent, or a pod that is not made, is noticed."""
REMOVE_S = 10.0
"""Seconds after which no new attempt is made to remove a Job. Its deadline ends it, or a sweep."""
GONE_S = 30.0
"""Seconds for a Job's processes to end once it is removed: a second of grace, and the kubelet's time to say so."""
PAUSE_S = 1.0
"""Seconds between two attempts at an API server that is away."""

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes bytes, and may raise."""

    def write(self, data: bytes, /) -> object: ...


class Cluster:
    """One node's connection to its cluster; opened on first use.

    Args:
        options: Where the Jobs run, and how.
        node: Name of this node, a label of every Job that it makes.
        call_s: Seconds that the API server has to answer a call.
    """

    def __init__(self, options: Kubernetes, node: str, *, call_s: float = CALL_S) -> None:
        self.options = options
        self.node = node
        self.running = 0
        """Jobs that run now."""
        self._server = ApiServer(options, call_s)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call again, for as long as the API server is away and `AWAY_S` is not over."""
        deadline = time.monotonic() + AWAY_S
        while True:
            try:
                return await call()
            except Away as away:
                if time.monotonic() > deadline:
                    raise
                _log.info("once more: %s", away)
            await asyncio.sleep(PAUSE_S)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count one Job as running."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def shortcoming(self, network: str) -> str | None:
        """Why code with this `network` must not run in this namespace; None when it may.

        That the cluster's network plugin enforces policies cannot be seen from here.
        """
        await self._server.open()
        from lightkube.resources.networking_v1 import NetworkPolicy

        async def look(client: "AsyncClient") -> bool:
            async for policy in client.list(NetworkPolicy):
                spec = policy.spec
                if spec is None or spec.ingress or spec.egress or {*(spec.policyTypes or ())} != {"Ingress", "Egress"}:
                    continue
                selector = spec.podSelector
                if (
                    selector
                    and not selector.matchExpressions
                    and (selector.matchLabels or {}).items() <= _ALONE.items()
                ):
                    return True
            return False

        if await self._server.ask(look) or network != "none":
            return None
        return 'no NetworkPolicy keeps pods with the label "ulos.network: none" from everything, in and out; apply one'

    async def create(self, manifest: Mapping[str, Any]) -> None:
        """Make a Job; one of the same name is this node's own and is removed first."""
        from lightkube.resources.batch_v1 import Job

        name = manifest["metadata"]["name"]
        while True:
            try:
                await self._server.ask(lambda client: client.create(Job.from_dict({**manifest})))
                return
            except Refused as refused:
                if refused.status != 409:
                    raise
            _log.info("%s is left over from an earlier attempt", name)
            if not await self.remove(name):
                raise EngineFault(f"an earlier attempt's {name} is not gone after {GONE_S:g} s")

    async def follow(self, name: str, read: "Callable[[Pod], T | None]") -> T:
        """Look at each state of a Job's pod until `read` finds in it what it looks for.

        Raises:
            EngineFault: The Job or its pod was removed, or the API server is away for too long.
        """
        return await self.patiently(lambda: self._follow(name, read))

    async def _follow(self, name: str, read: "Callable[[Pod], T | None]") -> T:
        from lightkube.resources.batch_v1 import Job
        from lightkube.resources.core_v1 import Pod

        while True:
            try:
                await self._server.ask(lambda client: client.get(Job, name))
            except Refused as refused:
                if refused.status == 404:
                    raise EngineFault("the Job was removed from outside") from refused
                raise
            client, seen = await self._server.open(), False
            with self._server.translating(), contextlib.suppress(_Silence):
                async with _quiet_after(WATCH_S):
                    # Without a version, a watch begins with what there is.
                    async for change, pod in client.watch(Pod, labels={"batch.kubernetes.io/job-name": name}):
                        seen = True
                        if change == "DELETED":
                            raise EngineFault("the pod was removed from outside")
                        if found := read(pod):
                            return found
            if not seen and _DENIAL.search(reason := await self.hindrance(name)):
                raise ExecutorUnavailable(f"the cluster makes no such pod: {reason}")

    async def hindrance(self, name: str) -> str:
        """What keeps a Job's pod from starting, in the cluster's words; empty if it says nothing."""
        from lightkube.resources.core_v1 import Event, Pod

        async def look(client: "AsyncClient") -> str:
            async for pod in client.list(Pod, labels={"batch.kubernetes.io/job-name": name}):
                return waiting_for(pod)
            said = [event async for event in client.list(Event, fields={"involvedObject.name": name})]
            return (said[-1].message or "") if said else ""

        return await self._server.ask(look)

    async def owner(self) -> dict[str, str] | None:
        """The node's own pod, as an owner reference, if the Jobs live in its namespace: elsewhere it would end them."""
        await self._server.open()
        return self._server.owner

    async def send(self, pod: str, container: str, command: list[str], data: BinaryIO) -> None:
        """Run a command in a container with `data` as its input, to its end.

        Raises:
            EngineFault: It failed.
        """

        async def attempt() -> None:
            data.seek(0)
            await self._exec(pod, container, command, stdin=data)

        await self.patiently(attempt)

    async def fetch(self, pod: str, container: str, command: list[str], sink: Callable[[], Sink]) -> None:
        """Run a command in a container, to its end; its output goes to a `sink`, a new one for each attempt."""

        async def attempt() -> None:
            await self._exec(pod, container, command, stdout=sink())

        await self.patiently(attempt)

    async def _exec(self, pod: str, container: str, command: list[str], **streams: Any) -> None:
        said: Any = _Tail()
        client = await self._server.open()
        with self._server.translating():
            answer = await client.exec(pod, container=container, command=command, decode=None, stderr=said, **streams)
        if answer.exit_code:
            raise EngineFault(f"{command[-1]!r} in {container!r} ended with {answer.exit_code}: {said}")

    async def log(self, pod: str, container: str, *, follow: bool, limit_bytes: int) -> AsyncGenerator[bytes, None]:
        """What a container prints, both streams merged, from its begin; with `follow` to its end."""
        client = await self._server.open()
        assert self._server.http is not None  # noqa: S101 (it is open)
        params = {"container": container, "follow": str(follow).lower(), "limitBytes": str(limit_bytes)}
        path = f"api/v1/namespaces/{client.namespace}/pods/{pod}/log"
        # Not by lightkube, which waits for the end of a line, however long that may be.
        with self._server.translating():
            async with self._server.http.stream("GET", path, params=params) as response:
                response.raise_for_status()
                async for data in response.aiter_bytes():
                    yield data

    async def remove(self, name: str) -> bool:
        """Remove a Job, and wait until nothing of it runs any more; what cannot be removed is left to a sweep.

        Returns:
            Whether it is gone.
        """
        from lightkube.resources.batch_v1 import Job
        from lightkube.types import CascadeType

        removing, gone = time.monotonic() + REMOVE_S, time.monotonic() + GONE_S
        removed = False
        while True:
            try:
                if not removed:
                    # In the foreground: the Job is there until its pods are gone.
                    await self._server.ask(lambda client: client.delete(Job, name, cascade=CascadeType.FOREGROUND))
                    removed = True
                await self._server.ask(lambda client: client.get(Job, name))
            except UlosError as exc:
                if isinstance(exc, Refused) and exc.status == 404:
                    return True
                if not removed and time.monotonic() > removing:
                    _log.warning("%s is left over: %s", name, exc)
                    return False
            if time.monotonic() > gone:
                _log.warning("%s is being removed, and not gone after %g s", name, GONE_S)
                return False
            await asyncio.sleep(0.2)

    async def dismiss(self, name: str) -> None:
        """Have a Job removed whose run has ended, without waiting for that."""
        from lightkube.resources.batch_v1 import Job
        from lightkube.types import CascadeType

        try:
            await self._server.ask(lambda client: client.delete(Job, name, cascade=CascadeType.BACKGROUND))
        except UlosError as exc:
            if not (isinstance(exc, Refused) and exc.status == 404):
                _log.warning("%s is left over: %s", name, exc)

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._server.aclose()

    async def sweep_nodes(self, abandoned: Callable[[str], bool]) -> None:
        """Remove the Jobs of nodes that are `abandoned`: told a node's name, it says so."""
        await self._server.open()
        from lightkube.resources.batch_v1 import Job

        async def find(client: "AsyncClient") -> list[str]:
            ours = client.list(Job, labels={"app.kubernetes.io/managed-by": "ulos-stream"})
            jobs = [job.metadata async for job in ours if job.metadata]
            return [str(job.name) for job in jobs if abandoned((job.annotations or {}).get("ulos.node", ""))]

        for name in await self._server.ask(find):
            await self.remove(name)


_ALONE = {"ulos.network": "none"}
_DENIAL = re.compile(r"violates PodSecurity|denied the request|pod rejected|is invalid:")
"""What admission says of a pod that it will never take; a quota that is used up says something else."""


class _Silence(Exception):
    """A watch has lasted long enough."""


@contextlib.asynccontextmanager
async def _quiet_after(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as over:
        raise _Silence from over


class _Tail:
    """What a program said last."""

    def __init__(self) -> None:
        self._bytes = b""

    def write(self, data: bytes) -> None:
        self._bytes = (self._bytes + data)[-500:]

    def __str__(self) -> str:
        return self._bytes.decode("utf-8", "replace").strip()
