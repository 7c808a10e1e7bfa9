"""The composition root: settings → brokers, storage, executors, node → `app`.

    faststream run ulos_stream.app:app

`app` is made when it is first asked for, so that importing this module has no side effect.
"""

import asyncio
import contextlib
import functools
import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import urlsplit

from faststream import FastStream
from faststream.rabbit import RabbitBroker
from faststream.security import SASLPlaintext
from faststream.specification import AsyncAPI

from ulos_stream import __version__, producer, shipped, topology
from ulos_stream.admission import Admission
from ulos_stream.asyncapi.document import DESCRIPTION
from ulos_stream.errors import ConfigurationError, Fault, UnknownExecutor
from ulos_stream.executors import finish
from ulos_stream.executors.registry import Registry, build_registry
from ulos_stream.journal import derived_key
from ulos_stream.node import Node
from ulos_stream.pipeline import Pipeline
from ulos_stream.readiness import Readiness
from ulos_stream.retry import wait_for
from ulos_stream.settings import BucketAccess, Settings, access_to, read_settings, tls_context
from ulos_stream.settings import Node as NodeSettings
from ulos_stream.storage import Storage, urls
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.storage.ftp import FtpStorage
from ulos_stream.telemetry import Log, configure_logging
from ulos_stream.telemetry.watch import Both, Unwatched, Watch
from ulos_stream.topology.leases import BrokerLeases
from ulos_stream.workspace import NodeDirectory

if TYPE_CHECKING:
    from ulos_stream.http import HttpSide
    from ulos_stream.telemetry.metrics import Metrics

MEMORY = Path("/dev/shm")  # noqa: S108 (each node makes a directory of its own in there)
"""A file system in memory, where Linux has one (shm_overview(7))."""
T = TypeVar("T")


def create_app(settings: Settings) -> FastStream:
    """The FastStream application of a node; does no I/O until it runs.

    Raises:
        ConfigurationError: A certificate file, an executor's descriptor or an exporter of traces is wrong.
    """
    log = Log()
    consuming, publishing = _open_broker(settings, log), _open_broker(settings, log)
    producer.install(publishing)
    storage = open_storage(settings)
    executors = find_executors(settings.node)
    for key in settings.node.require_executors:
        try:
            executors.find(key)
        except UnknownExecutor as unknown:
            raise ConfigurationError(f"ULOS_REQUIRE_EXECUTORS: {unknown}") from unknown
    metrics = _open_metrics(settings, executors)
    watch = _open_watch(settings, metrics, log)
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
        journal_key=_journal_key(settings),
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
        http = _open_http(settings, metrics, readiness, executors, admission, lambda: _document(app))
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


def _journal_key(settings: Settings) -> bytes:
    if settings.node.journal_key is not None:
        return settings.node.journal_key.get_secret_value().encode()
    sections = (settings.broker, settings.storage)
    passwords = (section.password for section in sections if section is not None)
    return derived_key(*(password.get_secret_value() for password in passwords if password is not None))


def _open_broker(settings: Settings, log: Log) -> RabbitBroker:
    def lost(connection: object, reason: BaseException | None) -> None:
        if reason is not None and not isinstance(reason, asyncio.CancelledError):  # which is how we close it
            log.warning("connection lost", reason=str(reason))

    broker = settings.broker
    tls = tls_context(settings.node.broker_ca_file) if settings.node.broker_tls else None
    return RabbitBroker(
        host=broker.host,
        port=broker.port,
        virtualhost=settings.node.virtual_host,
        security=SASLPlaintext(
            username=broker.username,
            password=broker.password.get_secret_value(),
            use_ssl=tls is not None,
            ssl_context=tls,
        ),
        default_channel=topology.publishing_channel(),
        reconnect_interval=1.0,
        on_close=[lost],
        on_reconnected=[lambda connection: log.info("connection back")],
        graceful_timeout=settings.node.grace_s,
        apply_types=False,
        app_id=topology.APP_ID,
        logger=None,
    )


def open_storage(settings: Settings) -> Storage:
    """The storage that the scheme of `ULOS_STORAGE_URL` names; connects when it is first used.

    Raises:
        ConfigurationError: A file with certificates or a key is wrong, or an extra of this package is not installed.
    """
    node, server = settings.node, settings.storage
    scheme = urlsplit(node.storage_url).scheme
    max_bytes = node.archive.zip_mib * 1024 * 1024
    if server is None:
        return FolderStorage(Path(urls.folder(node.storage_url)), max_bytes)
    if isinstance(server, BucketAccess):
        with _extra("s3"):
            from ulos_stream.storage.s3 import S3Storage
        tls_context(node.storage_ca_file)
        return S3Storage(
            bucket=urls.bucket(node.storage_url),
            access_key=server.access_key,
            authority=node.storage_ca_file.read_bytes() if node.storage_ca_file else None,
            timeout_s=node.storage_timeout_s,
            max_bytes=max_bytes,
        )
    if scheme == "sftp":
        with _extra("sftp"):
            from ulos_stream.storage import sftp
        return sftp.SftpStorage(
            host=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            private_key=sftp.read_private_key(key, server.password) if (key := node.storage_private_key_file) else None,
            known_hosts=node.storage_known_hosts or Path("~/.ssh/known_hosts").expanduser(),
            folder=urls.folder(node.storage_url),
            connections=settings.stages_at_once + 1,
            timeout_s=node.storage_timeout_s,
            max_bytes=max_bytes,
        )
    return FtpStorage(
        host=server.host,
        port=server.port,
        username=server.username,
        password=server.password,
        tls=tls_context(node.storage_ca_file) if scheme == "ftps" else None,
        connections=settings.stages_at_once + 1,  # for the readiness check
        timeout_s=node.storage_timeout_s,
        max_bytes=max_bytes,
    )


@contextlib.contextmanager
def _extra(scheme: str) -> Iterator[None]:
    """Import what a storage needs, or say how to install it; the extra is named like the scheme."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"ULOS_STORAGE_URL: {scheme}:// needs {missing.name}, which is not installed: "
            f"pip install 'ulos-stream[{scheme}]'"
        ) from missing


def find_executors(node: NodeSettings) -> Registry:
    """The executors of this machine.

    Raises:
        ConfigurationError: A descriptor is wrong, or Jobs have no carrier.
    """
    if node.engine == "kubernetes" and node.kubernetes.carrier_image is None:
        raise ConfigurationError("ULOS_KUBERNETES_CARRIER_IMAGE: is not set; name the image of this node")
    return build_registry(
        node.executors_path or (shipped("executors"),),
        mock_delay_s=node.mock_delay_s,
        node=node.node,
        docker_host=node.docker_host,
        kubernetes=node.kubernetes if node.engine == "kubernetes" else None,
        docker_cert_path=node.docker_cert_path,
    )


def _open_metrics(settings: Settings, executors: Registry) -> "Metrics | None":
    if settings.node.http_port is None:
        return None
    from ulos_stream.telemetry.metrics import Metrics

    return Metrics((entry.key for entry in executors), executors.name_of)


def _open_watch(settings: Settings, metrics: "Metrics | None", log: Log) -> Watch:
    names, file = settings.telemetry.exporters, settings.node.trace_file
    if not names and file is None:
        return metrics or Unwatched()
    from ulos_stream.telemetry.exporting import open_exporters
    from ulos_stream.telemetry.tracing import Tracing

    server = (settings.broker.host, settings.broker.port)
    tracing = Tracing(open_exporters(names, file, log), node=settings.node.node, server=server)
    return tracing if metrics is None else Both(tracing, metrics)


def _document(app: FastStream) -> str:
    """The page of this node's own AsyncAPI document."""
    from ulos_stream.asyncapi.document import complete
    from ulos_stream.asyncapi.page import page

    return page(complete(app.schema.to_specification().to_jsonable()))


def _open_http(
    settings: Settings,
    metrics: "Metrics",
    readiness: Readiness,
    executors: Registry,
    admission: Admission,
    document: Callable[[], str],
) -> "HttpSide":
    from ulos_stream.http import HttpSide

    add_gauges(metrics, settings, readiness, executors, admission)
    return HttpSide(settings, readiness, metrics, executors, document)


def add_gauges(
    metrics: "Metrics", settings: Settings, readiness: Readiness, executors: Registry, admission: Admission
) -> None:
    """Let the metrics show what the parts of a node know."""
    metrics.gauge("ulos_stages_limit", "Most stages at once.", lambda: settings.stages_at_once)
    metrics.gauge("ulos_admission_limit", "Weight of stages that may run now.", lambda: admission.limit)
    metrics.gauge("ulos_admission_running", "Stages that run.", lambda: admission.running)
    metrics.gauge("ulos_admission_waiting", "Stages that wait for their turn.", lambda: admission.waiting)
    metrics.gauge("ulos_containers_running", "Containers of stages.", lambda: executors.containers_running)
    metrics.gauge("ulos_ready", "Whether the node can do its work now.", lambda: not readiness.reasons)
    metrics.checks(readiness.names, readiness.passes)


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
