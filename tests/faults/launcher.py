"""A node that announces where it stands: `python -m tests.faults.launcher`.

The seams of `ulos_stream` are wrapped, its code is not touched. At each point of a stage the node
writes `[point, task, stage]` as one line of JSON to the socket that `FAULTS_CHANNEL` names, a file
descriptor, and stands still as a whole until one byte comes back: whoever reads the line may kill
it exactly there.
"""

import asyncio
import contextlib
import ctypes
import functools
import inspect
import json
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

POINTS = (
    "received",
    "downloaded",
    "unpacked",
    "executing",
    "executed",
    "packed",
    "storing",
    "stored",
    "renaming",
    "renamed",
    "handing over",
    "handed over",
    "settling",
    "acknowledged",
    "reporting",
    "reported",
    "rejected",
)
"""In the order of a stage; the last three on its way to a crash."""

_stage: ContextVar[tuple[str, str]] = ContextVar("stage", default=("", ""))
_standing = threading.Lock()


def announce(point: str) -> None:
    """Say where the stage of this context is, and wait for leave to go on."""
    channel = int(os.environ["FAULTS_CHANNEL"])
    with _standing:
        os.write(channel, json.dumps([point, *_stage.get()]).encode() + b"\n")
        if not os.read(channel, 1):
            os._exit(1)


def watch(
    owner: Any, name: str, *, before: str = "", after: str = "", when: Callable[..., bool] = lambda *_: True
) -> None:
    """Announce a point before or after each call of `owner.name` that `when` says is meant."""
    seam = getattr(owner, name)

    def say(point: str, arguments: tuple[Any, ...]) -> None:
        if point and when(*arguments):
            announce(point)

    @functools.wraps(seam)
    async def watched_coroutine(*arguments: Any, **named: Any) -> Any:
        say(before, arguments)
        result = await seam(*arguments, **named)
        say(after, arguments)
        return result

    @functools.wraps(seam)
    def watched(*arguments: Any, **named: Any) -> Any:
        say(before, arguments)
        result = seam(*arguments, **named)
        say(after, arguments)
        return result

    setattr(owner, name, watched_coroutine if inspect.iscoroutinefunction(seam) else watched)


def watch_the_way() -> None:
    """Wrap every seam that a stage passes."""
    from aiodocker.containers import DockerContainer
    from faststream.rabbit.message import RabbitMessage

    from ulos_stream import archive
    from ulos_stream.executors.container import ContainerExecutor
    from ulos_stream.executors.process import ProcessExecutor
    from ulos_stream.node import Node
    from ulos_stream.publishing import Outbox
    from ulos_stream.storage.ftp import FtpStorage
    from ulos_stream.storage.ftpclient import FtpClient, Transfer

    _mark_stage(Node)
    watch(FtpStorage, "download", after="downloaded", when=lambda storage, path, target: ".ulos-" not in path)
    watch(archive.Artifact, "unpack", after="unpacked")
    watch(asyncio, "create_subprocess_exec", after="executing")
    watch(DockerContainer, "start", after="executing")
    for executor in (ProcessExecutor, ContainerExecutor):
        watch(executor, "run", after="executed")
    watch(archive, "pack", after="packed")
    _halve_uploads(Transfer)
    watch(FtpClient, "size", before="stored", when=lambda client, path: ".ulos-" in path)
    watch(FtpClient, "ask", before="renaming", after="renamed", when=_renames)
    watch(Outbox, "hand_over", before="handing over", after="handed over")
    watch(Outbox, "report_crash", before="reporting", after="reported")
    watch(RabbitMessage, "ack", before="settling", after="acknowledged")
    watch(RabbitMessage, "reject", after="rejected")


def shorten_the_heartbeat(seconds: int) -> None:
    """Have aiormq notice a silent broker, and be noticed by it, so soon; it is not the broker that decides."""
    from aiormq import connection

    setattr(connection, "parse_heartbeat", lambda _: seconds)  # noqa: B010 (which mypy would not let pass)


def _renames(client: object, command: str | None, *expected: str) -> bool:
    return command is not None and command.startswith("RNTO") and ".ulos-" not in command


def _mark_stage(node: Any) -> None:
    """Everything that one delivery leads to knows its task and stage; the stage has a context of its own."""
    receive, carry_out = node.receive, node._carry_out

    def mark(body: bytes) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            task = json.loads(body)
            _stage.set((task["taskId"], task["routingTree"]["routingKey"]))

    @functools.wraps(receive)
    async def marked(self: object, body: bytes) -> None:
        mark(body)
        announce("received")
        await receive(self, body)

    @functools.wraps(carry_out)
    async def marked_stage(self: object, origin: Any, arrival: object) -> Any:
        mark(origin.body)
        return await carry_out(self, origin, arrival)

    node.receive, node._carry_out = marked, marked_stage


def _halve_uploads(transfer: Any) -> None:
    """An upload stands still in the middle of its first block."""
    write, stood = transfer.write, set[object]()

    @functools.wraps(write)
    async def halved(self: object, block: bytes) -> bool:
        half = len(block) // 2
        if self not in stood:
            stood.add(self)
            await write(self, block[:half])
            announce("storing")
            block = block[half:]
        return bool(await write(self, block))

    transfer.write = halved


def end_with_parent() -> None:
    """Be killed when the process that started this one ends, whatever way it ends. Linux only."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    watch_the_way()
    if "FAULTS_HEARTBEAT_S" in os.environ:
        shorten_the_heartbeat(int(os.environ["FAULTS_HEARTBEAT_S"]))
    sys.argv = ["faststream", "run", "ulos_stream.app:app"]
    runpy.run_module("faststream", run_name="__main__", alter_sys=True)
