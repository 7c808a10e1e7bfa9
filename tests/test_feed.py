"""What log and crash messages tell, whoever wrote them, and which of them is a task's end."""

import json
from typing import Any

import pytest

from ulos_stream.errors import MalformedMessage, StageTimeout
from ulos_stream.feed import End, News, end, read
from ulos_stream.routing import branch, chain
from ulos_stream.tasks import Event, StageLog, Task, TaskLog, Verdict, Wire, crash_message, malformed_message

TASK = Task(task_id="t", task_owner_id="o", file_path="/t.zip", timeout=1, routing_tree=chain("x", ["a", "b"], "c"))


def news_of(message: Wire) -> News:
    news = read(message.encode(), "m-1")
    assert news is not None
    return news


def log_of(event: Event, *, verdict: Verdict | None = None, task: Task = TASK) -> News:
    tree = task.routing_tree if verdict is None else branch(task, verdict)
    return news_of(TaskLog.model_validate_json(StageLog(task, "n").encode(event, "words", tree, verdict)))


def test_a_log_message_tells_task_stage_node_and_verdict() -> None:
    news = log_of("passed", verdict=Verdict.PASS)

    assert (news.kind, news.task, news.owner, news.stage) == ("log", "t", "o", "a")
    assert (news.event, news.verdict, news.node, news.text, news.message_id) == ("passed", "PASS", "n", "words", "m-1")
    assert news.at.endswith("+00:00")
    assert news.tree is not None
    assert news.tree["routingKey"] == "b"


def test_a_crash_message_tells_its_code() -> None:
    of_task = news_of(crash_message(TASK, StageTimeout("too late")))
    of_body = news_of(malformed_message(b"?", MalformedMessage("no JSON")))

    assert (of_task.kind, of_task.stage, of_task.event, of_task.code) == ("crash", "a", "crashed", "timeout")
    assert of_task.text == "too late"
    assert (of_body.task, of_body.stage, of_body.code) == ("", "", "malformed_message")


def test_a_scala_nodes_log_message_tells_the_task_and_a_text() -> None:
    tree = {"exchange": "x", "routingKey": "a"}
    fields = {"taskId": "t", "taskOwnerId": "o", "filePath": "/", "timeout": 1, "routingTree": tree, "logMessage": "hi"}

    news = read(json.dumps(fields).encode(), None)

    assert news == News("log", "", "t", "o", "a", "", "", "", "", "hi", "", tree)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b"{}", b'"text"', b"[" * 100_000])
def test_what_is_neither_a_log_nor_a_crash_message_is_no_news(body: bytes) -> None:
    assert read(body, None) is None


@pytest.mark.parametrize("odd", [1, "text", ["list"], {"routingKey": {"a": 1}}, None])
def test_a_message_of_another_shape_is_news_all_the_same(odd: Any) -> None:
    names = ("taskId", "stage", "routingTree", "event", "verdict", "error")

    for name in names:
        news = read(json.dumps({"taskId": "t", name: odd}).encode(), None)

        assert news is not None
        assert end(news, is_stage=lambda key: False) in (None, End(False, ""))


@pytest.mark.parametrize(
    ("event", "verdict", "well"),
    [
        ("received", None, None),
        ("passed", Verdict.PASS, None),
        ("uploaded", Verdict.PASS, True),
        ("acknowledged", Verdict.PASS, True),
        ("failed", Verdict.FAIL, None),
        ("uploaded", Verdict.FAIL, False),
    ],
)
def test_a_route_without_a_branch_ends_once_the_result_is_stored(
    event: Event, verdict: Verdict | None, well: bool | None
) -> None:
    last = TASK.model_copy(update={"routing_tree": chain("x", ["b"])})

    ended = end(log_of(event, verdict=verdict, task=last), is_stage=lambda key: True)

    assert ended == (None if well is None else End(well, "the route ends at b"))


@pytest.mark.parametrize(
    ("event", "verdict", "stages", "well"),
    [
        ("uploaded", Verdict.FAIL, "ab", None),  # the hop may lead nowhere
        ("forwarded", Verdict.FAIL, "ab", False),
        ("acknowledged", Verdict.FAIL, "ab", False),
        ("forwarded", Verdict.FAIL, "abc", None),
        ("forwarded", Verdict.PASS, "a", None),  # `b` has a branch, so it is a stage
    ],
)
def test_a_last_hop_is_the_end_where_nothing_runs_for_its_key(
    event: Event, verdict: Verdict, stages: str, well: bool | None
) -> None:
    ended = end(log_of(event, verdict=verdict), is_stage=lambda key: key in stages)

    assert ended == (None if well is None else End(well, "handed over to c, where no executor is known"))


def test_a_crash_is_an_end_whoever_tells_it() -> None:
    report = end(news_of(crash_message(TASK, StageTimeout("too late"))), is_stage=lambda key: True)
    told = end(log_of("crashed"), is_stage=lambda key: True)

    assert report == End(False, "timeout: too late")
    assert told == End(False, "words")
