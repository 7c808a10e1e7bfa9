"""The events of a stage reach the broker one after the other, without holding the stage up."""

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


async def test_an_event_waits_until_the_one_before_it_is_confirmed() -> None:
    published: list[str] = []
    first_begun, confirmation = asyncio.Event(), asyncio.Event()

    async def publish(event: TaskLog, event_id: str, message_id: str) -> None:
        if not published:
            first_begun.set()
            await confirmation.wait()
        published.append(event.event)

    events = StageEvents(TASK, "m-1", "n-1", publish)
    events.emit("received", "")
    events.emit("downloaded", "")
    events.emit("passed", "")
    await first_begun.wait()
    before = list(published)
    confirmation.set()
    await events.confirmed()

    assert before == []
    assert published == ["received", "downloaded", "passed"]


async def test_without_events_there_is_nothing_to_wait_for() -> None:
    async def publish(event: TaskLog, event_id: str, message_id: str) -> None:
        raise AssertionError

    await StageEvents(TASK, "m-1", "n-1", publish).confirmed()
