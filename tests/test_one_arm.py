"""One arm, several nodes, a real broker: the arm itself tells who drove it, and how they left it."""

import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from conftest import required
from simulated_arm import ARM, SimulatedArm, simulated_arm
from world import Heard, Proxy, World, a_tree, a_world, a_zip

from ulos_stream.lab import Broker, rabbitmq

SHORT = "reach 300 0 100\ngrip close\nhome\n"
LONG = "speed 1\nmove 100 0 0 0 0 0\nmove 0 0 0 0 0 0\n"
"""Takes eleven seconds at this pace: longer than another node takes to start."""
PACE = 20.0


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[SimulatedArm]:
    with simulated_arm(tmp_path, pace=PACE) as arm:
        yield arm


@pytest.fixture
async def world(broker: Broker, arm: SimulatedArm, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world_with(arm, broker, tmp_path) as world:
        yield world


@contextlib.asynccontextmanager
async def a_world_with(arm: SimulatedArm, broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """In which an executor `robot-arm` drives `arm`, by a lease of its own."""
    (tmp_path / "artifacts").mkdir()
    folder = tmp_path / "executors" / "robot-arm"
    shutil.copytree(ARM.parent, folder, ignore=shutil.ignore_patterns("samples"))
    descriptor = (folder / "executor.toml").read_text()
    for shipped, ours in (("7171", str(arm.port)), ("arm-1", f"arm-{uuid.uuid4()}"), ('"120"', '"1000"')):
        descriptor = descriptor.replace(shipped, ours)
    (folder / "executor.toml").write_text(descriptor)
    async with a_world(broker, tmp_path / "artifacts") as world:
        world.settings["ULOS_EXECUTORS_PATH"] = str(folder.parent)
        yield world


async def send(world: World, program: str, timeout_s: float = 60) -> None:
    task = world.task(a_tree("robot-arm"), timeout=timeout_s)
    (world.artifacts / task["filePath"][1:]).write_bytes(a_zip(program_txt=program))
    await world.send(task, message_id=str(uuid.uuid4()))


def states(arm: SimulatedArm) -> list[str]:
    """In which its clients left the arm."""
    return [one["state"] for one in arm.events if one["event"] == "freed"]


def verdicts(heard: list[Heard]) -> list[str]:
    return [message.fields["verdict"] for message in heard if message.event == "acknowledged"]


async def test_two_nodes_and_ten_tasks_use_the_arm_one_at_a_time(world: World, arm: SimulatedArm) -> None:
    both = {"MESSAGE_BROKER_PREFETCH_COUNT": "4"}
    async with world.node_process(ULOS_NODE="one", **both) as one, world.node_process(ULOS_NODE="two", **both) as two:
        await one.says("ready")
        await two.says("ready")
        for _ in range(10):
            await send(world, SHORT)
        heard = await world.hear_the_end(10)

    assert verdicts(heard) == ["PASS"] * 10
    assert {message.fields["node"] for message in heard if message.event == "passed"} == {"one", "two"}
    assert (arm.count("taken"), arm.count("refused")) == (10, 0)
    assert states(arm) == ["parked"] * 10


async def test_a_killed_node_frees_the_arm_and_the_other_one_does_its_task(world: World, arm: SimulatedArm) -> None:
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(world.node_process(ULOS_NODE="one"))
        await one.says("ready")
        await send(world, LONG)
        await arm.tells("taken")
        two = await stack.enter_async_context(world.node_process(ULOS_NODE="two"))
        await two.says("ready")

        one.process.kill()
        killed_at = time.monotonic()
        await arm.tells("taken", times=2)
        took_s = time.monotonic() - killed_at
        heard = await world.hear_the_end()

    assert took_s < 10
    assert states(arm) == ["moving", "parked"]  # it stopped by itself; the second time it was brought to rest
    assert arm.count("refused") == 0
    assert verdicts(heard) == ["PASS"]
    assert [message.fields["node"] for message in heard if message.event == "passed"] == ["two"]


async def test_a_lost_lease_parks_the_arm_and_the_stage_begins_anew(world: World, arm: SimulatedArm) -> None:
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(world.broker.host, world.broker.port).listening())
        node = await stack.enter_async_context(world.node_process(MESSAGE_BROKER_PORT=str(proxy.port)))
        await node.says("ready")
        await send(world, LONG)
        await arm.tells("taken")

        proxy.drop()
        await node.says("fault", "the lease on")
        heard = await world.hear_the_end()

    assert states(arm) == ["parked", "parked"]
    assert verdicts(heard) == ["PASS"]
    assert [message.key for message in heard if message.key == "crash"] == []


async def test_a_broker_that_is_killed_parks_the_arm_until_it_is_back(arm: SimulatedArm, tmp_path: Path) -> None:
    with required(), rabbitmq() as broker:
        async with contextlib.AsyncExitStack() as stack:
            world = await stack.enter_async_context(a_world_with(arm, broker, tmp_path))
            node = await stack.enter_async_context(world.node_process())
            await node.says("ready")
            await send(world, LONG)
            await arm.tells("taken")

            broker.kill()
            await arm.tells("freed")
            broker.start()
            ended = await node.says("stage ended")

    assert (ended["verdict"], states(arm)) == ("PASS", ["parked", "parked"])


async def test_a_task_that_takes_too_long_ends_with_the_arm_parked(world: World, arm: SimulatedArm) -> None:
    async with world.node():
        await send(world, LONG, timeout_s=2)
        heard = await world.hear_the_end()

    [crash] = [message.fields["error"] for message in heard if message.key == "crash"]
    assert crash["code"] == "timeout"
    assert crash["output_tail"].endswith("the arm is parked\n")
    assert states(arm) == ["parked"]


async def test_a_node_that_is_told_to_end_parks_the_arm_first(world: World, arm: SimulatedArm) -> None:
    async with world.node_process(ULOS_GRACE_S="0.2") as node:
        await node.says("ready")
        await send(world, LONG)
        await arm.tells("taken")

        code = await node.stop()

    assert (code, states(arm)) == (0, ["parked"])


async def test_an_arm_that_is_away_is_waited_for(world: World, arm: SimulatedArm, tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    port = arm.port
    async with world.node_process() as node:
        await node.says("ready")
        arm.kill()
        await send(world, SHORT)
        said = await node.says("fault", "no answer from")
        with simulated_arm(tmp_path / "later", port=port, pace=PACE) as back:
            heard = await world.hear_the_end()

    assert said["reason"].endswith(f"no answer from 127.0.0.1:{port}: Connection refused")
    assert (verdicts(heard), states(back)) == (["PASS"], ["parked"])


async def test_a_program_that_the_arm_cannot_do_fails_without_moving_it(world: World, arm: SimulatedArm) -> None:
    async with world.node():
        await send(world, "reach 900 0 0\n")
        heard = await world.hear_the_end()

    assert verdicts(heard) == ["FAIL"]
    assert arm.count("taken") == 0
