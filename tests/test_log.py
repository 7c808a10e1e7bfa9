"""The node's own log lines: what they say of a task, how loud they are, and that many tasks stay readable."""

import asyncio
import contextlib
import io
import json
import logging
import os
import pty
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
import structlog
from receiver import Receiver
from world import LIMIT_S, World, a_tree, a_world

from ulos_stream.lab import Broker
from ulos_stream.telemetry import Log, LogEvent, configure_logging
from ulos_stream.telemetry.log import HEAD


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path / "artifacts") as world:
        world.artifacts.mkdir()
        yield world


async def test_a_thousand_tasks_are_a_thousand_lines_that_name_task_stage_message_and_trace(world: World) -> None:
    keys = ["pass", "fail", "crash", "testing-1"]
    async with (
        Receiver().listening() as receiver,
        world.node_process(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url) as node,
    ):
        await node.says("ready")
        before = len(node.lines)
        reading = asyncio.create_task(
            node.says("stopped", limit_s=8 * LIMIT_S)
        )  # or the pipe is full before all is said
        for number in range(1_000):
            await world.send(world.task(a_tree(keys[number % 4]), taskId=f"t-{number}"), f"m-{number}")
        await world.hear_the_end(count=1_000, limit_s=8 * LIMIT_S)
        node.process.terminate()
        await reading

    around = ("executor unavailable", "draining", "stopped")
    lines = [line for line in node.lines[before:] if line["event"] not in around]
    traces = {span.attributes["ulos.task.id"]: span.trace_id for span in receiver.in_order("CONSUMER")}
    assert len(lines) == 1_000
    for line in lines:
        number = int(line["task"].removeprefix("t-"))
        crashed = keys[number % 4] == "crash"
        assert line["event"] == ("stage crashed" if crashed else "stage ended")
        assert line["level"] == ("warning" if crashed else "info")
        assert line["stage"] == keys[number % 4]
        assert line["message"] == f"m-{number}"
        assert line["trace"] == traces[line["task"]]
    assert {line["event"] for line in node.lines} <= set(get_args(LogEvent))


async def test_without_traces_no_line_speaks_of_one(world: World) -> None:
    async with world.node_process() as node:
        await node.says("ready")
        await world.send(world.task(a_tree("pass")))
        line = await node.says("stage ended")

    assert "trace" not in line


async def test_a_fault_names_the_task_that_met_it(world: World, tmp_path: Path) -> None:
    async with world.node_process() as node:
        await node.says("ready")
        task = world.task(a_tree("pass"))
        world.artifacts.rename(tmp_path / "away")
        await world.send(task)
        line = await node.says("fault")
        (tmp_path / "away").rename(world.artifacts)
        await world.hear_the_end()

    assert line.items() >= {"task": "t-1", "stage": "pass", "message": "m-1", "level": "warning"}.items()


async def test_an_event_that_no_queue_takes_names_its_task(world: World) -> None:
    await world.told.unbind(world.exchange, "log")

    async with world.node_process() as node:
        await node.says("ready")
        await world.send(world.task(a_tree("pass")))
        line = await node.says("event unroutable")

    assert line.items() >= {"task": "t-1", "stage": "pass", "message": "m-1"}.items()


async def test_a_body_that_is_no_task_is_named_by_its_message(world: World) -> None:
    async with world.node_process() as node:
        await node.says("ready")
        await world.send(b"no task", "m-7")
        line = await node.says("message malformed")

    assert line["message"] == "m-7"
    assert "task" not in line


async def test_at_debug_a_stage_is_told_when_it_begins_too(world: World) -> None:
    async with world.node_process(ULOS_LOG_LEVEL="DEBUG") as node:
        await node.says("ready")
        await world.send(world.task(a_tree("pass")))
        line = await node.says("stage started")

    assert line.items() >= {"task": "t-1", "stage": "pass", "level": "debug"}.items()


def test_what_a_library_says_within_a_stage_names_the_task_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")

    with Log().about(task="t-1"):
        logging.getLogger("some.library").warning("it is late")
    logging.getLogger("some.library").warning("it is later")

    within, after = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (within["event"], within["task"]) == ("it is late", "t-1")
    assert "task" not in after


def test_what_a_module_of_the_node_says_by_itself_is_one_of_the_events_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")

    with Log().about(task="t-1"):
        logging.getLogger("ulos_stream.executors.engine").warning("container %s is left over", "c-1")

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["reason"], line["task"]) == ("notice", "container c-1 is left over", "t-1")
    assert line["event"] in get_args(LogEvent)


HOSTILE = "550-\x1b[2J\nready\x07"


def test_on_a_terminal_what_others_said_cannot_steer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    with a_terminal() as said:
        configure_logging("INFO")
        Log().warning("fault", reason=HOSTILE, listed=[HOSTILE])
        logging.getLogger("some.library").warning(HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            Log().error("stage broken", exc_info=True)

    fault, library, broken, *traceback = said().splitlines()
    assert not {"\x1b", "\x07"} & set(said())
    assert "reason=550-\\x1b[2J\\nready\\x07" in fault
    assert "550-\\x1b[2J\\nready\\x07" in library
    assert "stage broken" in broken
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-2:] == ["ValueError: 550-\\x1b[2J", "ready\\x07"]


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)

    with a_terminal() as said:
        configure_logging("INFO")
        Log().info("ready", queue="q")

    assert ("\x1b[" in said()) == coloured
    assert "ready" in said()


@contextlib.contextmanager
def a_terminal() -> Iterator[Callable[[], str]]:
    """Standard error is a terminal; what was written to it."""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal, contextlib.redirect_stderr(terminal):
        yield lambda: said
    said = os.read(ours, 65536).decode()
    os.close(ours)


def test_a_line_begins_with_what_an_eye_looks_for(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")

    Log().info("stage ended", seconds=1, stage="pass", verdict="PASS", task="t-1")

    fields = list(json.loads(capsys.readouterr().err))
    assert fields == [*(name for name in HEAD if name != "code"), "seconds"]


class Disk(io.StringIO):
    """Standard error in a file; each line takes a while, and a full disk takes none."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError("no space left on device")
        for part in (text[:9], text[9:]):
            super().write(part)
            time.sleep(0.0001)
        return len(text)


def test_a_line_that_cannot_be_written_harms_nobody() -> None:
    with contextlib.redirect_stderr(Disk()) as disk:
        configure_logging("INFO")
        disk.is_full = True
        Log().info("ready", queue="q-1")
        disk.is_full = False
        Log().info("ready", queue="q-2")

    assert [json.loads(line)["queue"] for line in disk.getvalue().splitlines()] == ["q-2"]


def test_a_value_that_cannot_be_shown_harms_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("it has no text")

    configure_logging("INFO")

    Log().info("ready", queue=Broken())

    assert "it has no text" in capsys.readouterr().err


def test_what_the_node_and_libraries_say_at_once_does_not_mix() -> None:
    with contextlib.redirect_stderr(Disk()) as disk, ThreadPoolExecutor(4) as threads:
        configure_logging("INFO")
        log, library = Log(), logging.getLogger("some.library")
        saying = [threads.submit(say) for say in (lambda: log.info("ready"), lambda: library.warning("late")) * 20]
        for each in saying:
            each.result()

    events = [json.loads(line)["event"] for line in disk.getvalue().splitlines()]
    assert sorted(events) == ["late"] * 20 + ["ready"] * 20


def test_another_who_uses_structlog_is_heard_like_a_library(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")

    structlog.get_logger().info("a chat")
    structlog.get_logger("some.executor").warning("it is late", by_s=7)

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["by_s"]) == ("it is late", "warning", 7)
