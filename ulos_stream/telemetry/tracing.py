"""Traces: one for each task over all its hops, exported by OpenTelemetry.

    process {destination}            CONSUMER: one stage; child of the sender's span, and linked to it
    ├── download, unpack, execute, pack, upload
    └── send {destination}           PRODUCER: the hop; parent of the next stage, wherever that runs

Names and `messaging.*` attributes are those of OpenTelemetry's semantic conventions for RabbitMQ. Of an
error its text is kept and not its traceback: a cause may quote a server that repeats the password.
Importing this takes 0.2 s, so it waits until traces are asked for.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple, TypeVar

import structlog
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ulos_stream import __version__
from ulos_stream.errors import ArtifactChanged, Crash, Fault
from ulos_stream.tasks import Hop, Task, Verdict
from ulos_stream.telemetry.watch import NOBODY, Arrival, End, Message, Step, Transfer

T = TypeVar("T")
FLUSH_S = 5.0
"""Longest wait at shutdown for spans that are not exported yet, in seconds."""
W3C = TraceContextTextMapPropagator()


class _Trace(NamedTuple):
    """What is done in a stage needs to know of its trace."""

    is_recorded: bool
    carried: AbstractContextManager[Mapping[str, str]]
    """Yields what its messages take along, when they have no span of their own."""


_UNTRACED = _Trace(False, nullcontext({}))
_trace: ContextVar[_Trace] = ContextVar("trace", default=_UNTRACED)


class Tracing:
    """A `Watch` that traces.

    Args:
        exporters: Where spans go, in batches, from a thread of their own.
        node: Name of this node.
        server: Name or address of the broker, and its port.
    """

    def __init__(self, exporters: Sequence[SpanExporter], *, node: str, server: tuple[str, int]) -> None:
        ours = {"service.name": "ulos-stream", "service.version": __version__, "service.instance.id": node}
        resource = _Resource(Resource.create(ours).merge(OTELResourceDetector().detect()))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ulos_stream", __version__)
        self._about_all: dict[str, str | int] = {
            "messaging.system": "rabbitmq",
            "server.address": server[0],
            "server.port": server[1],
        }

    def stage(self, arrival: Arrival, task: Task | None) -> AbstractContextManager[End]:
        sender = W3C.extract(_textual(arrival.headers), Context())
        sent_by = trace.get_current_span(sender).get_span_context()
        destination = _joined(arrival.exchange, arrival.routing_key, arrival.queue)
        attributes = self._messaging(
            "process", destination, arrival.routing_key, arrival.message_id, arrival.correlation_id
        )
        if task is not None:
            attributes |= _about(task)
        links = [Link(sent_by)] if sent_by.is_valid else []
        name = f"process {destination}"
        return _Stage(self._tracer.start_span(name, sender, SpanKind.CONSUMER, attributes, links))

    def step(self, step: Step) -> AbstractContextManager[None]:
        return _Within(self._tracer.start_span(step), None) if _trace.get().is_recorded else NOBODY

    def publish(
        self, message: Message, hop: Hop, message_id: str, correlation_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        stage = _trace.get()
        if message != "hop" or not stage.is_recorded:
            return stage.carried
        destination = _joined(hop.exchange, hop.routing_key)
        attributes = self._messaging("send", destination, hop.routing_key, message_id, correlation_id)
        span = self._tracer.start_span(f"send {destination}", kind=SpanKind.PRODUCER, attributes=attributes)
        return _Within(span, _headers(span))

    def transferred(self, step: Transfer, size_bytes: int) -> None:
        if _trace.get().is_recorded:
            trace.get_current_span().set_attribute("ulos.artifact.size", size_bytes)

    def fault(self, fault: Fault) -> None:
        trace.get_current_span().add_event("fault", {"error.type": fault.kind, "exception.message": str(fault)})

    def skipped(self) -> None:
        trace.get_current_span().set_attribute("ulos.journal.hit", True)

    def close(self) -> None:
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)  # it waits 30 s, and we do not
        flushing.start()
        flushing.join(FLUSH_S)

    def _messaging(
        self, operation: str, destination: str, routing_key: str, message_id: str, correlation_id: str | None
    ) -> dict[str, str | int]:
        attributes = {
            **self._about_all,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": destination,
            "messaging.message.id": _encodable(message_id),
        }
        if routing_key:
            attributes["messaging.rabbitmq.destination.routing_key"] = _encodable(routing_key)
        if correlation_id:
            attributes["messaging.message.conversation_id"] = _encodable(correlation_id)
        return attributes


class _Resource(Resource):
    """One whose hash is known: exporters ask for it with each span, and to make it takes longer than all they do else
    to put that to the others of its resource.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _Within(AbstractContextManager[T]):
    """The span is the current one, takes note of the error that ends it, and ends.

    Args:
        span: It has begun.
        yields: What is handed to the one who enters.
    """

    def __init__(self, span: Span, yields: T) -> None:
        self._span = span
        self._yields = yields

    def __enter__(self) -> T:
        self._before = attach(trace.set_span_in_context(self._span))
        return self._yields

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        detach(self._before)
        if error is not None:
            _note(self._span, error)
        self._span.end()


class _Stage(_Within[End]):
    """The span of a stage; what belongs to the stage, and so to the same context, carries its trace."""

    def __init__(self, span: Span) -> None:
        super().__init__(span, partial(_end, span))

    def __enter__(self) -> End:
        span = self._span
        self._outside = _trace.set(_Trace(span.is_recording(), nullcontext(_headers(span))))
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        self._said = structlog.contextvars.bind_contextvars(trace=trace_id)
        return super().__enter__()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        structlog.contextvars.reset_contextvars(**self._said)
        _trace.reset(self._outside)


def _end(span: Span, how: Verdict | Crash) -> None:
    if isinstance(how, Verdict):
        span.set_attribute("ulos.verdict", how)
    else:
        _note(span, how)


def _headers(span: Span) -> Mapping[str, str]:
    """What a message takes along, for its receiver to be a child of this span."""
    headers: dict[str, str] = {}
    W3C.inject(headers, trace.set_span_in_context(span, Context()))
    return headers


def _note(span: Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        span.set_attribute("error.type", "cancelled")  # by the task's timeout, or by the end of the node
        return
    kind = error.code if isinstance(error, Crash) else error.kind if isinstance(error, Fault) else type(error).__name__
    span.add_event("exception", {"exception.type": type(error).__name__, "exception.message": str(error)})
    span.set_attribute("error.type", kind)
    if not isinstance(error, ArtifactChanged):  # after which the stage begins anew
        span.set_status(StatusCode.ERROR, str(error))


def _about(task: Task) -> dict[str, str]:
    return {
        "ulos.task.id": task.task_id,
        "ulos.task.owner_id": task.task_owner_id,
        "ulos.stage": task.routing_tree.routing_key,
    }


def _joined(*parts: str) -> str:
    """A destination: exchange, routing key and, for a consumer, queue; empty and repeated ones are left out."""
    return _encodable(":".join(dict.fromkeys(filter(None, parts))) or "amq.default")


def _textual(headers: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def _encodable(text: str) -> str:
    """One span whose text has no UTF-8 form would lose its whole batch."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
