"""A cluster of three RabbitMQ nodes on one machine, whose leader is cut off again and again while tasks flow.

    python -m tests.faults.cluster [--cuts 10] [--tasks 200] [--seed N]

A cut pulls the plug of the member that leads the consumption queue: the two others elect another
leader, the one alone pauses itself.
Two nodes of ours reach whatever member answers through a proxy, as through a load balancer.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))  # where the tests keep their makers

import aio_pika
from world import NodeProcess, a_zip

from ulos_stream import lab, routing
from ulos_stream.lab import FtpServer
from ulos_stream.tasks import Verdict

from .balancer import Balancer
from .members import PASSWORD, USERNAME, Member, Unfit, cluster

LIMIT_S = 120.0
"""Seconds after which something that must happen never will."""
REJOIN_S = 45.0
"""Seconds in which a healed member comes back; then it is restarted, as an operator does. On Erlang 25 it sometimes
hangs for ever, its `global` name server at odds with the others' (RabbitMQ logs "Faking nodedown/nodeup")."""
QUEUES = {"tasks": ["testing-1", "testing-2"], "done": ["done"], "told": ["log"], "crashes": ["crash"]}
"""Quorum queues, and what is routed into each. Each task comes to `tasks` twice."""
EXCHANGE = "processing-exchange"


@dataclass
class Trial:
    """One run: what was sent, and what came of it."""

    members: list[Member]
    storage: FtpServer
    url: str
    draw: random.Random
    sent: dict[str, str] = field(default_factory=dict)
    """Path of the artifact by the message id."""
    came: Counter[str] = field(default_factory=Counter)
    """Deliveries of each message id at the end."""
    crashes: list[str] = field(default_factory=list)
    restarts: int = 0
    """Members that did not come back by themselves."""
    over: bool = False

    async def send(self, message_id: str) -> None:
        """Send one task until the broker has confirmed it."""
        path = f"/{message_id}.zip"
        (self.storage.root / path[1:]).write_bytes(a_zip(number_txt=message_id))
        done = {"exchange": EXCHANGE, "routingKey": "done"}
        tree = {"exchange": EXCHANGE, "routingKey": "testing-2", "successRoutingDecision": done}
        tree = {"exchange": EXCHANGE, "routingKey": "testing-1", "successRoutingDecision": tree}
        task = {"taskId": message_id, "taskOwnerId": "o-1", "filePath": path, "timeout": 60, "routingTree": tree}
        self.sent[message_id] = path
        message = aio_pika.Message(
            json.dumps(task).encode(), message_id=message_id, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )

        async def publish(channel: Any) -> None:
            async with asyncio.timeout(10):
                await channel.default_exchange.publish(message, "tasks")

        await self._persistently(publish)

    async def listen(self, queue: str, note: Callable[[Any], None]) -> None:
        """Take everything from a queue until it is over; acknowledged once it is noted."""

        async def take(channel: Any) -> None:
            source = await channel.get_queue(queue)
            while not self.over:
                async with asyncio.timeout(10):
                    message = await source.get(fail=False)
                    if message is not None:
                        note(message)
                        await message.ack()
                if message is None:
                    await asyncio.sleep(0.2)

        await self._persistently(take)

    def note_end(self, message: Any) -> None:
        self.came[message.message_id] += 1

    def note_crash(self, message: Any) -> None:
        self.crashes.append(json.loads(message.body)["logMessage"])

    async def _persistently(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Do `work` on a channel; once more on a new connection if it breaks."""
        while True:
            try:
                async with await aio_pika.connect(self.url, timeout=10) as connection:
                    return await work(await connection.channel())
            except (aio_pika.exceptions.AMQPError, OSError, RuntimeError):
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:  # which aiormq also makes of a connection that is lost
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise

    async def end(self, listening: list[asyncio.Task[None]]) -> None:
        """Let the listeners end by themselves: a connection attempt of aio-pika is never cancelled."""
        self.over = True
        await asyncio.wait(listening, timeout=30)

    async def declare(self) -> None:
        async def declare(channel: Any) -> None:
            exchange = await channel.declare_exchange(EXCHANGE, durable=True)
            for name, keys in QUEUES.items():
                queue = await channel.declare_queue(
                    name, durable=True, arguments={"x-queue-type": "quorum", "x-quorum-initial-group-size": 3}
                )
                for key in keys:
                    await queue.bind(exchange, key)

        await self._persistently(declare)

    async def lose_the_leader(self, number: int, batch: list[str]) -> float:
        """Cut the leader off while a batch of tasks is being sent, and heal it; returns the seconds without one."""
        leader = await self._leader(self.members)
        others = [member for member in self.members if member is not leader]
        before_s, pauses_s = self.draw.uniform(1, 4), [self.draw.uniform(0, 1) for _ in batch]
        sending = asyncio.create_task(self._send_all(batch, pauses_s))
        await asyncio.sleep(before_s)
        ended = len(self.came)
        leader.cut()
        cut = time.monotonic()
        try:
            successor = await self._leader(others)
            without_s = time.monotonic() - cut
            await eventually(lambda: not leader.listens(), f"{leader.name} pauses")
            await eventually(lambda: not any(leader.name in other.running() for other in others), "the others miss it")
        finally:
            leader.heal()
        await sending
        how = "back"
        if not await seen(lambda: self._joined(leader), REJOIN_S):
            how = "restarted, back"
            self.restarts += 1
            await asyncio.to_thread(leader.server.kill)
            await asyncio.to_thread(leader.server.start)
            await eventually(lambda: self._joined(leader), f"{leader.name} is back")
        print(
            f"cut {number}: {leader.name} → {successor.name} after {without_s:.1f} s, {how} after "
            f"{time.monotonic() - cut:.1f} s, {len(self.came) - ended} tasks ended meanwhile, {len(self.came)} in all",
            flush=True,
        )
        return without_s

    async def _send_all(self, batch: list[str], pauses_s: list[float]) -> None:
        """Some before the cut, some while there is no leader, some after."""
        for message_id, pause_s in zip(batch, pauses_s, strict=True):
            await self.send(message_id)
            await asyncio.sleep(pause_s)

    async def _leader(self, among: list[Member]) -> Member:
        """The member among these that leads the consumption queue; waits until there is one."""
        found: list[Member] = []

        def look() -> bool:
            name = among[0].leader("tasks")
            found[:] = [member for member in among if member.name == name]
            return bool(found)

        await eventually(look, f"one of {[member.name for member in among]} leads")
        return found[0]

    def _joined(self, member: Member) -> bool:
        """Whether a member is in the cluster again, and follows or leads each queue."""
        everyone = {other.name for other in self.members}
        return (
            member.server.answers() and member.running() == everyone and all(member.leader(queue) for queue in QUEUES)
        )

    def expected(self) -> dict[str, str]:
        """The message id that each sent task must have at the end."""
        return {sent: routing.hop_id(routing.hop_id(sent, Verdict.PASS), Verdict.PASS) for sent in self.sent}

    def whole(self, path: str) -> bool:
        outputs = [f"output_{EXCHANGE}_testing-{stage}.txt" for stage in (1, 2)]
        names = ["number.txt", *outputs, ".ulos/journal.json"]
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(self.storage.root / path[1:]) as archive:
            return archive.namelist() == names and archive.testzip() is None
        return False


async def eventually(happens: Callable[[], bool], what: str) -> None:
    """Look until it has happened."""
    assert await seen(happens, LIMIT_S), f"never seen: {what}"


async def seen(happens: Callable[[], bool], limit_s: float) -> bool:
    """Look, in a thread, until it has happened, or so many seconds are over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while not await asyncio.to_thread(happens):
                await asyncio.sleep(0.2)
            return True
    return False


def environment(trial: Trial, port: int) -> dict[str, str]:
    """Of a node that reaches the cluster by the balancer."""
    return {
        "PATH": os.environ["PATH"],
        "MESSAGE_BROKER_HOST": "127.0.0.1",
        "MESSAGE_BROKER_PORT": str(port),
        "MESSAGE_BROKER_USERNAME": USERNAME,
        "MESSAGE_BROKER_PASSWORD": PASSWORD,
        "MESSAGE_BROKER_LOGS_EXCHANGE": EXCHANGE,
        "MESSAGE_BROKER_LOGS_ROUTING_KEY": "log",
        "MESSAGE_BROKER_CRASH_EXCHANGE": EXCHANGE,
        "MESSAGE_BROKER_CRASH_ROUTING_KEY": "crash",
        "MESSAGE_BROKER_CONSUMPTION_QUEUE": "tasks",
        "MESSAGE_BROKER_PREFETCH_COUNT": "4",
        "MESSAGE_BROKER_REQUEUE_ON_REJECT": "false",
        "REMOTE_STORAGE_HOST": trial.storage.host,
        "REMOTE_STORAGE_PORT": str(trial.storage.port),
        "REMOTE_STORAGE_USERNAME": trial.storage.username,
        "REMOTE_STORAGE_PASSWORD": trial.storage.password,
        "ULOS_MOCK_DELAY_S": "0.5",
    }


async def run(members: list[Member], storage: FtpServer, cuts: int, tasks: int, seed: int) -> dict[str, Any]:
    """Cut the leader off so often, with so many tasks in flight; returns the figures."""
    started = time.monotonic()
    balancer = Balancer(members)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(balancer.listening())
        url = f"amqp://{USERNAME}:{PASSWORD}@127.0.0.1:{balancer.port}/?heartbeat=5"
        trial = Trial(members, storage, url, random.Random(seed))
        await trial.declare()
        listening = [
            asyncio.create_task(trial.listen("done", trial.note_end)),
            asyncio.create_task(trial.listen("crashes", trial.note_crash)),
            asyncio.create_task(trial.listen("told", lambda message: None)),
        ]
        stack.push_async_callback(trial.end, listening)
        nodes = []
        for _ in range(2):
            node = await stack.enter_async_context(NodeProcess.running(environment(trial, balancer.port)))
            await node.says("ready")
            nodes.append((node, asyncio.create_task(_discard(node))))
        ids = [f"task-{number}" for number in range(tasks)]
        without_s = [
            await trial.lose_the_leader(number + 1, ids[number * tasks // cuts : (number + 1) * tasks // cuts])
            for number in range(cuts)
        ]
        expected = trial.expected()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                while not trial.came.keys() >= set(expected.values()):
                    await asyncio.sleep(0.2)
        codes = []
        for node, discarding in nodes:
            node.process.terminate()
            async with asyncio.timeout(LIMIT_S):
                codes.append(await node.process.wait())
                await discarding
        await eventually(lambda: _empty(members[0]), "every queue is empty")
    unknown = sum(count for message_id, count in trial.came.items() if message_id not in expected.values())
    for reason in trial.crashes:
        print(f"crash report: {reason}")
    return {
        "scenario": "cluster",
        "seed": seed,
        "tasks": len(trial.sent),
        "faults": {"leader cut off": cuts, "member restarted": trial.restarts},
        "lost": sum(message_id not in trial.came for message_id in expected.values()),
        "duplicated": unknown,
        "corrupt": sum(not trial.whole(path) for path in trial.sent.values()),
        "repeated": sum(count - 1 for count in trial.came.values()),
        "crashes": len(trial.crashes),
        "exit_codes": codes,
        "longest_without_leader_s": round(max(without_s, default=0), 1),
        "seconds": round(time.monotonic() - started, 1),
    }


async def _discard(node: NodeProcess) -> None:
    assert node.process.stderr is not None
    while await node.process.stderr.readline():
        pass


def _empty(member: Member) -> bool:
    count = "lists:sum([element(2, hd(rabbit_amqqueue:info(Q, [messages]))) || Q <- rabbit_amqqueue:list()])"
    return member.evaluate(count) == "0"


def main() -> int:
    """Run it and print the figures; 1 if a task was lost, crashed, or came to harm, 2 if this machine cannot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cuts", type=int, default=10, help="how often the leader is cut off")
    parser.add_argument("--tasks", type=int, default=200, help="how many tasks flow meanwhile")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments of the cuts")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for library in ("aio_pika", "aiormq"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # a lost connection is a page of tracebacks to them
    try:
        with cluster() as members, lab.pyftpd() as storage:
            figures = asyncio.run(run(members, storage, options.cuts, options.tasks, options.seed))
    except Unfit as unfit:
        print(unfit, file=sys.stderr)
        return 2
    shown = "tasks {tasks}, cuts {cuts}, lost {lost}, repeated deliveries {repeated}, corrupt {corrupt}, {seconds} s"
    print(shown.format(cuts=options.cuts, **figures))
    print(json.dumps(figures))
    return int(
        any(figures[kind] for kind in ("lost", "duplicated", "corrupt", "crashes")) or any(figures["exit_codes"])
    )


if __name__ == "__main__":
    sys.exit(main())
