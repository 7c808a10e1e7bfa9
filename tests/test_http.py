"""The HTTP side of a node: whether it lives, whether it is ready and why not, and what it is."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from world import LIMIT_S, World, a_tree, a_world

from ulos_stream import __version__
from ulos_stream.lab import Broker


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path) as world:
        yield world


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def get(port: int, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.json()


async def until_ready(port: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while (await get(port, "/health/ready"))[0] != 200:
            await asyncio.sleep(0.05)


async def test_a_node_lives_while_it_waits_and_says_what_for(world: World, port: int) -> None:
    queue = f"{world.tasks.name}-later"

    async with world.node_process(ULOS_HTTP_PORT=str(port), MESSAGE_BROKER_CONSUMPTION_QUEUE=queue) as node:
        await node.says("waiting", queue)
        alive, waiting = await get(port, "/health/live"), await get(port, "/health/ready")
        await world.channel.declare_queue(queue, durable=True)
        await until_ready(port)
        ready = await get(port, "/health/ready")

    assert alive == (200, {"live": True})
    assert waiting[0] == 503
    assert waiting[1]["ready"] is False
    assert queue in waiting[1]["reasons"]["start"]
    assert ready == (200, {"ready": True, "reasons": {}})


async def test_a_node_that_lost_its_queue_is_not_ready_for_that_reason(world: World, port: int) -> None:
    async with world.node_process(ULOS_HTTP_PORT=str(port)) as node:
        await node.says("ready")
        await world.channel.queue_delete(world.tasks.name)
        await node.says("not ready")
        status, said = await get(port, "/health/ready")

    assert status == 503
    assert said["reasons"] == {"consuming": f"not a consumer of queue {world.tasks.name!r}"}


async def test_a_node_that_is_told_to_end_serves_until_its_last_stage_has_ended(world: World, port: int) -> None:
    async with world.node_process(ULOS_HTTP_PORT=str(port), ULOS_MOCK_DELAY_S="1") as node:
        await node.says("ready")
        await world.send(world.task(a_tree("pass")))
        await world.hear(lambda heard: heard[-1].event == "downloaded")
        node.process.send_signal(signal.SIGTERM)
        await node.says("draining")
        alive, ready = await get(port, "/health/live"), await get(port, "/health/ready")
        heard = await world.hear_the_end()

    assert alive[0] == 200
    assert ready == (503, {"ready": False, "reasons": {"stop": "the node is stopping"}})
    assert heard[-1].event == "acknowledged"


async def test_what_a_node_is_can_be_asked(world: World, port: int, no_image: Path) -> None:
    changes = {"MESSAGE_BROKER_PREFETCH_COUNT": "3", "ULOS_ARCHIVE_DEPTH": "7", "ULOS_EXECUTORS_PATH": str(no_image)}
    async with world.node(ULOS_HTTP_PORT=str(port), ULOS_NODE="n-1", **changes):
        status, info = await get(port, "/info")

    executors = {each["key"]: each for each in info.pop("executors")}
    assert status == 200
    assert info.pop("limits").items() >= {"stages_at_once": 3, "max_timeout_s": 86_400}.items()
    assert info == {"version": __version__, "node": "n-1", "queue": world.tasks.name}
    assert executors["testing"].items() >= {"is_prefix": True, "kind": "mock", "unavailable": None}.items()
    assert executors["no-image"]["kind"] == "container"
    assert executors["no-image"]["unavailable"]


async def test_nothing_that_is_served_holds_a_password(world: World, port: int) -> None:
    async with (
        world.node(ULOS_HTTP_PORT=str(port)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        pages = [await (await session.get(path)).text() for path in ("/info", "/health/ready", "/metrics", "/docs")]

    assert world.broker.password not in "".join(pages)


async def test_the_docs_are_those_of_this_node_and_nothing_can_be_published_from_them(world: World, port: int) -> None:
    async with (
        world.node(ULOS_HTTP_PORT=str(port)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        shown, tried = await session.get("/docs"), await session.post("/docs")
        text = await shown.text()

    assert (shown.status, shown.content_type, tried.status) == (200, "text/html", 405)
    assert world.tasks.name in text
    assert "<form" not in text
    assert "<script" not in text


async def test_a_port_that_is_taken_ends_the_start_with_one_line(world: World, taken: int) -> None:
    async with world.node_process(ULOS_HTTP_PORT=str(taken)) as node:
        said = await node.words()

    assert said == f"ulos-stream: ULOS_HTTP_PORT: port {taken} of 127.0.0.1 is taken; choose another\n"
    assert node.process.returncode == 2


async def test_an_address_that_is_not_this_machines_ends_the_start_with_one_line(world: World, port: int) -> None:
    async with world.node_process(ULOS_HTTP_PORT=str(port), ULOS_HTTP_HOST="192.0.2.1") as node:
        said = await node.words()

    assert said.startswith("ulos-stream: ULOS_HTTP_HOST: cannot listen on 192.0.2.1: ")
    assert said.count("\n") == 1
    assert node.process.returncode == 2
