"""The wire: what is read is checked whole, and what is written is what was read."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from bodies import MALFORMED, TASK, a_body, a_deep_tree, a_nested, a_tree
from hypothesis import given
from hypothesis import strategies as st

from ulos_stream.errors import DETAIL_CHARS, ExecutorCrashed, MalformedMessage
from ulos_stream.tasks import StageLog, TaskLog, Verdict, crash_message, malformed_message, now, parse_task


def test_a_task_leaves_as_it_came() -> None:
    assert json.loads(parse_task(a_body()).encode()) == TASK


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
OURS = {*TASK, "logMessage", "mqId"}


@given(st.dictionaries(st.text().filter(lambda name: name not in OURS), json_values, max_size=5))
def test_unknown_fields_travel_on_whatever_they_are(unknown: dict[str, object]) -> None:
    task = parse_task(json.dumps({**TASK, **unknown}).encode())

    assert json.loads(task.encode()) == {**TASK, **unknown}
    shown = json.loads(StageLog(task, "n").encode("received", "", None, None))
    assert shown["event"] == "received"
    assert shown["taskId"] == TASK["taskId"]


def test_unknown_fields_of_the_routing_tree_travel_on() -> None:
    tree = a_tree(label="first", successRoutingDecision=a_tree(label="second"))

    assert json.loads(parse_task(a_body(routingTree=tree)).encode())["routingTree"] == tree


def test_what_a_scala_hop_added_for_itself_does_not_travel_on() -> None:
    task = parse_task(a_body(logMessage="received", mqId=7))

    assert json.loads(task.encode()) == TASK


@pytest.mark.parametrize("timeout", ["0", "10", "10.0", "0.25", "86400"])
def test_a_timeout_is_re_emitted_exactly_as_received(timeout: str) -> None:
    body = json.dumps({**TASK, "timeout": "@"}).replace('"@"', timeout).encode()

    assert f'"timeout":{timeout},' in parse_task(body).encode().decode()


def test_text_outside_ascii_is_written_as_utf_8() -> None:
    body = parse_task(a_body(course="Programación")).encode()

    assert "Programación".encode() in body


def test_latin_1_from_a_scala_hop_is_read() -> None:
    body = json.dumps({**TASK, "course": "Programación"}, ensure_ascii=False).encode("latin-1")

    assert json.loads(parse_task(body).encode())["course"] == "Programación"


def test_an_unknown_text_without_a_utf_8_form_travels_on_escaped() -> None:
    body = json.dumps({**TASK, "note": "\ud800"}).encode()

    assert json.loads(parse_task(body).encode())["note"] == "\ud800"


@pytest.mark.parametrize("levels", [1, 64])
def test_a_tree_may_have_up_to_64_levels(levels: int) -> None:
    tree = a_deep_tree(levels)

    assert json.loads(parse_task(a_body(routingTree=tree)).encode())["routingTree"] == tree


@pytest.mark.parametrize(("body", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_no_task_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        parse_task(body)

    assert reason in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) <= DETAIL_CHARS


def test_what_is_nested_128_levels_deep_is_written_again_from_deep_in_the_stack() -> None:
    def from_below(frames: int) -> bytes:
        return from_below(frames - 1) if frames else task.encode()

    task = parse_task(a_nested(127))

    assert json.loads(from_below(600)) == json.loads(a_nested(127))


@given(st.sampled_from([*TASK, "note"]), json_values)
def test_any_value_of_a_field_makes_a_task_that_can_be_written_again_or_a_malformed_message(
    name: str, value: object
) -> None:
    body = a_body(**{name: value})

    with contextlib.suppress(MalformedMessage):
        assert json.loads(parse_task(body).encode()) == json.loads(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_task_or_a_malformed_message(body: bytes) -> None:
    try:
        parse_task(body)
    except MalformedMessage as refusal:
        report = json.loads(malformed_message(body, refusal).encode())
        assert report["raw"]["size"] == len(body)


def test_a_malformed_body_is_reported_by_size_hash_and_its_first_512_bytes() -> None:
    body = b"\xff" + b"x" * 600

    report = json.loads(malformed_message(body, MalformedMessage("the body is not JSON")).encode())

    assert report == {
        "logMessage": "the body is not JSON",
        "error": {"code": "malformed_message", "detail": "the body is not JSON", "output_tail": ""},
        "raw": {
            "size": 601,
            "sha256": hashlib.sha256(body).hexdigest(),
            "text": "�" + "x" * 511,
        },
    }


def test_the_time_is_told_in_utc_to_the_millisecond() -> None:
    before = datetime.now(UTC)
    told = now()
    after = datetime.now(UTC)

    assert len(told) == len("2025-01-01T00:00:00.000+00:00")
    assert before - timedelta(milliseconds=1) < datetime.fromisoformat(told) <= after


def test_a_log_message_is_the_task_and_what_happened() -> None:
    task = parse_task(a_body(course="ISIS", at="earlier", stage="ours wins"))
    branch = task.routing_tree.success_routing_decision

    shown = json.loads(StageLog(task, "n-1").encode("passed", "the verdict is PASS", branch, Verdict.PASS))

    assert shown.pop("at") > "2025"
    assert shown == TASK | {
        "course": "ISIS",
        "routingTree": {"exchange": "processing-exchange", "routingKey": "task.done"},
        "logMessage": "the verdict is PASS",
        "event": "passed",
        "node": "n-1",
        "stage": {"exchange": "processing-exchange", "routingKey": "pass"},
        "verdict": "PASS",
    }


def test_the_log_messages_of_a_stage_are_what_the_model_says_and_show_the_branch_from_the_verdict_on() -> None:
    task = parse_task(json.dumps({**TASK, "course": "\ud800 odd", "at": "earlier", "verdict": "ours wins"}).encode())
    log = StageLog(task, "n-1")

    first = TaskLog.model_validate(json.loads(log.encode("received", "it \ud800 came", task.routing_tree, None)))
    last = TaskLog.model_validate(json.loads(log.encode("passed", "the verdict is PASS", None, Verdict.PASS)))

    assert TaskLog.model_fields.keys() <= first.model_fields_set
    assert (first.routing_tree, first.verdict, first.log_message) == (task.routing_tree, None, "it \ud800 came")
    assert (last.routing_tree, last.verdict, last.stage.routing_key) == (None, Verdict.PASS, "pass")
    assert first.model_extra == last.model_extra == {"course": "\ud800 odd"}


def test_a_crash_message_is_the_task_as_received_and_the_reason() -> None:
    task = parse_task(a_body())

    shown = json.loads(crash_message(task, ExecutorCrashed("exit code 3", output_tail="boom")).encode())

    assert shown == TASK | {
        "logMessage": "exit code 3",
        "error": {"code": "executor_crashed", "detail": "exit code 3", "output_tail": "boom"},
    }
