"""The second way to a broker: testcontainers, with an image made of the installed RabbitMQ for want of a registry."""

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy
from world import a_tree, a_world

from ulos_stream.lab import Broker

START = """#!/bin/sh
export HOME=/tmp RABBITMQ_NODENAME=contained@localhost RABBITMQ_CONFIG_FILE=/etc/broker RABBITMQ_MNESIA_BASE=/tmp/data
export RABBITMQ_ENABLED_PLUGINS_FILE=/etc/plugins RABBITMQ_CONF_ENV_FILE=/etc/broker.env RABBITMQ_LOG_BASE=/tmp/log
exec /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server
"""


@pytest.fixture
def image(docker: str, broker: Broker) -> Iterator[str]:
    """RabbitMQ, Erlang and the libraries they load, as they are on this machine, with busybox for the rest."""
    programs = [*Path("/usr/lib/erlang").glob("erts-*/bin/*"), *Path("/usr/lib/erlang").glob("lib/*/priv/**/*.so")]
    loaded = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    libraries = {word for word in loaded.split() if word.startswith("/") and not word.endswith(":")}
    tag = f"ulos-test-rabbitmq-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "bin").mkdir()
        (root / "etc").mkdir()
        (root / "tmp").mkdir()
        for applet in subprocess.check_output(["busybox", "--list"], text=True).split():
            (root / "bin" / applet).symlink_to("/bin/.busybox")
        (root / "bin" / ".busybox").write_bytes(Path(shutil.which("busybox") or "").read_bytes())
        (root / "bin" / ".busybox").chmod(0o755)
        (root / "bin" / "start").write_text(START)
        (root / "bin" / "start").chmod(0o755)
        (root / "etc" / "passwd").write_text("root:x:0:0::/tmp:/bin/sh\n")
        (root / "etc" / "broker.conf").write_text(
            "listeners.tcp.1 = 0.0.0.0:5672\nlog.console = true\n"
            f"default_user = {broker.username}\ndefault_pass = {broker.password}\n"
        )
        (root / "etc" / "broker.env").touch()
        (root / "etc" / "plugins").write_text("[].")
        for library in libraries:
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
        for installed in ("usr/lib/erlang", "usr/lib/rabbitmq"):
            shutil.copytree(f"/{installed}", root / installed, ignore_dangling_symlinks=True)
        with subprocess.Popen(["tar", "-c", "-C", root, "."], stdout=subprocess.PIPE) as packed:
            changes = ["-c", "ENV PATH=/bin:/usr/lib/erlang/bin", "-c", "CMD /bin/start"]
            subprocess.run(["docker", "import", *changes, "-", tag], stdin=packed.stdout, check=True)
    yield tag
    subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, check=True)


async def test_a_task_passes_a_stage_on_a_broker_of_testcontainers(
    image: str, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)

    started = LogMessageWaitStrategy("completed with")
    with DockerContainer(image).with_exposed_ports(5672).waiting_for(started) as container:
        host, port = container.get_container_host_ip(), int(container.get_exposed_port(5672))
        async with a_world(replace(broker, host=host, port=port), tmp_path) as world, world.node():
            await world.send(world.task(a_tree("pass")))
            heard = await world.hear_the_end()

    assert heard[-1].event == "acknowledged"
