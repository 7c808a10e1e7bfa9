"""Traces as they were written to a file: OTLP in JSON, one export request a line.

The format is that of OpenTelemetry's specification, "OTLP JSON File"; what a collector's file exporter
writes is read as well as what `ULOS_TRACE_FILE` holds.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

TASK_ID = "ulos.task.id"


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of a span: a fault, or the error that ended it."""

    name: str
    at_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordedSpan:
    """A span; times in ns since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty, or of a span that the file need not hold."""
    name: str
    start_ns: int
    end_ns: int
    node: str
    is_error: bool
    attributes: dict[str, Any]
    events: tuple[Happening, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A span in its place below its parent; `depth` 0 is a stage."""

    depth: int
    span: RecordedSpan


def read_spans(lines: Iterable[str]) -> Iterator[RecordedSpan]:
    """The spans of all lines that are export requests; others, like one that a kill cut short, are passed over."""
    for line in lines:
        try:
            yield from list(_spans(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def rows_of(task_id: str, read: Callable[[], Iterable[RecordedSpan]]) -> tuple[list[Row], int]:
    """The stages of a task, in order, each followed by what it consists of; empty when there is none.

    A task that was sent more than once has a trace for each time. The rows are those of the one that began last.

    Args:
        task_id: The task's.
        read: Gives all spans; called twice, so that only those of one trace are held in memory.

    Returns:
        The rows, and how many traces of the task began before theirs.
    """
    begun_ns: dict[str, int] = {}
    for span in read():
        if span.attributes.get(TASK_ID) == task_id:
            begun_ns[span.trace_id] = min(span.start_ns, begun_ns.get(span.trace_id, span.start_ns))
    if not begun_ns:
        return [], 0
    last = max(begun_ns, key=lambda trace_id: begun_ns[trace_id])
    spans = sorted((span for span in read() if span.trace_id == last), key=lambda span: (span.start_ns, -span.end_ns))
    rows = []
    for stage in spans:
        if stage.attributes.get(TASK_ID) == task_id:
            rows.append(Row(0, stage))
            # A stage has children of one generation: its steps and its hop, below which the next stage begins.
            rows += (Row(1, s) for s in spans if s.parent_id == stage.span_id and TASK_ID not in s.attributes)
    return rows, len(begun_ns) - 1


def _spans(request: dict[str, Any]) -> Iterator[RecordedSpan]:
    for resource_spans in request["resourceSpans"]:
        resource = _plain(resource_spans.get("resource", {}).get("attributes", []))
        for scope_spans in resource_spans.get("scopeSpans", []):
            for span in scope_spans.get("spans", []):
                yield RecordedSpan(
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent_id=span.get("parentSpanId") or "",
                    name=span["name"],
                    start_ns=int(span["startTimeUnixNano"]),
                    end_ns=int(span["endTimeUnixNano"]),
                    node=str(resource.get("service.instance.id", "")),
                    is_error=span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR"),
                    attributes=_plain(span.get("attributes", [])),
                    events=tuple(
                        Happening(event["name"], int(event["timeUnixNano"]), _plain(event.get("attributes", [])))
                        for event in span.get("events", [])
                    ),
                )


def _plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """Attributes by name. JSON has 64-bit integers as strings, and wraps each value in its type."""
    plain = {}
    for each in attributes:
        [(kind, value)] = each["value"].items() or [("stringValue", "")]
        plain[each["key"]] = int(value) if kind == "intValue" else value
    return plain
