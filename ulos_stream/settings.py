"""The environment, read once. A missing or wrong value is one readable line.

The fifteen variables of ULOS keep their exact names; ours beside them start with `ULOS_`
and all have a default.
"""

import os
import socket
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ulos_stream import capacity
from ulos_stream.archive import Limits
from ulos_stream.errors import ConfigurationError
from ulos_stream.executors.pod import Kubernetes
from ulos_stream.storage.urls import check_url
from ulos_stream.topology.connection import Access

Section = TypeVar("Section", bound=BaseSettings)


def _a_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http:// or https:// and a host")
    if parts.username or parts.password:
        raise ValueError("takes no credentials, they are those of MESSAGE_BROKER_*; take them out")
    return url.rstrip("/")


def _engine_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme in ("tcp", "http", "https") and (not parts.hostname or not parts.port or parts.path.strip("/")):
        raise ValueError("must be tcp://, a host and a port, like tcp://engine.example:2376")
    return address


def _docker_certificates() -> Path | None:
    """What Docker's own client goes by: with any `DOCKER_TLS_VERIFY`, the folder of `DOCKER_CERT_PATH`."""
    if not os.environ.get("DOCKER_TLS_VERIFY"):
        return None
    return Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")


def _split(separator: str) -> BeforeValidator:
    return BeforeValidator(lambda v: [part for part in v.split(separator) if part] if isinstance(v, str) else v)


SECRET = ("PASSWORD", "JOURNAL_KEY", "MANAGEMENT_URL", "STORAGE_URL")
"""In the names of variables that hold a secret, or a URL that may: their values are not repeated."""

Name = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
File = Annotated[Path, AfterValidator(_a_file)]


class MessageBroker(BaseSettings):
    """`MESSAGE_BROKER_*`: the broker, as ULOS names it."""

    model_config = SettingsConfigDict(env_prefix="MESSAGE_BROKER_", frozen=True, use_attribute_docstrings=True)

    host: Name
    """Name or address of the RabbitMQ server."""
    port: Port
    """Its AMQP port: 5672 as a rule, 5671 with `ULOS_BROKER_TLS`."""
    username: Name
    """User of the broker."""
    password: SecretStr
    """Password of that user."""
    logs_exchange: str
    """Exchange of log messages; empty for the default exchange."""
    logs_routing_key: Name
    """Routing key of log messages."""
    crash_exchange: str
    """Exchange of crash messages; empty for the default exchange."""
    crash_routing_key: Name
    """Routing key of crash messages."""
    consumption_queue: Name
    """The queue this node consumes. It exists already; the node never alters it."""
    prefetch_count: Annotated[int, Field(ge=0, le=65535)]
    """Messages held unacknowledged, which is how many stages run at once; 0 leaves it to `ULOS_CONCURRENCY`."""
    requeue_on_reject: bool
    """Whether a crashed message goes back to its queue; never in a loop."""


class RemoteStorage(BaseSettings):
    """`REMOTE_STORAGE_*`: the FTP or SFTP server, as ULOS names it."""

    model_config = SettingsConfigDict(env_prefix="REMOTE_STORAGE_", frozen=True, use_attribute_docstrings=True)

    host: Name
    """Name or address of the server."""
    port: Port
    """Its port: 21 as a rule of FTP."""
    username: Name
    """User of the storage."""
    password: SecretStr
    """Password of that user."""


class BucketAccess(BaseSettings):
    """`REMOTE_STORAGE_*` for `s3://`: both, or neither where AWS's own variables or a role of the machine say who."""

    model_config = SettingsConfigDict(env_prefix="REMOTE_STORAGE_", env_ignore_empty=True, frozen=True, extra="ignore")

    username: str | None = None
    """Access key id."""
    password: SecretStr | None = None
    """Secret access key."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("REMOTE_STORAGE_USERNAME and _PASSWORD: set both, or neither")
        return self

    @property
    def access_key(self) -> tuple[str, SecretStr] | None:
        """Id and secret, if they are set."""
        return None if self.username is None or self.password is None else (self.username, self.password)


class Node(BaseSettings):
    """`ULOS_*`: everything else. Each has a default."""

    model_config = SettingsConfigDict(
        env_prefix="ULOS_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    node: Name = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Name of this node in log messages and on its containers; host name and process id by default."""
    virtual_host: Name = "/"
    """RabbitMQ virtual host."""
    broker_tls: bool = False
    """Speak `amqps`; the certificate is verified."""
    broker_ca_file: File | None = None
    """PEM file of a private certificate authority for the broker and its management API; the system's ones by
    default."""
    management_url: Annotated[str, AfterValidator(_http_url)] | None = None
    """RabbitMQ's management API, for `ulos topology check` and `ulos lint` alone; port 15672 of the broker's host by
    default, by TLS 15671."""
    storage_url: Annotated[str, AfterValidator(check_url)] = "ftp://"
    """`ftp://`, `ftps://` (explicit TLS) or `sftp:///folder` for the server of `REMOTE_STORAGE_*`,
    `s3://bucket/folder?region=…&endpoint=…`, or `file:///folder`."""
    storage_ca_file: File | None = None
    """PEM file of a private certificate authority for the storage; the system's ones by default."""
    storage_known_hosts: File | None = None
    """File with the host key of an SFTP server, as `ssh-keyscan` writes it; `~/.ssh/known_hosts` by default."""
    storage_private_key_file: File | None = None
    """Private key that logs in to an SFTP server in place of the password, which is then its passphrase, if any."""
    storage_timeout_s: Annotated[float, Field(gt=0)] = 120
    """Seconds that one download or upload may take: 100 MiB at 1 MiB/s and some."""
    publish_timeout_s: Annotated[float, Field(gt=0)] = 10
    """Seconds to wait for the broker's confirmation of one message; after them the outcome is unknown."""
    fault_budget_s: Annotated[float, Field(ge=0)] = 300
    """Seconds for which a fault of the infrastructure is retried in one step of a stage before the task crashes."""
    max_timeout_s: Annotated[float, Field(ge=0)] = 86_400
    """The longest timeout, in seconds, that a task may ask for: a day."""
    delivery_timeout_s: Annotated[float, Field(gt=0)] = 1_800
    """Seconds for which the broker lets a node hold a message, its `consumer_timeout`: RabbitMQ's own default. `ulos
    lint` and the wait for a device go by it."""
    concurrency: Annotated[int, Field(ge=0, le=65535)] = 0
    """Stages at once when the prefetch count is 0; 0 means two for each core that the node may use, at least 4."""
    adaptive: bool = True
    """Let as many stages run at once, between 1 and the prefetch count, as the machine carries without slowing each of
    them down, or the node's container; `false`: always as many as the prefetch count."""
    owner_limit: Annotated[int, Field(ge=0)] = 0
    """Most stages of one owner (`taskOwnerId`) at once on a node; 0 for no such ceiling. Owners take turns anyway."""
    grace_s: Annotated[float, Field(ge=0)] = 30
    """Seconds that running stages get after SIGTERM: what Kubernetes waits by default."""
    work_dir: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()))
    """Where the directories of running stages are made, the system's place for temporary files by default. A container
    engine on this machine had best see the same path."""
    executors_path: Annotated[tuple[Path, ...], NoDecode, _split(os.pathsep)] = ()
    """Folders with an `executor.toml`, or with one in each subfolder, separated by `:`; the shipped ones by default."""
    require_executors: Annotated[tuple[str, ...], NoDecode, _split(",")] = ()
    """Routing keys, separated by `,`, whose executors must be available before anything is consumed."""
    mock_delay_s: Annotated[float, Field(ge=0)] = 0
    """Seconds that the mock executors wait; ULOS waits 5."""
    engine: Literal["docker", "kubernetes"] = "docker"
    """What runs container executors: a container engine with Docker's API, or Jobs of a Kubernetes cluster
    (experimental, needs the extra `kubernetes`). The descriptors are the same."""
    docker_host: Annotated[str, AfterValidator(_engine_address)] | None = Field(
        default_factory=lambda: os.environ.get("DOCKER_HOST") or None, validate_default=True
    )
    """Address of the container engine; `DOCKER_HOST` or the usual sockets by default. Work is mounted for an engine
    that sees this node's files, and copied there and back otherwise, always over `tcp://`."""
    docker_cert_path: Path | None = Field(default_factory=_docker_certificates)
    """Folder with `ca.pem`, `cert.pem` and `key.pem`: an engine at `tcp://` is spoken to by TLS, and both sides are
    verified. `DOCKER_CERT_PATH` by default, where `DOCKER_TLS_VERIFY` is set."""
    kubernetes: Kubernetes = Kubernetes()
    """`ULOS_KUBERNETES_*`: how container executors run as Jobs."""
    journal_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Secret of at least 16 characters, the same on all nodes, that signs the record of done stages in each artifact;
    derived from the broker's and the storage's passwords by default."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level of the node's own log lines, on standard error."""
    http_port: Port | None = None
    """Port that serves `/health/live`, `/health/ready`, `/metrics`, `/info` and `/docs`; none by default."""
    http_host: Name = "127.0.0.1"
    """Address that the port is bound on; what it serves asks nobody for a password."""
    trace_file: Path | None = None
    """File to which traces are appended as OTLP JSON lines, for `ulos trace`; give each node its own."""
    archive: Limits = Limits()
    """`ULOS_ARCHIVE_*`: limits on archives."""


class OpenTelemetry(BaseSettings):
    """`OTEL_*`: whether traces are exported. Everything else in them is read by OpenTelemetry's own code."""

    model_config = SettingsConfigDict(
        env_prefix="OTEL_", env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    sdk_disabled: bool = False
    """True: no traces, whatever else is set."""
    traces_exporter: str | None = None
    """Names, separated by `,`; by default `otlp` where an endpoint is set, else `none`."""
    exporter_otlp_endpoint: str | None = None
    """URL of the collector; `/v1/traces` is added to it."""
    exporter_otlp_traces_endpoint: str | None = None
    """Instead: the whole URL to which traces are sent."""
    exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    """How the collector is spoken to; nothing else is built in."""
    exporter_otlp_traces_protocol: Literal["http/protobuf"] = "http/protobuf"
    """The same for traces alone, if both are set."""

    @property
    def exporters(self) -> tuple[str, ...]:
        """Names of the exporters that are wanted; empty when nothing is exported."""
        if self.sdk_disabled:
            return ()
        wanted = self.traces_exporter
        if wanted is None:
            wanted = "otlp" if self.exporter_otlp_endpoint or self.exporter_otlp_traces_endpoint else "none"
        names = (name.strip() for name in wanted.split(","))
        return tuple(name for name in names if name not in ("", "none"))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a node. Secrets are masked in its repr."""

    broker: MessageBroker
    storage: RemoteStorage | BucketAccess | None
    """None when `ULOS_STORAGE_URL` names a folder of this machine."""
    node: Node
    telemetry: OpenTelemetry

    @property
    def stages_at_once(self) -> int:
        """How many messages the node holds, and so how many stages run at once."""
        return self.broker.prefetch_count or self.node.concurrency or max(4, round(2 * capacity.cores()))


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: One line for each missing or wrong variable, all at once.
    """
    mistakes: list[str] = []
    broker = _read(MessageBroker, mistakes)
    node = _read(Node, mistakes)
    scheme = "ftp" if node is None else urlsplit(node.storage_url).scheme
    storage: RemoteStorage | BucketAccess | None = None
    if scheme == "s3":
        storage = _read(BucketAccess, mistakes)
    elif scheme != "file":
        storage = _read(RemoteStorage, mistakes)
    telemetry = _read(OpenTelemetry, mistakes)
    if mistakes or broker is None or node is None or telemetry is None:
        raise ConfigurationError(*mistakes)
    return Settings(broker, storage, node, telemetry)


def read_node_settings() -> Node:
    """Read `ULOS_*` alone, for a command that talks to nobody.

    Raises:
        ConfigurationError: One line for each wrong variable, all at once.
    """
    mistakes: list[str] = []
    node = _read(Node, mistakes)
    if node is None:
        raise ConfigurationError(*mistakes)
    return node


def read_broker_settings() -> tuple[MessageBroker, Node]:
    """Read what a command needs that talks to the broker alone: everything but `REMOTE_STORAGE_*`.

    Raises:
        ConfigurationError: One line for each missing or wrong variable, all at once.
    """
    mistakes: list[str] = []
    broker, node = _read(MessageBroker, mistakes), _read(Node, mistakes)
    if broker is None or node is None:
        raise ConfigurationError(*mistakes)
    return broker, node


def tls_context(authority: Path | None) -> ssl.SSLContext:
    """How a server's certificate is verified: by a private authority's PEM file, or by those of the system.

    Raises:
        ConfigurationError: The file holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=authority)
    except ssl.SSLError as wrong:
        raise ConfigurationError(f"{authority}: holds no certificate in PEM form") from wrong


def access_to(broker: MessageBroker, node: Node) -> Access:
    """How the settings reach the broker, beside FastStream.

    Raises:
        ConfigurationError: A certificate file is wrong.
    """
    return Access(
        broker.host,
        broker.port,
        node.virtual_host,
        broker.username,
        broker.password,
        tls_context(node.broker_ca_file) if node.broker_tls else None,
    )


def _read(section: type[Section], mistakes: list[str]) -> Section | None:
    try:
        return section()
    except ValidationError as invalid:
        prefix = section.model_config["env_prefix"]
        mistakes += (_mistake(prefix, dict(error)) for error in invalid.errors(include_url=False))
        return None


def _mistake(prefix: str, error: dict[str, Any]) -> str:
    name = prefix + "_".join(str(part) for part in error["loc"] if isinstance(part, str)).upper()
    if error["type"] == "missing":
        return f"{name}: is not set"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # it is about several, and names them
        return str(message)
    secret = any(word in name for word in SECRET) or isinstance(error["input"], dict)
    value = "" if secret else f" (it is {error['input']!r})"
    return f"{name}: {message[0].lower()}{message[1:]}{value}"
