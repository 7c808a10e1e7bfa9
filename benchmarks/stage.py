"""One stage, as the contestants that are not our node do it: what is the same however they run it.

Names on the broker are fixed, since some frameworks write them into their messages.
"""

import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

EVENTS = ("received", "downloaded", "passed", "uploaded", "forwarded", "acknowledged")
"""What each of them tells of a stage, in order, all but the last confirmed by the broker before it is acknowledged."""
EXCHANGE = QUEUE = "benchmarks"
EVENT_KEY, DONE_KEY = "event", "done"
AT_ONCE = 32
"""Messages that a worker has at hand, where a load does not say otherwise."""
SPOOL_BYTES = 4 * 1024 * 1024
"""Larger archives are kept in files instead of memory."""
SMALL_BYTES = 64 * 1024
"""Smaller archives are unpacked and packed on the event loop: a thread would cost more."""

Task = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """What is published, without the client's own types; `properties` by their AMQP names."""

    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)


Encode = Callable[[Task], Message]
"""Makes a task the message that a framework's worker understands."""


def plain(task: Task) -> Message:
    """A task as our node sends it: its JSON."""
    return Message(json.dumps(task).encode())


@dataclass(frozen=True, slots=True)
class World:
    """Where things are, by the node's own variables."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    storage_host: str
    storage_port: int
    storage_username: str
    storage_password: str = field(repr=False)
    delay_s: float
    """How long the simulated execution takes."""

    @property
    def url(self) -> str:
        """The broker's."""
        return f"amqp://{self.username}:{self.password}@{self.host}:{self.port}/"


def world() -> World:
    """As the environment says; nowhere in the process that measures, which has none of it and only encodes."""
    broker, storage = "MESSAGE_BROKER", "REMOTE_STORAGE"
    of = os.environ.get
    return World(
        host=of(f"{broker}_HOST", ""),
        port=int(of(f"{broker}_PORT", "0")),
        username=of(f"{broker}_USERNAME", ""),
        password=of(f"{broker}_PASSWORD", ""),
        storage_host=of(f"{storage}_HOST", ""),
        storage_port=int(of(f"{storage}_PORT", "0")),
        storage_username=of(f"{storage}_USERNAME", ""),
        storage_password=of(f"{storage}_PASSWORD", ""),
        delay_s=float(of("ULOS_MOCK_DELAY_S", "0")),
    )


def event(task: Task, name: str) -> Message:
    """What is told of a stage: the task and what happened to it, as our node puts it."""
    root = task["routingTree"]
    where = {"exchange": root["exchange"], "routingKey": root["routingKey"]}
    about = {"event": name, "at": time.time(), "node": "contestant", "stage": where}
    return Message(json.dumps({**task, **about, "logMessage": f"{name} by contestant"}).encode())


def forwarded(task: Task, encode: Encode) -> tuple[str, str, Message]:
    """The next hop of a task that passed: exchange, routing key, message.

    Where the branch has branches of its own, a worker of the same framework is next.
    """
    branch = task["routingTree"]["successRoutingDecision"]
    next_task = {**task, "routingTree": branch}
    message = encode(next_task) if "successRoutingDecision" in branch else plain(next_task)
    return branch["exchange"], branch["routingKey"], message


def temporary(path: str) -> str:
    """The name that a result has until it is whole."""
    return f"{path}.part"


def unpack(artifact: IO[bytes], directory: str) -> None:
    """Unpack an artifact into a directory."""
    with zipfile.ZipFile(artifact) as archive:
        archive.extractall(directory)


def execute(task: Task, directory: str) -> None:
    """Write the one output file of a stage."""
    root = task["routingTree"]
    Path(directory, f"output_{root['exchange']}_{root['routingKey']}.txt").write_text("contestant: PASS\n")


def pack(directory: str, result: IO[bytes]) -> None:
    """Pack a directory, compressed, and rewind the result."""
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in sorted(os.listdir(directory)):
            archive.write(os.path.join(directory, entry), entry)
    result.seek(0)
