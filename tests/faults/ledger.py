"""The ledger: a process of its own that writes down every message that leaves the nodes.

    python -m tests.faults.ledger URL FILE QUEUE…

A message is acknowledged only when its line is in FILE, so the ledger loses nothing either,
whatever happens to the broker. It prints an empty line whenever FILE has grown.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.spec import Basic, BasicProperties

from .launcher import end_with_parent

AGAIN_S = 0.2
"""Seconds between two attempts to reach the broker."""


@dataclass(frozen=True, slots=True)
class Line:
    """One delivery."""

    queue: str
    key: str
    message_id: str | None
    correlation_id: str | None
    redelivered: bool
    task: str | None
    event: str | None
    code: str | None
    """Of the error, in a crash report."""
    body_sha256: str
    at: float
    """Seconds since the epoch."""


def line_of(queue: str, delivery: Basic.Deliver, properties: BasicProperties, body: bytes) -> Line:
    """What the ledger keeps of a message; its body may be anything."""
    fields: object = None
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(body)
    known = fields if isinstance(fields, dict) else {}
    return Line(
        queue=queue,
        key=delivery.routing_key,
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        redelivered=delivery.redelivered,
        task=known.get("taskId"),
        event=known.get("event"),
        code=known["error"]["code"] if "error" in known else None,
        body_sha256=hashlib.sha256(body).hexdigest(),
        at=time.time(),
    )


def keep(url: str, file: IO[str], queues: list[str]) -> None:
    """Write lines for ever; come back whenever the broker does.

    Blocking pika, which shares no code with what it watches.
    """

    def write(
        queue: str, channel: BlockingChannel, delivery: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        file.write(json.dumps(asdict(line_of(queue, delivery, properties, body))) + "\n")
        file.flush()
        print(flush=True)
        channel.basic_ack(delivery.delivery_tag)

    while True:
        with contextlib.suppress(AMQPError, OSError):
            channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
            channel.basic_qos(prefetch_count=500)
            for queue in queues:
                channel.basic_consume(queue, partial(write, queue))
            channel.start_consuming()
        time.sleep(AGAIN_S)


@dataclass
class Ledger:
    """What the ledger's process has written so far."""

    path: Path
    lines: list[Line] = field(default_factory=list)
    _offset: int = 0
    _ended: bool = False
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    @staticmethod
    @contextlib.asynccontextmanager
    async def kept(url: str, path: Path, queues: list[str]) -> AsyncIterator["Ledger"]:
        """Start the process; it is gone afterwards."""
        path.touch()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.ledger", url, path, *queues, stdout=asyncio.subprocess.PIPE
        )
        ledger = Ledger(path)
        following = asyncio.create_task(ledger._follow(process.stdout))
        try:
            yield ledger
        finally:
            following.cancel()
            process.kill()
            await process.wait()

    async def shows(self, enough: Callable[[list[Line]], bool], limit_s: float) -> bool:
        """Whether the lines are `enough` within so many seconds.

        Raises:
            RuntimeError: The ledger's process has ended.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not enough(self.lines):
                    if self._ended:
                        raise RuntimeError("the ledger's process has ended")
                    self._grown.clear()
                    await self._grown.wait()
        return enough(self.lines)

    async def _follow(self, growth: asyncio.StreamReader | None) -> None:
        assert growth is not None
        while await growth.readline():
            self.read()
        self._ended = True
        self._grown.set()

    def read(self) -> None:
        """Take in what was written since the last time."""
        with self.path.open() as file:
            file.seek(self._offset)
            while (text := file.readline()).endswith("\n"):
                self.lines.append(Line(**json.loads(text)))
                self._offset += len(text.encode())
        self._grown.set()


if __name__ == "__main__":
    end_with_parent()
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    with open(sys.argv[2], "a") as file:
        keep(sys.argv[1], file, sys.argv[3:])
