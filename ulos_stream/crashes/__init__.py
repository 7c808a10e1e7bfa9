"""What became of tasks that crashed: the report of a node joined with the dead letter it left. Pure.

A report carries the id of the message it is about as its correlation id. A dead letter is that
message if it has the same id and the same content. A message without an id got one from the node
that is nowhere but in the report, so there the content alone decides; equal messages without an
id are told apart by nothing, and are paired newest with newest.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ulos_stream.errors import MalformedMessage
from ulos_stream.tasks import parse_task
from ulos_stream.topology.reading import Letter

UNREPORTED = "unreported"
"""In place of a code: a dead letter without a report."""
NOT_COMPARED = ("logMessage", "mqId", "error")
"""Fields that a node adds or leaves out, so that they differ between a task and its report."""

KEYS = ("code", "task", "owner", "stage")
"""What cases are chosen by."""
Condition = tuple[str, str]
"""One of `KEYS`, and the value it must have."""


@dataclass(frozen=True, slots=True)
class Case:
    """One message that crashed."""

    message_id: str | None
    """As the report has it; None for a dead letter without a report and without an id."""
    at: datetime | None
    """When it was last reported, else when the broker put it aside."""
    code: str
    detail: str
    output_tail: str
    fields: Mapping[str, Any]
    """The task as the stage received it, by wire names; empty if it is no task."""
    raw: Mapping[str, Any]
    """What the report says of a body that is no task: `size`, `sha256`, `text`; else empty."""
    reports: int
    """How often it was reported: a message that crashes again after a replay keeps its id."""
    offset: int | None
    """Place of the last report in its stream."""
    letters: tuple[Letter, ...]
    """Its dead letters: one, none if it is gone, several if the broker has the same message several times."""

    @property
    def task(self) -> str:
        """Id of the task; empty if the message is no task."""
        return str(self.fields.get("taskId", ""))

    @property
    def owner(self) -> str:
        """Id of the task's owner."""
        return str(self.fields.get("taskOwnerId", ""))

    @property
    def stage(self) -> str:
        """Routing key of the stage that crashed: the root of the tree."""
        tree = self.fields.get("routingTree")
        return str(tree.get("routingKey", "")) if isinstance(tree, Mapping) else ""

    def matches(self, where: Iterable[Condition]) -> bool:
        """Whether every condition holds."""
        return all(getattr(self, key) == value for key, value in where)


def condition(text: str) -> Condition:
    """Read `KEY=VALUE`.

    Raises:
        ValueError: It is something else.
    """
    key, equals, value = text.partition("=")
    if not equals or key not in KEYS:
        raise ValueError(f"{text!r} is not KEY=VALUE with a KEY of {', '.join(KEYS)}")
    return key, value


def join(reports: Sequence[Letter], letters: Sequence[Letter]) -> list[Case]:
    """Cases in the order of their last report; dead letters without a report come last.

    Args:
        reports: What the crash stream holds, oldest first; what is no crash report is passed over.
        letters: What the dead-letter queue holds, oldest first.
    """
    told: dict[str | None, list[tuple[Letter, dict[str, Any]]]] = {}
    for report in reports:
        fields = _json(report.body)
        if isinstance(fields.get("error"), dict):
            told.setdefault(report.correlation_id, []).append((report, fields))
    left: dict[str | None, list[Letter]] = {}
    for letter in letters:
        left.setdefault(letter.message_id, []).append(letter)
    cases: list[Case] = []
    for message_id, versions in sorted(told.items(), key=lambda item: -item[1][-1][0].offset):
        report, fields = versions[-1]
        own = [letter for letter in left.get(message_id, ()) if _is_about(fields, letter.body)]
        own = own or [letter for letter in left.get(None, ()) if _is_about(fields, letter.body)][-1:]
        for letter in own:
            left[letter.message_id].remove(letter)
        cases.append(_reported(message_id, report, fields, len(versions), tuple(own)))
    return [*reversed(cases), *(_unreported(letter) for letter in letters if letter in left[letter.message_id])]


def _reported(
    message_id: str | None, report: Letter, fields: dict[str, Any], reports: int, letters: tuple[Letter, ...]
) -> Case:
    error = fields["error"]
    raw = _raw(fields)
    return Case(
        message_id=message_id,
        at=report.timestamp or _died_at(letters),
        code=str(error.get("code", "")),
        detail=str(error.get("detail", "")),
        output_tail=str(error.get("output_tail", "")),
        fields={} if raw else {name: value for name, value in fields.items() if name not in NOT_COMPARED},
        raw=raw,
        reports=reports,
        offset=report.offset,
        letters=letters,
    )


def _unreported(letter: Letter) -> Case:
    reason = str(letter.died.get("reason", "unknown"))
    return Case(
        message_id=letter.message_id,
        at=_died_at((letter,)),
        code=UNREPORTED,
        detail=f"the broker put it aside: {reason}",
        output_tail="",
        fields=_task_fields(letter.body) or {},
        raw={},
        reports=0,
        offset=None,
        letters=(letter,),
    )


def _is_about(report: Mapping[str, Any], body: bytes) -> bool:
    if raw := _raw(report):
        return raw.get("sha256") == hashlib.sha256(body).hexdigest()
    return _task_fields(body) == {name: value for name, value in report.items() if name not in NOT_COMPARED}


def _raw(report: Mapping[str, Any]) -> Mapping[str, Any]:
    raw = report.get("raw")
    return raw if isinstance(raw, dict) and "taskId" not in report else {}


def _task_fields(body: bytes) -> dict[str, Any] | None:
    """A task's fields as a report of it shows them; None for a body that is no task."""
    try:
        fields = _json(parse_task(body, math.inf).encode())
    except MalformedMessage:
        return None
    return {name: value for name, value in fields.items() if name not in NOT_COMPARED}


def _json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _died_at(letters: Sequence[Letter]) -> datetime | None:
    time = letters[-1].died.get("time") if letters else None
    return time if isinstance(time, datetime) else None
