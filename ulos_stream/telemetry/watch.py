"""Who follows a node's work: its traces, its metrics, both, or, as long as nothing is configured, nobody.

The node, the pipeline and the outbox tell one `Watch` what they do. What belongs to a stage is told in
the stage's own context (`contextvars`), so that nothing has to be handed from one to the other.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, TypeVar

from ulos_stream.errors import Crash, Fault
from ulos_stream.tasks import Hop, Task, Verdict

T = TypeVar("T")
TRACE_CHARS = 512
"""The longest `tracestate` that has to be handed on (W3C Trace Context, section 3.3.1.5)."""
Step = Literal["download", "unpack", "execute", "pack", "upload"]
Transfer = Literal["download", "upload"]
Message = Literal["hop", "event", "crash"]
"""What a node publishes: a task on its way, a log message, a crash report."""
End = Callable[[Verdict | Crash], None]
"""Told how a stage ended; not called for one that is cancelled, which has no end."""
NOBODY: AbstractContextManager[None] = nullcontext()
"""A step that nobody follows."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """The envelope of a delivered message."""

    message_id: str
    correlation_id: str | None
    queue: str
    exchange: str
    routing_key: str
    headers: Mapping[str, object]
    """As received, and so of any type."""
    sent_at_s: float | None
    """When it was published, in seconds since 1970; None when that is not known, or was before an earlier delivery."""


def trace_headers(arrival: Arrival) -> dict[str, str]:
    """What a message says of its trace (W3C Trace Context): a node that does not trace hands it on as it came."""
    found = ((name, arrival.headers.get(name)) for name in ("traceparent", "tracestate"))
    return {name: value for name, value in found if isinstance(value, str) and len(value) <= TRACE_CHARS}


class Watch(Protocol):
    """Told of all that a node does; never raises, and never waits."""

    def stage(self, arrival: Arrival, task: Task | None) -> AbstractContextManager[End]:
        """The work on one message, to the last confirmation before it is settled. No task: the body was none."""
        ...

    def step(self, step: Step) -> AbstractContextManager[None]:
        """One attempt at a step of the current stage, or several at a download or an upload."""
        ...

    def publish(
        self, message: Message, hop: Hop, message_id: str, correlation_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        """One message on its way to the broker, all attempts; yields the headers that it takes along, for reading."""
        ...

    def transferred(self, step: Transfer, size_bytes: int) -> None:
        """The current step has moved an artifact of this size."""
        ...

    def fault(self, fault: Fault) -> None:
        """What the current stage does met a fault, and is tried again."""
        ...

    def skipped(self) -> None:
        """The artifact's journal shows that the current stage was carried out before."""
        ...

    def close(self) -> None:
        """Pass on what is not passed on yet. Blocking, for a few seconds at most."""
        ...


class Unwatched:
    """Nobody follows."""

    def stage(self, arrival: Arrival, task: Task | None) -> AbstractContextManager[End]:
        return nullcontext(_untold)

    def step(self, step: Step) -> AbstractContextManager[None]:
        return NOBODY

    def publish(
        self, message: Message, hop: Hop, message_id: str, correlation_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        return nullcontext({})

    def transferred(self, step: Transfer, size_bytes: int) -> None:
        """Nobody is told."""

    def fault(self, fault: Fault) -> None:
        """Nobody is told."""

    def skipped(self) -> None:
        """Nobody is told."""

    def close(self) -> None:
        """There is nothing to pass on."""


class Both:
    """Two that follow."""

    def __init__(self, first: Watch, second: Watch) -> None:
        self._both = self._first, self._second = first, second

    def stage(self, arrival: Arrival, task: Task | None) -> AbstractContextManager[End]:
        return _Joined(self._first.stage(arrival, task), self._second.stage(arrival, task), _told_both)

    def step(self, step: Step) -> AbstractContextManager[None]:
        first, second = self._first.step(step), self._second.step(step)
        return second if first is NOBODY else _Joined(first, second, _nothing)

    def publish(
        self, message: Message, hop: Hop, message_id: str, correlation_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        first = self._first.publish(message, hop, message_id, correlation_id)
        second = self._second.publish(message, hop, message_id, correlation_id)
        return _Joined(first, second, _merged)

    def transferred(self, step: Transfer, size_bytes: int) -> None:
        for watch in self._both:
            watch.transferred(step, size_bytes)

    def fault(self, fault: Fault) -> None:
        for watch in self._both:
            watch.fault(fault)

    def skipped(self) -> None:
        for watch in self._both:
            watch.skipped()

    def close(self) -> None:
        for watch in self._both:
            watch.close()


class _Joined(AbstractContextManager[T]):
    """One context of two that swallow no error, the first around the second; a stage has many of them.

    Args:
        first: The outer one.
        second: The inner one.
        join: What they yield together.
    """

    def __init__(
        self, first: AbstractContextManager[T], second: AbstractContextManager[T], join: Callable[[T, T], T]
    ) -> None:
        self._first, self._second, self._join = first, second, join

    def __enter__(self) -> T:
        return self._join(self._first.__enter__(), self._second.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._second.__exit__(kind, error, traceback)
        self._first.__exit__(kind, error, traceback)


def _told_both(first: End, second: End) -> End:
    def end(how: Verdict | Crash) -> None:
        first(how)
        second(how)

    return end


def _nothing(first: None, second: None) -> None:
    """What steps yield."""


def _merged(first: Mapping[str, str], second: Mapping[str, str]) -> Mapping[str, str]:
    return {**first, **second} if second else first


def _untold(how: Verdict | Crash) -> None:
    """Nobody asked."""
