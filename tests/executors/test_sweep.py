"""What a node leaves behind that is killed in the middle of a run, and who takes it away."""

import asyncio
import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from workbench import NOWHERE, Line, open_engine, script_image

from ulos_stream.errors import EngineFault
from ulos_stream.executors.disk import release
from ulos_stream.executors.engine import Engine
from ulos_stream.executors.registry import Registry

pytestmark = pytest.mark.usefixtures("docker")

NODE = """if True:
    import asyncio, pathlib, sys
    from workbench import container, make_job
    from ulos_stream.executors.container import ContainerExecutor
    from ulos_stream.executors.engine import Engine

    async def main(node, directory):
        job, printout = make_job(pathlib.Path(directory), "echo started; sleep 600")
        executor = ContainerExecutor(container(), pathlib.Path("/"), Engine(None, node))
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        print("started", flush=True)
        await running

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


@dataclass(frozen=True)
class DeadNode:
    """A node that was killed in the middle of a run."""

    name: str

    def containers(self) -> list[str]:
        command = ["docker", "ps", "-aq", "--filter", f"label=ulos.node={self.name}"]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()


@contextlib.asynccontextmanager
async def a_dead_node(directory: Path) -> AsyncIterator[DeadNode]:
    node = DeadNode(f"dead-{uuid.uuid4()}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NODE, node.name, str(directory)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    process.kill()
    await process.wait()
    try:
        yield node
    finally:
        async with open_engine() as engine:
            await engine.sweep(f"ulos.node={node.name}")


def a_registry(host: str | None = None) -> Registry:
    return Registry((), Engine(host, f"living-{uuid.uuid4()}"))


async def test_the_container_of_a_killed_node_goes_on_until_it_is_swept(tmp_path: Path) -> None:
    registry = a_registry()
    async with a_dead_node(tmp_path) as dead, a_dead_node(tmp_path) as unknown:
        left = len(dead.containers()), len(unknown.containers())

        await registry.sweep(lambda node: node == dead.name)

        swept = len(dead.containers()), len(unknown.containers())
    await registry.aclose()
    assert left == (1, 1)
    assert swept == (0, 1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
async def test_the_directories_of_a_killed_node_can_be_removed_once_they_are_released(tmp_path: Path) -> None:
    async with a_dead_node(tmp_path):
        mounted = [path.name for path in tmp_path.iterdir() if path.is_mount()]

        await asyncio.to_thread(release, tmp_path)

        still_mounted = [path.name for path in tmp_path.iterdir() if path.is_mount()]
    assert len(mounted) == 2
    assert still_mounted == []


async def test_a_sweep_that_finds_no_engine_is_a_fault_and_works_once_there_is_one(tmp_path: Path) -> None:
    async with a_dead_node(tmp_path) as dead, Line() as line:
        line.cut()
        registry = a_registry(line.host)
        with pytest.raises(EngineFault, match="cannot be reached"):
            await registry.sweep(lambda node: node == dead.name)
        left = len(dead.containers())

        await line.__aenter__()
        await registry.sweep(lambda node: node == dead.name)

        swept = len(dead.containers())
        await registry.aclose()
    assert (left, swept) == (1, 0)


async def test_a_sweep_on_a_node_whose_engine_is_not_there_is_a_fault() -> None:
    registry = a_registry(NOWHERE)

    with pytest.raises(EngineFault, match="/nowhere/docker"):
        await registry.sweep(lambda _: True)


async def test_a_sweep_on_a_node_without_any_engine_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("aiodocker.docker._sock_search_paths", [])

    await a_registry().sweep(lambda _: True)


async def test_a_connection_that_breaks_in_a_sweep_is_a_fault_and_removes_nothing(tmp_path: Path) -> None:
    async with a_dead_node(tmp_path) as dead, Line() as line:
        registry = a_registry(line.host)
        line.on_request = lambda data: line.cut() if b"/containers/json" in data else None
        with pytest.raises(EngineFault):
            await registry.sweep(lambda node: node == dead.name)
        left = len(dead.containers())
        await registry.aclose()

    assert left == 1


async def test_a_sweep_leaves_containers_alone_that_no_node_has_labelled() -> None:
    name = f"ulos-test-{uuid.uuid4()}"
    command = ["docker", "run", "-d", "--network", "none", "--name", name, script_image(), "sleep", "600"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    registry = a_registry()
    try:
        await registry.sweep(lambda node: node.startswith("dead-of-this-test"))
        kept = subprocess.run(["docker", "inspect", name], check=False, capture_output=True).returncode == 0
    finally:
        await asyncio.to_thread(subprocess.run, ["docker", "rm", "-f", name], check=True, capture_output=True)
        await registry.aclose()

    assert kept
