"""Readiness is truthful: it names what keeps the node from working, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import LIMIT_S, Proxy, World, a_tree, a_world

from ulos_stream import readiness
from ulos_stream.errors import BrokerFault, StorageFault
from ulos_stream.lab import Broker
from ulos_stream.readiness import Readiness
from ulos_stream.telemetry import Log, LogEvent


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path) as world:
        yield world


class Part:
    """A part of the world, well or not."""

    def __init__(self, wrong: Exception | None = None) -> None:
        self.wrong = wrong

    async def check(self) -> None:
        if self.wrong:
            raise self.wrong


class Told(Log):
    """Keeps the events that it is told."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def info(self, event: LogEvent, **fields: object) -> None:
        self.events.append(event)

    def warning(self, event: LogEvent, **fields: object) -> None:
        self.events.append(event)


async def test_every_part_that_is_not_well_is_named_with_its_reason() -> None:
    broker, storage = Part(BrokerFault("it is away")), Part(StorageFault("it refuses"))
    watch = Readiness({"broker": broker.check, "storage": storage.check, "disk": Part().check}, Log())

    await watch.look()
    both = watch.reasons
    broker.wrong = storage.wrong = None
    await watch.look()

    assert both == {"broker": "it is away", "storage": "it refuses"}
    assert watch.reasons == {}


async def test_a_part_that_does_not_answer_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ANSWER_S", 0.01)

    watch = Readiness({"storage": asyncio.Event().wait}, Log())  # type: ignore[dict-item]
    await watch.look()

    assert watch.reasons == {"storage": "no answer within 0.01 s"}


async def test_changes_are_told_once_each() -> None:
    storage, log = Part(), Told()
    watch = Readiness({"storage": storage.check}, log)

    for wrong in (None, StorageFault("one reason"), StorageFault("another"), None, None):
        storage.wrong = wrong
        await watch.look()

    assert log.events == ["ready", "not ready", "ready"]


def test_nothing_is_ready_before_the_start() -> None:
    watch = Readiness({"storage": Part().check}, Log())

    assert watch.reasons == {"start": "the node is starting"}
    assert not watch.passes("storage")


async def test_a_check_that_breaks_is_a_reason_and_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "LOOK_S", 0.01)
    storage, log = Part(LookupError("what is this")), Told()
    watch = Readiness({"storage": storage.check}, log)

    watch.start()
    async with asyncio.timeout(LIMIT_S):
        while not watch.reasons:
            await asyncio.sleep(0.01)
        broken = watch.reasons
        storage.wrong = None
        while watch.reasons:
            await asyncio.sleep(0.01)
    await watch.stop()

    assert broken == {"storage": "the check itself failed: LookupError('what is this')"}
    assert log.events == ["not ready", "ready"]


async def test_stopping_without_a_start_is_harmless() -> None:
    await Readiness({}, Log()).stop()


async def test_a_node_without_its_queue_is_not_ready_until_it_consumes_again(world: World) -> None:
    async with world.node_process() as node:
        await node.says("ready")
        await world.channel.queue_delete(world.tasks.name)
        await node.says("not ready", f"consuming: not a consumer of queue {world.tasks.name!r}")

        await world.channel.declare_queue(world.tasks.name, durable=True)
        await node.says("ready")
        await world.send(world.task(a_tree("pass")))
        await world.hear_the_end()


async def test_a_node_whose_crash_report_is_held_is_not_ready(world: World) -> None:
    await world.told.unbind(world.exchange, "crash")

    async with world.node_process() as node:
        await node.says("ready")
        await world.send(world.task(a_tree("crash")))
        await node.says("not ready", "publishing: 1 crash reports are held")
        await world.listen("crash")
        await node.says("ready")


async def test_a_node_without_its_broker_is_not_ready(world: World, broker: Broker) -> None:
    async with (
        Proxy(broker.host, broker.port).listening() as proxy,
        world.node_process(MESSAGE_BROKER_PORT=str(proxy.port)) as node,
    ):
        await node.says("ready")
        proxy.refuses = True
        proxy.drop()
        await node.says("not ready", "publishing: no connection to the broker")

        proxy.refuses = False
        await node.says("ready")
        await world.send(world.task(a_tree("pass")))
        await world.hear_the_end()
