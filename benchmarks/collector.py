"""A collector of traces on this machine, which does as little as it can while somebody is measured."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Collector:
    """Keeps the bodies that it was sent."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> int:
        """How many spans it was sent."""
        requests = map(ExportTraceServiceRequest.FromString, self.bodies)
        scopes = (scope for request in requests for of in request.resource_spans for scope in of.scope_spans)
        return sum(len(scope.spans) for scope in scopes)

    async def receive(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """One that listens on a free port of the loopback interface."""
    it = Collector()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", it.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        it.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield it
    finally:
        await runner.cleanup()
