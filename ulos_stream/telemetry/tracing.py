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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ulos_stream import __version__
from ulos_stream.errors import ArtifactChanged, Crash, Fault
from ulos_stream.tasks import Hop, Task, Verdict
from ulos_stream.telemetry.watch import Arrival, End, Message, Step, Transfer

FLUSH_S = 5.0
"""Longest wait at shutdown for spans that are not exported yet, in seconds."""
W3C = TraceContextTextMapPropagator()
_NONE: Mapping[str, str] = MappingProxyType({})
_headers: ContextVar[Mapping[str, str]] = ContextVar("headers", default=_NONE)
"""What messages of the current stage take along."""


class Tracing:
    """A `Watch` that traces.

    Args:
        exporters: Where spans go, in batches, from a thread of their own.
        node: Name of this node.
        server: Name or address of the broker, and its port.
    """

    def __init__(self, exporters: Sequence[SpanExporter], *, node: str, server: tuple[str, int]) -> None:
        ours = {"service.name": "ulos-stream", "service.version": __version__, "service.instance.id": node}
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ulos_stream", __version__)
        self._about_all: dict[str, str | int] = {
            "messaging.system": "rabbitmq",
            "server.address": server[0],
            "server.port": server[1],
        }

    @contextmanager
    def stage(self, arrival: Arrival, task: Task | None) -> Iterator[End]:
        sender = W3C.extract(_textual(arrival.headers), Context())
        sent_by = trace.get_current_span(sender).get_span_context()
        destination = _joined(arrival.exchange, arrival.routing_key, arrival.queue)
        attributes = {
            **self._messaging("process", destination, arrival.routing_key, arrival.message_id, arrival.correlation_id),
            **({} if task is None else _about(task)),
        }
        links = [Link(sent_by)] if sent_by.is_valid else []
        with self._span(f"process {destination}", SpanKind.CONSUMER, attributes, sender, links) as span:
            trace_id = trace.format_trace_id(span.get_span_context().trace_id)

            def end(how: Verdict | Crash) -> None:
                if isinstance(how, Verdict):
                    span.set_attribute("ulos.verdict", how)
                else:
                    _note(span, how)

            headers: dict[str, str] = {}
            W3C.inject(headers)
            token = _headers.set(headers)
            try:
                with structlog.contextvars.bound_contextvars(trace=trace_id):
                    yield end
            finally:
                _headers.reset(token)

    def step(self, step: Step) -> AbstractContextManager[None]:
        return self._step(step) if trace.get_current_span().is_recording() else nullcontext()

    @contextmanager
    def _step(self, step: Step) -> Iterator[None]:
        with self._span(step):
            yield

    def publish(
        self, message: Message, hop: Hop, message_id: str, correlation_id: str
    ) -> AbstractContextManager[dict[str, str]]:
        if message == "hop" and trace.get_current_span().is_recording():
            return self._send(hop, message_id, correlation_id)
        return nullcontext(dict(_headers.get()))

    @contextmanager
    def _send(self, hop: Hop, message_id: str, correlation_id: str) -> Iterator[dict[str, str]]:
        headers: dict[str, str] = {}
        destination = _joined(hop.exchange, hop.routing_key)
        attributes = self._messaging("send", destination, hop.routing_key, message_id, correlation_id)
        with self._span(f"send {destination}", SpanKind.PRODUCER, attributes):
            W3C.inject(headers)
            yield headers

    def transferred(self, step: Transfer, size_bytes: int) -> None:
        trace.get_current_span().set_attribute("ulos.artifact.size", size_bytes)

    def fault(self, fault: Fault) -> None:
        trace.get_current_span().add_event("fault", {"error.type": fault.kind, "exception.message": str(fault)})

    def skipped(self) -> None:
        trace.get_current_span().set_attribute("ulos.journal.hit", True)

    def close(self) -> None:
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)  # it waits 30 s, and we do not
        flushing.start()
        flushing.join(FLUSH_S)

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, str | int] | None = None,
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        """A span that is the current one, and takes note of the error that ends it."""
        with self._tracer.start_as_current_span(
            name, parent, kind, attributes, links, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                _note(span, error)
                raise

    def _messaging(
        self, operation: str, destination: str, routing_key: str, message_id: str, correlation_id: str | None
    ) -> dict[str, str | int]:
        return {
            **self._about_all,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": destination,
            "messaging.message.id": _encodable(message_id),
            **({"messaging.rabbitmq.destination.routing_key": _encodable(routing_key)} if routing_key else {}),
            **({"messaging.message.conversation_id": _encodable(correlation_id)} if correlation_id else {}),
        }


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
    return _encodable(":".join(dict.fromkeys(part for part in parts if part)) or "amq.default")


def _textual(headers: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def _encodable(text: str) -> str:
    """One span whose text has no UTF-8 form would lose its whole batch."""
    return text.encode("utf-8", "replace").decode()
