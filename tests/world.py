"""The world around a node under test: a topology of its own on a real broker, and artifacts."""

import asyncio
import contextlib
import io
import json
import os
import ssl
import subprocess
import sys
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aio_pika
import pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from ulos_stream.app import create_app
from ulos_stream.lab import Broker
from ulos_stream.settings import read_settings

LIMIT_S = 30.0
"""Seconds after which something that should have been heard never will be."""


@dataclass(frozen=True)
class Heard:
    """A message that the node published."""

    key: str
    """`log`, `crash`, or the routing key of a hop."""
    fields: dict[str, Any]
    raw: AbstractIncomingMessage

    @property
    def event(self) -> str | None:
        return self.fields.get("event")


def a_tree(
    key: str, success: object = None, failure: object = None, exchange: str | None = None, **fields: object
) -> dict[str, Any]:
    """One node of a routing tree; the exchange is filled in by `World.task`."""
    tree: dict[str, Any] = {"exchange": exchange, "routingKey": key, **fields}
    if success is not None:
        tree["successRoutingDecision"] = success
    if failure is not None:
        tree["failureRoutingDecision"] = failure
    return tree


def a_zip(**members: str) -> bytes:
    """A zip of text files; `__` in a name stands for `/`, `_` for `.`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (members or {"hello_txt": "hello"}).items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)
    return file.getvalue()


@dataclass
class World:
    """An exchange, a consumption queue, and one queue that hears all the node publishes."""

    broker: Broker
    channel: AbstractChannel
    exchange: AbstractExchange
    tasks: AbstractQueue
    dead: AbstractQueue
    """Where rejected messages end that are not requeued."""
    told: AbstractQueue
    artifacts: Path
    settings: dict[str, str] = field(default_factory=dict)
    """Environment of the node beside the fifteen variables."""

    def task(self, tree: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A task message with this tree, and an artifact of its own."""
        name = f"/{uuid.uuid4()}.zip"
        task = {"taskId": "t-1", "taskOwnerId": "o-1", "filePath": name, "timeout": 10, **fields}
        if task["filePath"] == name:
            (self.artifacts / name[1:]).write_bytes(a_zip())
        return {**task, "routingTree": self._rooted(tree)}

    def _rooted(self, tree: dict[str, Any]) -> dict[str, Any]:
        branches = {name: self._rooted(value) for name, value in tree.items() if isinstance(value, dict)}
        exchange = self.exchange.name if tree["exchange"] is None else tree["exchange"]
        return {**tree, "exchange": exchange, **branches}

    async def listen(self, *keys: str) -> None:
        """Route these keys into the queue that hears what the node publishes."""
        for key in keys:
            await self.told.bind(self.exchange, key)

    async def send(self, message: object, message_id: str | None = "m-1", **properties: Any) -> None:
        """Put a message into the consumption queue; without an id by pika, for aiormq gives one to each."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        if message_id is None:
            await asyncio.to_thread(self._send_without_id, body)
            return
        await self.channel.default_exchange.publish(
            aio_pika.Message(body, message_id=message_id, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **properties),
            self.tasks.name,
        )

    def _send_without_id(self, body: bytes) -> None:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self.broker.url))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", self.tasks.name, body, pika.BasicProperties(delivery_mode=2))

    async def hear(self, enough: Callable[[list[Heard]], object], limit_s: float = LIMIT_S) -> list[Heard]:
        """Take what the node publishes until it is `enough`, in order of arrival."""
        heard: list[Heard] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s), self.told.iterator() as messages:
                async for raw in messages:
                    await raw.ack()
                    heard.append(Heard(raw.routing_key or "", json.loads(raw.body), raw))
                    if enough(heard):
                        return heard
        raise AssertionError(f"only heard {[(h.key, h.event, h.fields.get('error')) for h in heard]}")

    async def hear_the_end(self, count: int = 1, limit_s: float = LIMIT_S) -> list[Heard]:
        """What the node publishes until `count` stages are acknowledged or rejected."""
        ends = ("acknowledged", "rejected")
        return await self.hear(lambda heard: sum(h.event in ends for h in heard) >= count, limit_s)

    async def count(self, queue: AbstractQueue) -> int:
        """How many messages are ready in a queue."""
        declared = await self.channel.declare_queue(queue.name, passive=True)
        return declared.declaration_result.message_count or 0

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of a node in this world."""
        return {
            "PATH": os.environ["PATH"],
            "MESSAGE_BROKER_HOST": self.broker.host,
            "MESSAGE_BROKER_PORT": str(self.broker.port),
            "MESSAGE_BROKER_USERNAME": self.broker.username,
            "MESSAGE_BROKER_PASSWORD": self.broker.password,
            "MESSAGE_BROKER_LOGS_EXCHANGE": self.exchange.name,
            "MESSAGE_BROKER_LOGS_ROUTING_KEY": "log",
            "MESSAGE_BROKER_CRASH_EXCHANGE": self.exchange.name,
            "MESSAGE_BROKER_CRASH_ROUTING_KEY": "crash",
            "MESSAGE_BROKER_CONSUMPTION_QUEUE": self.tasks.name,
            "MESSAGE_BROKER_PREFETCH_COUNT": "0",
            "MESSAGE_BROKER_REQUEUE_ON_REJECT": "false",
            "ULOS_STORAGE_URL": f"file://{self.artifacts}",
            **self.settings,
            **changes,
        }

    @contextlib.asynccontextmanager
    async def node(self, **changes: str) -> AsyncIterator[None]:
        """A node in this process, from ready to drained."""
        with patch.dict(os.environ, self.environment(**changes), clear=True):
            app = create_app(read_settings())
        async with app.lifespan_context():
            try:
                async with asyncio.timeout(LIMIT_S):
                    await app.start()
                yield
            finally:
                await app.stop()

    @contextlib.asynccontextmanager
    async def node_process(self, program: str | None = None, **changes: str) -> AsyncIterator["NodeProcess"]:
        """A node in a process of its own, as a user starts it, or by a Python `program`."""
        async with NodeProcess.running(self.environment(**changes), program) as node:
            yield node


class NodeProcess:
    """A running node."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    @staticmethod
    @contextlib.asynccontextmanager
    async def running(
        environment: dict[str, str], program: str | None = None, launcher: Sequence[str] = ()
    ) -> AsyncIterator["NodeProcess"]:
        """Start it by the README's command, or by a Python `program`; it is gone afterwards.

        A `launcher` becomes the command that follows it.
        """
        arguments = ["-m", "faststream"] if program is None else ["-c", program]
        process = await asyncio.create_subprocess_exec(
            *launcher,
            sys.executable,
            *arguments,
            "run",
            "ulos_stream.app:app",
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield NodeProcess(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def says(self, event: str, reason: str = "", limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Read the node's log lines up to one with this event whose reason contains `reason`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(limit_s):
            while line := await self.process.stderr.readline():
                fields: dict[str, Any] = json.loads(line)
                self.lines.append(fields)
                if fields["event"] == event and reason in fields.get("reason", ""):
                    return fields
        raise AssertionError(f"the node ended without saying {event!r}: {self.lines}")

    async def words(self) -> str:
        """All that it says on standard error until it ends."""
        async with asyncio.timeout(LIMIT_S):
            _, said = await self.process.communicate()
        return said.decode()

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        async with asyncio.timeout(LIMIT_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def a_world(broker: Broker, artifacts: Path, **queue_arguments: Any) -> AsyncIterator[World]:
    """A topology with random names; the broker is thrown away as a whole afterwards."""
    name = f"test-{uuid.uuid4()}"
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(name, durable=True)
        dead = await channel.declare_queue(f"{name}-dead", durable=True)
        tasks = await channel.declare_queue(
            name,
            durable=True,
            arguments={
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": dead.name,
                **queue_arguments,
            },
        )
        told = await channel.declare_queue(f"{name}-told", durable=True)
        world = World(broker, channel, exchange, tasks, dead, told, artifacts)
        await world.listen("log", "crash")
        yield world


async def ulos(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the `ulos` command as a user does, with this environment alone."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ulos_stream", *arguments],
        env={"PATH": os.environ["PATH"], "COLUMNS": "250", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


class Proxy:
    """A TCP proxy in front of a server, to cut its connections, or to speak TLS in its place."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = (host, port)
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.connections = 0
        """How many there have been."""
        self.refuses = False
        """Whether new connections are reset at once."""
        self._open = asyncio.Event()
        self._open.set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Proxy"]:
        """Listen on a free port of the loopback interface."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            self.drop()

    @property
    def open(self) -> bool:
        """Whether there is a connection now."""
        return bool(self._writers)

    def drop(self) -> None:
        """Reset every connection; new ones are welcome."""
        for writer in self._writers:
            writer.transport.abort()

    def silence(self) -> None:
        """Let nothing through any more, and stay connected, as a network that is cut does."""
        self._open.clear()

    def flow(self) -> None:
        """Let everything through again."""
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        behind_reader, behind = await asyncio.open_connection(*self._target)
        self._writers |= {writer, behind}
        self.connections += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(reader, behind))
            group.create_task(self._pump(behind_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(65536):
                await self._open.wait()
                writer.write(block)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)
