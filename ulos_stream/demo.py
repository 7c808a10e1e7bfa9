"""`ulos demo`: everything on real parts, and whether each sample task ended as expected."""

import asyncio
import ftplib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ulos_stream import shipped
from ulos_stream.errors import ConfigurationError, ServiceMissing
from ulos_stream.images import docker, local_image
from ulos_stream.lab import FtpServer, Lab, elsewhere, lab

EXCHANGE = "processing-exchange"
QUEUE = "processing-queue"
STAGES = [
    *("pass", "fail", "skip", "crash", "sample-container", "robots", "robot-arm-simulation", "robot-arm"),
    *("cypress-grammar", "cypress-execution"),
    *(f"testing-{number}" for number in range(1, 6)),
]
"""Routing keys that are bound to the node's queue."""
ENDS = {"task.done": "done", "task.failed": "failed"}
"""Routing keys at which a route ends, and how the demo calls that end."""
TRACES = "ulos-traces.jsonl"
"""Where the traces go, in the current directory, unless `ULOS_TRACE_FILE` says otherwise."""
LIMIT_S = 120.0
ARM_PACE = "4"
"""How many times faster than a real one the demo's robot arm is."""
COURSE_IMAGES = {"cypress-grammar": "cypress-grammar", "cypress-execution": "cypress-executor"}
"""What the sample messages that begin with `course` need: executors, and their images."""
IMAGE = "ulos-sample-container"
IMAGE_PROGRAM = "cat greeting.txt && mkdir -p results && echo ok > results/passed.log\n"

EXPECTED = {
    "five-stages": "done",
    "failure": "failed",
    "crash": "crash: executor_crashed",
    "timeout": "crash: timeout",
    "bad-archive": "crash: archive_rejected",
    "missing-artifact": "crash: artifact_missing",
    "unknown-executor": "crash: unknown_executor",
    "unroutable": "crash: unroutable",
    "malformed": "crash: malformed_message",
    "no-timeout": "crash: malformed_message",
    "container": "done",
    "robot-arm": "done",
    "robot-arm-collision": "failed",
    "course": "done",
    "course-wrong": "failed",
    "course-mistake": "failed",
}
"""How each message of `samples/messages` ends."""


@dataclass
class Journey:
    """What the event stream has told of one sample task."""

    name: str
    expected: str
    sent: float = field(default_factory=time.monotonic)
    stages: list[str] = field(default_factory=list)
    event: str = "sent"
    verdict: str = ""
    end: str = ""
    took_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether its end and, unless it was no task, the settlement of its last stage are told."""
        return bool(self.end) and (not self.stages or self.event in ("acknowledged", "rejected"))

    def fold(self, routing_key: str | None, message: dict[str, object]) -> None:
        """Take in one message: a log message, a crash message, or the task at the end of its route."""
        self.took_s = time.monotonic() - self.sent
        if routing_key in ENDS:
            self.end = ENDS[routing_key]
        elif isinstance(error := message.get("error"), dict):
            self.end = f"crash: {error['code']}"
        elif isinstance(stage := message.get("stage"), dict):
            if message["event"] == "received":
                self.stages.append(stage["routingKey"])
            self.event = str(message["event"])
            self.verdict = str(message["verdict"] or self.verdict)


def run_demo() -> int:
    """Run the demo; returns the exit code of the command.

    Raises:
        ConfigurationError: The file of the traces cannot be written.
        ServiceMissing: There is no RabbitMQ to run.
        ServiceFailed: It, or the FTP server, did not come up.
    """
    console = Console()
    traces = _traces()
    with console.status("starting RabbitMQ and an FTP server"), lab() as services, _arm() as is_there:
        journeys = _prepare(services, console)
        if not is_there:
            console.print("[yellow]no robot arm: something else is on its port[/yellow]")
            del journeys["robot-arm"]
        with _node(services, traces) as (node, node_log):
            try:
                asyncio.run(_until_ended(node, _follow(services, journeys, console)))
            except TimeoutError as late:
                console.print(f"[red]{late or f'not every task ended within {LIMIT_S:g} s'}; the node said:[/red]")
                console.print("\n".join(node_log.read_text().splitlines()[-10:]), markup=False, highlight=False)
    console.print(f"the way of each task: ulos trace TASK_ID {traces}", markup=False, highlight=False, soft_wrap=True)
    agreed = all(journey.end == journey.expected for journey in journeys.values())
    console.print("every task ended as expected" if agreed else "[red]some tasks did not end as expected[/red]")
    return 0 if agreed else 1


def _traces() -> Path:
    """The file that the node will add its traces to; it can."""
    file = Path(os.environ.get("ULOS_TRACE_FILE", TRACES))
    try:
        file.open("a").close()
    except OSError as closed:
        raise ConfigurationError(f"ULOS_TRACE_FILE: cannot write {file}: {closed.strerror}") from closed
    return file


def _prepare(services: Lab, console: Console) -> dict[str, Journey]:
    """The samples to send; the container's image is built when an engine answers."""
    expected = dict(EXPECTED)
    try:
        local_image(IMAGE, IMAGE_PROGRAM)
    except ServiceMissing as missing:
        console.print(f"[yellow]no container stage: {missing}[/yellow]")
        del expected["container"]
    for executor, image in COURSE_IMAGES.items():
        try:
            docker("image", "inspect", image, hint="no such image")
        except ServiceMissing:
            console.print(f"[yellow]no course pipeline: ulos executor build {executor}[/yellow]")
            expected = {name: end for name, end in expected.items() if not name.startswith("course")}
    return {name: Journey(name, end) for name, end in expected.items()}


@contextmanager
def _arm() -> Iterator[bool]:
    """The simulated robot arm on the port where its executor looks for it; whether it could have that port."""
    command = [sys.executable, str(shipped("executors") / "robot-arm" / "arm.py"), "--pace", ARM_PACE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as arm:
        try:
            assert arm.stdout is not None  # noqa: S101 (it is a pipe)
            yield bool(arm.stdout.readline())
        finally:
            arm.kill()


@contextmanager
def _node(services: Lab, traces: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A node as a user starts it, and the file of its log lines."""
    executors = [shipped("executors"), shipped("samples") / "executors"]
    foreign = elsewhere(os.environ)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in foreign},
        **services.environment(QUEUE),
        "ULOS_EXECUTORS_PATH": os.pathsep.join(str(folder) for folder in executors),
        "ULOS_MOCK_DELAY_S": "0.5",
        "ULOS_TRACE_FILE": str(traces),
    }
    with tempfile.TemporaryDirectory(prefix="ulos-demo-") as directory:
        log = Path(directory) / "node.log"
        with log.open("wb") as stderr:
            command = [sys.executable, "-m", "faststream", "run", "ulos_stream.app:app"]
            node = subprocess.Popen(command, env=environment, stderr=stderr, stdout=stderr)
            try:
                yield node, log
            finally:
                node.terminate()
                node.wait(timeout=60)


async def _until_ended(node: "subprocess.Popen[bytes]", follow: Coroutine[None, None, None]) -> None:
    """Await `follow`, unless the node ends first, after which there is nothing to wait for."""
    following = asyncio.create_task(follow)
    while not (await asyncio.wait([following], timeout=0.2))[0]:
        if node.poll() is not None:
            following.cancel()
            raise TimeoutError("the node ended")
    await following


async def _follow(services: Lab, journeys: dict[str, Journey], console: Console) -> None:
    """Declare the topology, send every sample, and fold the event stream into a live table."""
    connection = await aio_pika.connect(services.broker.url)
    async with connection, asyncio.timeout(LIMIT_S):
        channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True)
        tasks = await channel.declare_queue(QUEUE, durable=True)
        for key in STAGES:
            await tasks.bind(exchange, key)
        told = await channel.declare_queue("demo", exclusive=True)
        for key in ("task.log", "task.crashed", *ENDS):
            await told.bind(exchange, key)

        by_message_id: dict[str | None, Journey] = {}
        for journey in journeys.values():
            message = aio_pika.Message(
                _body(journey.name, services.storage),
                message_id=str(uuid.uuid4()),
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            by_message_id[message.message_id] = journey
            await exchange.publish(message, _routing_key(message.body))
        with Live(_table(journeys), console=console, refresh_per_second=8) as live:
            async with told.iterator() as messages:
                async for heard in messages:
                    await heard.ack()
                    fields = json.loads(heard.body)
                    journey = journeys.get(fields.get("taskId")) or by_message_id[heard.correlation_id]
                    journey.fold(heard.routing_key, fields)
                    live.update(_table(journeys))
                    if all(journey.is_over for journey in journeys.values()):
                        break


def _body(name: str, storage: FtpServer) -> bytes:
    """The sample message as sent: its task is named after it, and has an artifact of its own."""
    body = (shipped("samples") / "messages" / f"{name}.json").read_bytes()
    try:
        task = json.loads(body)
    except ValueError:
        return body
    artifact = shipped("samples") / "artifacts" / Path(task["filePath"]).name
    task["taskId"] = name
    if artifact.exists():
        task["filePath"] = f"/{name}.zip"
        with ftplib.FTP() as ftp, artifact.open("rb") as file:  # noqa: S321 (the demo's own server)
            ftp.connect(storage.host, storage.port)
            ftp.login(storage.username, storage.password)
            ftp.storbinary(f"STOR {task['filePath']}", file)
    return json.dumps(task).encode()


def _routing_key(body: bytes) -> str:
    """Where a producer sends the message: to the queue of its first stage."""
    try:
        key = str(json.loads(body)["routingTree"]["routingKey"])
    except (ValueError, KeyError):
        key = ""
    return key if key in STAGES else STAGES[0]


def _table(journeys: dict[str, Journey]) -> Table:
    table = Table("task", "stages", "event", "verdict", "time", "end", "expected", title="tasks on their way")
    for journey in journeys.values():
        agrees = journey.end == journey.expected
        style = "green" if agrees else "red"
        table.add_row(
            journey.name,
            " → ".join(journey.stages),
            journey.event,
            journey.verdict,
            f"{journey.took_s:.1f} s",
            f"[{style}]{journey.end}[/{style}]" if journey.end else "…",
            journey.expected,
        )
    return table
