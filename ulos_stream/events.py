"""The log messages of stages: published as things happen, in order, without holding any stage up.

    stage ──▶ StageEvents.emit ──▶ EventPublisher.tell ──▶ one line of all stages ──▶ the broker
                                                                    └── what it did not confirm: again, each by itself

All stages of a node share one line, so that what they tell in the same turn of the event loop goes out together and
none of it needs a task of its own. Only what a fault has met does.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial

from faststream.rabbit.publisher import RabbitPublisher

from ulos_stream import routing
from ulos_stream.errors import FaultBudgetSpent, Unroutable
from ulos_stream.producer import Confirmation
from ulos_stream.publishing import Headers, begin, failure, is_our_cancellation, publish
from ulos_stream.tasks import Event, Hop, StageLog, Task, Verdict
from ulos_stream.telemetry import Log
from ulos_stream.telemetry.watch import Watch

Told = asyncio.Future[None]
"""Done when the broker has an event, or it is given up; never raises."""
Tell = Callable[["Letter"], Told]
"""Publishes one event."""


class StageEvents:
    """The events of one stage.

    They all belong to the context in which this object is made, and so to the trace of the stage.
    """

    def __init__(self, task: Task, message_id: str, node: str, tell: Tell) -> None:
        self.task = task
        self._message_id = message_id
        self._tell = tell
        self._verdict: Verdict | None = None
        self._log = StageLog(task, node)
        self._told: list[Told] = []
        self._context = contextvars.copy_context()

    def emit(self, event: Event, text: str, verdict: Verdict | None = None) -> None:
        """Take note of an event now and publish it in the background.

        From the first event with a verdict on, the messages show the branch that it takes.
        """
        self._verdict = verdict or self._verdict
        tree = self.task.routing_tree if self._verdict is None else routing.branch(self.task, self._verdict)
        letter = Letter(
            event=event,
            task_id=self.task.task_id,
            body=self._log.encode(event, text, tree, self._verdict),
            event_id=routing.event_id(self._message_id, event),
            message_id=self._message_id,
            before=self._told[-1] if self._told else None,
        )
        self._told.append(self._context.run(self._tell, letter))

    async def confirmed(self) -> None:
        """Wait until the broker has confirmed every event so far."""
        for told in reversed(self._told):  # the last is mostly the last to be told
            if not told.done():
                await asyncio.shield(told)  # others may wait for it, too


@dataclass(slots=True, eq=False)
class Letter:
    """One event on its way."""

    event: Event
    task_id: str
    body: bytes
    event_id: str
    """Id of the log message itself."""
    message_id: str
    """Of the incoming message."""
    before: Told | None
    """The stage's event before this one; only a second attempt waits for it."""
    told: Told = field(init=False)
    watched: AbstractContextManager[Headers] = field(init=False)
    """Entered, and left when the event is told."""
    headers: Headers = field(init=False)
    context: contextvars.Context = field(init=False)


@dataclass(kw_only=True, eq=False)
class EventPublisher:
    """Publishes the events of all stages. A broker without a place for them costs the tasks nothing."""

    publisher: RabbitPublisher
    hop: Hop
    persistently: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
    """Attempts a publish until the broker has it; see `Outbox`."""
    log: Log
    watch: Watch
    unroutable: int = 0
    """Events that no queue took."""
    _line: deque[Letter] = field(default_factory=deque)
    _sending: asyncio.Task[None] | None = None
    _repeating: set[asyncio.Task[None]] = field(default_factory=set)

    def tell(self, letter: Letter) -> Told:
        """Publish an event, behind those that were told before."""
        letter.told, letter.context = asyncio.get_running_loop().create_future(), contextvars.copy_context()
        letter.watched = self.watch.publish("event", self.hop, letter.event_id, letter.message_id)
        letter.headers = letter.watched.__enter__()
        self._line.append(letter)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return letter.told

    async def _send(self) -> None:
        """Hand the whole line over, or, where the broker cannot take it now, leave each to its own attempts."""
        try:
            while self._line:
                letter = self._line[0]
                confirmation = await begin(
                    self.publisher, letter.body, self.hop, letter.event_id, letter.message_id, letter.headers
                )
                confirmation.add_done_callback(partial(self._answered, self._line.popleft()))
        except (Exception, asyncio.CancelledError) as broken:
            if is_our_cancellation(broken):
                raise
            while self._line:
                self._repeat(self._line.popleft(), broken)
        finally:
            self._sending = None

    def _answered(self, letter: Letter, confirmation: Confirmation) -> None:
        broken = asyncio.CancelledError() if confirmation.cancelled() else confirmation.exception()
        if broken is not None:
            self._repeat(letter, broken)
        else:
            letter.watched.__exit__(None, None, None)
            _settle(letter)

    def _repeat(self, letter: Letter, broken: BaseException) -> None:
        repeating = asyncio.create_task(self._tell_again(letter, broken), context=letter.context)
        self._repeating.add(repeating)
        repeating.add_done_callback(self._repeating.discard)

    async def _tell_again(self, letter: Letter, broken: BaseException) -> None:
        failed = [failure(broken, self.hop)]

        async def attempt() -> None:
            if failed:
                raise failed.pop()
            if letter.before is not None:
                await asyncio.wait([letter.before])
            await publish(self.publisher, letter.body, self.hop, letter.event_id, letter.message_id, letter.headers)

        try:
            with ExitStack() as watched:
                watched.push(letter.watched)
                await self.persistently(attempt)
        except Unroutable as nowhere:
            self.unroutable += 1
            if self.unroutable == 1:
                self.log.warning("event unroutable", reason=str(nowhere), note="said once, then only counted")
        except FaultBudgetSpent as spent:
            self.log.error("event lost", task=letter.task_id, lost=letter.event, reason=str(spent))
        finally:
            _settle(letter)


def _settle(letter: Letter) -> None:
    if not letter.told.done():  # the stage was cancelled while it waited
        letter.told.set_result(None)
