"""Three RabbitMQ nodes on one machine, each in a network namespace of its own, that can be cut off from each other.

All are plugged into a switch in one more namespace, where no rule of anybody else's firewall holds.
"""

import os
import random
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ulos_stream.lab import Server

PORT = 5672
TICK_S = 5
"""Erlang's net_ticktime: the members miss one of them after about so many seconds; 60 by default."""
USERNAME, PASSWORD = "ulos", secrets.token_hex(8)
SCRIPTS = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))
ERLANG = 'epmd & exec "$0"'


class Unfit(Exception):
    """This machine cannot run it; the text says why."""


def ip(*arguments: str) -> None:
    """Run `ip`, of iproute2."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unfit(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Member:
    """One RabbitMQ node in its namespace."""

    number: int
    namespace: str
    switch: str
    address: str
    server: Server

    @property
    def name(self) -> str:
        return f"rabbit@{self.address}"

    def cut(self) -> None:
        """Pull its plug at the switch: packets vanish without a word."""
        ip("-n", self.switch, "link", "set", f"port{self.number}", "down")

    def heal(self) -> None:
        ip("-n", self.switch, "link", "set", f"port{self.number}", "up")

    def evaluate(self, expression: str) -> str:
        """What an Erlang expression gives on this member; empty if that fails."""
        command = ["ip", "netns", "exec", self.namespace, str(SCRIPTS[-1] / "rabbitmqctl")]
        command += ["--longnames", "--node", self.name, "--timeout", "10", "eval", f"{expression}."]
        environment = self.server.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return "" if done.returncode else done.stdout.strip()

    def running(self) -> set[str]:
        """The names of the members that run, as this one sees it."""
        return set(self.evaluate("rabbit_nodes:all_running()").translate(str.maketrans("", "", "[]' \n")).split(","))

    def listens(self) -> bool:
        """Whether it takes clients, whoever can reach it: not while it has paused itself."""
        table = subprocess.run(
            ["ip", "netns", "exec", self.namespace, "cat", "/proc/net/tcp", "/proc/net/tcp6"],
            capture_output=True,
            text=True,
            check=True,
        )
        rows = (line.split() for line in table.stdout.splitlines())
        return any(row[1].endswith(f":{PORT:04X}") and row[3] == "0A" for row in rows)

    def leader(self, queue: str) -> str:
        """The name of the member that leads a queue, if one does."""
        name = self.evaluate(f"element(2, element(3, ra:members({{'%2F_{queue}', node()}}, 2000)))")
        return name.strip("'")


@contextmanager
def cluster() -> Iterator[list[Member]]:
    """Three running members that know each other. Nothing is left of them, whatever happens.

    Raises:
        Unfit: This machine cannot.
    """
    if os.geteuid() != 0:
        raise Unfit("only root can make network namespaces: sudo -E ...")
    if not SCRIPTS or not shutil.which("epmd") or not shutil.which("ip"):
        raise Unfit("RabbitMQ or iproute2 is not installed: apt-get install rabbitmq-server iproute2")
    prefix, subnet = f"ulos{secrets.token_hex(3)}", f"10.{random.randrange(200, 250)}.{random.randrange(256)}"
    switch, cookie = f"{prefix}-switch", secrets.token_hex(16)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{prefix}-")))
        _namespace(switch, stack)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        ip("link", "add", prefix, "type", "veth", "peer", "name", "port0", "netns", switch)
        _plug("", prefix, switch, 0, f"{subnet}.254")
        members = []
        for number in (1, 2, 3):
            namespace = f"{prefix}-{number}"
            _namespace(namespace, stack)
            ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", switch)
            _plug(namespace, "eth0", switch, number, f"{subnet}.{number}")
            server = _server(directory / str(number), namespace, subnet, number, cookie)
            stack.callback(server.kill)
            members.append(Member(number, namespace, switch, server.host, server))
            server.start()
        yield members


def _namespace(name: str, stack: ExitStack) -> None:
    stack.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True)
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")


def _plug(namespace: str, device: str, switch: str, number: int, address: str) -> None:
    inside = ["-n", namespace] if namespace else []
    ip(*inside, "address", "add", f"{address}/24", "dev", device)
    ip(*inside, "link", "set", device, "up")
    ip("-n", switch, "link", "set", f"port{number}", "master", "bridge")
    ip("-n", switch, "link", "set", f"port{number}", "up")


def _server(directory: Path, namespace: str, subnet: str, number: int, cookie: str) -> Server:
    directory.mkdir()
    # All join the first, which joins nobody, and so starts at once.
    (directory / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 0.0.0.0:{PORT}\ndefault_user = {USERNAME}\ndefault_pass = {PASSWORD}\n"
        "cluster_formation.peer_discovery_backend = classic_config\n"
        f"cluster_formation.classic_config.nodes.1 = rabbit@{subnet}.1\n"
        "cluster_partition_handling = pause_minority\n"
        "disk_free_limit.absolute = 1\nlog.console = true\nlog.file = false\n"
    )
    (directory / "enabled_plugins").write_text("[].")
    (directory / ".erlang.cookie").touch(mode=0o600)
    (directory / ".erlang.cookie").write_text(cookie)
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"rabbit@{subnet}.{number}",
        "RABBITMQ_USE_LONGNAME": "true",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_ALLOW_INPUT": "true",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput -kernel net_ticktime {TICK_S} "
        "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        "ERL_FLAGS": "-start_epmd false",
    }
    command = ["ip", "netns", "exec", namespace, "/bin/sh", "-c", ERLANG, str(SCRIPTS[-1] / "rabbitmq-server")]
    return Server(command, directory, PORT, b"AMQP\x00\x00\x09\x01", b"\x01", environment, host=f"{subnet}.{number}")
