"""The fault harness can fail: each invariant is broken once by fabricated evidence, and found."""

import io
import json
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import table
from faults.invariants import Evidence, Fault, Outage, violations
from faults.ledger import Line
from faults.world import Sent

TASK = Sent("t-1", "/t-1.zip", ("stage1", "stage2"), "done")
CRASHING = Sent("t-2", "/t-2.zip", ("stage1",), "executor_crashed")


def a_line(task: str = "t-1", key: str = "done", message_id: str = "m-1", **fields: Any) -> Line:
    known = {"queue": "ledger", "correlation_id": None, "redelivered": False, "event": None, "code": None, "at": 100.0}
    return Line(key=key, message_id=message_id, task=task, **{**known, "body_sha256": "b", **fields})


def a_zip(*work: str, journal: int | None = None) -> bytes:
    entries = len(work) if journal is None else journal
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("work.txt", "\n".join(work))
        archive.writestr(".ulos/journal.json", '{"messageId": ""}' * entries)
    return file.getvalue()


CRASHED = (
    a_line("t-2", "task.crashed", "c-2", code="executor_crashed"),
    a_line("t-2", "dead", "m-2", queue="dead"),
)
SOUND = Evidence(
    sent=(TASK, CRASHING),
    ledger=(a_line(), *CRASHED),
    dead_queue="dead",
    executions=Counter({("t-1", "stage1"): 1, ("t-1", "stage2"): 1, ("t-2", "stage1"): 1}),
    receptions=Counter({("t-1", "stage1"): 1, ("t-1", "stage2"): 1, ("t-2", "stage1"): 1}),
    artifacts={"/t-1.zip": a_zip("stage1", "stage2"), "/t-2.zip": a_zip("stage1")},
    partial=(),
    faults=(),
)


def found(**changes: Any) -> list[str]:
    """The codes of what is wrong with the sound evidence after these changes."""
    return [violation.code for violation in violations(replace(SOUND, **changes))]


def test_a_round_in_which_everything_went_well_has_no_violation() -> None:
    assert violations(SOUND) == []


@pytest.mark.parametrize(
    ("ledger", "code"),
    [
        (CRASHED, "lost"),
        ((a_line(), CRASHED[1]), "lost"),
        ((a_line(), CRASHED[0]), "not settled"),
        ((a_line(), a_line(message_id="m-2"), *CRASHED), "two outcomes"),
        ((a_line(), a_line(key="failed"), *CRASHED), "two outcomes"),
        ((a_line(), *CRASHED, a_line("t-2", "task.crashed", "c-3", code="executor_crashed")), "two outcomes"),
        ((a_line(key="failed"), *CRASHED), "wrong outcome"),
        ((a_line(), a_line("t-2", "task.crashed", "c-2", code="fault"), CRASHED[1]), "wrong outcome"),
        ((a_line(), a_line(body_sha256="other"), *CRASHED), "one id, two bodies"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_task_without_exactly_one_right_outcome_is_found(ledger: tuple[Line, ...], code: str) -> None:
    assert code in found(ledger=ledger)


def test_a_done_and_a_crash_of_one_task_are_two_outcomes() -> None:
    crash = (a_line(key="task.crashed", message_id="c-1", code="fault"), a_line(queue="dead", key="dead"))

    assert found(ledger=(*SOUND.ledger, *crash)) == ["two outcomes"]


def test_a_delivery_that_is_repeated_with_the_same_id_is_no_second_outcome() -> None:
    assert found(ledger=(*SOUND.ledger, a_line(redelivered=True))) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (a_zip("stage1", "stage2")[:-1], "corrupt"),
        (b"", "corrupt"),
        (None, "corrupt"),
        (a_zip("stage1", "stage1", "stage2", journal=2), "effect twice"),
        (a_zip("stage1", journal=2), "effect missing"),
        (a_zip("stage2", "stage1"), "effect missing"),
        (a_zip("stage1", "stage2", journal=1), "journal"),
        (a_zip("stage1", "stage2", journal=3), "journal"),
    ],
)
def test_an_artifact_that_is_not_what_its_stages_made_is_found(content: bytes | None, code: str) -> None:
    assert found(artifacts={**SOUND.artifacts, "/t-1.zip": content}) == [code]


def test_an_artifact_that_was_partial_for_a_moment_is_found() -> None:
    assert found(partial=("/t-1.zip",)) == ["corrupt"]


@pytest.mark.parametrize(
    ("faults", "codes"),
    [
        ((), ["executed too often"]),
        ((Fault("kill", frozenset(["t-2"])),), ["executed too often"]),
        ((Fault("kill", frozenset(["t-1"])),), []),
        ((Fault("broker", None),), []),
    ],
)
def test_an_execution_more_than_the_faults_explain_is_found(faults: tuple[Fault, ...], codes: list[str]) -> None:
    assert found(executions=SOUND.executions + Counter([("t-1", "stage2")]), faults=faults) == codes


@pytest.mark.parametrize(("hit", "codes"), [("t-2", ["bystander redelivered"]), ("t-1", [])])
def test_a_bystander_that_is_delivered_again_is_found(hit: str, codes: list[str]) -> None:
    receptions = SOUND.receptions + Counter([("t-1", "stage1")])
    faults = (Fault("ftp", frozenset([hit])),)

    assert found(receptions=receptions, faults=faults, bystanders_hold=True) == codes
    assert found(receptions=receptions, faults=faults) == []


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ((), ["not said"]),
        ((("not ready", 12),), ["not said"]),
        ((("not ready", 21), ("ready", 22)), ["not said"]),
        ((("not ready", 12), ("ready", 51)), ["not said"]),
        ((("not ready", 12), ("ready", 21)), []),
    ],
)
def test_a_node_that_hides_that_it_cannot_work_is_found(said: tuple[tuple[str, int], ...], codes: list[str]) -> None:
    lines = tuple(
        {"node": "n", "event": event, "timestamp": f"1970-01-01T00:00:{second:02}Z"}
        for event, second in (("ready", 1), *said)
    )

    assert found(outages=(Outage("the storage", 10, 20),), ledger=resumed(at=21), node_lines=lines) == codes


def test_work_that_does_not_go_on_after_an_outage_is_found() -> None:
    assert found(outages=(Outage("the storage", 10, 20),), ledger=resumed(at=51)) == ["not resumed"]
    assert found(outages=(Outage("the storage", 10, 20),), ledger=resumed(at=49)) == []


def resumed(at: float) -> tuple[Line, ...]:
    return tuple(replace(line, at=at) for line in SOUND.ledger)


def test_what_nodes_leave_behind_is_found() -> None:
    assert found(leftovers=("a container",)) == ["left behind"]


def test_a_fault_that_was_planned_and_never_happened_is_found() -> None:
    assert found(missed=("renamed t-1 stage1",)) == ["never happened"]


# --- the table


def result(**changes: Any) -> str:
    line = {"seed": 1, "scenario": "s", "round": 0, "faults": {"SIGTERM": 2}, "tasks": 3}
    return json.dumps(line | {"lost": 0, "duplicated": 0, "corrupt": 0, "violations": []} | changes)


def test_figures_go_into_the_row_of_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, results = tmp_path / "matrix.md", tmp_path / "results.jsonl"
    matrix.write_text("| `SIGTERM` | what | why | - | - | - | - | - |\n")
    results.write_text("\n".join([result(), result(round=1)]))
    monkeypatch.setattr(table, "MATRIX", matrix)

    assert table.write_table(results) == 0

    assert matrix.read_text() == "| `SIGTERM` | what | why | 4 | 6 | 0 | 0 | 0 |\n"


def test_a_violation_of_any_round_keeps_figures_from_being_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix, results = tmp_path / "matrix.md", tmp_path / "results.jsonl"
    matrix.write_text("as it was\n")
    results.write_text("\n".join([result(violations=["t-1 not settled: twice"]), result(round=1)]))
    monkeypatch.setattr(table, "MATRIX", matrix)

    assert table.write_table(results) == 1

    assert matrix.read_text() == "as it was\n"
    assert "t-1 not settled: twice" in capsys.readouterr().err
