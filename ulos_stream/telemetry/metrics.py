"""Metrics for Prometheus, served by `http.py`. Labels take few values: a routing key is never one of them.

Importing this takes 0.1 s, so it waits until metrics are asked for.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cache, partial
from types import MappingProxyType
from typing import TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ulos_stream import __version__
from ulos_stream.errors import (
    BrokerFault,
    Crash,
    DeviceFault,
    EngineFault,
    Fault,
    FaultBudgetSpent,
    NodeFault,
    StorageFault,
    Unroutable,
)
from ulos_stream.tasks import Hop, Task, Verdict
from ulos_stream.telemetry.watch import Arrival, End, Message, Step, Transfer

T = TypeVar("T")

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
STEP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""From a mock's step to the broker's delivery timeout."""
WAIT_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800, 3600, 14_400, 86_400)
"""From an idle node to a queue that waits for a day."""
NO_TASK = "none"
"""Executor of a message that is no task."""
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Metrics:
    """A `Watch` that counts.

    Args:
        executors: Names of all executors; each appears with zeros before it first runs.
        name_of: The executor of a routing key, by one of these names, or "unknown".
    """

    def __init__(self, executors: Iterable[str], name_of: Callable[[str], str]) -> None:
        registry = self._registry = CollectorRegistry()
        self._name_of = name_of
        ProcessCollector(registry=registry)
        Info("ulos_build", "What this node is built from.", registry=registry).info({"version": __version__})
        self._stages = Counter(
            "ulos_stages", "Stages that ended with a verdict.", ["executor", "verdict"], registry=registry
        )
        self._crashes = Counter(
            "ulos_crashes", "Stages that could not be carried out.", ["executor", "code"], registry=registry
        )
        self._stage_s = Histogram(
            "ulos_stage_duration_seconds",
            "From the first look at a message to the last confirmation before its settlement.",
            ["executor"],
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self._step_s = Histogram(
            "ulos_step_duration_seconds",
            "One step of a stage.",
            ["step"],
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self._wait_s = Histogram(
            "ulos_queue_wait_seconds",
            "From the sender's clock to the first delivery, where the message tells when it was sent.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._bytes = Counter(
            "ulos_transferred_bytes", "Bytes of artifacts downloaded or uploaded.", ["step"], registry=registry
        )
        self._in_flight = Gauge("ulos_stages_in_flight", "Stages that run now.", registry=registry)
        self._faults = Counter(
            "ulos_faults",
            "Faults of the infrastructure, tried again or given up when the budget was spent.",
            ["kind", "outcome"],
            registry=registry,
        )
        self._publishes = Counter(
            "ulos_publishes", "Messages published, by how that ended.", ["message", "result"], registry=registry
        )
        self._journal_hits = Counter(
            "ulos_journal_hits", "Stages that the artifact's journal showed as done.", registry=registry
        )
        # To find the metric of some labels takes longer than to count on it.
        self._stages_of, self._stage_s_of = cache(self._stages.labels), cache(self._stage_s.labels)
        self._step_s_of, self._bytes_of = cache(self._step_s.labels), cache(self._bytes.labels)
        for name in executors:
            self._stage_s.labels(name)
            for verdict in Verdict:
                self._stages.labels(name, verdict)
        for step in get_args(Step):
            self._step_s.labels(step)
        for transfer in get_args(Transfer):
            self._bytes.labels(transfer)
        for fault in (BrokerFault, StorageFault, EngineFault, DeviceFault, NodeFault):
            self._faults.labels(fault.kind, "retried")
            self._faults.labels(fault.kind, "given_up")
        self._publish_of = {name: _Publish(partial(self._publishes.labels, name)) for name in get_args(Message)}

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(name, what, registry=self._registry).set_function(read)

    def checks(self, names: Iterable[str], passes: Callable[[str], bool]) -> None:
        """Add one gauge for all checks of readiness: 1 for each that passes, 0 for each that does not."""
        gauge = Gauge("ulos_check_passed", "Whether a check of readiness passes.", ["check"], registry=self._registry)
        for name in names:
            gauge.labels(name).set_function(partial(passes, name))

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def stage(self, arrival: Arrival, task: Task | None) -> AbstractContextManager[End]:
        if arrival.sent_at_s is not None:
            self._wait_s.observe(max(0.0, time.time() - arrival.sent_at_s))
        executor = NO_TASK if task is None else self._name_of(task.routing_tree.routing_key)
        return _Stage(self._stage_s_of(executor), self._in_flight, partial(self._end, executor))

    def _end(self, executor: str, how: Verdict | Crash) -> None:
        if isinstance(how, Verdict):
            self._stages_of(executor, how).inc()
            return
        self._crashes.labels(executor, how.code).inc()
        if isinstance(how, FaultBudgetSpent) and isinstance(how.__cause__, Fault):
            self._faults.labels(how.__cause__.kind, "given_up").inc()

    def step(self, step: Step) -> AbstractContextManager[None]:
        return _Timed(self._step_s_of(step), None)

    def publish(
        self, message: Message, hop: Hop, message_id: str, correlation_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        return self._publish_of[message]

    def transferred(self, step: Transfer, size_bytes: int) -> None:
        self._bytes_of(step).inc(size_bytes)

    def fault(self, fault: Fault) -> None:
        self._faults.labels(fault.kind, "retried").inc()

    def skipped(self) -> None:
        self._journal_hits.inc()

    def close(self) -> None:
        """There is nothing to pass on: metrics are fetched."""


class _Timed(AbstractContextManager[T]):
    """Observes how long it was entered.

    Args:
        durations: In seconds.
        yields: What is handed to the one who enters.
    """

    def __init__(self, durations: Histogram, yields: T) -> None:
        self._durations = durations
        self._yields = yields

    def __enter__(self) -> T:
        self._begun = time.perf_counter()
        return self._yields

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._durations.observe(time.perf_counter() - self._begun)


class _Stage(_Timed[End]):
    """A stage, timed, and counted as long as it runs."""

    def __init__(self, durations: Histogram, in_flight: Gauge, end: End) -> None:
        super().__init__(durations, end)
        self._in_flight = in_flight

    def __enter__(self) -> End:
        self._in_flight.inc()
        return super().__enter__()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        self._in_flight.dec()


class _Publish(AbstractContextManager[Mapping[str, str]]):
    """A publish, counted by how it ended; one that the node's end cut short has not failed, and counts as nothing.

    It keeps nothing of a publish, so that one object serves all of a kind.
    """

    def __init__(self, count_of: Callable[[str], Counter]) -> None:
        self._confirmed = count_of("confirmed")
        self._unroutable = count_of("unroutable")
        self._unconfirmed = count_of("unconfirmed")

    def __enter__(self) -> Mapping[str, str]:
        return _NO_HEADERS

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            self._confirmed.inc()
        elif isinstance(error, Unroutable):
            self._unroutable.inc()
        elif isinstance(error, Exception):
            self._unconfirmed.inc()
