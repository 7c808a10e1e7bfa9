"""A private RabbitMQ and FTP servers, thrown away afterwards: for `ulos demo`, `ulos dev` and the tests.

Plain blocking code. Everything listens on the loopback interface only, keeps its data in a
temporary directory, and ends with the process that started it, even when that is killed (only
then the directory stays).
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from ulos_stream.errors import ServiceMissing, UlosError
from ulos_stream.images import docker

HOST = "127.0.0.1"
USERNAME = "ulos"
PASSWORD = "lab"  # noqa: S105 (of servers that only this machine can reach)
BROKER_IMAGE = "rabbitmq:4-management"
START_S = 60.0
"""Seconds within which a server must answer: RabbitMQ takes 4 to 6, longer on a busy machine."""
GUARDED = 'exec 3<&0; (read _ <&3; kill -9 0) & exec "$@" </dev/null 3<&-'
"""Runs a command in a process group that kills itself when the pipe at its standard input closes."""
NODE = 'epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & exec "$0"'
"""Runs an Erlang node and its own name service in one process group."""

ELSEWHERE = (
    "ULOS_VIRTUAL_HOST",
    "ULOS_BROKER_",
    "ULOS_MANAGEMENT_",
    "ULOS_STORAGE_",
    "ULOS_ENGINE",
    "ULOS_KUBERNETES_",
    "ULOS_REQUIRE_EXECUTORS",
    "ULOS_JOURNAL_KEY",
)
"""How those of our variables begin that say where a node's world is, or what it must have."""


class ServiceFailed(UlosError):
    """A server ended, or said nothing, before it was up; the text ends with its last words."""


class Certificate(Protocol):
    """A server's certificate with its private key, such as a `trustme.LeafCert`."""

    @property
    def private_key_and_cert_chain_pem(self) -> "Pem":
        """Key and chain in one PEM."""


class Pem(Protocol):
    """Text in PEM, as `trustme.Blob` holds it."""

    def bytes(self) -> bytes:
        """The text."""


@dataclass
class Server:
    """A program that listens on a port: how to run it, how to tell that it is up, how to end it."""

    command: list[str]
    directory: Path
    port: int
    hello: bytes
    answer: bytes
    """How the server's reply to `hello` begins."""
    environment: dict[str, str] = field(repr=False)
    kill_command: list[str] = field(default_factory=list)
    """What ends it at once where killing `command` is not enough."""
    host: str = HOST
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Run it, and return when it answers.

        Raises:
            ServiceFailed: It ended first, or did not answer in time.
        """
        log = self.directory / "output.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", GUARDED, "sh", *self.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        try:
            while not self.answers():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-2000:].strip()
                    raise ServiceFailed(f"{self.command[-1]} did not come up on port {self.port}:\n{tail}")
                time.sleep(0.02)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(START_S)
        self.kill()

    def kill(self) -> None:
        """End it and everything below it at once, as a power cut would."""
        process, self.process = self.process, None
        if process is None:
            return
        if self.kill_command:
            subprocess.run(self.kill_command, capture_output=True, check=False)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGSTOP)  # so that nothing is born while we look
        for pid in _descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def answers(self) -> bool:
        """Whether it says hello."""
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=2) as client:
            client.sendall(self.hello)
            return client.recv(len(self.answer)) == self.answer
        return False


@dataclass
class Broker:
    """A RabbitMQ with one user, who may do everything."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    directory: Path
    """Its configuration, data and log."""
    server: Server = field(repr=False)
    management_url: str | None = None
    """Of its management API, where that was asked for."""

    @property
    def url(self) -> str:
        """Its AMQP URL, credentials included."""
        return f"amqp://{self.username}:{quote(self.password, safe='')}@{self.host}:{self.port}/"

    def start(self) -> None:
        """Start it again, on the same port and data; returns when it speaks AMQP."""
        self.server.start()

    def stop(self) -> None:
        """Stop it in good order."""
        self.server.stop()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.server.kill()


@contextmanager
def rabbitmq(*, password: str = PASSWORD, management: bool = False) -> Iterator[Broker]:
    """A running RabbitMQ: the installed one, else a container of `rabbitmq:4-management`.

    The installed one runs as any user. Should this process be killed, it ends too; a
    container would stay.

    Args:
        password: Of its user.
        management: Serve the management API too, which makes the start a second or two longer.

    Raises:
        ServiceMissing: There is neither.
        ServiceFailed: It did not come up.
    """
    script = _rabbitmq_script()
    with ExitStack() as stack:
        directory = _directory(stack)
        api_port = _free_port() if management else None
        if script and shutil.which("epmd"):
            server = _started(lambda port: _node(script, directory, port, api_port, password), stack)
        else:
            server = _started(lambda port: _contained(directory, port, api_port, password, stack), stack)
        management_url = f"http://{HOST}:{api_port}" if management else None
        yield Broker(HOST, server.port, USERNAME, password, directory, server, management_url)


def _rabbitmq_script() -> str | None:
    """The server's start script; the wrapper that Debian puts on the PATH refuses ordinary users."""
    scripts = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return str(scripts[-1]) if scripts else shutil.which("rabbitmq-server")


def _node(script: str, directory: Path, port: int, api_port: int | None, password: str) -> Server:
    """One Erlang node with its own configuration, cookie, name service and ports."""
    plugin, listener = "", ""
    if api_port is not None:
        # The listener for AMQP, whose answer says that the node is up, opens after those of the plugins.
        plugin, listener = "rabbitmq_management", f"management.tcp.ip = {HOST}\nmanagement.tcp.port = {api_port}\n"
    (directory / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = {HOST}:{port}\n"
        f"default_user = {USERNAME}\ndefault_pass = {password}\n"
        "disk_free_limit.absolute = 1\n"  # byte: a nearly full disk must not block publishers
        f"log.console = true\nlog.file = false\n{listener}"
    )
    (directory / "enabled_plugins").write_text(f"[{plugin}].")
    cookie = directory / ".erlang.cookie"
    cookie.touch(mode=0o600)
    cookie.write_text(secrets.token_hex(16))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
    environment = inherited | {
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"ulos{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_DIST_PORT": str(_free_port()),
        # The script then becomes the Erlang VM instead of waiting for it, so that signals reach the VM.
        "RABBITMQ_ALLOW_INPUT": "true",
        # One scheduler that does not spin while it waits: the cores are for the node under test.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1} "
        "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        "ERL_EPMD_PORT": str(_free_port()),
        # A name service that Erlang starts by itself is a daemon, and would outlive everything.
        "ERL_FLAGS": "-start_epmd false",
    }
    return Server(["/bin/sh", "-c", NODE, script], directory, port, b"AMQP\x00\x00\x09\x01", b"\x01", environment)


def _contained(directory: Path, port: int, api_port: int | None, password: str, stack: ExitStack) -> Server:
    name = f"ulos-lab-{secrets.token_hex(4)}"
    options = f"--name {name} --hostname {name} --publish {HOST}:{port}:5672".split()
    options += ["--publish", f"{HOST}:{api_port}:15672"] if api_port is not None else []
    options += ["--env", f"RABBITMQ_DEFAULT_USER={USERNAME}", "--env", f"RABBITMQ_DEFAULT_PASS={password}"]
    hint = "RabbitMQ is not installed: apt-get install rabbitmq-server; or with Docker: docker pull " + BROKER_IMAGE
    docker("create", *options, BROKER_IMAGE, hint=hint)
    stack.callback(docker, "rm", "--force", "--volumes", name, hint=hint)
    start, kill = ["docker", "start", "--attach", name], ["docker", "kill", name]
    return Server(start, directory, port, b"AMQP\x00\x00\x09\x01", b"\x01", dict(os.environ), kill)


@dataclass
class FtpServer:
    """An FTP server with one user, who may do everything below `/`."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    root: Path
    """The local directory that is the user's `/`."""
    server: Server = field(repr=False)

    def start(self) -> None:
        """Start it again, on the same port; returns when it greets."""
        self.server.start()

    def stop(self) -> None:
        """Stop it at once; all its connections break."""
        self.server.kill()


@contextmanager
def pyftpd(*, tls: Certificate | None = None, password: str = PASSWORD) -> Iterator[FtpServer]:
    """A running server of pyftpdlib, in a process of its own; with `tls`, explicit TLS is required."""

    def build(port: int) -> Server:
        command = [sys.executable, "-c", "from ulos_stream.lab import serve_ftp; serve_ftp()"]
        command.append(json.dumps([port, USERNAME, password, str(root), str(pem) if tls else ""]))
        return Server(command, directory, port, b"", b"220", {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})

    with ExitStack() as stack:
        directory = _directory(stack)
        root, pem = _root(directory), _pem(directory, tls)
        server = _started(build, stack)
        yield FtpServer(HOST, server.port, USERNAME, password, root, server)


def serve_ftp() -> None:
    """The program of `pyftpd`: serve for ever what the last argument of the command line says."""
    from pyftpdlib import handlers
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.servers import FTPServer

    port, username, password, root, pem = json.loads(sys.argv[-1])
    handler = handlers.TLS_FTPHandler if pem else handlers.FTPHandler
    if pem:
        handler.certfile = pem
        handler.tls_control_required = handler.tls_data_required = True
    handler.authorizer = DummyAuthorizer()
    handler.authorizer.add_user(username, password, root, perm="elradfmwMT")
    handler.auth_failed_timeout = 0
    FTPServer((HOST, port), handler).serve_forever()


@contextmanager
def vsftpd(*, tls: Certificate | None = None) -> Iterator[FtpServer]:
    """A running vsftpd, a server as found in the wild; with `tls`, explicit TLS is required.

    Only root can give it a directory as `/`. It lets users in by PAM, which knows services by
    files in `/etc/pam.d` alone: one with a random name is there while the server runs.

    Raises:
        ServiceMissing: It is not installed, or this is not root.
    """
    program = shutil.which("vsftpd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise ServiceMissing("vsftpd is not installed: apt-get install vsftpd")
    if os.geteuid() != 0:
        raise ServiceMissing("only root can give vsftpd a directory as '/': sudo make test")
    with ExitStack() as stack:
        directory = _directory(stack)
        root, pem = _root(directory), _pem(directory, tls)
        (directory / "empty").mkdir()
        passwords = directory / "passwords"
        passwords.write_text(PASSWORD)
        # No stock module compares a password with a file, and pam_exec confuses vsftpd, which takes
        # its child for a session. But pam_ftp passes the password on as a remote user's name.
        service = Path("/etc/pam.d") / directory.name
        stack.callback(service.unlink)
        service.write_text(
            f"auth required pam_ftp.so users={USERNAME}\n"
            f"auth required pam_listfile.so item=ruser sense=allow onerr=fail file={passwords}\n"
            "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
        )
        options = {
            "listen": "YES",
            "listen_ipv6": "NO",
            "listen_address": HOST,
            "pasv_address": HOST,
            "background": "NO",
            "anonymous_enable": "NO",
            "local_enable": "YES",
            "guest_enable": "YES",
            "guest_username": "root",
            "virtual_use_local_privs": "YES",
            "write_enable": "YES",
            "local_umask": "022",
            "local_root": root,
            "chroot_local_user": "YES",
            "allow_writeable_chroot": "YES",
            "secure_chroot_dir": directory / "empty",
            "pam_service_name": service.name,
            "delay_failed_login": "0",
            "max_per_ip": "0",  # all the nodes of a lab come from one address, and four with prefetch 32 keep 132
            # Its sandboxes need kernel features that containers often lack.
            "seccomp_sandbox": "NO",
            "isolate_network": "NO",
        }
        if tls:
            options |= {"ssl_enable": "YES", "rsa_cert_file": pem, "rsa_private_key_file": pem, "ssl_ciphers": "HIGH"}
        config = directory / "vsftpd.conf"

        def build(port: int) -> Server:
            lines = [f"{name}={value}\n" for name, value in (options | {"listen_port": port}).items()]
            config.write_text("".join(lines))
            return Server([program, str(config)], directory, port, b"", b"220", dict(os.environ))

        server = _started(build, stack)
        yield FtpServer(HOST, server.port, USERNAME, PASSWORD, root, server)


@dataclass(frozen=True)
class Lab:
    """Everything that a node needs around it."""

    broker: Broker
    storage: FtpServer

    def environment(self, queue: str, **overrides: str) -> dict[str, str]:
        """The fifteen variables of a node that consumes `queue`; `overrides` by their full names."""
        return {
            "MESSAGE_BROKER_HOST": self.broker.host,
            "MESSAGE_BROKER_PORT": str(self.broker.port),
            "MESSAGE_BROKER_USERNAME": self.broker.username,
            "MESSAGE_BROKER_PASSWORD": self.broker.password,
            "MESSAGE_BROKER_LOGS_EXCHANGE": "processing-exchange",
            "MESSAGE_BROKER_LOGS_ROUTING_KEY": "task.log",
            "MESSAGE_BROKER_CRASH_EXCHANGE": "processing-exchange",
            "MESSAGE_BROKER_CRASH_ROUTING_KEY": "task.crashed",
            "MESSAGE_BROKER_CONSUMPTION_QUEUE": queue,
            "MESSAGE_BROKER_PREFETCH_COUNT": "0",
            "MESSAGE_BROKER_REQUEUE_ON_REJECT": "false",
            "REMOTE_STORAGE_HOST": self.storage.host,
            "REMOTE_STORAGE_PORT": str(self.storage.port),
            "REMOTE_STORAGE_USERNAME": self.storage.username,
            "REMOTE_STORAGE_PASSWORD": self.storage.password,
            **overrides,
        }


def elsewhere(names: Iterable[str]) -> list[str]:
    """Which of these variables lead a node away from its lab, for the lab's own do not override them."""
    return [name for name in names if name.startswith(ELSEWHERE)]


@contextmanager
def lab() -> Iterator[Lab]:
    """A running RabbitMQ and FTP server.

    Raises:
        ServiceMissing: There is no RabbitMQ to run.
    """
    with rabbitmq() as broker, pyftpd() as storage:
        yield Lab(broker, storage)


def _started(build: Callable[[int], Server], stack: ExitStack) -> Server:
    """Start what `build` makes for a free port; once more, on another, if somebody was quicker to take it."""
    for _ in range(2):
        server = build(_free_port())
        stack.callback(server.kill)
        try:
            server.start()
        except ServiceFailed as exc:
            failed = exc
        else:
            return server
    raise failed


def _free_port() -> int:
    """A free port below the ephemeral range.

    There, no outgoing connection takes it while the server that owns it is down, least of all
    one of a client that tries to reconnect: TCP would connect that client to itself.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port


def _descendants(pid: int) -> list[int]:
    """The processes below `pid`, also those in a session of their own, as vsftpd's are. Linux only."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            stat = Path("/proc", name, "stat").read_text(errors="replace")
            parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:  # grows as it is read
        found.extend(child for child, its in parents.items() if its == parent)
    return found[1:]


def _directory(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ulos-lab-", ignore_cleanup_errors=True)))


def _root(directory: Path) -> Path:
    root = directory / "root"
    root.mkdir()
    return root


def _pem(directory: Path, tls: Certificate | None) -> Path:
    """The file of the certificate and its key; absent without `tls`."""
    pem = directory / "server.pem"
    if tls is not None:
        pem.touch(mode=0o600)
        pem.write_bytes(tls.private_key_and_cert_chain_pem.bytes())
    return pem
