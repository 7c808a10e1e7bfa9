"""The log messages of one stage: published as they happen, in order, without holding the stage up."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

from ulos_stream import routing
from ulos_stream.tasks import Event, Task, TaskLog, Verdict, log_message

Publish = Callable[[TaskLog, str, str], Awaitable[None]]
"""Publishes one event, given its message id and the id of the incoming message; settles every error itself."""


class StageEvents:
    """Each event is sent once the one before it is confirmed, so a fault cannot swap two of them.

    They all belong to the context in which this object is made, and so to the trace of the stage.
    """

    def __init__(self, task: Task, message_id: str, node: str, publish: Publish) -> None:
        self._task = task
        self._message_id = message_id
        self._node = node
        self._publish = publish
        self._verdict: Verdict | None = None
        self._last: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()

    def emit(self, event: Event, text: str, verdict: Verdict | None = None) -> None:
        """Take note of an event now and publish it in the background.

        From the first event with a verdict on, the messages show the branch that it takes.
        """
        self._verdict = verdict or self._verdict
        tree = self._task.routing_tree if self._verdict is None else routing.branch(self._task, self._verdict)
        message = log_message(self._task, event, text=text, node=self._node, tree=tree, verdict=self._verdict)
        self._last = asyncio.create_task(self._send(message, after=self._last), context=self._context)

    async def confirmed(self) -> None:
        """Wait until the broker has confirmed every event so far."""
        if self._last is not None:
            await self._last

    async def _send(self, message: TaskLog, after: "asyncio.Task[None] | None") -> None:
        if after is not None:
            await after
        await self._publish(message, routing.event_id(self._message_id, message.event), self._message_id)
