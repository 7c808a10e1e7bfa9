"""Servers of the storages that are extras: OpenSSH's own for SFTP, and moto's for S3.

As everything in the lab they listen on the loopback interface, and end with the process that started them.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from aiohttp import ClientSession, web
from obstore.store import S3Store
from yarl import URL

from ulos_stream.errors import ServiceMissing
from ulos_stream.lab import HOST, Server, _directory, _root, _started

BUCKET = "artifacts"
MOTO = "import sys; from moto.server import main; main(['-H', sys.argv[1], '-p', sys.argv[2]])"


@dataclass
class SftpServer:
    """An OpenSSH server with one user, this one, whose key it knows."""

    host: str
    port: int
    username: str
    private_key: Path
    known_hosts: Path
    """With the key of the server."""
    root: Path
    """An empty directory; on the server it has the same path."""
    server: Server = field(repr=False)

    @property
    def url(self) -> str:
        """Of the directory."""
        return f"sftp://{self.root}"

    def start(self) -> None:
        """Start it again, on the same port."""
        self.server.start()

    def stop(self) -> None:
        """Stop it at once; all its connections break."""
        self.server.kill()

    def settings(self) -> dict[str, str]:
        """Of a node that has its artifacts there."""
        return {
            "ULOS_STORAGE_URL": self.url,
            "ULOS_STORAGE_KNOWN_HOSTS": str(self.known_hosts),
            "ULOS_STORAGE_PRIVATE_KEY_FILE": str(self.private_key),
            "REMOTE_STORAGE_HOST": self.host,
            "REMOTE_STORAGE_PORT": str(self.port),
            "REMOTE_STORAGE_USERNAME": self.username,
            "REMOTE_STORAGE_PASSWORD": "",
        }


@contextmanager
def sshd(*, password: str | None = None, **options: str) -> Iterator[SftpServer]:
    """A running sshd.

    Args:
        password: Lets the user in, too. Only root can ask for that: sshd asks PAM, whose service has the name of the
            program, so that is a link with a name of its own.
        options: Of `sshd_config`, beside ours.

    Raises:
        ServiceMissing: It is not installed, or a password is asked for and this is not root.
    """
    program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise ServiceMissing("sshd is not installed: apt-get install openssh-server")
    if password is not None and os.geteuid() != 0:
        raise ServiceMissing("only root can let users into sshd by a password: sudo make test")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # where sshd locks up what it does not trust yet
    with ExitStack() as stack:
        directory = _directory(stack)
        root, username = _root(directory), pwd.getpwuid(os.geteuid()).pw_name
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(directory / name)]
            subprocess.run(command, check=True)
        if password is not None:
            link = directory / directory.name
            link.symlink_to(program)
            program = str(link)
            _let_in(username, password, directory, stack)
        config = {
            "ListenAddress": HOST,
            "HostKey": directory / "host",
            "PidFile": "none",
            "AuthorizedKeysFile": directory / "user.pub",
            "StrictModes": "no",
            "PermitRootLogin": "yes",
            "UsePAM": "no" if password is None else "yes",
            "PasswordAuthentication": "yes",
            "MaxStartups": "100",
            "UseDNS": "no",
            "Subsystem": "sftp internal-sftp",
            **options,
        }
        (directory / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in config.items()))

        def build(port: int) -> Server:
            command = [program, "-D", "-e", "-f", str(directory / "sshd_config"), "-p", str(port)]
            return Server(command, directory, port, b"", b"SSH-2.0", dict(os.environ))

        server = _started(build, stack)
        known_hosts = directory / "known_hosts"
        known_hosts.write_text(f"[{HOST}]:{server.port} {(directory / 'host.pub').read_text()}")
        yield SftpServer(HOST, server.port, username, directory / "user", known_hosts, root, server)


def _let_in(username: str, password: str, directory: Path, stack: ExitStack) -> None:
    """A PAM service that compares with a file, as that of vsftpd in the lab."""
    (directory / "passwords").write_text(password)
    service = Path("/etc/pam.d") / directory.name
    stack.callback(service.unlink)
    service.write_text(
        f"auth required pam_ftp.so users={username}\n"
        f"auth required pam_listfile.so item=ruser sense=allow onerr=fail file={directory / 'passwords'}\n"
        "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
    )


@dataclass
class S3Server:
    """A server of moto with one bucket; any credentials will do."""

    host: str
    port: int
    server: Server = field(repr=False)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://{self.host}:{self.port}"

    def url(self, folder: str = "") -> str:
        """Of the bucket, or of a folder of it."""
        return f"s3://{BUCKET}{quote(folder)}?endpoint={self.endpoint}"

    def store(self, folder: str = "") -> S3Store:
        """The same, beside the storage under test."""
        return S3Store(
            BUCKET,
            prefix=folder[1:] or None,
            endpoint=self.endpoint,
            access_key_id="another",
            secret_access_key="secret",
            client_options={"allow_http": True},
        )

    def settings(self) -> dict[str, str]:
        """Of a node that has its artifacts there."""
        return {
            "ULOS_STORAGE_URL": self.url(),
            "REMOTE_STORAGE_USERNAME": "somebody",
            "REMOTE_STORAGE_PASSWORD": f"secret-{secrets.token_hex(8)}",
        }

    def start(self) -> None:
        """Start it again, on the same port, with an empty bucket: it keeps all in memory."""
        self.server.start()
        self.make_bucket()

    def stop(self) -> None:
        """Stop it at once; all its connections break."""
        self.server.kill()

    def make_bucket(self) -> None:
        """Make the bucket anew, empty."""
        for method, path in (("POST", "moto-api/reset"), ("PUT", BUCKET)):
            urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{path}", method=method)).close()


@contextmanager
def moto() -> Iterator[S3Server]:
    """A running S3 server, in a process of its own."""

    def build(port: int) -> Server:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", MOTO, HOST, str(port)]
        return Server(command, directory, port, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.", environment)

    with ExitStack() as stack:
        directory = _directory(stack)
        server = S3Server(HOST, (started := _started(build, stack)).port, started)
        server.make_bucket()
        yield server


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Front:
    """In front of an S3 server: passes requests on, unless a test has set what answers those of a method."""

    def __init__(self, server: S3Server, session: ClientSession) -> None:
        self.server = server
        self.endpoint = ""
        self.on: dict[str, Answer] = {}
        self.seen: list[web.Request] = []
        self.stalled = asyncio.Event()
        self._session = session

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.seen]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        return await self.on.get(request.method, self.forward)(request)

    async def forward(self, request: web.Request, *, without: str = "") -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() != without}
        url = URL(self.server.endpoint + request.raw_path, encoded=True)
        body = await request.read()
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            kept = {name: answer.headers[name] for name in ("ETag", "Last-Modified") if name in answer.headers}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async def stall(self, request: web.Request) -> web.StreamResponse:
        await request.read()  # or nobody would notice that the client goes away
        self.stalled.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def lose_the_answer(self, request: web.Request) -> web.StreamResponse:
        await self.forward(request)
        return await cut(request)


async def cut(request: web.Request) -> web.StreamResponse:
    """Reset the connection in place of an answer."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionError


@asynccontextmanager
async def a_front(server: S3Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Front]:
    """One that listens, with `tls` by HTTPS."""
    async with AsyncExitStack() as stack:
        front = Front(server, await stack.enter_async_context(ClientSession(auto_decompress=False)))
        app = web.Application(client_max_size=1024**3)
        app.router.add_route("*", "/{path:.*}", front.handle)
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        front.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
        yield front
