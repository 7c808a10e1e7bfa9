#!/usr/bin/env python3
"""A simulated arm behind a TCP port, in real time: it stands for a real one's controller, to try everything out.

    ./arm.py --port 7171

One client at a time: it is greeted by `ready`, any other one by `busy` and the end of the connection. A client sends a
command a line, and gets a line for each but `alive`, that of a motion when it has ended. Such an answer begins with the
command's first word and goes on with `ok`; with `refused` and why, if the command is wrong; with `unable` and why, if
the arm is; or with `interrupted`.

    home, move J1 J2 J3 J4 J5 J6 PERCENT, grip open, grip close     motions
    park        a motion: upright, brakes on
    stop        motions end where they are, brakes on; afterwards it must be homed
    estop       the same, and no more power until a person says `reset`
    state       ok parked|ready|moving|stopped|estop J1 J2 J3 J4 J5 J6 open|closed
    alive       no answer; something must be heard every two seconds

Safe state: when its client is gone, or silent, the arm stops.

Prints what happens, a JSON object a line: `listening`, `taken`, `refused`, `silent`, `freed` with the state that the
arm was in when its client left.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator

import robot

SILENCE_S = 2.0
"""Seconds after which a silent client is taken for dead."""
TICK_S = 0.02
CALM = 50.0
"""Percent of full speed for motions without a speed of their own."""


class Arm:
    """The mechanics.

    Args:
        pace: How many times faster than a real one.
    """

    def __init__(self, pace: float) -> None:
        self.state = "parked"
        self._pace = pace
        self._pose = robot.HOME
        self._grip = "open"
        self._motions = 0

    async def obey(self, words: list[str]) -> str:
        """Carry out a command; returns the answer without its first word."""
        match words:
            case ["state"]:
                return f"ok {self.state} {' '.join(f'{angle:.2f}' for angle in self._pose)} {self._grip}"
            case ["stop"]:
                self.stop()
            case ["estop"]:
                self.stop()
                self.state = "estop"
            case ["reset"]:
                self.state = "stopped"
            case _ if self.state == "estop":
                return "unable the emergency stop is pressed"
            case _ if self.state == "moving":
                return "refused the arm is moving"
            case ["home"]:
                return await self._move(robot.HOME, robot.duration_s(self._pose, robot.HOME, CALM), "ready")
            case ["park"]:
                return await self._move(robot.HOME, robot.duration_s(self._pose, robot.HOME, CALM), "parked")
            case _ if self.state != "ready":
                return "refused home it first"
            case ["grip", "open" | "close" as what]:
                self._grip = "open" if what == "open" else "closed"
                return await self._move(self._pose, robot.GRIP_S, "ready")
            case ["move", *numbers] if len(numbers) == len(robot.JOINTS) + 1:
                try:
                    *angles, percent = map(float, numbers)
                    pose = tuple(robot.within(angle, which) for which, angle in enumerate(angles))
                    robot.look_along(self._pose, pose)
                    return await self._move(pose, robot.duration_s(self._pose, pose, percent), "ready")
                except (ValueError, ZeroDivisionError, robot.Impossible) as why:
                    return f"refused {why}"
            case _:
                return "refused no such command"
        return "ok"

    def stop(self) -> None:
        """Brakes on, wherever it is."""
        self._motions += 1
        if self.state in ("ready", "moving"):
            self.state = "stopped"

    async def _move(self, target: robot.Pose, takes_s: float, then: str) -> str:
        self._motions += 1
        this, start, begun = self._motions, self._pose, time.monotonic()
        self.state = "moving"
        while (part := (time.monotonic() - begun) * self._pace / max(takes_s, TICK_S)) < 1:
            self._pose = robot.along(start, target, part)
            await asyncio.sleep(TICK_S)
            if self._motions != this:
                return "interrupted"
        self._pose, self.state = target, then
        return "ok"


class Controller:
    """The port."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._is_taken = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what a client says, until it is gone."""
        client = "{}:{}".format(*writer.get_extra_info("peername"))
        if self._is_taken:
            tell("refused", client)
            writer.write(b"busy\n")
        else:
            self._is_taken = True
            tell("taken", client)
            writer.write(b"ready\n")
            async with asyncio.TaskGroup() as answers:
                with contextlib.suppress(ConnectionError):
                    async for line in self._lines(reader, client):
                        answers.create_task(self._answer(line.split(), writer))
                left = self._arm.state
                self._arm.stop()
            self._is_taken = False
            tell("freed", client, state=left)
        writer.close()

    async def _lines(self, reader: asyncio.StreamReader, client: str) -> AsyncIterator[str]:
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    line = await reader.readline()
                if not line:
                    return
                if line != b"alive\n":
                    yield line.decode(errors="replace")
        except TimeoutError:
            tell("silent", client)
        except ValueError:  # a line without an end
            tell("silent", client)

    async def _answer(self, words: list[str], writer: asyncio.StreamWriter) -> None:
        writer.write(f"{words[0] if words else ''} {await self._arm.obey(words)}\n".encode())


def tell(event: str, client: str = "", **more: str) -> None:
    """Print what happened."""
    print(json.dumps({"event": event, "client": client, **more}), flush=True)


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A simulated six-joint arm behind a TCP port.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7171)
    parser.add_argument("--pace", type=float, default=1.0, help="how many times faster than a real arm")
    options = parser.parse_args()
    try:
        server = await asyncio.start_server(Controller(Arm(options.pace)).serve, options.host, options.port)
    except OSError as exc:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {os.strerror(exc.errno or 0)}")
    tell("listening", "{}:{}".format(*server.sockets[0].getsockname()))
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
