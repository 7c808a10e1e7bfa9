"""The lab: servers that answer, come back, stay apart, and leave nothing behind."""

import ftplib
import io
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import aio_pika
import pytest
import trustme

from ulos_stream import lab
from ulos_stream.errors import ServiceMissing
from ulos_stream.images import local_image
from ulos_stream.lab import Broker, FtpServer, Lab, Server, ServiceFailed

LIMIT_S = 10.0
"""Within which the kernel must have taken away what was killed."""

Serve = Callable[..., AbstractContextManager[FtpServer]]


@pytest.fixture(params=["vsftpd", "pyftpd"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts a server of one kind or the other, whose program is known to be there."""
    request.getfixturevalue(f"{request.param}_server")
    serve: Serve = getattr(lab, request.param)
    return serve


async def publish(broker: Broker, queue: str, body: bytes) -> None:
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True)
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue)


async def fetch(broker: Broker, queue: str) -> bytes | None:
    async with await aio_pika.connect(broker.url) as connection:
        declared = await (await connection.channel()).declare_queue(queue, durable=True)
        message = await declared.get(no_ack=True, fail=False)
        return message.body if message else None


def log_in(server: FtpServer, password: str | None = None) -> ftplib.FTP:
    client = ftplib.FTP()
    client.connect(server.host, server.port, timeout=10)
    client.login(server.username, server.password if password is None else password)
    return client


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def processes_of(directory: Path) -> list[str]:
    """The command lines of the processes that were told of a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if os.fsencode(directory) in command + (process / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode())
        except OSError:
            pass
    return found


def gone(still_there: Callable[[], object]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while still_there() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not still_there()


# --- RabbitMQ


async def test_a_killed_broker_comes_back_on_its_port_with_its_persistent_messages(broker: Broker) -> None:
    await publish(broker, "test-lab-kept", b"still here")

    broker.kill()
    was_down = not listens(broker.port)
    broker.start()

    assert was_down
    assert await fetch(broker, "test-lab-kept") == b"still here"


async def test_two_brokers_live_side_by_side_and_the_one_that_ends_leaves_nothing_behind(broker: Broker) -> None:
    with lab.rabbitmq() as other:
        epmd_port = int(other.server.environment["ERL_EPMD_PORT"])
        await publish(broker, "test-lab-side", b"one")
        await publish(other, "test-lab-side", b"other")
        running = processes_of(other.directory)
        named = listens(epmd_port)

    assert await fetch(broker, "test-lab-side") == b"one"
    assert named
    assert [line for line in running if "beam" in line]
    assert [line for line in running if "epmd" in line]
    assert gone(lambda: processes_of(other.directory))
    assert not other.directory.exists()
    assert not listens(epmd_port)
    assert not listens(other.port)


async def test_a_broker_stopped_in_good_order_ends_with_its_name_service(broker: Broker) -> None:
    await publish(broker, "test-lab-stopped", b"kept")

    broker.stop()
    all_gone = gone(lambda: processes_of(broker.directory))
    broker.start()

    assert all_gone
    assert await fetch(broker, "test-lab-stopped") == b"kept"


def test_a_server_that_dies_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    server = Server(["/bin/sh", "-c", "echo no luck; exit 3"], tmp_path, 1, b"", b"", dict(os.environ))

    with pytest.raises(ServiceFailed, match="no luck"):
        server.start()


def test_the_management_api_answers_where_it_was_asked_for(managed_broker: Broker, broker: Broker) -> None:
    assert managed_broker.management_url is not None
    port = int(managed_broker.management_url.rpartition(":")[2])

    assert listens(port)
    assert broker.management_url is None


# --- FTP


def test_files_make_the_round_trip_and_a_rename_replaces_what_was_there(ftp_server: FtpServer) -> None:
    (ftp_server.root / "a.zip").write_bytes(b"old")
    client = log_in(ftp_server)
    back = io.BytesIO()

    client.storbinary("STOR /a.zip.tmp", io.BytesIO(b"the new one"))
    client.rename("/a.zip.tmp", "/a.zip")
    client.retrbinary("RETR /a.zip", back.write)

    assert back.getvalue() == b"the new one"
    assert [file.name for file in ftp_server.root.iterdir()] == ["a.zip"]
    assert client.nlst("/") in (["/a.zip"], ["a.zip"])
    client.close()


def test_only_the_right_password_gets_in(ftp_server: FtpServer) -> None:
    with pytest.raises(ftplib.error_perm, match="530"):
        log_in(ftp_server, password="wrong")

    assert log_in(ftp_server).pwd() == "/"


def test_a_stopped_server_breaks_its_connections_and_comes_back_on_its_port(ftp_server: FtpServer) -> None:
    client = log_in(ftp_server)

    ftp_server.stop()
    with pytest.raises((EOFError, OSError)):
        client.pwd()
    was_down = not listens(ftp_server.port)
    ftp_server.start()

    assert was_down
    assert log_in(ftp_server).pwd() == "/"


def test_with_a_certificate_nobody_gets_in_without_tls(serve: Serve) -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    with serve(tls=authority.issue_cert("127.0.0.1")) as server:
        client = ftplib.FTP_TLS(context=trusting)
        client.connect(server.host, server.port, timeout=10)
        client.login(server.username, server.password)
        seen = client.pwd()
        with pytest.raises(ftplib.error_perm):
            log_in(server)

    assert seen == "/"


def test_a_server_leaves_nothing_behind(serve: Serve) -> None:
    services = set(Path("/etc/pam.d").glob("*"))

    with serve() as server:
        client = log_in(server)

    assert gone(lambda: processes_of(server.root.parent))
    assert not server.root.parent.exists()
    assert not listens(server.port)
    assert set(Path("/etc/pam.d").glob("ulos-lab-*")) <= services
    client.close()


def test_a_server_ends_with_the_process_that_started_it_even_if_that_is_killed(tmp_path: Path) -> None:
    program = "from ulos_stream import lab\nwith lab.pyftpd() as server: print(server.port, flush=True); input()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert owner.stdout is not None
    port = int(owner.stdout.readline())
    was_up = listens(port)

    owner.send_signal(signal.SIGKILL)
    owner.communicate()

    assert was_up
    assert gone(lambda: listens(port))


# --- what a node needs around it


def test_the_environment_has_exactly_the_fifteen_variables(broker: Broker, pyftpd_server: FtpServer) -> None:
    services = Lab(broker, pyftpd_server)

    environment = services.environment("tasks", MESSAGE_BROKER_PREFETCH_COUNT="3")

    broker_names = "HOST PORT USERNAME PASSWORD LOGS_EXCHANGE LOGS_ROUTING_KEY CRASH_EXCHANGE CRASH_ROUTING_KEY"
    broker_names += " CONSUMPTION_QUEUE PREFETCH_COUNT REQUEUE_ON_REJECT"
    assert set(environment) == {
        *(f"MESSAGE_BROKER_{name}" for name in broker_names.split()),
        *(f"REMOTE_STORAGE_{name}" for name in ["HOST", "PORT", "USERNAME", "PASSWORD"]),
    }
    assert environment["MESSAGE_BROKER_CONSUMPTION_QUEUE"] == "tasks"
    assert environment["MESSAGE_BROKER_PREFETCH_COUNT"] == "3"


def test_an_image_of_a_script_runs_it_and_is_made_anew_only_when_the_script_changes(docker: str) -> None:
    tag = "ulos-test/lab"
    identity = ["docker", "inspect", "--format", "{{.Id}}", tag]

    local_image(tag, "echo first; id -u\n")
    first = subprocess.run(["docker", "run", "--rm", tag, "run"], capture_output=True, check=True).stdout
    made = subprocess.check_output(identity)
    local_image(tag, "echo first; id -u\n")
    same = subprocess.check_output(identity)
    local_image(tag, "echo second\n")
    second = subprocess.run(["docker", "run", "--rm", tag, "run"], capture_output=True, check=True).stdout

    assert (first, second) == (b"first\n0\n", b"second\n")
    assert made == same


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ServiceMissing, match="apt-get install busybox-static"):
        local_image("ulos-test/none", "")
