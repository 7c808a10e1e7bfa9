"""The world of the nodes: broker, storage, two queues in a row, and tasks whose right end is known beforehand."""

import asyncio
import io
import json
import random
import zipfile
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractChannel
from pamqp.common import FieldValue

from ulos_stream import lab
from ulos_stream.errors import ServiceMissing
from ulos_stream.images import local_image
from ulos_stream.lab import Broker, FtpServer

STAGES = ("stage1", "stage2")
"""Routing keys of process executors, and the names of the queues they are consumed from."""
CONTAINED = "contained"
"""Routing key of a container executor; it goes to the first queue."""
ENDS = ("done", "failed")
BALLAST_BYTES = (20_000, 200_000)
"""Least and most bytes of random content in an artifact: several TCP segments, and some more than one read."""

PROGRAM = """#!/bin/sh
# One line outside the artifact for each execution, one inside for its effect.
stage=$1 task=$(cat task.txt)
echo "$task $stage $$" >>"$2"
[ ! -f pause.txt ] || sleep "$(cat pause.txt)"
echo "$stage" >>work.txt
! grep -qx "$stage FAIL" verdicts.txt
"""
CONTAINED_PROGRAM = """cd /work && echo contained >>work.txt
[ ! -f pause.txt ] || sleep "$(cat pause.txt)"
# Neither at once nor at the very end: then the engine may not notice.
[ ! -f hog.txt ] || { sleep 1; tail /dev/zero; sleep 1; exit 137; }
! grep -qx "contained FAIL" verdicts.txt
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A task, and what must become of it."""

    task: str
    path: str
    """Of its artifact, on the storage."""
    stages: tuple[str, ...]
    """Those that are carried out to their end, in order."""
    end: str
    """The routing key of its end, or the code of its crash report."""
    first: str = STAGES[0]
    """Routing key of its first stage."""
    second: tuple[str | None, str] = (None, "stage2")
    """Exchange and routing key of the first stage's success branch; None is the round's own exchange."""

    @property
    def crashes(self) -> bool:
        return self.end not in ENDS


@contextmanager
def a_lab(directory: Path) -> Iterator[tuple[Broker, tuple[FtpServer, ...]]]:
    """A broker, and a server of each kind; vsftpd only where it can run."""
    with lab.rabbitmq() as broker, lab.pyftpd() as pyftpd:
        try:
            with lab.vsftpd() as vsftpd:
                yield broker, (vsftpd, pyftpd)
        except ServiceMissing:
            yield broker, (pyftpd,)


@dataclass(frozen=True, slots=True)
class Topology:
    """The names of one round: two work queues, their dead letters, and the ledger's queue."""

    name: str

    @property
    def dead(self) -> str:
        return f"{self.name}-dead"

    @property
    def ledger(self) -> str:
        return f"{self.name}-ledger"

    def queue(self, stage: str) -> str:
        return f"{self.name}-{stage}"

    async def declare(self, channel: AbstractChannel) -> None:
        """Make it: durable and replicated, dead letters kept."""
        exchange = await channel.declare_exchange(self.name, durable=True)
        quorum: dict[str, FieldValue] = {"x-queue-type": "quorum"}
        await channel.declare_queue(self.dead, durable=True, arguments=quorum)
        ledger = await channel.declare_queue(self.ledger, durable=True, arguments=quorum)
        for key in (*ENDS, "task.log", "task.crashed"):
            await ledger.bind(exchange, key)
        mortal: dict[str, FieldValue] = quorum | {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.dead,
            "x-delivery-limit": 20,
        }
        for stage, keys in zip(STAGES, (("stage1", CONTAINED), ("stage2", "crash")), strict=True):
            queue = await channel.declare_queue(self.queue(stage), durable=True, arguments=mortal)
            for key in keys:
                await queue.bind(exchange, key)

    async def delete(self, channel: AbstractChannel) -> None:
        for queue in (*map(self.queue, STAGES), self.dead, self.ledger):
            await channel.queue_delete(queue)
        await channel.exchange_delete(self.name)

    async def waiting(self, channel: AbstractChannel, *queues: str) -> int:
        """How many messages are ready in these queues."""
        counts = [await channel.declare_queue(name, passive=True) for name in queues]
        return sum(queue.declaration_result.message_count or 0 for queue in counts)


def make_executors(folder: Path, executions: Path) -> None:
    """An executor folder: one process for each stage, and the container."""
    for stage in STAGES:
        program = folder / stage / "work.sh"
        program.parent.mkdir(parents=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
        (program.parent / "executor.toml").write_text(
            f'routing_key = "{stage}"\nkind = "process"\ncommand = ["./work.sh", "{stage}", "{executions}"]\n'
        )
    contained = folder / CONTAINED / "executor.toml"
    contained.parent.mkdir()
    contained.write_text(
        f'routing_key = "{CONTAINED}"\nkind = "container"\nimage = "ulos-faults/stage"\n[sandbox]\nmemory_mib = 32\n'
    )


def make_image() -> None:
    """The image of the container executor.

    Raises:
        ServiceMissing: No engine answers.
    """
    local_image("ulos-faults/stage", CONTAINED_PROGRAM)


def draw_task(draw: random.Random, task: str, folder: str, first: str = STAGES[0], end: str | None = None) -> Sent:
    """A task whose way through the tree is drawn, if it has no `end` yet: most end well, some fail, some crash."""
    path = f"/{folder}/{task}.zip"
    match end or draw.choices(("done", "fail early", "fail late", "crash"), (70, 10, 10, 10))[0]:
        case "fail early":
            return Sent(task, path, (first,), "failed", first)
        case "fail late":
            return Sent(task, path, (first, "stage2"), "failed", first)
        case "crash":
            return Sent(task, path, (first,), "executor_crashed", first, (None, "crash"))
        case _:
            return Sent(task, path, (first, "stage2"), "done", first)


def artifact(draw: random.Random, sent: Sent, *, pause_s: float = 0, hog: bool = False) -> bytes:
    """The zip of a task: who it is, which verdicts it gets, and ballast that does not compress.

    Args:
        draw: The ballast.
        sent: The task.
        pause_s: How long each of its executions lasts.
        hog: Whether it takes more memory than a container has.
    """
    members: dict[str, str | bytes] = {
        "task.txt": sent.task,
        "verdicts.txt": f"{sent.stages[-1]} FAIL\n" if sent.end == "failed" else "",
        "ballast.bin": draw.randbytes(draw.randint(*BALLAST_BYTES)),
    }
    if pause_s:
        members["pause.txt"] = f"{pause_s:g}"
    if hog:
        members["hog.txt"] = ""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def message(topology: Topology, sent: Sent, timeout_s: float = 120) -> aio_pika.Message:
    """The task message; its id is the task's."""

    def at(key: str, exchange: str | None = None, **branches: object) -> dict[str, object]:
        return {"exchange": topology.name if exchange is None else exchange, "routingKey": key, **branches}

    exchange, key = sent.second
    second = at(key, exchange, successRoutingDecision=at("done"), failureRoutingDecision=at("failed"))
    tree = at(sent.first, successRoutingDecision=second, failureRoutingDecision=at("failed"))
    task = {"taskId": sent.task, "taskOwnerId": "faults", "filePath": sent.path, "timeout": timeout_s}
    body = task | {"routingTree": tree}
    return aio_pika.Message(
        json.dumps(body).encode(), message_id=f"m-{sent.task}", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
    )


async def rabbitmqctl(broker: Broker, *arguments: str) -> str:
    """What the broker's own command prints; takes 1 to 2 s."""
    script = Path(broker.server.command[-1]).with_name("rabbitmqctl")
    process = await asyncio.create_subprocess_exec(
        script, "--quiet", *arguments, env=broker.server.environment, stdout=PIPE, stderr=STDOUT
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"rabbitmqctl {arguments[0]}: {printed.decode()}")
    return printed.decode()
