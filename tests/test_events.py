"""The events of stages are sent in order, without holding a stage up, and none is lost with a connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from faststream.rabbit import RabbitBroker
from world import Proxy

from ulos_stream import producer, topology
from ulos_stream.errors import BrokerFault, Fault
from ulos_stream.events import EventPublisher, StageEvents
from ulos_stream.lab import Broker
from ulos_stream.retry import retry
from ulos_stream.tasks import Hop, Task, TaskLog
from ulos_stream.telemetry import Log
from ulos_stream.telemetry.watch import Unwatched

TASK = Task.model_validate(
    {
        "taskId": "t-1",
        "taskOwnerId": "o-1",
        "filePath": "/a.zip",
        "timeout": 10,
        "routingTree": {"exchange": "lab", "routingKey": "pass"},
    }
)


class Stand:
    """A publisher on a real broker, and what arrives."""

    def __init__(self, rabbit: RabbitBroker, line: Proxy, queue: str) -> None:
        self.line = line
        self.faults: list[Fault] = []
        self.events = EventPublisher(
            publisher=rabbit.publisher(persist=True),
            hop=Hop(exchange="", routing_key=queue),
            persistently=self._persistently,
            log=Log(),
            watch=Unwatched(),
        )

    async def _persistently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        await retry(attempt, budget_s=20, report=lambda fault, wait_s: self.faults.append(fault))

    def stage(self, name: str) -> StageEvents:
        return StageEvents(TASK.model_copy(update={"task_id": name}), f"m-{name}", "n-1", self.events.tell)


@contextlib.asynccontextmanager
async def a_stand(broker: Broker, queue: str, timeout_s: float = 10) -> AsyncIterator[Stand]:
    async with Proxy(broker.host, broker.port).listening() as line:
        rabbit = RabbitBroker(
            f"amqp://{broker.username}:{broker.password}@127.0.0.1:{line.port}/",
            default_channel=topology.publishing_channel(),
            reconnect_interval=0.1,
            logger=None,
        )
        producer.install(rabbit, timeout_s)
        async with rabbit:
            stand = Stand(rabbit, line, queue)
            await rabbit.start()
            yield stand


@contextlib.asynccontextmanager
async def a_queue(broker: Broker) -> AsyncIterator[tuple[str, Callable[[], Awaitable[list[tuple[str, str]]]]]]:
    """A queue, and how to take the events out of it: task and event."""
    rabbit = RabbitBroker(broker.url, logger=None)
    async with rabbit:
        connection = await rabbit.connect()
        async with connection.channel() as channel:
            queue = await channel.declare_queue(exclusive=True)

            async def taken() -> list[tuple[str, str]]:
                found: list[tuple[str, str]] = []
                while message := await queue.get(no_ack=True, fail=False):
                    event = TaskLog.model_validate_json(message.body)
                    found.append((event.task_id, event.event))
                return found

            yield queue.name, taken


async def test_the_events_of_all_stages_arrive_in_the_order_in_which_they_were_told(broker: Broker) -> None:
    async with a_queue(broker) as (queue, taken), a_stand(broker, queue) as stand:
        stages = [stand.stage(str(number)) for number in range(10)]
        for stage in stages:
            stage.emit("received", "")
        for stage in stages:
            stage.emit("downloaded", "")
        for stage in stages:
            await stage.confirmed()
        arrived = await taken()

    names = [str(number) for number in range(10)]
    assert arrived == [*((name, "received") for name in names), *((name, "downloaded") for name in names)]
    assert stand.faults == []


async def test_a_stage_goes_on_before_its_events_are_confirmed_and_ends_only_then(broker: Broker) -> None:
    async with a_queue(broker) as (queue, taken), a_stand(broker, queue) as stand:
        stage = stand.stage("t")
        stand.line.silence()
        stage.emit("received", "")
        stage.emit("downloaded", "")
        ending = asyncio.create_task(stage.confirmed())
        await asyncio.wait([ending], timeout=0.2)
        early = ending.done()
        stand.line.flow()
        async with asyncio.timeout(20):
            await ending
        arrived = [event for _, event in await taken()]

    assert not early
    assert arrived == ["received", "downloaded"]


async def test_an_event_that_nobody_waits_for_arrives_too(broker: Broker) -> None:
    async with a_queue(broker) as (queue, taken), a_stand(broker, queue) as stand:
        stand.stage("t").emit("received", "")
        arrived: list[tuple[str, str]] = []
        async with asyncio.timeout(20):
            while not arrived:
                await asyncio.sleep(0.01)
                arrived = await taken()

    assert arrived == [("t", "received")]


async def test_without_events_there_is_nothing_to_wait_for(broker: Broker) -> None:
    async with a_stand(broker, "no such queue") as stand, asyncio.timeout(20):
        await stand.stage("t").confirmed()


async def test_what_a_lost_connection_left_open_is_sent_again_in_the_order_of_its_stage(broker: Broker) -> None:
    async with a_queue(broker) as (queue, taken), a_stand(broker, queue) as stand:
        stage = stand.stage("t")
        stage.emit("received", "")
        await stage.confirmed()
        stand.line.silence()
        stage.emit("downloaded", "")
        stage.emit("passed", "")
        await asyncio.sleep(0)
        stand.line.drop()
        stand.line.flow()
        stage.emit("uploaded", "")
        async with asyncio.timeout(20):
            await stage.confirmed()
        arrived = [event for _, event in await taken()]

    assert list(dict.fromkeys(arrived)) == ["received", "downloaded", "passed", "uploaded"]
    assert any(isinstance(fault, BrokerFault) for fault in stand.faults)


async def test_an_event_that_is_not_confirmed_in_time_is_sent_again(broker: Broker) -> None:
    async with a_queue(broker) as (queue, taken), a_stand(broker, queue, timeout_s=0.5) as stand:
        stage = stand.stage("t")
        stage.emit("received", "")
        await stage.confirmed()
        stand.line.silence()
        stage.emit("downloaded", "")
        async with asyncio.timeout(20):
            while not stand.faults:
                await asyncio.sleep(0.05)
        stand.line.flow()
        async with asyncio.timeout(20):
            await stage.confirmed()
        arrived = [event for _, event in await taken()]

    assert list(dict.fromkeys(arrived)) == ["received", "downloaded"]


async def test_an_event_that_no_queue_takes_is_counted_and_costs_nothing(broker: Broker) -> None:
    async with a_stand(broker, "no such queue") as stand:
        stage = stand.stage("t")
        stage.emit("received", "")
        stage.emit("downloaded", "")
        async with asyncio.timeout(20):
            await stage.confirmed()

    assert stand.events.unroutable == 2
    assert stand.faults == []
