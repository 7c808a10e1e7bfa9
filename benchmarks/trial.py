"""One contestant under one load, from its start to its end: what it took, if it did its work."""

import asyncio
import json
import os
import shutil
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import aiormq
from aiormq.abc import DeliveredMessage

from benchmarks.artifacts import Artifacts, Wrong
from benchmarks.collector import collector
from benchmarks.contestants import Contestant
from benchmarks.coroutines import open_channel, properties
from benchmarks.loads import Load
from benchmarks.processes import Process, WorkerFailed, process
from benchmarks.stage import AT_ONCE, DONE_KEY, EVENT_KEY, EXCHANGE, QUEUE, Message, Task
from ulos_stream.lab import HOST, Broker, FtpServer, Lab

DONE, EVENTS, CRASHES = "benchmarks.done", "benchmarks.events", "benchmarks.crashes"
BOUND = {DONE: DONE_KEY, EVENTS: EVENT_KEY, CRASHES: "crash"}
STALLED_S = 120
"""Seconds without any news after which none will come: 50 MiB on a busy machine take some."""
POLL_S = 0.005
COUNTED_S = 5
"""Seconds within which the metrics must show the last stage."""


EXECUTORS = Path(__file__).parent / "executors"
"""What our node runs beside its mocks."""


def stage_keys(load: Load) -> list[str]:
    """The routing keys of a load's stages; our node has an executor for each that begins so."""
    return [f"{load.executors[number % len(load.executors)]}-{number}" for number in range(load.stages)]


def a_task(number: int, load: Load, owner: str) -> Task:
    """One task: its tree is a chain of the load's stages that ends in the queue that we listen to."""
    done = {"exchange": EXCHANGE, "routingKey": DONE_KEY}
    failure = {"failureRoutingDecision": done} if load.may_fail else {}
    tree: dict[str, Any] = done
    for key in reversed(stage_keys(load)):
        tree = {"exchange": EXCHANGE, "routingKey": key, "successRoutingDecision": tree, **failure}
    path = f"/{EXCHANGE}/{number}.zip"
    return {"taskId": str(number), "taskOwnerId": owner, "filePath": path, "timeout": 600, "routingTree": tree}


@dataclass
class Queues:
    """The queue of the workers, and those that hear what they publish."""

    consuming: aiormq.Channel
    sending: aiormq.Channel
    ended: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """Tasks as they come out of their last stage."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Put messages into the workers' queue, as fast as can be."""
        for message in messages:
            await self.sending.basic_publish(
                message.body, routing_key=QUEUE, properties=properties(message), wait=message is messages[-1]
            )

    async def depth(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        return (await self.sending.queue_declare(queue, passive=True)).message_count or 0

    async def consumers(self) -> int:
        """How many consume the workers' queue."""
        return (await self.sending.queue_declare(QUEUE, passive=True)).consumer_count or 0

    async def drained(self, queue: str) -> list[Any]:
        """Everything that is in a queue."""
        expected = await self.depth(queue)
        drained: list[Any] = []
        full = asyncio.Event()

        async def receive(message: DeliveredMessage) -> None:
            drained.append(json.loads(message.body))
            if len(drained) >= expected:
                full.set()

        if expected:
            await self.consuming.basic_consume(queue, receive, no_ack=True)
            async with asyncio.timeout(STALLED_S):
                await full.wait()
        return drained


@asynccontextmanager
async def queues(broker: Broker, contestant: Contestant, load: Load) -> AsyncIterator[Queues]:
    """Fresh ones; they are deleted afterwards, since every contestant declares its own in its own way."""
    connection = await aiormq.connect(broker.url)
    try:
        channel, sending = [await open_channel(connection, confirms=False) for _ in range(2)]
        it = Queues(channel, sending)
        await channel.exchange_declare(EXCHANGE, durable=True)
        for name in (QUEUE, *BOUND):
            await channel.queue_delete(name)
        await channel.queue_declare(QUEUE, durable=True, arguments=dict(contestant.queue_arguments))
        for key in stage_keys(load):
            await channel.queue_bind(QUEUE, EXCHANGE, key)
        for name, key in BOUND.items():
            await channel.queue_declare(name, durable=True)
            await channel.queue_bind(name, EXCHANGE, key)

        async def end(message: DeliveredMessage) -> None:
            it.ended.put_nowait(json.loads(message.body)["taskId"])

        await channel.basic_consume(DONE, end, no_ack=True)
        yield it
    finally:
        await connection.close()


@dataclass
class Trial:
    """One run of a contestant: everything that it was given, and what came out of it."""

    contestant: Contestant
    load: Load
    queues: Queues
    processes: list[Process] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    ended_at: dict[str, float] = field(default_factory=dict)
    """On the clock of `time.perf_counter`."""

    async def work(self, messages: Sequence[Message]) -> None:
        """Send these tasks, and return when every one of them has ended and all its events are there.

        Raises:
            WorkerFailed: A worker has ended, or there is no news for a long time.
            Wrong: The tasks have ended without all their events.
        """
        await self.queues.send(messages)
        await self.until(len(self.ended) + len(messages))
        expected = len(self.ended) * self.load.stages * len(self.contestant.events)
        try:
            async with asyncio.timeout(STALLED_S):
                while await self.queues.depth(EVENTS) < expected:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise Wrong(f"{await self.queues.depth(EVENTS)} events of {expected}") from None

    async def all_consume(self) -> None:
        """Wait until every process of every worker consumes, so that none is late for what is measured."""
        async with asyncio.timeout(STALLED_S):
            while await self.queues.consumers() < self.load.nodes * self.contestant.consumers:
                await asyncio.sleep(POLL_S)

    async def until(self, count: int) -> None:
        """Wait until so many tasks have ended in all.

        Raises:
            WorkerFailed: A worker has ended, or there is no news for a long time.
            Wrong: A task has crashed.
        """
        silent_s = 0
        while len(self.ended) < count:
            try:
                async with asyncio.timeout(1):
                    self.ended.append(await self.queues.ended.get())
                self.ended_at[self.ended[-1]] = time.perf_counter()
                silent_s = 0
            except TimeoutError:
                silent_s += 1
                await self.see_no_crashes()
                gone = any(worker.ended() for worker in self.processes)
                if gone or silent_s > STALLED_S:
                    reason = "a worker has ended" if gone else f"no news for {STALLED_S} s"
                    said = "\n".join(worker.said() for worker in self.processes)
                    raise WorkerFailed(f"{reason}; {len(self.ended)} tasks are done; it said:\n{said}") from None

    async def latency_s(self, message: Message) -> float:
        """From sending a task to a worker that does nothing else, to its end."""
        sent = time.perf_counter()
        await self.queues.send([message])
        await self.until(len(self.ended) + 1)
        return time.perf_counter() - sent

    async def see_no_crashes(self) -> None:
        """See that no task was reported as crashed.

        Raises:
            Wrong: One was.
        """
        if crashes := await self.queues.drained(CRASHES):
            raise Wrong(f"{len(crashes)} crashes, of which the first: {crashes[0]}")

    async def check(self, tasks: int) -> set[int]:
        """See that every stage of every task was told of once, and that nothing is left to do.

        Returns:
            The tasks whose last stage has failed.

        Raises:
            Wrong: It is not so.
        """
        await self.see_no_crashes()
        if left := await self.queues.depth(QUEUE):
            raise Wrong(f"{left} tasks were not acknowledged")
        if Counter(self.ended) != Counter(str(number) for number in range(tasks)):
            raise Wrong("a task ended twice, or another in its place")
        events = await self.queues.drained(EVENTS)
        told = Counter((it["taskId"], it["stage"]["routingKey"], it["event"]) for it in events)
        *_, last = keys = stage_keys(self.load)
        failed = {int(it["taskId"]) for it in events if self.load.may_fail and it["event"] == "failed"}
        right = Counter(
            (str(number), key, "failed" if (event, key) == ("passed", last) and number in failed else event)
            for number in range(tasks)
            for key in keys
            for event in self.contestant.events
        )
        if told != right:
            raise Wrong(f"events missing: {list(right - told)[:5]}; too many: {list(told - right)[:5]}")
        return failed


async def measure(
    contestant: Contestant, load: Load, broker: Broker, storage: FtpServer, artifacts: Artifacts
) -> dict[str, float | None]:
    """What a contestant took; nothing is measured before it is warm.

    Raises:
        Wrong: It did not do its work.
        WorkerFailed: It did not come to an end.
    """
    last = range(load.total - load.alone - load.guests, load.total - load.alone)
    owners = ("guest" if number in last and not contestant.one_owner else "owner" for number in range(load.total))
    messages = (contestant.encode(a_task(number, load, owner)) for number, owner in enumerate(owners))
    first, warm, many, alone = (list(islice(messages, count)) for count in load.parts)
    folder = storage.root / EXCHANGE
    artifacts.place(folder, load.total)
    try:
        async with queues(broker, contestant, load) as queues_, _environment(contestant, load, broker, storage) as env:
            trial = Trial(contestant, load, queues_)
            with ExitStack() as running:
                await queues_.send(first)
                started = time.perf_counter()
                command = contestant.command(load.at_once)
                trial.processes += [running.enter_context(process(command, env)) for _ in range(load.nodes)]
                await trial.until(1)
                first_task_s = time.perf_counter() - started
                await trial.all_consume()
                await trial.work(warm)

                cpu_s, started = _cpu_s(trial), time.perf_counter()
                await trial.work(many)
                last_s = [trial.ended_at[name] - started for name in trial.ended[-load.tasks :] if int(name) in last]
                took_s, cpu_s = time.perf_counter() - started, _cpu_s(trial) - cpu_s

                latencies_ms = [1000 * await trial.latency_s(message) for message in alone]
                peak_rss_mb = sum(worker.peak_rss_mb() for worker in trial.processes)
                if contestant.traced:
                    await _check_metrics(int(env["ULOS_HTTP_PORT"]), load.total * load.stages)
                for worker in trial.processes:
                    await asyncio.to_thread(worker.stop)
            failed = await trial.check(load.total)
        artifacts.check(folder, load.total, {f"output_{EXCHANGE}_{key}.txt" for key in stage_keys(load)})
    finally:
        shutil.rmtree(folder)
    stages = load.tasks * load.stages
    late = len(failed.intersection(range(load.total - load.alone - load.tasks, load.total - load.alone)))
    percentiles = statistics.quantiles(latencies_ms, n=100, method="inclusive") if latencies_ms else None
    return {
        "stages_per_s": (stages - late) / took_s,
        "cpu_s_per_1000": 1000 * cpu_s / stages,
        "peak_rss_mb": peak_rss_mb,
        "first_task_s": first_task_s,
        "p50_ms": percentiles[49] if percentiles else None,
        "p99_ms": percentiles[98] if percentiles else None,
        "late_percent": 100 * late / load.tasks if load.may_fail else None,
        "guests_p95_ms": 1000 * statistics.quantiles(last_s, n=20, method="inclusive")[-1] if last_s else None,
    }


def _cpu_s(trial: Trial) -> float:
    return sum(worker.cpu_s() for worker in trial.processes)


@asynccontextmanager
async def _environment(
    contestant: Contestant, load: Load, broker: Broker, storage: FtpServer
) -> AsyncIterator[Mapping[str, str]]:
    """The fifteen variables, and what the load and the contestant cannot do without."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment |= Lab(broker, storage).environment(
        QUEUE,
        MESSAGE_BROKER_PREFETCH_COUNT=str(load.at_once or AT_ONCE),
        MESSAGE_BROKER_LOGS_EXCHANGE=EXCHANGE,
        MESSAGE_BROKER_LOGS_ROUTING_KEY=EVENT_KEY,
        MESSAGE_BROKER_CRASH_EXCHANGE=EXCHANGE,
        MESSAGE_BROKER_CRASH_ROUTING_KEY=BOUND[CRASHES],
    )
    environment |= contestant.environment
    if set(load.executors) != {"testing"}:
        environment["ULOS_EXECUTORS_PATH"] = str(EXECUTORS)
    if load.delay_s:
        environment["ULOS_MOCK_DELAY_S"] = str(load.delay_s)
    if not contestant.traced:
        yield environment
        return
    async with collector() as traces:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        yield environment | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            "ULOS_HTTP_PORT": str(port),
        }
        if load.total > 100 and not traces.spans():  # 1 in 10 is sampled
            raise Wrong("no trace was exported")


async def _check_metrics(port: int, stages: int) -> None:
    """See that the node counts its stages; the last one when its last event is confirmed, so after its hop.

    Raises:
        Wrong: It counts something else.
    """
    counted: list[str] = []
    async with aiohttp.ClientSession() as session:
        with suppress(TimeoutError):
            async with asyncio.timeout(COUNTED_S):
                while sum(float(line.split()[-1]) for line in counted) != stages:
                    async with session.get(f"http://{HOST}:{port}/metrics") as response:
                        page = await response.text()
                    counted = [line for line in page.splitlines() if line.startswith("ulos_stages_total{")]
                return
    raise Wrong(f"the metrics count something else than {stages} stages: {counted}")
