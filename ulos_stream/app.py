"""The composition root, and a node's life from its start to its end: settings → parts → node → `app`.

    faststream run ulos_stream.app:app

`app` is made when it is first asked for, so that importing this module has no side effect.
"""

import asyncio
import functools
import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from faststream import FastStream
from faststream.specification import AsyncAPI

from ulos_stream import __version__, producer, topology
from ulos_stream.admission import Admission
from ulos_stream.asyncapi.document import DESCRIPTION
from ulos_stream.errors import ConfigurationError, Fault, UnknownExecutor
from ulos_stream.executors import finish
from ulos_stream.executors.registry import Registry
from ulos_stream.node import Node
from ulos_stream.pages import use_large_pages
from ulos_stream.parts import (
    find_executors,
    journal_key,
    open_broker,
    open_http,
    open_metrics,
    open_storage,
    open_watch,
)
from ulos_stream.pipeline import Pipeline
from ulos_stream.readiness import Readiness
from ulos_stream.retry import wait_for
from ulos_stream.settings import Settings, access_to, read_settings
from ulos_stream.telemetry import Log, configure_logging
from ulos_stream.topology.leases import BrokerLeases
from ulos_stream.workspace import NodeDirectory

MEMORY = Path("/dev/shm")  # noqa: S108 (each node makes a directory of its own in there)
"""A file system in memory, where Linux has one (shm_overview(7))."""
T = TypeVar("T")


def create_app(settings: Settings) -> FastStream:
    """The FastStream application of a node; does no I/O until it runs.

    Raises:
        ConfigurationError: A certificate file, an executor's descriptor or an exporter of traces is wrong.
    """
    log = Log()
    consuming, publishing = open_broker(settings, log), open_broker(settings, log)
    producer.install(publishing, settings.node.publish_timeout_s)
    storage = open_storage(settings)
    executors = find_executors(settings.node)
    for key in settings.node.require_executors:
        try:
            executors.find(key)
        except UnknownExecutor as unknown:
            raise ConfigurationError(f"ULOS_REQUIRE_EXECUTORS: {unknown}") from unknown
    metrics = open_metrics(settings, executors)
    watch = open_watch(settings, metrics, log)
    directory = NodeDirectory(settings.node.work_dir, settings.node.node)
    memory = NodeDirectory(MEMORY, settings.node.node) if os.access(MEMORY, os.W_OK) else None
    directories = [directory] if memory is None else [directory, memory]
    admission = Admission(
        most=settings.stages_at_once,
        adaptive=settings.node.adaptive,
        most_per_owner=settings.node.owner_limit or None,
        hindrance=lambda: readiness.reasons.get("disk") or readiness.reasons.get("executors") or "",
    )
    pipeline = Pipeline(
        storage=storage,
        executors=executors,
        limits=settings.node.archive,
        directory=directory,
        node=settings.node.node,
        journal_key=journal_key(settings),
        fault_budget_s=settings.node.fault_budget_s,
        report_fault=log.fault,
        watch=watch,
        memory=memory,
        observe=admission.observe,
        hold_back=admission.held_back,
        leases=BrokerLeases(
            access_to(settings.broker, settings.node), lambda device: log.info("device in use", device=device)
        ),
        delivery_timeout_s=settings.node.delivery_timeout_s,
    )
    node = Node(settings, consuming, publishing, pipeline, log, watch, admission)
    readiness = Readiness(
        {
            "consuming": node.check,
            "publishing": node.outbox.check,
            "storage": storage.check,
            "stages": pipeline.check,
            "executors": lambda: executors.insist(settings.node.require_executors),
            "disk": directory.check,
        },
        log,
    )
    http = None
    if metrics is not None:
        http = open_http(settings, metrics, readiness, executors, admission, lambda: _document(app))
    looking: list[asyncio.Task[None]] = []
    connecting = topology.Connecting(settings.broker.host, settings.broker.port, settings.node.virtual_host)

    @asynccontextmanager
    async def serve() -> AsyncIterator[None]:
        """Be seen from before the node waits for the world until its last stage has ended."""
        configure_logging(settings.node.log_level)
        if http is None:
            yield
            return
        try:
            await http.start()
        except ConfigurationError as wrong:
            _refuse(wrong)
        log.info("listening", host=settings.node.http_host, port=settings.node.http_port)
        try:
            yield
        finally:
            await http.stop()

    async def begin() -> None:
        try:
            await wait_for_the_world()
        except BaseException:  # told to end before all was there: then nobody calls `close`
            await finish(close())
            raise

    async def wait_for_the_world() -> None:
        """Consume nothing before everything that a stage needs is there."""
        log.info("starting", node=settings.node.node, queue=settings.broker.consumption_queue)
        if settings.node.journal_key is None:
            log.info("journal key derived", note="from the passwords; set ULOS_JOURNAL_KEY on all nodes to change them")
        for each in directories:
            await need(functools.partial(asyncio.to_thread, each.open))
            await _sweep(each, executors, log)
        await need(lambda: connecting.start(publishing))
        await need(storage.check)
        await need(lambda: executors.insist(settings.node.require_executors))
        queue = settings.broker.consumption_queue
        await need(lambda: connecting.find_queue(consuming, queue))

    async def need(part: Callable[[], Awaitable[T]]) -> None:
        readiness.wait("the node is starting")
        await wait_for(part, wait)

    def wait(reason: str) -> None:
        readiness.wait(reason)
        log.waiting(reason)

    async def say_ready() -> None:
        _collect_seldom()
        use_large_pages()
        log.info("ready", queue=settings.broker.consumption_queue, stages_at_once=settings.stages_at_once)
        readiness.start()
        looking.append(asyncio.create_task(say_unavailable()))

    async def say_unavailable() -> None:
        """Not waited for: the client of a container engine takes long to import, and other tasks may need none."""
        for key, reason in (await executors.check()).items():
            log.warning("executor unavailable", executor=key, reason=reason)

    async def close() -> None:
        for look in looking:
            look.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        for each in directories:
            await asyncio.to_thread(each.close)
        await storage.aclose()
        await executors.aclose()
        await asyncio.to_thread(watch.close)
        log.info("stopped")

    # Brokers start and stop in this order: deliveries end before the publisher goes. That the
    # publisher is up before the first delivery is the work of `begin`.
    app = FastStream(
        consuming,
        publishing,
        logger=None,
        lifespan=serve,
        specification=AsyncAPI(
            title="ulos-stream node",
            version=__version__,
            description=DESCRIPTION,
            license={"name": "Apache-2.0"},
            identifier="urn:ulos-stream:node",
        ),
        on_startup=[begin],
        after_startup=[say_ready],
        on_shutdown=[readiness.stop, connecting.stop, node.drain],
        after_shutdown=[close],
    )
    return app


def _collect_seldom() -> None:
    """Have Python look for cycles of garbage a thirtieth as often, and never among what has been imported.

    A stage makes some thousand objects and hardly a cycle. To look at all of them every 700 took a tenth of the time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _sweep(directory: NodeDirectory, executors: Registry, log: Log) -> None:
    """Remove what killed nodes of this machine have left: first the containers, which may be writing still."""
    for left in directory.abandoned():
        try:
            await executors.sweep(left.node.__eq__)
            await asyncio.to_thread(left.remove)
            log.info("swept", left_by=left.node)
        except Fault as fault:
            log.warning("fault", reason=str(fault), note=f"what {left.node} has left stays until the next start")


def _document(app: FastStream) -> str:
    """The page of this node's own AsyncAPI document."""
    from ulos_stream.asyncapi.document import complete
    from ulos_stream.asyncapi.page import page

    return page(complete(app.schema.to_specification().to_jsonable()))


@functools.cache
def _app_from_environment() -> FastStream:
    try:
        return create_app(read_settings())
    except ConfigurationError as wrong:
        _refuse(wrong)


def _refuse(wrong: ConfigurationError) -> NoReturn:
    """End the process, with a line for each mistake."""
    for mistake in wrong.mistakes:
        print(f"ulos-stream: {mistake}", file=sys.stderr)
    raise SystemExit(2) from None


def __getattr__(name: str) -> FastStream:
    if name == "app":
        return _app_from_environment()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
