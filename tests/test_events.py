"""The events of a stage are sent in order, without holding the stage up."""

import asyncio

from ulos_stream.events import StageEvents
from ulos_stream.tasks import Task, TaskLog

TASK = Task.model_validate(
    {
        "taskId": "t-1",
        "taskOwnerId": "o-1",
        "filePath": "/a.zip",
        "timeout": 10,
        "routingTree": {"exchange": "lab", "routingKey": "pass"},
    }
)


async def test_events_are_sent_in_order_and_none_waits_for_the_one_before_it_to_be_confirmed() -> None:
    begun: list[str] = []
    confirmation = asyncio.Event()

    async def publish(event: TaskLog, event_id: str, message_id: str, before: "asyncio.Task[None] | None") -> None:
        begun.append(event.event)
        await confirmation.wait()

    events = StageEvents(TASK, "m-1", "n-1", publish)
    events.emit("received", "")
    events.emit("downloaded", "")
    events.emit("passed", "")
    waiting = asyncio.create_task(events.confirmed())
    await asyncio.sleep(0)
    sent, confirmed = list(begun), waiting.done()
    confirmation.set()
    await waiting

    assert (sent, confirmed) == (["received", "downloaded", "passed"], False)


async def test_each_event_knows_the_publishing_of_the_one_before_it() -> None:
    known: dict[str, asyncio.Task[None] | None] = {}
    tasks: dict[str, asyncio.Task[None] | None] = {}

    async def publish(event: TaskLog, event_id: str, message_id: str, before: "asyncio.Task[None] | None") -> None:
        known[event.event], tasks[event.event] = before, asyncio.current_task()

    events = StageEvents(TASK, "m-1", "n-1", publish)
    events.emit("received", "")
    events.emit("downloaded", "")
    await events.confirmed()

    assert known == {"received": None, "downloaded": tasks["received"]}


async def test_without_events_there_is_nothing_to_wait_for() -> None:
    async def publish(event: TaskLog, event_id: str, message_id: str, before: "asyncio.Task[None] | None") -> None:
        raise AssertionError

    await StageEvents(TASK, "m-1", "n-1", publish).confirmed()
