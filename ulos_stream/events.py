"""The log messages of one stage: published as they happen, in order, without holding the stage up."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine

from ulos_stream import routing
from ulos_stream.tasks import Event, Task, TaskLog, Verdict, log_message

Publish = Callable[[TaskLog, str, str, "asyncio.Task[None] | None"], Coroutine[None, None, None]]
"""Publishes one event, given its message id, the id of the incoming message, and the publishing of the event before,
which a second attempt waits for; settles every error itself."""


class StageEvents:
    """Each event is sent at once, in the order in which they happen; what a fault makes be sent again waits its turn.

    They all belong to the context in which this object is made, and so to the trace of the stage.
    """

    def __init__(self, task: Task, message_id: str, node: str, publish: Publish) -> None:
        self._task = task
        self._message_id = message_id
        self._node = node
        self._publish = publish
        self._verdict: Verdict | None = None
        self._sent: list[asyncio.Task[None]] = []
        self._context = contextvars.copy_context()

    def emit(self, event: Event, text: str, verdict: Verdict | None = None) -> None:
        """Take note of an event now and publish it in the background.

        From the first event with a verdict on, the messages show the branch that it takes.
        """
        self._verdict = verdict or self._verdict
        tree = self._task.routing_tree if self._verdict is None else routing.branch(self._task, self._verdict)
        message = log_message(self._task, event, text=text, node=self._node, tree=tree, verdict=self._verdict)
        event_id = routing.event_id(self._message_id, event)
        before = self._sent[-1] if self._sent else None
        sending = self._publish(message, event_id, self._message_id, before)
        self._sent.append(asyncio.create_task(sending, context=self._context))

    async def confirmed(self) -> None:
        """Wait until the broker has confirmed every event so far."""
        for sent in self._sent:
            await sent
