"""The wire: what is read is checked whole, and what is written is what was read."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulos_stream.errors import ExecutorCrashed, MalformedMessage
from ulos_stream.tasks import Verdict, crash_message, log_message, malformed_message, parse_task

TASK: dict[str, Any] = {
    "taskId": "12a345",
    "taskOwnerId": "67",
    "filePath": "/ftp/one/testing.zip",
    "timeout": 10,
    "routingTree": {
        "exchange": "processing-exchange",
        "routingKey": "pass",
        "successRoutingDecision": {"exchange": "processing-exchange", "routingKey": "task.done"},
        "failureRoutingDecision": None,
    },
}


def a_body(**changes: object) -> bytes:
    return json.dumps({**TASK, **changes}, ensure_ascii=False).encode()


def a_tree(**changes: object) -> dict[str, object]:
    return {"exchange": "lab", "routingKey": "pass", **changes}


def a_deep_tree(levels: int) -> dict[str, Any]:
    tree = a_tree()
    for _ in range(levels - 1):
        tree = a_tree(successRoutingDecision=tree)
    return tree


def a_wide_tree(levels: int) -> dict[str, Any]:
    if levels == 1:
        return a_tree()
    return a_tree(successRoutingDecision=a_wide_tree(levels - 1), failureRoutingDecision=a_wide_tree(levels - 1))


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
    shown = json.loads(log_message(task, "received", text="", node="n", tree=None, verdict=None).encode())
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


MALFORMED = {
    "not JSON": (b"hello", "not JSON"),
    "empty": (b"", "not JSON"),
    "an array": (b"[1]", "a JSON list, not an object"),
    "NaN": (a_body().replace(b"10", b"NaN"), "NaN is no JSON number"),
    "nested too deeply": (b"[" * 100_000, "nested too deeply"),
    "too large": (b" " * (1024 * 1024 + 1), "more than 1048576"),
    "the university API's form": (
        json.dumps({key: TASK[key] for key in ("taskId", "taskOwnerId", "filePath")}).encode(),
        "timeout: Field required; routingTree: Field required",
    ),
    "a number for an id": (a_body(taskId=12), "taskId: Input should be a valid string"),
    "an empty id": (a_body(taskOwnerId=""), "taskOwnerId: must be 1 to 256 bytes long"),
    "a long id": (a_body(taskId="é" * 129), "taskId: must be 1 to 256 bytes long"),
    "a control character in an id": (a_body(taskId="a\nb"), "taskId: holds a control or surrogate character"),
    "a surrogate in an id": (
        json.dumps({**TASK, "taskId": "\ud800"}).encode(),
        "taskId: holds a control or surrogate character",
    ),
    "a snake_case name": (
        json.dumps({**{k: v for k, v in TASK.items() if k != "taskId"}, "task_id": "1"}).encode(),
        "taskId: Field required",
    ),
    "a relative path": (a_body(filePath="a.zip"), "filePath: must be an absolute path"),
    "a path with ..": (a_body(filePath="/a/../b.zip"), "filePath: must be an absolute path"),
    "a path with an empty part": (a_body(filePath="/a//b.zip"), "filePath: must be an absolute path"),
    "a folder": (a_body(filePath="/a/"), "filePath: must be an absolute path"),
    "a path with CR LF": (a_body(filePath="/a\r\nDELE /b"), "filePath: holds a control"),
    "a timeout as text": (a_body(timeout="5"), "timeout: must be a JSON number"),
    "a timeout as true": (a_body(timeout=True), "timeout: must be a JSON number"),
    "an infinite timeout": (a_body().replace(b"10", b"1e999"), "timeout: must be a JSON number"),
    "a negative timeout": (a_body(timeout=-1), "timeout: Input should be greater than or equal to 0"),
    "a timeout beyond the limit": (a_body(timeout=86_401), "timeout: 86401 is more than the 86400 s allowed"),
    "a tree of 65 levels": (a_body(routingTree=a_deep_tree(65)), "routingTree: more than 64 levels"),
    "a tree of 300 levels": (a_body(routingTree=a_deep_tree(300)), "routingTree: more than 64 levels"),
    "a tree of 1,023 nodes": (a_body(routingTree=a_wide_tree(10)), "routingTree: more than 1000 nodes"),
    "a tree that is a text": (a_body(routingTree="pass"), "routingTree: Input should be"),
    "no routing key": (a_body(routingTree={"exchange": "lab"}), "routingTree.routingKey: Field required"),
    "an empty routing key": (a_body(routingTree=a_tree(routingKey="")), "must be 1 to 255 bytes long"),
    "a long routing key": (a_body(routingTree=a_tree(routingKey="k" * 256)), "must be 1 to 255 bytes long"),
    "a long exchange": (a_body(routingTree=a_tree(exchange="e" * 128)), "must be at most 127 ASCII bytes"),
    "an exchange outside ASCII": (a_body(routingTree=a_tree(exchange="é")), "must be at most 127 ASCII bytes"),
    "an internal exchange": (a_body(routingTree=a_tree(exchange="amq.rabbitmq.trace")), "names an internal exchange"),
    "a mistake far down the tree": (
        a_body(routingTree=a_tree(failureRoutingDecision=a_tree(successRoutingDecision=a_tree(routingKey="")))),
        "routingTree.failureRoutingDecision.successRoutingDecision.routingKey: must be 1 to 255 bytes long",
    ),
}


@pytest.mark.parametrize(("body", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_no_task_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        parse_task(body)

    assert reason in str(refusal.value)


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


def test_a_log_message_is_the_task_and_what_happened() -> None:
    task = parse_task(a_body(course="ISIS", at="earlier", stage="ours wins"))
    branch = task.routing_tree.success_routing_decision

    shown = json.loads(
        log_message(task, "passed", text="the verdict is PASS", node="n-1", tree=branch, verdict=Verdict.PASS).encode()
    )

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


def test_a_crash_message_is_the_task_as_received_and_the_reason() -> None:
    task = parse_task(a_body())

    shown = json.loads(crash_message(task, ExecutorCrashed("exit code 3", output_tail="boom")).encode())

    assert shown == TASK | {
        "logMessage": "exit code 3",
        "error": {"code": "executor_crashed", "detail": "exit code 3", "output_tail": "boom"},
    }
