"""One round: a world of its own, tasks under way, faults at chosen moments, and the evidence afterwards."""

import asyncio
import contextlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel

from ulos_stream.images import docker
from ulos_stream.lab import Broker, FtpServer, Lab

from .invariants import RESUMED_S, Evidence, Fault, Outage
from .ledger import Ledger, Line
from .nodes import Node, bare_environment
from .poller import Poller
from .world import ENDS, STAGES, Sent, Topology, artifact, draw_task, make_executors, message

SETTLED_S = 150.0
"""Seconds after the last fault within which every task must have its outcome."""
SILENT_S = 4.0
"""Seconds without a message, with nothing queued and no node at work, after which nothing more will come."""

UNSETTLED_S = 60.0
"""Seconds after which a node that never settles a task whose end is known is not waited for."""

REDELIVERY = "a second delivery of some task"

Action = Callable[[Node], Awaitable[None]]
"""What is done to a node, or to its world, while the node stands at a point."""


@dataclass
class Round:
    """What a scenario plays with. Tasks are sent, faults are planned or done at once; `judge` comes after."""

    topology: Topology
    draw: random.Random
    tasks: int
    """How many tasks the scenario should send."""
    broker: Broker
    storage: FtpServer
    directory: Path
    ledger: Ledger
    poller: Poller
    nodes: list[Node] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    bystanders_hold: bool = False
    receptions: Counter[tuple[str, str]] = field(default_factory=Counter)
    plan: dict[tuple[str, str, str], Action] = field(default_factory=dict)
    """What happens when a task stands at a point of a stage; once."""
    planned: int = 0
    """Kills that were planned so."""
    awaited: set[str] = field(default_factory=set)
    """Other faults that were planned and have not come to pass."""
    settled: set[str] = field(default_factory=set)
    """Tasks that the ledger has seen end."""
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _read: int = 0
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    # The nodes

    async def start_nodes(
        self, each: int = 2, stages: Iterable[str] = STAGES, within: tuple[str, ...] = (), **changes: str
    ) -> list[Node]:
        """Start so many nodes for each stage's queue, by the command `within` if any, and wait until they are ready."""
        started = [
            Node(f"{self.topology.name}-{stage}-{number}", self.environment(stage, **changes), self._stand, within)
            for stage in stages
            for number in range(each)
        ]
        self.nodes += started
        await asyncio.gather(*(node.restart() for node in started))
        return started

    def environment(self, stage: str, **changes: str) -> dict[str, str]:
        """The environment of a node that consumes a stage's queue."""
        wire = Lab(self.broker, self.storage).environment(
            self.topology.queue(stage),
            MESSAGE_BROKER_LOGS_EXCHANGE=self.topology.name,
            MESSAGE_BROKER_CRASH_EXCHANGE=self.topology.name,
            MESSAGE_BROKER_PREFETCH_COUNT="4",
        )
        ours = {
            "ULOS_WORK_DIR": str(self.directory / "work"),
            "ULOS_EXECUTORS_PATH": str(self.directory / "executors"),
            "ULOS_STORAGE_TIMEOUT_S": "10",
            "ULOS_PUBLISH_TIMEOUT_S": "5",
            "ULOS_JOURNAL_KEY": "the key of the nodes under fault",
        }
        return bare_environment() | wire | ours | changes

    async def _stand(self, node: Node, point: str, task: str, stage: str) -> None:
        if point == "received":
            self.receptions[task, stage] += 1
            if self.receptions[task, stage] > 1:
                self.awaited.discard(REDELIVERY)
        if action := self.plan.pop((point, task, stage), None):
            await action(node)

    async def keep_open(self, resource: contextlib.AbstractAsyncContextManager[object]) -> None:
        """Enter something that the nodes need; left when the round ends."""
        await self.stack.enter_async_context(resource)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on by itself; the round ends after it."""
        task = asyncio.create_task(work)
        self._background.add(task)

    # The tasks

    def prepare(
        self,
        count: int | None = None,
        *,
        pause_s: float = 0,
        first: str = STAGES[0],
        hog: bool = False,
        end: str | None = None,
    ) -> list[Sent]:
        """Draw tasks and store their artifacts; they are not sent yet, so faults can be planned for them."""
        drawn = []
        for _ in range(self.tasks if count is None else count):
            task = f"{self.topology.name}-{len(self.sent):04}"
            sent = draw_task(self.draw, task, self.topology.name, first, end)
            target = self.artifact_of(sent)
            hidden = target.with_suffix(".new")
            hidden.write_bytes(artifact(self.draw, sent, pause_s=pause_s, hog=hog))
            hidden.replace(target)
            self.sent.append(sent)
            drawn.append(sent)
        return drawn

    async def send(self, tasks: Iterable[Sent]) -> None:
        """Put tasks into the first queue, confirmed."""
        async with a_channel(self.broker) as channel:
            exchange = await channel.get_exchange(self.topology.name, ensure=False)
            for sent in tasks:
                await exchange.publish(message(self.topology, sent), sent.first)

    def _stored(self, sent: Sent) -> bytes:
        """The artifact; one that is gone is no zip."""
        try:
            return self.artifact_of(sent).read_bytes()
        except FileNotFoundError:
            return b""

    def artifact_of(self, sent: Sent) -> Path:
        return self.storage.root / sent.path.lstrip("/")

    async def ended(self, count: int | None = None, limit_s: float = SETTLED_S) -> bool:
        """Wait until so many tasks, by default all, have their outcome."""
        wanted = len(self.sent) if count is None else count
        return await self.ledger.shows(lambda lines: len(self._settle(lines)) >= wanted, limit_s)

    def _settle(self, lines: list[Line]) -> set[str]:
        for line in lines[self._read :]:
            if line.task and (line.queue == self.topology.dead or line.key in ENDS):
                self.settled.add(line.task)
        self._read = len(lines)
        return self.settled

    # The faults

    def kill_at(self, point: str, sent: Sent, stage: str) -> None:
        """Plan to SIGKILL whichever node holds this task when it stands at this point, and start it again."""
        self.planned += 1
        self.plan[point, sent.task, stage] = lambda node: self.kill(node, f"kill -9: {point}")

    async def kill(self, node: Node, kind: str) -> None:
        """SIGKILL a node, and start it again in the background."""
        self.faults.append(Fault(kind, await node.kill()))
        self.background(node.restart())

    def expect_redelivery(self) -> None:
        """Await that some task is delivered twice, or the fault was none."""
        self.awaited.add(REDELIVERY)

    @contextlib.asynccontextmanager
    async def outage(self, what: str) -> AsyncIterator[None]:
        """A time in which no node can work."""
        begin = time.time()
        yield
        self.outages.append(Outage(what, begin, time.time()))
        self.faults.append(Fault(what, None))

    # The end

    async def judge(self) -> Evidence:
        """Wait for the end of everything, stop the nodes, let a fresh one sweep, and gather what is left."""
        await self._come_to_rest()
        if self.outages:
            await self._all_ready()
        missed = [*self.awaited]
        # The kill of one task's node may spare others the points where theirs was planned: not most of them.
        if 2 * len(self.plan) > self.planned:
            missed += (" ".join(planned) for planned in self.plan)
        self.plan.clear()
        codes = await asyncio.gather(*(node.stop() for node in self.nodes))
        left = [f"{node.name} ended with {code}" for node, code in zip(self.nodes, codes, strict=True) if code]
        if waiting := await self._waiting():
            left.append(f"{waiting} messages in the work queues")
        left += await self._sweep()
        while await self._ready_in(self.topology.ledger, self.topology.dead):
            await self.ledger.shows(lambda lines: False, 0.05)
        await self.ledger.shows(lambda lines: False, 0.3)
        return self._evidence(left, missed)

    async def _come_to_rest(self) -> None:
        """Wait until all tasks have ended and nothing is under way, or nothing will ever come any more."""
        deadline = time.monotonic() + SETTLED_S
        while time.monotonic() < deadline:
            await asyncio.gather(*self._background)
            heard = len(self.ledger.lines)
            all_ended = await self.ended(limit_s=SILENT_S)
            # A node whose connection broke may never settle what it has taken; somebody else does.
            quiet = heard == len(self.ledger.lines) and not any(node.inside for node in self.nodes)
            starting = not all(task.done() for task in self._background)
            patient = time.monotonic() > deadline - SETTLED_S + UNSETTLED_S
            if (quiet or (all_ended and patient)) and not starting and not await self._waiting():
                return
            await asyncio.sleep(0.1)

    async def _all_ready(self) -> None:
        """Wait until no node says any more that it cannot work, or `readiness` has a right to complain."""
        deadline = time.monotonic() + RESUMED_S
        while time.monotonic() < deadline and not all(node.is_ready for node in self.nodes):
            await asyncio.sleep(0.1)

    async def _waiting(self) -> int:
        return await self._ready_in(*map(self.topology.queue, STAGES))

    async def _ready_in(self, *queues: str) -> int:
        async with a_channel(self.broker) as channel:
            return await self.topology.waiting(channel, *queues)

    async def _sweep(self) -> list[str]:
        """What is still there after a fresh node has started and ended."""
        sweeper = Node(f"{self.topology.name}-sweeper", self.environment(STAGES[0]), self._stand)
        await sweeper.restart()
        await sweeper.stop()
        left = [f"{path.name} in the work directory" for path in (self.directory / "work").iterdir()]
        left += [f"{path.name} on the storage" for path in self._folder.glob("*.tmp")]
        names = ("ps", "--all", "--format", "{{.Names}}", "--filter")
        for node in self.nodes if shutil.which("docker") else []:
            listed = docker(*names, f"label=ulos.node={node.name}", hint="docker").decode().split()
            left += [f"container {name}" for name in listed]
        return left

    @property
    def _folder(self) -> Path:
        return self.storage.root / self.topology.name

    def _evidence(self, left: list[str], missed: list[str]) -> Evidence:
        executions = (self.directory / "executions.log").read_text().splitlines()
        return Evidence(
            sent=tuple(self.sent),
            ledger=tuple(self.ledger.lines),
            dead_queue=self.topology.dead,
            executions=Counter((task, stage) for task, stage, _ in map(str.split, executions)),
            receptions=self.receptions,
            artifacts={sent.path: self._stored(sent) for sent in self.sent},
            partial=tuple(f"{name}: {what}" for name, what in self.poller.partial.items()),
            faults=tuple(self.faults),
            outages=tuple(self.outages),
            node_lines=tuple(line for node in self.nodes for line in node.lines),
            leftovers=tuple(left),
            missed=tuple(missed),
            bystanders_hold=self.bystanders_hold,
        )

    def keep(self, folder: Path) -> None:
        """Put what explains a violation into a folder: the ledger, and the nodes' logs and points in order."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.ledger.path, folder)
        for node in self.nodes:
            told: list[tuple[str, str, Any]] = [(line.get("timestamp", ""), "log", line) for line in node.lines]
            told += [(datetime.fromtimestamp(at, UTC).isoformat(), "point", rest) for at, *rest in node.points]
            text = "".join(json.dumps(line) + "\n" for line in sorted(told, key=lambda line: line[0]))
            (folder / f"{node.name}.jsonl").write_text(text)


@contextlib.asynccontextmanager
async def a_round(
    name: str, draw: random.Random, tasks: int, broker: Broker, storage: FtpServer, directory: Path
) -> AsyncIterator[Round]:
    """A round in folders and queues of its own; nodes that still run at the end are killed."""
    topology = Topology(name)
    (directory / "work").mkdir(parents=True)
    (directory / "executions.log").touch()
    make_executors(directory / "executors", directory / "executions.log")
    (storage.root / name).mkdir()
    async with a_channel(broker) as channel:
        await topology.declare(channel)
    queues = [topology.ledger, topology.dead]
    async with Ledger.kept(broker.url, directory / "ledger.jsonl", queues) as ledger:
        with Poller(storage.root / name).polling() as poller:
            round_ = Round(topology, draw, tasks, broker, storage, directory, ledger, poller)
            try:
                yield round_
            finally:
                await asyncio.gather(*(node.kill() for node in round_.nodes))
                await round_.stack.aclose()
    async with a_channel(broker) as channel:
        await topology.delete(channel)
    shutil.rmtree(storage.root / name)


@contextlib.asynccontextmanager
async def a_channel(broker: Broker) -> AsyncIterator[AbstractChannel]:
    """A channel of its own, whatever has happened to the broker before."""
    async with await aio_pika.connect(broker.url) as connection:
        yield await connection.channel()
