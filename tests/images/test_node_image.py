"""The node's own image: small, without tools, and at work as nobody in a container that it cannot write to."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from workbench import RemoteLine
from world import World, a_tree, a_world

from ulos_stream import __version__
from ulos_stream.lab import Broker, FtpServer

REPOSITORY = Path(__file__).parent.parent.parent
RESTRICTED = ["--read-only", "--user=65532", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host"]
"""What a strict platform does to a container; `host` because the lab is on the loopback interface."""
LIMIT_S = 60.0


async def engine(*arguments: str) -> str:
    """What a `docker` command prints."""
    process = await asyncio.create_subprocess_exec("docker", *arguments, stdout=-1, stderr=-1)
    async with asyncio.timeout(LIMIT_S):
        printed, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return printed.decode().strip()


@pytest.fixture(scope="module")
def image(local_base: str) -> Iterator[str]:
    """The image, built as the README says, from a base that is made here."""
    tag = f"ulos-test/node:{uuid.uuid4().hex[:8]}"
    subprocess.run(["make", "-s", "image", f"IMAGE={tag}", f"BASE={local_base}"], cwd=REPOSITORY, check=True)
    yield tag
    subprocess.run(["docker", "rmi", "--force", tag], check=True, capture_output=True)


@dataclass(frozen=True)
class Container:
    """A running container of the image."""

    name: str

    async def becomes_healthy(self) -> None:
        watching = await asyncio.create_subprocess_exec(
            *("docker", "events", "--filter", f"container={self.name}", "--filter", "event=health_status: healthy"),
            *("--since", "0", "--format", "{{.Status}}"),
            stdout=-1,
        )
        assert watching.stdout is not None
        try:
            async with asyncio.timeout(LIMIT_S):
                assert await watching.stdout.readline() == b"health_status: healthy\n"
        finally:
            watching.kill()
            await watching.wait()

    async def stop(self) -> int:
        """SIGTERM and, only after a minute, SIGKILL; the exit code."""
        await engine("stop", "--time", "50", self.name)
        return int(await engine("inspect", "--format", "{{.State.ExitCode}}", self.name))


@contextlib.asynccontextmanager
async def a_container(image: str, *options: str, **environment: str) -> AsyncIterator[Container]:
    name = f"ulos-test-{uuid.uuid4().hex[:12]}"
    variables = [f"--env={variable}={value}" for variable, value in environment.items()]
    await engine("run", "--detach", "--name", name, *RESTRICTED, "--health-interval=1s", *variables, *options, image)
    try:
        yield Container(name)
    finally:
        await engine("rm", "--force", "--volumes", name)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def node_environment(world: World, server: FtpServer) -> dict[str, str]:
    """For a node of this world with its artifacts on an FTP server."""
    inherited = {name: value for name, value in world.environment().items() if name != "PATH"}
    return inherited | {
        "ULOS_STORAGE_URL": "ftp://",
        "REMOTE_STORAGE_HOST": server.host,
        "REMOTE_STORAGE_PORT": str(server.port),
        "REMOTE_STORAGE_USERNAME": server.username,
        "REMOTE_STORAGE_PASSWORD": server.password,
        "ULOS_HTTP_HOST": "127.0.0.1",
        "ULOS_HTTP_PORT": str(free_port()),
    }


async def test_a_node_in_a_container_that_it_cannot_write_to_does_its_work_and_ends_in_good_order(
    image: str, broker: Broker, pyftpd_server: FtpServer
) -> None:
    async with (
        a_world(broker, pyftpd_server.root) as world,
        a_container(image, **node_environment(world, pyftpd_server)) as container,
    ):
        await world.listen("next")
        task = world.task(a_tree("pass", a_tree("next")))
        before = (pyftpd_server.root / task["filePath"][1:]).read_bytes()

        await container.becomes_healthy()
        await world.send(task)
        heard = await world.hear(lambda heard: heard[-1].event == "acknowledged")
        exit_code = await container.stop()

    after = (pyftpd_server.root / task["filePath"][1:]).read_bytes()
    assert "next" in [message.key for message in heard]
    assert after != before
    assert exit_code == 0


async def test_a_node_in_a_container_runs_others_on_an_engine_that_it_reaches_by_tls(
    image: str, docker: str, broker: Broker, pyftpd_server: FtpServer, tmp_path: Path
) -> None:
    executor, certificates = tmp_path / "executors" / "hello", tmp_path / "certificates"
    executor.mkdir(parents=True)
    (executor / "executor.toml").write_text(f'kind = "container"\nrouting_key = "hello"\nimage = "{docker}"\n')
    certificates.mkdir()
    for path in (executor.parent, certificates):
        path.chmod(0o755)
    async with RemoteLine(certificates) as line, a_world(broker, pyftpd_server.root) as world:
        environment = node_environment(world, pyftpd_server) | {
            "ULOS_EXECUTORS_PATH": "/executors",
            "DOCKER_HOST": line.host,
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": "/certificates",
        }
        mounts = [f"--volume={executor.parent}:/executors:ro", f"--volume={certificates}:/certificates:ro"]
        async with a_container(image, *mounts, **environment) as container:
            await world.send(world.task(a_tree("hello")))
            heard = await world.hear_the_end()
            exit_code = await container.stop()

    assert [message.event for message in heard if message.event in ("passed", "crashed")] == ["passed"]
    assert exit_code == 0


async def test_a_node_that_does_not_get_the_world_it_needs_is_healthy_and_says_what_it_waits_for(
    image: str, broker: Broker, pyftpd_server: FtpServer
) -> None:
    async with a_world(broker, pyftpd_server.root) as world:
        environment = node_environment(world, pyftpd_server) | {"MESSAGE_BROKER_CONSUMPTION_QUEUE": "nobody-made-it"}
        async with a_container(image, **environment) as container:
            await container.becomes_healthy()
            exit_code = await container.stop()
    assert exit_code == 0


async def test_there_are_no_tools_in_it_and_nothing_that_gives_rights(image: str) -> None:
    script = (
        "for tool in gcc cc c++ as ld make pip pip3 uv curl wget; do command -v $tool; done;"
        "find /opt/ulos-stream -name pip -o -name setuptools; find / -xdev -type f -perm /6000 2>/dev/null; true"
    )

    assert await engine("run", "--rm", *RESTRICTED, image, "sh", "-c", script) == ""


async def test_it_says_what_it_is(image: str) -> None:
    [details] = json.loads(await engine("image", "inspect", image))
    labels = {name.rpartition(".")[2]: value for name, value in details["Config"]["Labels"].items()}

    assert (labels["title"], labels["version"], labels["licenses"]) == ("ulos-stream", __version__, "Apache-2.0")
    assert details["Config"]["User"] == "65532:65532"


async def test_it_is_no_larger_than_the_readme_says(image: str, local_base: str) -> None:
    [stated_mb] = re.findall(r"(\d+) MB on top of its base", (REPOSITORY / "README.md").read_text())

    size, base_size = (await engine("image", "inspect", "--format", "{{.Size}}", image, local_base)).split()

    assert (int(size) - int(base_size)) / 1e6 == pytest.approx(int(stated_mb), rel=0.1)


async def test_the_command_is_on_its_path_and_finds_the_executors_that_are_shipped(image: str) -> None:
    listed = await engine("run", "--rm", *RESTRICTED, image, "ulos", "executors", "--json")

    assert "python-tests" in [executor["key"] for executor in json.loads(listed)]


async def test_a_command_that_needs_nobody_works_where_no_engine_is(image: str) -> None:
    assert "Usage: ulos" in await engine("run", "--rm", *RESTRICTED, image, "ulos", "--help")


@pytest.mark.parametrize("extra", ["asyncssh", "obstore", "lightkube"])
async def test_every_kind_of_storage_and_executor_is_in_it(image: str, extra: str) -> None:
    await engine("run", "--rm", *RESTRICTED, image, "python3", "-c", f"import {extra}")


async def test_a_wrong_environment_is_said_in_lines(image: str) -> None:
    process = await asyncio.create_subprocess_exec("docker", "run", "--rm", *RESTRICTED, image, stderr=-1)
    _, said = await process.communicate()

    assert process.returncode == 2
    assert "ulos-stream: MESSAGE_BROKER_HOST: is not set" in said.decode().splitlines()
