"""Which executor runs a stage: a read-only mapping from routing keys, built once at start."""

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Literal

from ulos_stream.errors import ConfigurationError, EngineFault, ExecutorUnavailable, Fault, UnknownExecutor
from ulos_stream.executors import Executor
from ulos_stream.executors.cluster import Cluster
from ulos_stream.executors.container import ContainerExecutor
from ulos_stream.executors.descriptor import ContainerDescriptor, Descriptor, read_descriptor
from ulos_stream.executors.engine import Engine, NoEngine
from ulos_stream.executors.inline import MOCK_PREFIX, MOCK_VERDICTS, InlineExecutor, Mock
from ulos_stream.executors.kubernetes import KubernetesExecutor
from ulos_stream.executors.pod import Kubernetes
from ulos_stream.executors.process import ProcessExecutor
from ulos_stream.tasks import Verdict

ENTRY_POINTS = "ulos.executors"
"""Group of the Python entry points: the name is the routing key, the object an `async def f(job)`."""

CHECK_S = 5.0
"""Seconds that an executor has to tell whether it can run."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One executor and the routing keys that it claims."""

    key: str
    is_prefix: bool
    """Claims every key that starts with `key`, unless a longer prefix or the whole key is claimed."""
    kind: Literal["mock", "inline", "process", "container"]
    origin: str
    """Where it comes from, for people: a file, or a Python object."""
    description: str
    executor: Executor
    verdicts: frozenset[Verdict] = frozenset(Verdict)
    """Those that it can end with; where there are none, it can only crash."""
    folder: Path | None = None
    """That of its descriptor, if it has one."""
    weight: float = 1.0
    """How much of a node one stage takes, compared with an ordinary one."""
    at_once: int | None = None
    """The most stages of it at once on a node."""


class Registry:
    """Finds executors by routing key. Iterating gives the entries in the order they were found.

    Args:
        entries: No two of them claim the same key, or the same prefix.
        engine: What the containers among them run on.
    """

    def __init__(self, entries: Sequence[Entry], engine: Engine | Cluster) -> None:
        self._entries = tuple(entries)
        self._exact = {entry.key: entry for entry in entries if not entry.is_prefix}
        prefixes = (entry for entry in entries if entry.is_prefix)
        self._prefixes = sorted(prefixes, key=lambda entry: len(entry.key), reverse=True)
        self._engine = engine

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def claim(self, routing_key: str) -> Entry | None:
        """Who claims a routing key exactly, else the longest prefix of it; None if nobody does."""
        claims = (entry for entry in self._prefixes if routing_key.startswith(entry.key))
        return self._exact.get(routing_key) or next(claims, None)

    def find(self, routing_key: str) -> Executor:
        """The executor of a routing key.

        Raises:
            UnknownExecutor: Nobody claims it.
        """
        if entry := self.claim(routing_key):
            return entry.executor
        raise UnknownExecutor(f"no executor claims the routing key {routing_key!r}; this node knows {len(self)}")

    def name_of(self, routing_key: str) -> str:
        """The key, or the prefix, by which an executor claims this routing key; "unknown" if none does."""
        entry = self.claim(routing_key)
        return entry.key if entry else "unknown"

    @property
    def containers_running(self) -> int:
        """Containers that this node has started and that have not ended."""
        return self._engine.running

    @property
    def devices(self) -> list[str]:
        """The machines that these executors need."""
        return sorted({entry.executor.device for entry in self if entry.executor.device})

    async def check(self) -> dict[str, str]:
        """Which executors cannot run on this node now, and why, by key."""
        reasons = await asyncio.gather(*(_look(entry.executor) for entry in self))
        return {entry.key: reason for entry, reason in zip(self, reasons, strict=True) if reason}

    async def insist(self, required: Collection[str]) -> None:
        """See that the executors of these routing keys can run.

        Raises:
            Fault: One of them cannot run now.
            UnknownExecutor: A key is claimed by nobody.
        """
        reasons = await asyncio.gather(*(_look(self.find(key)) for key in required))
        if broken := [f"{key}: {reason}" for key, reason in zip(required, reasons, strict=True) if reason]:
            raise Fault(f"a required executor cannot run: {'; '.join(broken)}")

    def with_entry(self, entry: Entry) -> "Registry":
        """The same with this entry in place of the one that claims the same; closed together with this one."""
        claim = (entry.key, entry.is_prefix)
        return Registry([entry if (other.key, other.is_prefix) == claim else other for other in self], self._engine)

    async def sweep(self, abandoned: Callable[[str], bool]) -> None:
        """Remove the containers of other nodes that are `abandoned`: told a node's name, it says so.

        Raises:
            EngineFault: The container engine is away; what is left is found by the next sweep.
        """
        try:
            await self._engine.sweep_nodes(abandoned)
        except NoEngine:  # so nothing ever ran on it
            return
        except ExecutorUnavailable as away:  # no task is to blame, and none waits
            raise EngineFault(str(away)) from away

    async def aclose(self) -> None:
        """Close the connection to the container engine. Idempotent."""
        await self._engine.aclose()


async def _look(executor: Executor) -> str | None:
    """Why an executor cannot run now; a start does not hang on an engine that hangs."""
    try:
        async with asyncio.timeout(CHECK_S):
            return await executor.check()
    except TimeoutError:
        return f"no answer within {CHECK_S:g} s"


def build_registry(
    paths: Sequence[Path],
    *,
    mock_delay_s: float,
    node: str,
    docker_host: str | None,
    kubernetes: Kubernetes | None = None,
    docker_cert_path: Path | None = None,
) -> Registry:
    """Find every executor: the mocks, the entry points of installed packages, the descriptors in `paths`.

    Args:
        paths: Folders with an `executor.toml`, or with one in each subfolder.
        mock_delay_s: Seconds that a mock waits.
        node: Name of this node, for the labels of its containers.
        docker_host: Address of the container engine; None: where Docker's own client looks.
        kubernetes: Run containers as Jobs of a cluster instead.
        docker_cert_path: Certificates for it; see `Engine`.

    Raises:
        ConfigurationError: One line for each mistake in all of them.
    """
    engine = (
        Engine(docker_host, node, certificates=docker_cert_path) if kubernetes is None else Cluster(kubernetes, node)
    )
    mistakes: list[str] = []
    entries = [*_mocks(mock_delay_s), *_installed(mistakes), *_described(paths, engine, mistakes)]
    claims: dict[tuple[str, bool], Entry] = {}
    for entry in entries:
        first = claims.setdefault((entry.key, entry.is_prefix), entry)
        if first is not entry:
            name = "routing_key_prefix" if entry.is_prefix else "routing_key"
            mistakes.append(f"{entry.origin}: {name}: {entry.key!r} is claimed by {first.origin} too; change one")
    if mistakes:
        raise ConfigurationError(*mistakes)
    return Registry(entries, engine)


def _mocks(delay_s: float) -> Iterator[Entry]:
    for key, verdict in MOCK_VERDICTS.items():
        mock = InlineExecutor(Mock(verdict, delay_s))
        yield Entry(key, False, "mock", "built in", f"a mock: {verdict or 'crash'}", mock, _verdicts(verdict))
    passing = InlineExecutor(Mock(Verdict.PASS, delay_s))
    verdicts = _verdicts(Verdict.PASS)
    yield Entry(MOCK_PREFIX, True, "mock", "built in", f"a mock: {Verdict.PASS}", passing, verdicts)


def _verdicts(verdict: Verdict | None) -> frozenset[Verdict]:
    return frozenset() if verdict is None else frozenset({verdict})


def _installed(mistakes: list[str]) -> Iterator[Entry]:
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value)):
        package = point.dist.name if point.dist else "?"
        origin = f"{package}, entry point {point.name} = {point.value}"
        try:
            entry = _load(point, origin)
        except (Exception, SystemExit) as exc:  # a foreign package may raise anything on import
            mistakes.append(f"{origin}: cannot be loaded ({type(exc).__name__}: {exc}); repair or uninstall {package}")
            continue
        if entry is None:
            mistakes.append(f"{origin}: is no async function; make it an `async def f(job)`")
        else:
            yield entry


def _load(point: EntryPoint, origin: str) -> Entry | None:
    function = point.load()
    if not inspect.iscoroutinefunction(function):
        return None
    description = (inspect.getdoc(function) or "").partition("\n")[0]
    return Entry(point.name, False, "inline", origin, description, InlineExecutor(function))


def _described(paths: Sequence[Path], engine: Engine | Cluster, mistakes: list[str]) -> Iterator[Entry]:
    for path in paths:
        if not path.is_dir():
            mistakes.append(f"{path}: is no directory; make it, or take it out of the executors' path")
        own = path / "executor.toml"
        for file in [own] if own.exists() else sorted(path.glob("*/executor.toml")):
            try:
                yield _describe(read_descriptor(file), file, engine)
            except ConfigurationError as exc:
                mistakes.extend(exc.mistakes)


def _describe(descriptor: Descriptor, file: Path, engine: Engine | Cluster) -> Entry:
    executor: Executor
    if not isinstance(descriptor, ContainerDescriptor):
        executor = ProcessExecutor(descriptor, file.parent)
    elif isinstance(engine, Cluster):
        executor = KubernetesExecutor(descriptor, engine)
    else:
        executor = ContainerExecutor(descriptor, file.parent, engine)
    exact, prefix = descriptor.routing_key, descriptor.routing_key_prefix
    key = exact if exact is not None else prefix or ""
    return Entry(
        key,
        exact is None,
        descriptor.kind,
        str(file),
        descriptor.description,
        executor,
        folder=file.parent,
        weight=descriptor.weight,
        at_once=descriptor.at_once,
    )
