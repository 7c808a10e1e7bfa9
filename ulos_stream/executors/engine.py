"""The container engine, spoken to by Docker's API: bounded calls, and errors of ours.

`aiodocker` is imported when the engine is first used: it takes 160 ms.
"""

import asyncio
import contextlib
import json
import logging
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ulos_stream.errors import EngineFault, ExecutorUnavailable, UlosError
from ulos_stream.executors.sandbox import shortcoming
from ulos_stream.executors.tar import TooMuch

if TYPE_CHECKING:
    from aiodocker import Docker
    from aiodocker.containers import DockerContainer
    from aiohttp import BaseConnector

T = TypeVar("T")

CALL_S = 30.0
"""It starts a container in 0.3 s when idle; a hundred at once on two cores take their time."""
REMOVE_S = 6.0
"""Seconds after which no new attempt is made to remove a container: Docker restarts in three. A sweep finds it."""

TRANSFER_S = 120.0
"""Seconds that a run's files may take, there or back: as long as those of a storage."""

FRAME = struct.Struct(">BxxxL")
"""Header of each piece of a log: the channel and the size of what follows (Docker Engine API, "Stream format")."""

ENTRY = b'"Path":'
"""What each entry of a list of changes has once: in a name, the engine escapes the quotes."""

_log = logging.getLogger(__name__)


class Refused(EngineFault):
    """The engine answers a request with an error.

    Args:
        text: The engine's own words.
        status: The HTTP status of its answer.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Unfit(ExecutorUnavailable):
    """The engine answers, and cannot hold what it must."""


class NoEngine(ExecutorUnavailable):
    """Nothing on this node looks like a container engine, not even one that is down."""


class Engine:
    """One node's connection to its container engine; opened on first use.

    Args:
        host: Address as in `DOCKER_HOST`, like `unix:///run/docker.sock` or `tcp://engine:2376`; None finds it as
            Docker's own client does.
        node: Name of this node, a label of every container it starts.
        certificates: Folder with `ca.pem`, `cert.pem` and `key.pem`, as in `DOCKER_CERT_PATH`: an engine that listens
            on the network is spoken to by TLS, and each side shows the other who it is. None: in plain text.
        call_s: Seconds that the engine has to answer a call.
    """

    def __init__(
        self, host: str | None, node: str, *, certificates: Path | None = None, call_s: float = CALL_S
    ) -> None:
        self.node = node
        self.cpus = 1.0
        """Cores that the engine has; known once it has answered."""
        self.running = 0
        """Containers that have been started, and are waited for."""
        self.is_local = not host or host.startswith("unix://")
        """Whether it is on this machine, as far as its address tells, so that it may see the node's files."""
        self.host = host or ""
        """Its address; empty until the engine was found where Docker's own client looks."""
        self._certificates = certificates
        self._call_s = call_s
        self._docker: Docker | None = None
        self._connector: BaseConnector | None = None
        self._opening = asyncio.Lock()

    async def ask(self, call: "Callable[[Docker], Awaitable[T]]", *, bounded: bool = True) -> T:
        """Make one call; unless `bounded`, it may take as long as it takes.

        Raises:
            Refused: The engine answers with an error.
            EngineFault: It does not answer, or breaks off.
            ExecutorUnavailable: It has never answered this node, or cannot hold a container to its limits.
        """
        docker = await self._open()
        with self.translating():
            async with asyncio.timeout(self._call_s if bounded else None):
                return await call(docker)

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Turn the errors of a conversation with the engine into ours."""
        import aiodocker
        import aiohttp

        try:
            yield
        except aiodocker.DockerError as exc:
            if exc.status == 900:  # aiodocker's own number for "cannot connect"
                reason = getattr(exc.__context__, "strerror", None) or exc.message
                raise self._away(f"the container engine at {self.host} cannot be reached: {reason}") from exc
            if exc.status == 400 and "HTTPS server" in exc.message:  # net/http of Go, before any engine sees it
                wish = "wants to be spoken to by TLS; set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH"
                raise ExecutorUnavailable(f"the container engine at {self.host} {wish}") from exc
            raise Refused(exc.message, exc.status) from exc
        except TimeoutError as exc:
            raise self._away(f"the container engine at {self.host} does not answer") from exc
        except (aiohttp.ClientError, OSError, AssertionError, ValueError) as exc:
            raise self._away(f"the container engine broke off: {exc or type(exc).__name__}") from exc

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count one container as running."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def runtimes(self) -> list[str]:
        """Names of the OCI runtimes that the engine has now."""
        info = await self.ask(lambda docker: docker.system.info())
        return sorted(info.get("Runtimes") or ())

    async def create(self, config: Mapping[str, Any]) -> "DockerContainer":
        """Make a container, by the body of `POST /containers/create`."""
        return await self.ask(lambda docker: docker.containers.create(dict(config)))

    async def has(self, container: "DockerContainer") -> bool:
        """Whether a container is still there, running or not."""
        try:
            await self.ask(lambda _: container.show())
        except Refused as exc:
            if exc.status == 404:
                return False
            raise
        return True

    async def written_bytes(self, container: "DockerContainer") -> int:
        """The size of all files that are in a container and not in its image, but for what is mounted there."""
        details = await self.ask(lambda _: container.show(size=True))
        return int(details.get("SizeRw", 0))

    async def has_more_than(self, most: int, container: "DockerContainer") -> bool:
        """Whether more than `most` files and directories differ from those of a container's image.

        All that is read of the answer is what it takes to tell.
        """

        async def look(docker: "Docker") -> bool:
            found, last = 0, b""
            async with docker._query(f"containers/{container.id}/changes") as response:
                with contextlib.closing(response):
                    async for block in response.content.iter_any():
                        text = last + block
                        found += text.count(ENTRY)
                        last = text[1 - len(ENTRY) :]  # too short for an entry that was counted; may begin the next
                        if found > most:
                            return True
            return False

        return await self.ask(look)

    async def put(self, container: "DockerContainer", tar: IO[bytes]) -> None:
        """Unpack a tar in the root of a container that is not running."""

        async def put(docker: "Docker") -> None:
            # aiodocker's own calls for archives hold them in memory.
            query: dict[str, Any] = {"params": {"path": "/"}, "headers": {"Content-Type": "application/x-tar"}}
            async with asyncio.timeout(TRANSFER_S):
                async with docker._query(_archive(container), "PUT", data=tar, **query) as response:
                    await response.read()

        await self.ask(put, bounded=False)

    async def get(self, container: "DockerContainer", path: str, tar: IO[bytes], most_bytes: int) -> None:
        """Write a directory of a container, running or not, to a file as a tar.

        Raises:
            TooMuch: It takes more than `most_bytes`.
        """

        async def get(docker: "Docker") -> None:
            left_bytes = most_bytes
            query = docker._query(_archive(container), params={"path": path})
            async with asyncio.timeout(TRANSFER_S), query as response:
                with contextlib.closing(response):
                    async for block in response.content.iter_any():
                        left_bytes -= len(block)
                        if left_bytes < 0:
                            raise TooMuch
                        tar.write(block)

        await self.ask(get, bounded=False)

    async def remove(self, container: "DockerContainer") -> None:
        """Kill and remove; what cannot be removed now is left to a sweep."""
        deadline = time.monotonic() + REMOVE_S
        while True:
            try:
                await self.ask(lambda _: container.delete(force=True, v=True))
                return
            except UlosError as exc:
                if isinstance(exc, Refused) and exc.status == 404:
                    return
                if time.monotonic() > deadline:
                    _log.warning("container %s is left over: %s", container.id[:12], exc)
                    return
            await asyncio.sleep(0.5)

    async def sweep(self, *labels: str, abandoned: Callable[[Mapping[str, str]], bool] = lambda _: True) -> None:
        """Remove the containers that have all `labels` (`name` or `name=value`) and whose labels are `abandoned`."""
        filters = json.dumps({"label": labels})
        for container in await self.ask(lambda docker: docker.containers.list(all=True, filters=filters)):
            if abandoned(container["Labels"]):
                await self.remove(container)

    async def sweep_nodes(self, abandoned: Callable[[str], bool]) -> None:
        """Remove the containers of nodes that are `abandoned`: told a node's name, it says so."""
        await self.sweep("ulos.node", abandoned=lambda labels: abandoned(labels["ulos.node"]))

    async def was_killed(self, container: "DockerContainer") -> bool:
        """Whether somebody told the engine to stop or kill a container that has ended."""
        started_at = (await self.ask(lambda _: container.show()))["State"]["StartedAt"]
        return await self.ask(lambda docker: _find_kill(docker, container.id, started_at))

    async def ran_out_of_memory(self, container: "DockerContainer") -> bool:
        """Whether the kernel killed something in a container at its limit of memory, if the engine says so.

        Some never do, and containerd not always when it was in a run's first or last moment (its issues 8893, 12260).
        """
        return bool((await self.ask(lambda _: container.show()))["State"]["OOMKilled"])

    async def read_log(self, container: "DockerContainer") -> dict[int, bytes]:
        """What the engine has written down of a container's output (1) and errors (2)."""
        return await self.ask(lambda docker: _read_log(docker, container.id))

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()
        if self._connector is not None:
            await self._connector.close()

    async def _open(self) -> "Docker":
        async with self._opening:
            if self._docker is None:
                with self.translating():
                    async with asyncio.timeout(self._call_s):
                        self._docker = await self._connect()
            return self._docker

    async def _connect(self) -> "Docker":
        import aiodocker
        import aiohttp

        try:
            docker = self._client()
        except AssertionError as exc:
            raise NoEngine("no container engine is to be found on this node; set DOCKER_HOST") from exc
        except ValueError as exc:
            raise ExecutorUnavailable(f"the container engine's address {self.host!r} is wrong: {exc}") from exc
        self.host = self.host or docker.docker_host
        if self.is_local and isinstance(docker.connector, aiohttp.UnixConnector):
            # A run holds two connections and needs a third to be removed: no limit on them, where aiohttp has 100.
            self.host = f"unix://{docker.connector.path}"
            self._connector = aiohttp.UnixConnector(docker.connector.path, limit=0)
            await docker.close()
            docker = aiodocker.Docker(url="unix://localhost", connector=self._connector)
        else:
            self.is_local = False
        try:
            info = await docker.system.info()
            if reason := shortcoming(info):
                raise Unfit(f"untrusted code does not run on this container engine: {reason}")
            self.cpus = float(info["NCPU"])
        except BaseException:
            await docker.close()
            if self._connector is not None:
                await self._connector.close()
            raise
        return docker

    def _client(self) -> "Docker":
        import aiodocker
        import aiohttp

        scheme, _, address = self.host.partition("://")
        if scheme not in ("tcp", "http", "https"):
            return aiodocker.Docker(url=self.host or None)
        context = self._tls_context() if self._certificates else None
        self._connector = aiohttp.TCPConnector(ssl=context or True, limit=0)
        return aiodocker.Docker(url=f"{'https' if context else 'http'}://{address}", connector=self._connector)

    def _tls_context(self) -> ssl.SSLContext:
        assert self._certificates is not None  # noqa: S101
        folder = self._certificates
        try:
            context = ssl.create_default_context(cafile=folder / "ca.pem")
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        except OSError as exc:  # which an `ssl.SSLError` is, too
            raise ExecutorUnavailable(
                f"the container engine's certificates: ca.pem, cert.pem and key.pem in {folder} cannot be used: {exc}"
            ) from exc
        return context

    def _away(self, text: str) -> UlosError:
        return ExecutorUnavailable(text) if self._docker is None else EngineFault(text)


def _archive(container: "DockerContainer") -> str:
    return f"containers/{container.id}/archive"


async def _find_kill(docker: "Docker", container_id: str, started_at: str) -> bool:
    """Whether a `kill` stands before the `die` in the engine's record of a container; stops and removals kill too."""
    from aiodocker.events import DockerEvents

    # One of its own: the client's knows a single query at a time. It has no types.
    events: Any = DockerEvents(docker)  # type: ignore[no-untyped-call]
    since = str(datetime.fromisoformat(started_at).timestamp())
    filters = json.dumps({"container": [container_id], "event": ["kill", "die"]})
    received = events.subscribe(since=since, filters=filters)
    try:
        event = await received.get()
        if event is None:
            raise EngineFault("the engine broke off its list of events")
        return bool(event["Action"] == "kill")
    finally:
        await events.stop()


async def _read_log(docker: "Docker", container_id: str) -> dict[int, bytes]:
    # aiodocker's own reading of a log drops every byte that is no UTF-8.
    query = {"stdout": True, "stderr": True}
    async with docker._query(f"containers/{container_id}/logs", params=query) as response:
        frames = await response.read()
    log: dict[int, bytes] = {}
    while frames:
        channel, size = FRAME.unpack(frames[: FRAME.size])
        log[channel] = log.get(channel, b"") + frames[FRAME.size : FRAME.size + size]
        frames = frames[FRAME.size + size :]
    return log
