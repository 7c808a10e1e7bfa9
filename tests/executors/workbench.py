"""What the tests of the executors share: jobs, printouts, containers, and a line to the engine that can be cut."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import ssl
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import trustme

from ulos_stream.executors import Job, Output
from ulos_stream.executors.container import ContainerExecutor
from ulos_stream.executors.descriptor import ContainerDescriptor, ProcessDescriptor
from ulos_stream.executors.engine import Engine
from ulos_stream.executors.process import ProcessExecutor
from ulos_stream.images import local_image

SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
SCRIPT = "cd /work && exec /bin/sh ./job.sh\n"
IMAGE = f"ulos-test/script:{hashlib.sha256(SCRIPT.encode()).hexdigest()[:12]}"
EAT_UP_MEMORY = "sleep 1; tail /dev/zero; sleep 1; exit 137"
"""Shell for a run that loses a process over its memory, and ends as if it had been all of it.

Of a kill in a run's first or last moment, containerd does not always tell (its issues 8893 and 12260).
"""
NOWHERE = "unix:///nowhere/docker.sock"


class Printout(io.BytesIO):
    """What a run prints, while it prints it, without the node's remarks."""

    def __init__(self) -> None:
        super().__init__()
        self.remarks = ""
        self._written = asyncio.Event()

    def write(self, data: Any) -> int:
        self._written.set()
        if data.startswith(b"# "):
            self.remarks += data.decode()
            return len(data)
        return super().write(data)

    def close(self) -> None:
        """Stay readable."""

    def text(self) -> str:
        return self.getvalue().decode("utf-8", "replace")

    async def shows(self, text: str) -> None:
        while text not in self.text():
            self._written.clear()
            await self._written.wait()


def make_job(directory: Path, script: str = "", *, limit_bytes: int = 1024 * 1024) -> tuple[Job, Printout]:
    """A job whose directory holds `job.sh`, and where its output goes."""
    work = Path(tempfile.mkdtemp(dir=directory))
    (work / "job.sh").write_text(script)
    printout = Printout()
    return Job(work, Output(printout, limit_bytes), message_id=str(uuid.uuid4()), task_id="task-1"), printout


def script_image() -> str:
    """An image whose command `run` runs the `job.sh` of the mounted directory."""
    known = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode == 0
    return IMAGE if known else local_image(IMAGE, SCRIPT)


def container(**overrides: Any) -> ContainerDescriptor:
    fields = {"kind": "container", "routing_key": "check", "image": IMAGE}
    return ContainerDescriptor.model_validate(fields | overrides)


def process(*command: str, folder: Path = Path("/"), **overrides: Any) -> ProcessExecutor:
    fields = {"kind": "process", "routing_key": "check", "command": list(command) or ["sh", "job.sh"]}
    return ProcessExecutor(ProcessDescriptor.model_validate(fields | overrides), folder)


@contextlib.asynccontextmanager
async def open_engine(
    host: str | None = None, *, certificates: Path | None = None, call_s: float = 30.0
) -> AsyncIterator[Engine]:
    engine = Engine(host, node=f"node-{uuid.uuid4()}", certificates=certificates, call_s=call_s)
    try:
        yield engine
    finally:
        await engine.aclose()


@contextlib.asynccontextmanager
async def container_executor(
    host: str | None = None, certificates: Path | None = None, **overrides: Any
) -> AsyncIterator[ContainerExecutor]:
    async with open_engine(host, certificates=certificates) as engine:
        yield ContainerExecutor(container(**overrides), Path("/"), engine)


def containers_of(job: Job) -> list[str]:
    """Ids of the containers of a job, those that have ended included."""
    label = f"label=ulos.message={job.message_id}"
    listed = subprocess.run(["docker", "ps", "-aq", "--no-trunc", "--filter", label], capture_output=True, check=True)
    return listed.stdout.decode().split()


def inspect(job: Job) -> dict[str, Any]:
    """What the engine says of the one container of a job."""
    shown = subprocess.run(["docker", "inspect", *containers_of(job)], capture_output=True, check=True)
    [details] = json.loads(shown.stdout)
    return dict(details)


class Line:
    """A line to the container engine that can be watched, garbled, silenced and cut."""

    def __init__(self) -> None:
        self.host = f"unix://{tempfile.mkdtemp()}/docker.sock"
        self.on_request: Callable[[bytes], None] = lambda _: None
        """Told what the engine has just been sent."""
        self.replies: Mapping[bytes, bytes] = {}
        """What to put in place of what in the engine's replies; must have the same length."""
        self.lost = b""
        """What is missing from the streams that are attached to containers."""
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await self._listen()
        return self

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self.host.removeprefix("unix://"))

    async def __aexit__(self, *_: object) -> None:
        self.cut()

    def drop(self) -> None:
        """Break every connection; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()

    def cut(self) -> None:
        """Break every connection, and take no new one."""
        if self._server is not None:
            self._server.close()
        self.drop()
        if self.host.startswith("unix://"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.host.removeprefix("unix://"))

    def silence(self) -> None:
        """Let nothing through any more, and stay connected."""
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(SOCKET)
        self._writers |= {writer, engine_writer}
        with contextlib.suppress(OSError, asyncio.CancelledError):
            attached = asyncio.Event()
            await asyncio.gather(
                self._request(reader, engine_writer, attached), self._reply(engine_reader, writer, attached)
            )

    async def _request(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, attached: asyncio.Event
    ) -> None:
        while data := await source.read(65536):
            if b"/attach?" in data:
                attached.set()
            await self._open.wait()
            target.write(data)
            await target.drain()
            self.on_request(data)
        target.close()

    async def _reply(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, attached: asyncio.Event) -> None:
        while data := await source.read(65536):
            await self._open.wait()
            for old, new in self.replies.items():
                data = data.replace(old, new)
            if attached.is_set() and self.lost:
                data = data.replace(self.lost, b"")
            target.write(data)
            await target.drain()
        target.close()


class RemoteLine(Line):
    """The same to an engine that seems to be on another machine: by TCP, and by TLS with certificates on both sides.

    Args:
        certificates: Folder for what a client needs, as Docker names it; None: no TLS.
    """

    def __init__(self, certificates: Path | None) -> None:
        super().__init__()
        self.certificates = certificates
        self._tls = None if certificates is None else _certify(certificates)
        self._port = 0

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._tls)
        self._port = server.sockets[0].getsockname()[1]
        self.host = f"tcp://127.0.0.1:{self._port}"
        return server


def _certify(folder: Path) -> ssl.SSLContext:
    """Write the client's part into the folder; returns how the server shows itself and knows the client."""
    authority, server = _authority(folder), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    return server


def _authority(folder: Path) -> trustme.CA:
    """One that both sides trust; what a client needs is in the folder."""
    authority = trustme.CA()
    client = authority.issue_cert("node.example")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    client.private_key_pem.write_to_path(folder / "key.pem")
    return authority


def change_client(folder: Path) -> None:
    """Put a client's certificate in the folder that no server of its authority knows."""
    trusted = (folder / "ca.pem").read_bytes()
    _authority(folder)
    (folder / "ca.pem").write_bytes(trusted)
