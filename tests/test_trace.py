"""`ulos trace`: the way of one task, drawn from a file of traces."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from world import World, a_tree, a_world, ulos

from ulos_stream.commands.trace import _drawn
from ulos_stream.lab import Broker
from ulos_stream.telemetry.recorded import read_spans, rows_of


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path) as world:
        yield world


def a_span(number: int, *, parent: int | None = None, trace: str = "t", **fields: Any) -> dict[str, Any]:
    """A span as OTLP JSON has it, that lasts a second."""
    task = fields.pop("task", None)
    about = [{"key": "ulos.task.id", "value": {"stringValue": task}}] if task else []
    return {
        "traceId": trace,
        "spanId": str(number),
        **({} if parent is None else {"parentSpanId": str(parent)}),
        "name": f"span {number}",
        "startTimeUnixNano": str(number * 10**9),
        "endTimeUnixNano": str((number + 1) * 10**9),
        "attributes": about,
        **fields,
    }


def a_crash(stage: str, reason: str) -> dict[str, Any]:
    """A stage of the task t-1 that ended so."""
    about = {"ulos.task.id": "t-1", "ulos.stage": stage, "error.type": "executor_crashed"}
    said = [{"key": "exception.message", "value": {"stringValue": reason}}]
    event = {"name": "exception", "timeUnixNano": "2000000000", "attributes": said}
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in about.items()]
    return a_span(1, attributes=attributes, status={"code": 2}, events=[event])


def a_request(*spans: dict[str, Any], node: str = "n-1") -> str:
    resource = {"attributes": [{"key": "service.instance.id", "value": {"stringValue": node}}]}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}) + "\n"


def rows(task_id: str, *lines: str) -> list[tuple[int, str]]:
    return [(row.depth, row.span.name) for row in rows_of(task_id, lambda: read_spans(lines))[0]]


# What is read


def test_each_stage_is_followed_by_its_own_steps_and_its_hop() -> None:
    first = a_request(a_span(2, parent=1), a_span(1, task="t-1"), a_span(3, parent=1), node="n-1")
    second = a_request(a_span(5, parent=4), a_span(4, parent=3, task="t-1"), node="n-2")

    found = rows("t-1", second, first)

    assert found == [(0, "span 1"), (1, "span 2"), (1, "span 3"), (0, "span 4"), (1, "span 5")]


def test_another_task_in_the_same_trace_is_left_out() -> None:
    line = a_request(a_span(1, task="t-1"), a_span(2, task="t-2"), a_span(3, parent=2), a_span(4, parent=1))

    found = rows("t-1", line)

    assert found == [(0, "span 1"), (1, "span 4")]


@pytest.mark.parametrize(
    "torn", ["", "{", "[]", "7", '{"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}', "[" * 9000]
)
def test_a_line_that_is_no_request_is_passed_over(torn: str) -> None:
    found = rows("t-1", torn, a_request(a_span(1, task="t-1")), torn)

    assert found == [(0, "span 1")]


def test_every_type_of_an_attribute_is_read() -> None:
    values = [{"intValue": "7"}, {"boolValue": True}, {"doubleValue": 0.5}, {}]
    attributes = [{"key": str(number), "value": value} for number, value in enumerate(values)]

    [span] = read_spans([a_request(a_span(1, attributes=attributes))])

    assert span.attributes == {"0": 7, "1": True, "2": 0.5, "3": ""}


# What is drawn


async def test_of_a_task_that_was_sent_twice_the_last_time_is_drawn_and_the_earlier_one_counted(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    second = a_request(a_span(7, task="t-1", trace="b"), a_span(8, parent=7, trace="b"))
    file.write_text(second + a_request(a_span(1, task="t-1", trace="a"), a_span(3, task="t-1", trace="a")))

    drawn = await ulos("trace", "t-1", str(file))

    assert [line.split()[:2] for line in drawn.stdout.splitlines()[-2:]] == [["span", "7"], ["span", "8"]]
    assert "1 stage in 2.00 s" in drawn.stdout
    assert drawn.stderr == f"the last trace of this task; 1 earlier in {file}\n"


async def test_a_crash_is_drawn_with_its_reason_and_a_fault_with_its_own(tmp_path: Path) -> None:
    said = [{"key": "exception.message", "value": {"stringValue": "it is away"}}]
    kind = [{"key": "error.type", "value": {"stringValue": "storage"}}]
    fault = {"name": "fault", "timeUnixNano": "3000000000", "attributes": [*said, *kind]}
    stage = a_span(1, attributes=[{"key": "ulos.task.id", "value": {"stringValue": "t-1"}}, *kind])
    crash = {"name": "exception", "timeUnixNano": "4000000000", "attributes": said}
    file = tmp_path / "traces.jsonl"
    file.write_text(a_request({**stage, "status": {"code": 2}, "events": [crash]}, a_span(2, parent=1, events=[fault])))

    drawn = await ulos("trace", "t-1", str(file))

    assert drawn.returncode == 0, drawn.stderr
    lines = [line.split() for line in drawn.stdout.splitlines()]
    assert ["span", "1", "storage", "n-1"] in [line[:4] for line in lines]
    assert ["!", "it", "is", "away"] in [line[:4] for line in lines]
    assert ["!", "fault", "of", "the", "storage:", "it", "is", "away"] in [line[:8] for line in lines]


async def test_in_a_pipe_each_span_and_each_reason_is_a_line_and_nothing_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(a_request(a_crash("key-" * 20, "why " * 200), a_span(2, parent=1), node="node-" * 10))

    drawn = await ulos("trace", "t-1", str(file), COLUMNS="80")

    _, _, stage, reason, step = drawn.stdout.splitlines()
    assert stage.split()[:3] == ["key-" * 20, "executor_crashed", "node-" * 10]
    assert reason.startswith(f"! {'why ' * 200}(at ")
    assert step.startswith("  span 2 ")


async def test_on_a_narrow_terminal_names_are_folded_and_times_stay_whole(tmp_path: Path) -> None:
    spans = a_request(a_crash("key-" * 10, "why"), node="node-" * 10)
    rows, _ = rows_of("t-1", lambda: read_spans([spans]))
    terminal = Console(width=60, file=io.StringIO(), record=True)

    terminal.print(_drawn("t-1", rows, 60))

    shown = [line.rstrip() for line in terminal.export_text().splitlines()]
    assert max(len(line) for line in shown) <= 60
    assert "0 ms" in shown[2]
    assert "1.00 s" in shown[2]
    assert "".join(shown[2:]).count("-") == 20  # all of both names


async def test_what_others_wrote_cannot_steer_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(a_request(a_span(1, task="t-1", name="\x1b[2J[red]"), a_span(2, parent=1, name="\x1b]0;x\x07")))

    drawn = await ulos("trace", "t-1", str(file))

    assert "\x1b" not in drawn.stdout
    assert "\\x1b[2J[red]" in drawn.stdout


async def test_as_json_it_is_what_was_recorded(world: World, tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    async with world.node(ULOS_TRACE_FILE=str(file), ULOS_NODE="n-1"):
        await world.send(world.task(a_tree("fail")))
        await world.hear_the_end()

    told = await ulos("trace", "t-1", "--json", ULOS_TRACE_FILE=str(file))

    stage, *steps = json.loads(told.stdout)
    assert told.returncode == 0, told.stderr
    assert (stage["depth"], stage["node"], stage["attributes"]["ulos.verdict"]) == (0, "n-1", "FAIL")
    assert [step["name"] for step in steps] == ["download", "unpack", "execute", "pack", "upload"]
    assert all(stage["start_ns"] <= step["start_ns"] <= step["end_ns"] <= stage["end_ns"] for step in steps)


# What is refused


async def test_a_task_that_the_file_does_not_know_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(a_request(a_span(1, task="t-1")))

    refused = await ulos("trace", "t-2", str(file))

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"ulos: {file} has no trace of a task 't-2'\n"


async def test_a_file_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    refused = await ulos("trace", "t-1", str(tmp_path / "none"))

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"ulos: cannot read {tmp_path / 'none'}: No such file or directory\n"


async def test_without_a_file_one_is_asked_for_with_exit_code_2() -> None:
    refused = await ulos("trace", "t-1")

    assert refused.returncode == 2
    assert refused.stderr == "ulos: name the FILE of the traces, or set ULOS_TRACE_FILE\n"
