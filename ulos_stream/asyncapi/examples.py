"""True messages: made by the code that makes a node's messages, of one task that passes and one that crashes.

A test runs a node on both and finds each of them in what it publishes.
"""

import json
from dataclasses import dataclass
from typing import Any

from ulos_stream import routing
from ulos_stream.errors import ArchiveRejected, MalformedMessage
from ulos_stream.tasks import (
    Event,
    StageLog,
    Task,
    TaskLog,
    Verdict,
    Wire,
    crash_message,
    malformed_message,
    parse_task,
)

NODE = "bench-1"
MESSAGE_ID = "0b8f6f0e-6c9e-4a8e-9a55-3f5b1d0c7e21"
"""Of the task that passes."""

TASK = parse_task(
    json.dumps(
        {
            "taskId": "12345",
            "taskOwnerId": "67",
            "filePath": "/course/12345.zip",
            "timeout": 10,
            "routingTree": {
                "exchange": "processing-exchange",
                "routingKey": "cypress-grammar",
                "successRoutingDecision": {"exchange": "processing-exchange", "routingKey": "task.done"},
                "failureRoutingDecision": {"exchange": "processing-exchange", "routingKey": "task.failed"},
            },
        }
    ).encode()
)
CRASH = ArchiveRejected("the archive: '../grades.csv' climbs out by '..'")
MALFORMED_BODY = b"please test my homework"


@dataclass(frozen=True, slots=True)
class Example:
    """One message, and what has led to it."""

    name: str
    summary: str
    message: Wire

    @property
    def payload(self) -> dict[str, Any]:
        """The message as it is on the wire."""
        payload: dict[str, Any] = json.loads(self.message.encode())
        return payload


def examples() -> dict[str, list[Example]]:
    """By the name of the message in the document."""
    return {
        "task": [Example("task", "A task whose first stage checks the grammar of some tests.", TASK)],
        "hop": [Example("passed", "The same task after PASS: the success branch has become the root.", _hop())],
        "log": [
            Example(
                "received",
                "The stage begins.",
                _log("received", f"received by {NODE}", "2026-11-24T09:05:12.345+00:00"),
            ),
            Example(
                "passed",
                "The executor is done: from now on the tree is the branch taken.",
                _log("passed", "the verdict is PASS", "2026-11-24T09:05:15.018+00:00", Verdict.PASS),
            ),
        ],
        "crash": [Example("archive", "The zip breaks a rule.", crash_message(TASK, CRASH))],
        "malformed": [Example("text", "The body is no JSON.", malformed_message(MALFORMED_BODY, _malformed()))],
    }


def _hop() -> Task:
    branch = routing.branch(TASK, Verdict.PASS)
    assert branch is not None  # noqa: S101 (it is there above)
    return routing.next_task(TASK, branch)


def _log(event: Event, text: str, at: str, verdict: Verdict | None = None) -> TaskLog:
    tree = TASK.routing_tree if verdict is None else routing.branch(TASK, verdict)
    message = TaskLog.model_validate_json(StageLog(TASK, NODE).encode(event, text, tree, verdict))
    return message.model_copy(update={"at": at})


def _malformed() -> MalformedMessage:
    try:
        parse_task(MALFORMED_BODY)
    except MalformedMessage as crash:
        return crash
    raise AssertionError("a text is no task")
