"""The simulated arm of `executors/robot-arm`, and what it has seen: it is the witness of who drives it."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ulos_stream import shipped

ARM = shipped("executors") / "robot-arm" / "arm.py"


class SimulatedArm:
    """A running arm."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def events(self) -> list[dict[str, str]]:
        """What it has told, oldest first."""
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    @property
    def port(self) -> int:
        return int(self.events[0]["client"].rpartition(":")[2])

    def kill(self) -> None:
        """As a power cut would."""
        self._process.kill()
        self._process.wait()

    def count(self, event: str) -> int:
        return sum(one["event"] == event for one in self.events)

    async def tells(self, event: str, times: int = 1) -> dict[str, str]:
        """Wait until it has told an event so often; returns the last of them."""
        async with asyncio.timeout(30):
            while self.count(event) < times:
                await asyncio.sleep(0.02)
        return [one for one in self.events if one["event"] == event][times - 1]


@contextlib.contextmanager
def simulated_arm(directory: Path, *, port: int = 0, pace: float = 1.0) -> Iterator[SimulatedArm]:
    """An arm on a port, which is a free one by default."""
    log = directory / "arm.log"
    with log.open("wb") as output:
        command = [sys.executable, str(ARM), "--port", str(port), "--pace", str(pace)]
        process = subprocess.Popen(command, stdout=output)
    arm = SimulatedArm(process, log)
    try:
        while not arm.events:
            assert process.poll() is None, f"the arm cannot listen on port {port}"
            time.sleep(0.02)
        yield arm
    finally:
        arm.kill()
