"""What must hold after any faults: pure functions from the evidence of a round to its violations."""

import io
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from .ledger import Line
from .world import ENDS, Sent

RESUMED_S = 30.0
"""Seconds within which nodes say `ready` and work goes on after an outage."""

Code = Literal[
    "lost",
    "two outcomes",
    "wrong outcome",
    "one id, two bodies",
    "not settled",
    "effect twice",
    "effect missing",
    "corrupt",
    "journal",
    "executed too often",
    "left behind",
    "bystander redelivered",
    "not said",
    "not resumed",
    "never happened",
]
DUPLICATED: frozenset[Code] = frozenset({"two outcomes", "effect twice"})
CORRUPT: frozenset[Code] = frozenset({"corrupt"})


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and for what."""

    invariant: Literal["A", "B", "C", "D", "E", "F", "harness"]
    code: Code
    about: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.code}: {self.about}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the nodes or to their world."""

    kind: str
    hit: frozenset[str] | None
    """The tasks that it may send through a stage again; None: every one."""
    attempts: int = 1
    """How often: a node meets one that lasts again and again."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which something that every node needs was away, in seconds since the epoch."""

    what: str
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a round leaves to be judged."""

    sent: tuple[Sent, ...]
    ledger: tuple[Line, ...]
    dead_queue: str
    executions: Counter[tuple[str, str]]
    """By task and stage."""
    receptions: Counter[tuple[str, str]]
    """Deliveries to nodes, by task and stage."""
    artifacts: Mapping[str, bytes | None]
    """What the storage holds at the end, by path."""
    partial: tuple[str, ...]
    """Paths at which something was seen, at any time, that is no whole zip."""
    faults: tuple[Fault, ...]
    outages: tuple[Outage, ...] = ()
    node_lines: tuple[dict[str, Any], ...] = ()
    leftovers: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    """Faults that were planned and never came to pass."""
    bystanders_hold: bool = False
    """Whether each fault hit one task alone, so that no other may be redelivered."""
    _by_task: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list), init=False)

    def __post_init__(self) -> None:
        for line in self.ledger:
            if line.task is not None:
                self._by_task[line.task].append(line)

    def about(self, task: str) -> list[Line]:
        """The ledger's lines of one task."""
        return self._by_task.get(task, [])


def violations(evidence: Evidence) -> list[Violation]:
    """Everything that does not hold."""
    return [
        *outcomes(evidence),
        *artifacts(evidence),
        *executions(evidence),
        *(Violation("D", "left behind", what) for what in evidence.leftovers),
        *bystanders(evidence),
        *readiness(evidence),
        *(Violation("harness", "never happened", what) for what in evidence.missed),
    ]


def outcomes(evidence: Evidence) -> Iterator[Violation]:
    """A: every task has exactly one outcome, the right one, and repeated deliveries carry one id."""
    for sent in evidence.sent:
        lines = evidence.about(sent.task)
        dead = {line.message_id for line in lines if line.queue == evidence.dead_queue}
        told = [line for line in lines if line.queue != evidence.dead_queue]
        ends = {(line.key, line.message_id) for line in told if line.key in ENDS}
        crashes = {(line.code or "", line.message_id) for line in told if line.key == "task.crashed"}
        found = sorted(str(what) for what, _ in ends | crashes)
        if not found:
            yield Violation("A", "lost", f"{sent.task}: dead-lettered without a report" if dead else sent.task)
        elif len(ends | crashes) > 1:
            yield Violation("A", "two outcomes", f"{sent.task}: {', '.join(found)}")
        elif found != [sent.end]:
            yield Violation("A", "wrong outcome", f"{sent.task}: {found[0]} instead of {sent.end}")
        if len(dead) != len(crashes) and found:
            yield Violation("A", "not settled", f"{sent.task}: {len(crashes)} crash reports, {len(dead)} dead letters")
    bodies: dict[str | None, set[str]] = defaultdict(set)
    for line in evidence.ledger:
        if line.queue != evidence.dead_queue and line.event is None:
            bodies[line.message_id].add(line.body_sha256)
    for message_id, different in bodies.items():
        if len(different) > 1:
            yield Violation("A", "one id, two bodies", str(message_id))


def artifacts(evidence: Evidence) -> Iterator[Violation]:
    """B: no artifact was ever partial; each holds every stage's effect and journal entry once."""
    for path in evidence.partial:
        yield Violation("B", "corrupt", path)
    tasks_of = Counter(sent.path for sent in evidence.sent)
    for sent in evidence.sent:
        content = evidence.artifacts.get(sent.path)
        try:
            with zipfile.ZipFile(io.BytesIO(content or b"")) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
        except zipfile.BadZipFile as exc:
            yield Violation("B", "corrupt", f"{sent.path} at the end: {exc}")
            continue
        if tasks_of[sent.path] > 1:  # whose effects are in it depends on who came last
            continue
        work = members.get("work.txt", b"").decode().split()
        journal = members.get(".ulos/journal.json", b"")
        if len(work) != len(set(work)):
            yield Violation("B", "effect twice", f"{sent.task}: {work}")
        elif tuple(work) != sent.stages:
            yield Violation("B", "effect missing", f"{sent.task}: {work} instead of {list(sent.stages)}")
        if (entries := journal.count(b'"messageId"')) != len(sent.stages):
            yield Violation("B", "journal", f"{sent.task}: {entries} entries for {len(sent.stages)} stages")


def executions(evidence: Evidence) -> Iterator[Violation]:
    """C: a stage is executed once, and once more at most for each fault that hit its task."""
    for (task, stage), count in evidence.executions.items():
        allowed = 1 + sum(it.attempts for it in evidence.faults if it.hit is None or task in it.hit)
        if count > allowed:
            yield Violation("C", "executed too often", f"{task} at {stage}: {count} times, {allowed} allowed")


def bystanders(evidence: Evidence) -> Iterator[Violation]:
    """E: a fault that hits one task sends no other through its stage again."""
    if not evidence.bystanders_hold:
        return
    hit = {task for fault in evidence.faults for task in fault.hit or ()}
    for (task, stage), count in evidence.receptions.items():
        if task not in hit and count > 1:
            yield Violation("E", "bystander redelivered", f"{task} at {stage}: {count} deliveries")


def readiness(evidence: Evidence) -> Iterator[Violation]:
    """F: nodes say so while they cannot work, say so when they can, and work then goes on."""
    said = [(line["node"], line["event"], _seconds(line)) for line in evidence.node_lines if "timestamp" in line]
    for outage in evidence.outages:
        nodes = {node for node, event, at in said if at < outage.begin}
        for node in sorted(nodes):
            if not _within(said, node, "not ready", outage.begin, outage.end):
                yield Violation("F", "not said", f"{node} was ready while {outage.what} was away")
            elif not _within(said, node, "ready", outage.begin, outage.end + RESUMED_S):
                yield Violation("F", "not said", f"{node} was not ready again after {outage.what}")
        if not any(outage.end <= line.at <= outage.end + RESUMED_S for line in evidence.ledger):
            yield Violation("F", "not resumed", f"nothing happened for {RESUMED_S:g} s after {outage.what}")


def _within(said: list[tuple[str, str, float]], node: str, event: str, begin: float, end: float) -> bool:
    return any(who == node and what == event and begin <= at <= end for who, what, at in said)


def _seconds(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()
