"""The HTTP side of a node, for probes, Prometheus and people; only where `ULOS_HTTP_PORT` is set.

    /health/live     200 as long as the event loop turns
    /health/ready    200, or 503 and the reasons by name
    /metrics         Prometheus' text format
    /docs            the AsyncAPI document of this node, as a page that can publish nothing
    /info            version, executors and their state, limits

It only tells; nothing can be altered through it. Importing this takes 0.2 s, so it waits until it is used.
"""

import errno
from collections.abc import Callable

from aiohttp import web

from ulos_stream import __version__
from ulos_stream.errors import ConfigurationError
from ulos_stream.executors.registry import Registry
from ulos_stream.readiness import Readiness
from ulos_stream.settings import Settings
from ulos_stream.telemetry.metrics import CONTENT_TYPE, Metrics

LINGER_S = 1.0
"""Seconds that answers under way get when the node ends."""


class HttpSide:
    """A small web server on the node's own event loop.

    Args:
        settings: Of the whole node.
        readiness: What keeps the node from working now.
        metrics: What `/metrics` shows.
        executors: What can run.
        document: Makes the page for `/docs`.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: Readiness,
        metrics: Metrics,
        executors: Registry,
        document: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._readiness = readiness
        self._metrics = metrics
        self._executors = executors
        self._document = document
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serve.

        Raises:
            ConfigurationError: The address or the port cannot be had.
        """
        app = web.Application()
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/metrics", self._scrape)
        app.router.add_get("/docs", self._describe)
        app.router.add_get("/info", self._tell)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=LINGER_S)
        await self._runner.setup()
        host, port = self._settings.node.http_host, self._settings.node.http_port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as refused:
            await self.stop()
            if refused.errno == errno.EADDRINUSE:
                raise ConfigurationError(f"ULOS_HTTP_PORT: port {port} of {host} is taken; choose another") from refused
            raise ConfigurationError(f"ULOS_HTTP_HOST: cannot listen on {host}: {refused.strerror}") from refused

    async def stop(self) -> None:
        """Serve no more. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _live(self, request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        reasons = self._readiness.reasons
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _scrape(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _describe(self, request: web.Request) -> web.Response:
        return web.Response(text=self._document(), content_type="text/html")

    async def _tell(self, request: web.Request) -> web.Response:
        node = self._settings.node
        unavailable = await self._executors.check()
        return web.json_response(
            {
                "version": __version__,
                "node": node.node,
                "queue": self._settings.broker.consumption_queue,
                "executors": [
                    {
                        "key": entry.key,
                        "is_prefix": entry.is_prefix,
                        "kind": entry.kind,
                        "description": entry.description,
                        "unavailable": unavailable.get(entry.key),
                    }
                    for entry in self._executors
                ],
                "limits": {
                    "stages_at_once": self._settings.stages_at_once,
                    "max_timeout_s": node.max_timeout_s,
                    "fault_budget_s": node.fault_budget_s,
                    "grace_s": node.grace_s,
                    "archive": node.archive.model_dump(),
                },
            }
        )
