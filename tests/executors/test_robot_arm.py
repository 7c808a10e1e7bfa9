"""The robot arm: where its joints bring it, what its programs say, what its controller does, and how it is driven."""

import asyncio
import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import robot
from hypothesis import given
from hypothesis import strategies as st
from simulated_arm import ARM, SimulatedArm, simulated_arm

from ulos_stream import shipped

RUN = shipped("executors") / "robot-arm" / "run"
GOOD = "home\nreach 300 0 50\ngrip close\nreach 0 300 50\n"
LONG = "speed 1\nmove 170 0 0 0 0 0\nmove -170 0 0 0 0 0\n"


def mistakes(text: str) -> list[tuple[int, str]]:
    return [(line, why) for line, _, why in robot.read(text).mistakes]


@given(x=st.floats(-600, 600), y=st.floats(-600, 600), z=st.floats(0, 700))
def test_a_place_that_can_be_reached_is_where_the_joints_bring_the_tool(x: float, y: float, z: float) -> None:
    try:
        pose = robot.solve(x, y, z)
    except robot.Impossible:
        return

    *_, wrist, tip, _ = robot.points(pose)

    assert tip == pytest.approx((x, y, z), abs=1e-6)
    assert wrist == pytest.approx((x, y, z + robot.TOOL), abs=1e-6)  # so the tool points down


@given(st.tuples(*(st.floats(-joint.limit, joint.limit) for joint in robot.JOINTS)))
def test_links_keep_their_length_in_every_pose(pose: robot.Pose) -> None:
    ends = [(0.0, 0.0, 0.0), *robot.points(pose)]

    lengths = [math.dist(a, b) for a, b in itertools.pairwise(ends)]

    assert lengths == pytest.approx([joint.link for joint in robot.JOINTS])


def test_a_program_becomes_commands_and_takes_its_time() -> None:
    program = robot.read("# a comment\n\nspeed 100\nmove 90 0 0 0 0 0  # to the left\ngrip close\nwait 1.5\nhome")

    assert program.mistakes == []
    assert [(step.line, step.command) for step in program.steps] == [
        (4, "move 90.000 0.000 0.000 0.000 0.000 0.000 100"),
        (5, "grip close"),
        (6, ""),
        (7, "home"),
    ]
    assert program.seconds == pytest.approx(1 + 0.5 + 1.5 + 1)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("jump", "'jump' is no statement; there are home, speed, move, reach, grip, wait"),
        ("move 1 2 3", "write: move J1 J2 J3 J4 J5 J6"),
        ("home now", "write: home"),
        ("grip", "write: grip open, or grip close"),
        ("speed nan", "'nan' is not a percentage from 1 to 100"),
        ("wait 1e3", "'1e3' is not a number of seconds from 0 to 10"),
        ("move a 0 0 0 0 0", "'a' is not an angle from -100000 to 100000"),
        ("move 0 0 0 0 -121 0", "joint 5 would be at -121°; it reaches from -120° to 120°"),
        ("reach 300 0 50 400", "joint 6 would be at 400°; it reaches from -350° to 350°"),
        ("reach 600 0 50", "(600, 0, 50) is too far from the shoulder to reach it with the tool pointing down"),
        ("reach 0 0 40", "(0, 0, 40) is too close to the shoulder to reach it with the tool pointing down"),
        ("reach 300 0 -5", "the tool would hit the table near x 300, y 0"),
        ("move 0 110 20 0 -100 0", "the wrist would hit the table near x 394, y 0"),
        ("move 0 0 150 0 50 0", "the tool would hit the arm's own base"),
        ("move 0 0 150 0 100 0", "the tool would hit the arm's own base on the way; go round it"),
    ],
)
def test_what_the_arm_cannot_do_is_said_with_its_line(statement: str, why: str) -> None:
    assert mistakes(f"home\n{statement}\n") == [(2, why)]


def test_a_move_between_two_free_places_is_looked_at_on_its_way() -> None:
    assert mistakes("reach 250 0 10\nreach 250 0 150\nreach 400 100 100\nreach 420 100 0") == []

    [(line, why)] = mistakes("reach 250 0 10\nreach 420 100 0")

    assert line == 2
    assert why.endswith("on the way; go by a higher place first")


def test_a_flood_of_statements_or_mistakes_is_cut() -> None:
    assert len(robot.read("jump\n" * 5_000).mistakes) == robot.MOST_MISTAKES
    [(line, why)] = mistakes("home\n" * 5_000)
    assert (line, why) == (robot.MOST_STEPS + 1, "a program has at most 1000 statements")


# its controller


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[SimulatedArm]:
    with simulated_arm(tmp_path, pace=20) as arm:
        yield arm


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader

    def send(self, command: str) -> None:
        self.writer.write(f"{command}\n".encode())

    async def hears(self) -> str:
        async with asyncio.timeout(10):
            return (await self._reader.readline()).decode().strip()

    async def asks(self, command: str) -> str:
        self.send(command)
        return await self.hears()


@contextlib.asynccontextmanager
async def a_client(arm: SimulatedArm) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", arm.port))
    try:
        assert await client.hears() == "ready"
        yield client
    finally:
        client.writer.close()


async def test_the_arm_moves_where_it_is_told_once_it_is_homed(arm: SimulatedArm) -> None:
    async with a_client(arm) as client:
        assert await client.asks("state") == "state ok parked 0.00 0.00 0.00 0.00 0.00 0.00 open"
        assert await client.asks("move 10 0 0 0 0 0 50") == "move refused home it first"
        assert await client.asks("home") == "home ok"
        assert await client.asks("move 10 20 30 0 0 0 50") == "move ok"
        assert await client.asks("grip close") == "grip ok"
        assert await client.asks("state") == "state ok ready 10.00 20.00 30.00 0.00 0.00 0.00 closed"
        assert await client.asks("park") == "park ok"
        assert (await client.asks("state")).startswith("state ok parked 0.00")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("move 200 0 0 0 0 0 50", "joint 1 would be at 200°; it reaches from -170° to 170°"),
        ("move 0 110 60 0 0 0 50", "the wrist would hit the table near"),
        ("move a 0 0 0 0 0 50", "could not convert string to float"),
        ("move 10 0 0 0 0 0 0", "float division by zero"),
        ("move 1 2", "no such command"),
        ("dance", "no such command"),
        ("", "no such command"),
    ],
)
async def test_the_controller_refuses_what_it_must_not_do(arm: SimulatedArm, command: str, why: str) -> None:
    async with a_client(arm) as client:
        await client.asks("home")

        answer = await client.asks(command)

        assert answer.startswith(f"{command.partition(' ')[0]} refused {why}".strip())
        assert "ready 0.00 0.00" in await client.asks("state")


async def test_a_stop_ends_a_motion_where_it_is(arm: SimulatedArm) -> None:
    async with a_client(arm) as client:
        await client.asks("home")
        client.send("move 170 0 0 0 0 0 1")
        assert await client.asks("grip open") == "grip refused the arm is moving"
        await asyncio.sleep(0.1)

        assert {await client.asks("stop"), await client.hears()} == {"stop ok", "move interrupted"}

        _, _, state, angle, *_ = (await client.asks("state")).split()
        assert state == "stopped"
        assert 0 < float(angle) < 170


async def test_after_an_emergency_stop_nothing_moves_until_somebody_resets_it(arm: SimulatedArm) -> None:
    async with a_client(arm) as client:
        await client.asks("home")
        assert await client.asks("estop") == "estop ok"

        assert await client.asks("home") == "home unable the emergency stop is pressed"

        assert await client.asks("reset") == "reset ok"
        assert await client.asks("home") == "home ok"


async def test_a_second_client_is_turned_away(arm: SimulatedArm) -> None:
    async with a_client(arm):
        second = Client(*await asyncio.open_connection("127.0.0.1", arm.port))

        assert (await second.hears(), await second.hears()) == ("busy", "")
        second.writer.close()

    await arm.tells("freed")
    assert [one["event"] for one in arm.events] == ["listening", "taken", "refused", "freed"]
    async with a_client(arm):
        pass


@pytest.mark.parametrize("by", ["reset", "silence"])
async def test_an_arm_that_has_lost_its_client_stops(arm: SimulatedArm, by: str) -> None:
    async with a_client(arm) as client:
        await client.asks("home")
        client.send("move 170 0 0 0 0 0 1")
        if by == "reset":
            await asyncio.sleep(0.1)
            client.writer.transport.abort()
        else:
            await arm.tells("silent")

        assert (await arm.tells("freed"))["state"] == "moving"

    async with a_client(arm) as client:
        assert (await client.asks("state")).startswith("state ok stopped ")


def test_an_arm_whose_port_is_taken_says_so(arm: SimulatedArm) -> None:
    ended = subprocess.run([ARM, "--port", str(arm.port)], capture_output=True, text=True, timeout=30, check=False)

    told = f"cannot listen on 127.0.0.1:{arm.port}: Address already in use\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", told)


# driving it


def submission(folder: Path, program: str | bytes) -> Path:
    work = folder / "work"
    work.mkdir()
    (work / "program.txt").write_bytes(program if isinstance(program, bytes) else program.encode())
    return work


def environment(port: int, limit_s: float = 120) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "ARM_HOST": "127.0.0.1", "ARM_PORT": str(port), "LIMIT_S": str(limit_s)}


def run(mode: str, work: Path, port: int = 1, limit_s: float = 120) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [RUN, mode], cwd=work, env=environment(port, limit_s), capture_output=True, text=True, check=False, timeout=60
    )


def report(work: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads((work / "results" / "report.json").read_text())
    return read


def test_a_good_program_is_carried_out_and_the_arm_parked(arm: SimulatedArm, tmp_path: Path) -> None:
    work = submission(tmp_path, GOOD)

    ended = run("drive", work, arm.port)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "line 1: home",
        "line 2: reach 300 0 50",
        "line 3: grip close",
        "line 4: reach 0 300 50",
        "the arm is parked",
        "PASS: 3 of 3 checks passed",
    ]
    assert [one.get("state") for one in arm.events if one["event"] == "freed"] == ["parked"]
    assert report(work)["verdict"] == "PASS"
    assert (work / "results" / "passed.log").exists()


def test_a_simulation_needs_no_arm_and_draws_the_way(tmp_path: Path) -> None:
    work = submission(tmp_path, GOOD)

    ended = run("simulate", work)

    assert (ended.returncode, report(work)["executor"]) == (0, "robot-arm-simulation")
    drawn = ET.parse(work / "results" / "path.svg").getroot()
    kinds = [line.get("class") for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert {"arm", "empty", "holding"} <= set(kinds)
    numbers = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "number"]
    assert numbers == ["1", "2-3", "4", "1", "2-4"]  # from the side both places are one


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "There is none."),
        ("# nothing\n", "There is none."),
        (b"\xff\xfe", "It is not text in UTF-8."),
        (b"#" * 70_000, "It has more than 64 KiB."),
        ("reach 900 0 0", "is too far from the shoulder"),
        ("speed 1\nmove 170 0 0 0 0 0", "188.9 s, of at most 120 s."),
    ],
)
def test_a_program_that_is_wrong_fails_without_touching_the_arm(
    tmp_path: Path, program: str | bytes, message: str
) -> None:
    work = submission(tmp_path, program)

    ended = run("drive", work)  # where nothing listens

    assert ended.returncode == 1, ended.stderr
    assert message in json.dumps(report(work))
    assert not (work / "results" / "passed.log").exists()


@pytest.mark.parametrize(
    ("mode", "variable", "value"),
    [
        ("simulate", "LIMIT_S", "2min"),
        ("drive", "LIMIT_S", ""),
        ("drive", "ARM_PORT", ""),
        ("drive", "ARM_PORT", "7e3"),
    ],
)
def test_a_wrong_setting_is_nobodys_verdict(tmp_path: Path, mode: str, variable: str, value: str) -> None:
    work = submission(tmp_path, GOOD)
    settings = {**environment(1), variable: value}

    ended = subprocess.run([RUN, mode], cwd=work, env=settings, capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == 70, ended.stderr
    assert ended.stderr.endswith("the executor itself failed; that says nothing about the work\n")
    assert not (work / "results" / "passed.log").exists()


def test_without_a_program_it_is_said_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "program.txt").mkdir()

    assert run("simulate", tmp_path).returncode == 1

    assert "Put program.txt at the top of the zip." in (tmp_path / "results" / "report.md").read_text()


def test_a_byte_order_mark_and_other_line_ends_are_no_mistake(tmp_path: Path) -> None:
    work = submission(tmp_path, b"\xef\xbb\xbfhome\r\nreach 300 0 50\r\n")

    assert run("simulate", work).returncode == 0


def test_an_arm_that_is_away_is_nobodys_failure(tmp_path: Path) -> None:
    ended = run("drive", submission(tmp_path, GOOD))

    assert (ended.returncode, ended.stderr) == (os.EX_TEMPFAIL, "no answer from 127.0.0.1:1: Connection refused\n")


async def test_an_arm_that_is_busy_or_stopped_is_nobodys_failure(arm: SimulatedArm, tmp_path: Path) -> None:
    work = submission(tmp_path, GOOD)
    async with a_client(arm) as client:
        busy = await asyncio.to_thread(run, "drive", work, arm.port)
        await client.asks("estop")
    await arm.tells("freed")
    stopped = await asyncio.to_thread(run, "drive", work, arm.port)

    assert (busy.returncode, busy.stderr) == (os.EX_TEMPFAIL, f"127.0.0.1:{arm.port} is busy\n")
    assert (stopped.returncode, stopped.stderr) == (os.EX_TEMPFAIL, "unable the emergency stop is pressed\n")


async def test_a_controller_that_refuses_a_statement_fails_the_program(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready\n")
        while word := (await reader.readline()).decode().strip().partition(" ")[0]:
            if word != "alive":
                writer.write(f"{word} {'refused out of the cell' if word == 'move' else 'ok'}\n".encode())

    work = submission(tmp_path, GOOD)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        ended = await asyncio.to_thread(run, "drive", work, server.sockets[0].getsockname()[1])

    assert ended.returncode == 1
    assert "the arm is parked" in ended.stdout
    text = (work / "results" / "report.md").read_text()
    assert "✗ **the arm carries the program out** (program.txt:2)\n  The arm refuses: out of the cell." in text


async def _driving(arm: SimulatedArm, work: Path) -> "asyncio.subprocess.Process":
    process = await asyncio.create_subprocess_exec(
        *(RUN, "drive"), cwd=work, env=environment(arm.port, 1000), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"line 2")
    return process


async def test_told_to_end_it_parks_the_arm_and_leaves(arm: SimulatedArm, tmp_path: Path) -> None:
    driving = await _driving(arm, submission(tmp_path, LONG))

    driving.terminate()
    said, _ = await asyncio.wait_for(driving.communicate(), 10)

    assert said == b"the arm is parked\n"
    assert (driving.returncode, (await arm.tells("freed"))["state"]) == (128 + signal.SIGTERM, "parked")


async def test_killed_or_frozen_it_leaves_the_arm_to_stop_itself(arm: SimulatedArm, tmp_path: Path) -> None:
    driving = await _driving(arm, submission(tmp_path, LONG))

    driving.send_signal(signal.SIGSTOP)
    await arm.tells("silent")
    await arm.tells("freed")
    async with a_client(arm) as client:
        state = await client.asks("state")
    driving.kill()
    await driving.wait()

    assert state.startswith("state ok stopped ")
