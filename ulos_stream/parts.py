"""What a node is made of: each part, opened as the settings say; none does I/O before it is used.

What takes long to import (metrics, traces, HTTP, clients of further storages) is imported when it is asked for.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from faststream.rabbit import RabbitBroker
from faststream.security import SASLPlaintext

from ulos_stream import shipped, topology
from ulos_stream.admission import Admission
from ulos_stream.errors import ConfigurationError
from ulos_stream.executors.registry import Registry, build_registry
from ulos_stream.journal import derived_key
from ulos_stream.readiness import Readiness
from ulos_stream.settings import BucketAccess, Settings, tls_context
from ulos_stream.settings import Node as NodeSettings
from ulos_stream.storage import Storage, urls
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.storage.ftp import FtpStorage
from ulos_stream.telemetry import Log
from ulos_stream.telemetry.watch import Both, Unwatched, Watch

if TYPE_CHECKING:
    from ulos_stream.http import HttpSide
    from ulos_stream.telemetry.metrics import Metrics


def open_broker(settings: Settings, log: Log) -> RabbitBroker:
    """One connection to the broker; the node has two."""

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
        app_id=None,  # what is published bears that of `producer`
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


def open_metrics(settings: Settings, executors: Registry) -> "Metrics | None":
    """The metrics, where there is a port to fetch them from."""
    if settings.node.http_port is None:
        return None
    from ulos_stream.telemetry.metrics import Metrics

    return Metrics((entry.key for entry in executors), executors.name_of)


def open_watch(settings: Settings, metrics: "Metrics | None", log: Log) -> Watch:
    """Who follows the stages.

    Raises:
        ConfigurationError: An exporter of traces is wrong.
    """
    names, file = settings.telemetry.exporters, settings.node.trace_file
    if not names and file is None:
        return metrics or Unwatched()
    from ulos_stream.telemetry.exporting import open_exporters
    from ulos_stream.telemetry.tracing import Tracing

    server = (settings.broker.host, settings.broker.port)
    tracing = Tracing(open_exporters(names, file, log), node=settings.node.node, server=server)
    return tracing if metrics is None else Both(tracing, metrics)


def open_http(
    settings: Settings,
    metrics: "Metrics",
    readiness: Readiness,
    executors: Registry,
    admission: Admission,
    document: Callable[[], str],
) -> "HttpSide":
    """What the node serves by HTTP; `document` makes the page of its AsyncAPI document."""
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


def journal_key(settings: Settings) -> bytes:
    """What signs the entries of journals; derived from the passwords where none is set."""
    if settings.node.journal_key is not None:
        return settings.node.journal_key.get_secret_value().encode()
    sections = (settings.broker, settings.storage)
    passwords = (section.password for section in sections if section is not None)
    return derived_key(*(password.get_secret_value() for password in passwords if password is not None))
