"""A private RabbitMQ and FTP servers, thrown away afterwards: for `ulos demo` and the tests.

Everything listens on free ports of the loopback interface, keeps its data in a temporary
directory and ends with the process that started it, even if that one is killed.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ulos_stream.errors import UlosError

START_S = 60.0
"""Seconds within which a server must answer: RabbitMQ takes 3 to 6, more on a busy machine."""
WATCHED = "(read _ <&3; kill -9 0) & "
"""Begins a shell command: when the pipe at descriptor 3 closes, its whole process group dies."""
BROKER_IMAGE = "rabbitmq:4-management"
PASSWORD = "lab"  # noqa: S105 (of servers that only this machine can reach)


class ServiceMissing(UlosError):
    """A program that the lab needs is not installed; the text names the command that installs it."""


@dataclass
class Service:
    """A server process on a port of its own."""

    host: str
    port: int
    username: str
    password: str
    directory: Path
    """Its configuration and data."""
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def kill(self) -> None:
        """End it and its children at once, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _run(self, command: str, environment: dict[str, str], log: IO[bytes]) -> None:
        """Run a shell command in a process group that ends with this process."""
        self._process = subprocess.Popen(
            ["sh", "-c", f"exec 3<&0; {WATCHED}exec 3<&-; {command}"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=self.directory,
            start_new_session=True,
        )

    def _await(self, hello: bytes, answer: bytes) -> None:
        """Return when the server answers `hello` with something that begins with `answer`."""
        deadline = time.monotonic() + START_S
        while not self._answers(hello, answer):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                log = (self.directory / "log.txt").read_text(errors="replace")
                raise RuntimeError(f"{type(self).__name__} on port {self.port} did not start:\n{log[-2000:]}")
            time.sleep(0.02)

    def _answers(self, hello: bytes, answer: bytes) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=2) as probe:
            probe.sendall(hello)
            return probe.recv(64).startswith(answer)
        return False


@dataclass
class Broker(Service):
    """A RabbitMQ node."""

    @property
    def url(self) -> str:
        """Its AMQP URL, credentials included."""
        return f"amqp://{self.username}:{self.password}@{self.host}:{self.port}/"

    def start(self) -> None:
        """Start it, or start it again on the same port and data; returns when it speaks AMQP."""
        [script] = _server_scripts()[:1]
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {self.host}:{self.port}\n"
            f"default_user = {self.username}\ndefault_pass = {self.password}\n"
            "disk_free_limit.absolute = 1MB\nlog.console = true\nlog.file = false\n"
        )
        (self.directory / "enabled_plugins").write_text("[].")
        (self.directory / "env.conf").touch()
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(os.urandom(16).hex())
            cookie.chmod(0o600)
        epmd_port = _free_port()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "RABBITMQ_NODENAME": f"lab{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "env.conf"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "ERL_FLAGS": "-start_epmd false",
        }
        with (self.directory / "log.txt").open("ab") as log:
            # The server and its name service share one process group, and so one end.
            epmd = f"{shlex.quote(_epmd())} -port {epmd_port} -address {self.host} & "
            self._run(f"{epmd}exec {shlex.quote(str(script))} </dev/null", environment, log)
        self._await(b"AMQP\x00\x00\x09\x01", b"\x01")

    def stop(self) -> None:
        """Stop it cleanly."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=START_S)
            self.kill()


@dataclass
class ContainedBroker(Broker):
    """The same in a container, for machines that have Docker and no RabbitMQ."""

    def start(self) -> None:
        name = f"ulos-lab-{self.port}"
        publish = f"{self.host}:{self.port}:5672"
        user = f"-e RABBITMQ_DEFAULT_USER={self.username} -e RABBITMQ_DEFAULT_PASS={self.password}"
        with (self.directory / "log.txt").open("ab") as log:
            fresh = f"exec docker run --name {name} -p {publish} {user} {BROKER_IMAGE}"
            self._run(f"docker start -a {name} 2>/dev/null || {fresh}", dict(os.environ), log)
        self._await(b"AMQP\x00\x00\x09\x01", b"\x01")

    def stop(self) -> None:
        subprocess.run(["docker", "stop", f"ulos-lab-{self.port}"], check=True, capture_output=True)
        super().kill()

    def kill(self) -> None:
        subprocess.run(["docker", "kill", f"ulos-lab-{self.port}"], check=False, capture_output=True)
        super().kill()


@contextlib.contextmanager
def rabbitmq() -> Iterator[Broker]:
    """A running RabbitMQ: the one that is installed, else a container of `rabbitmq:4-management`.

    Raises:
        ServiceMissing: There is neither.
    """
    kind = Broker if _server_scripts() else ContainedBroker
    if kind is ContainedBroker and not _docker_answers():
        raise ServiceMissing("RabbitMQ is not installed, and no Docker answers: apt-get install rabbitmq-server")
    with tempfile.TemporaryDirectory(prefix="ulos-lab-", ignore_cleanup_errors=True) as directory:
        broker = kind("127.0.0.1", _free_port(), "ulos", PASSWORD, Path(directory))
        try:
            broker.start()
            yield broker
        finally:
            broker.kill()
            if isinstance(broker, ContainedBroker):
                subprocess.run(["docker", "rm", "-fv", f"ulos-lab-{broker.port}"], check=False, capture_output=True)


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files of a server's certificate chain and its private key."""

    certificate: Path
    key: Path


@dataclass
class FtpServer(Service):
    """An FTP server with one user, whose `/` is the local directory `root`."""

    tls: CertificateFiles | None = None

    @property
    def root(self) -> Path:
        """What the user sees as `/`."""
        return self.directory / "root"

    def start(self) -> None:
        """Start it, or start it again on the same port; returns when it greets."""
        self.root.mkdir(exist_ok=True)
        with (self.directory / "log.txt").open("ab") as log:
            self._run(f"exec {self._command()}", dict(os.environ), log)
        self._await(b"", b"220")

    def stop(self) -> None:
        """Stop it and drop every connection."""
        self.kill()

    def _command(self) -> str:
        raise NotImplementedError


@dataclass
class Pyftpd(FtpServer):
    """pyftpdlib's server; runs as any user."""

    def _command(self) -> str:
        tls = [str(self.tls.certificate), str(self.tls.key)] if self.tls else []
        arguments = json.dumps([self.port, self.username, self.password, str(self.root), *tls])
        program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r});"
        program += "from ulos_stream.lab import serve_ftp; serve_ftp(sys.argv[1])"
        return shlex.join([sys.executable, "-c", program, arguments])


def serve_ftp(arguments: str) -> None:
    """The process of a `Pyftpd`: serves for ever."""
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
    from pyftpdlib.servers import FTPServer

    port, username, password, root, *tls = json.loads(arguments)
    authorizer = DummyAuthorizer()
    authorizer.add_user(username, password, root, perm="elradfmwMT")
    handler = type("Handler", (TLS_FTPHandler if tls else FTPHandler,), {"authorizer": authorizer})
    if tls:
        handler.certfile, handler.keyfile = tls
        handler.tls_control_required = handler.tls_data_required = True
    server = FTPServer(("127.0.0.1", port), handler)
    server.max_cons = 1000
    server.serve_forever()


@dataclass
class Vsftpd(FtpServer):
    """vsftpd; needs root, and a PAM service file of its own while it runs."""

    @property
    def pam_service(self) -> Path:
        """Lets one user in: `pam_ftp` hands the password on as a name, which must be in a list."""
        return Path(f"/etc/pam.d/ulos-lab-{self.port}")

    def _command(self) -> str:
        (self.directory / "empty").mkdir(exist_ok=True)
        (self.directory / "passwords").write_text(f"{self.password}\n")
        (self.directory / "passwords").chmod(0o600)
        self.pam_service.write_text(
            f"auth required pam_ftp.so users={self.username}\n"
            "auth required pam_listfile.so item=ruser sense=allow onerr=fail "
            f"file={self.directory}/passwords\n"
            "account required pam_permit.so\nsession required pam_permit.so\n"
        )
        options = {
            "listen": "YES",
            "listen_ipv6": "NO",
            "listen_address": self.host,
            "listen_port": self.port,
            "background": "NO",
            "anonymous_enable": "NO",
            "local_enable": "YES",
            "guest_enable": "YES",
            "guest_username": "root",
            "virtual_use_local_privs": "YES",
            "chroot_local_user": "YES",
            "allow_writeable_chroot": "YES",
            "local_root": self.root,
            "local_umask": "022",
            "write_enable": "YES",
            "secure_chroot_dir": self.directory / "empty",
            "pam_service_name": self.pam_service.name,
            "pasv_address": self.host,
            "seccomp_sandbox": "NO",
            "isolate_network": "NO",
            "delay_failed_login": 0,
        }
        if self.tls:
            options |= {
                "ssl_enable": "YES",
                "rsa_cert_file": self.tls.certificate,
                "rsa_private_key_file": self.tls.key,
                "force_local_logins_ssl": "YES",
                "force_local_data_ssl": "YES",
                "ssl_tlsv1_2": "YES",
            }
        config = self.directory / "vsftpd.conf"
        config.write_text("".join(f"{name}={value}\n" for name, value in options.items()))
        return shlex.join([_program("vsftpd"), str(config)])

    def kill(self) -> None:
        super().kill()
        self.pam_service.unlink(missing_ok=True)


@contextlib.contextmanager
def pyftpd(*, tls: CertificateFiles | None = None) -> Iterator[FtpServer]:
    """A running pyftpdlib server."""
    with _serving(Pyftpd, tls) as server:
        yield server


@contextlib.contextmanager
def vsftpd(*, tls: CertificateFiles | None = None) -> Iterator[FtpServer]:
    """A running vsftpd.

    Raises:
        ServiceMissing: It is not installed, or this is not root.
    """
    if not _program("vsftpd") or os.geteuid() != 0:
        raise ServiceMissing("vsftpd is not installed, or this is not root: as root, apt-get install vsftpd")
    with _serving(Vsftpd, tls) as server:
        yield server


@dataclass(frozen=True)
class Lab:
    """Everything that a node needs around it."""

    broker: Broker
    storage: FtpServer

    def environment(self, queue: str, **changes: str) -> dict[str, str]:
        """The fifteen variables for a node that consumes `queue`; `changes` by their full names."""
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
            **changes,
        }


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A running RabbitMQ and FTP server.

    Raises:
        ServiceMissing: There is no RabbitMQ to run.
    """
    with rabbitmq() as broker, pyftpd() as storage:
        yield Lab(broker, storage)


def local_image(tag: str, script: str) -> str:
    """Make the image `tag` without a registry: a static busybox, and `/bin/run` with the shell `script`.

    Raises:
        ServiceMissing: No Docker answers, or there is no busybox.
    """
    if not _docker_answers():
        raise ServiceMissing("no Docker engine answers: apt-get install docker.io, and start dockerd")
    busybox = _program("busybox")
    if not busybox:
        raise ServiceMissing("there is no busybox to make an image of: apt-get install busybox-static")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "bin").mkdir()
        (root / "tmp").mkdir(mode=0o1777)
        shutil.copy(busybox, root / "bin" / "busybox")
        applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
        for applet in set(applets) - {"busybox"}:
            (root / "bin" / applet).symlink_to("busybox")
        (root / "bin" / "run").write_text(f"#!/bin/sh\n{script}")
        (root / "bin" / "run").chmod(0o755)
        packed = subprocess.Popen(["tar", "-C", directory, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "import", "-c", "ENV PATH=/bin", "-", tag], stdin=packed.stdout, check=True, capture_output=True
        )
        packed.wait()
    return tag


@contextlib.contextmanager
def _serving(kind: type[FtpServer], tls: CertificateFiles | None) -> Iterator[FtpServer]:
    with tempfile.TemporaryDirectory(prefix="ulos-lab-", ignore_cleanup_errors=True) as directory:
        server = kind("127.0.0.1", _free_port(), "one", PASSWORD, Path(directory), tls=tls)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _server_scripts() -> list[Path]:
    """The start script itself: Debian's wrapper refuses every user but its own."""
    return sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))


def _epmd() -> str:
    return _program("epmd") or "epmd"


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
