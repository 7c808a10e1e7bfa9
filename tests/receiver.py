"""A receiver of traces, as an OpenTelemetry collector is one: OTLP over HTTP, in protobuf."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from world import LIMIT_S

KINDS = {1: "INTERNAL", 4: "PRODUCER", 5: "CONSUMER"}


@dataclass(frozen=True)
class Received:
    """A span."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    is_error: bool
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    resource: dict[str, Any]
    start_ns: int


@dataclass
class Receiver:
    """Keeps what it was sent."""

    url: str = ""
    spans: list[Received] = field(default_factory=list)
    refuses: bool = False
    """Whether it tells whoever comes that they may not."""
    _requests: int = 0
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def in_order(self, kind: str) -> list[Received]:
        """Spans of one kind, by when they began."""
        return sorted((span for span in self.spans if span.kind == kind), key=lambda span: span.start_ns)

    def children(self, parent: Received, kind: str = "INTERNAL") -> list[Received]:
        return [span for span in self.in_order(kind) if span.parent_id == parent.span_id]

    async def asked(self, times: int) -> None:
        """Wait until it was sent so many requests."""
        async with self._came, asyncio.timeout(LIMIT_S):
            await self._came.wait_for(lambda: self._requests >= times)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Receiver"]:
        """Listen on a free port of the loopback interface."""
        app = web.Application()
        app.router.add_post("/v1/traces", self._receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        async with self._came:
            self._requests += 1
            self._came.notify_all()
        if self.refuses:
            return web.Response(status=401)
        for resource_spans in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            resource = _plain(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.spans += (_received(span, resource) for span in scope_spans.spans)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


def _received(span: Span, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=[link.span_id.hex() for link in span.links],
        is_error=span.status.code == 2,
        attributes=_plain(span.attributes),
        events=[(event.name, _plain(event.attributes)) for event in span.events],
        resource=resource,
        start_ns=span.start_time_unix_nano,
    )


def _plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in attributes}
