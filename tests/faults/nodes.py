"""Real node processes, watched: started, stopped by the signals that a machine sends, started again."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

READY_S = 60.0
"""Seconds within which a node must be ready, and end when asked: four of them share two cores."""

SETTLING_S = 1.0
"""Seconds for which an ack may be on its way: nothing confirms it, and a kill may still undo it."""
SETTLED = ("acknowledged", "rejected")

OnPoint = Callable[["Node", str, str, str], Awaitable[None]]
"""Told node, point, task and stage; the node stands still until it returns."""


@dataclass
class Node:
    """One node and the processes that have been it, one after another."""

    name: str
    environment: dict[str, str]
    on_point: OnPoint
    within: tuple[str, ...] = ()
    """A command that runs the node's own."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Its log, over all its lives."""
    inside: set[str] = field(default_factory=set)
    """Tasks that it has received and not settled."""
    points: list[tuple[float, str, str, str]] = field(default_factory=list)
    """Where its stages stood: time in seconds since the epoch, point, task, stage."""
    process: asyncio.subprocess.Process | None = None
    _heard: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Start a process; do not wait for it."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                *self.within,
                sys.executable,
                "-m",
                "tests.faults.launcher",
                env=self.environment | {"FAULTS_CHANNEL": str(theirs.fileno()), "ULOS_NODE": self.name},
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        self.inside.clear()
        self._tasks = {asyncio.create_task(self._listen(ours)), asyncio.create_task(self._read_log())}

    async def says(self, event: str, since: int = 0) -> dict[str, Any]:
        """The first log line with this event after the first `since` lines.

        Raises:
            TimeoutError: There is none for a minute.
        """
        async with asyncio.timeout(READY_S):
            while True:
                for line in self.lines[since:]:
                    if line.get("event") == event:
                        return line
                self._heard.clear()
                await self._heard.wait()

    @property
    def is_ready(self) -> bool:
        """Whether that is what it said last."""
        said = [line["event"] for line in self.lines if line.get("event") in ("ready", "not ready")]
        return said[-1:] == ["ready"]

    async def restart(self) -> None:
        """Start again and wait until it is ready."""
        since = len(self.lines)
        await self.start()
        await self.says("ready", since)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process to take it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def kill(self) -> frozenset[str]:
        """SIGKILL; returns the tasks that were inside, or whose settlement the broker may not have read yet."""
        self.send(signal.SIGKILL)
        lately = time.time() - SETTLING_S
        settling = {task for at, point, task, _ in self.points if at > lately and point in SETTLED}
        await self._gone()
        return frozenset(self.inside) | settling

    async def stop(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        self.send(signal.SIGTERM)
        return await self._gone()

    async def _gone(self) -> int:
        if self.process is None:
            return 0
        try:
            async with asyncio.timeout(READY_S):
                code = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            code = await self.process.wait()
        me = asyncio.current_task()
        for task in self._tasks - {me} if me else self._tasks:
            task.cancel()
        self.process = None
        return code

    async def _listen(self, channel: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=channel)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                point, task, stage = json.loads(line)
                self.points.append((time.time(), point, task, stage))
                if point == "received":
                    self.inside.add(task)
                if point in SETTLED:
                    self.inside.discard(task)
                await self.on_point(self, point, task, stage)
                writer.write(b".")
        writer.close()

    async def _read_log(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            try:
                fields = json.loads(line)
            except ValueError:
                fields = {"event": "not json", "text": line.decode(errors="replace")}
            self.lines.append({**fields, "node": self.name, "pid": self.process.pid})
            self._heard.set()


def bare_environment() -> dict[str, str]:
    """What of the runner's environment a node may see."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "DOCKER_HOST") if name in os.environ}
