"""`ulos trace`: the way of one task, drawn from the traces in a file."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import complain, plain

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ulos_stream.telemetry.recorded import Happening, RecordedSpan, Row

BAR_CHARS = 40
Task = Annotated[str, typer.Argument(metavar="TASK_ID", help="The task's id.")]
File = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", envvar="ULOS_TRACE_FILE", help="Traces, as OTLP JSON lines.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def trace(task_id: Task, file: File = None, as_json: AsJson = False) -> None:
    """Draw when each stage of a task ran, on which node, and how long each of its steps took.

    Of a task that was sent more than once it is the last time, and a line says how many there are before it.
    Exit code 1 when the file knows no such task, 2 when there is no such file.
    """
    if file is None:
        raise typer.Exit(complain(2, "name the FILE of the traces, or set ULOS_TRACE_FILE"))
    from ulos_stream.telemetry.recorded import RecordedSpan, read_spans, rows_of

    def read() -> Iterator[RecordedSpan]:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from read_spans(lines)

    try:
        rows, earlier = rows_of(task_id, read)
    except OSError as closed:
        raise typer.Exit(complain(2, f"cannot read {file}: {closed.strerror}")) from closed
    if not rows:
        raise typer.Exit(complain(1, f"{file} has no trace of a task {task_id!r}"))
    if earlier:
        print(f"the last trace of this task; {earlier} earlier in {plain(file)}", file=sys.stderr)
    if as_json:
        print(json.dumps([{"depth": row.depth, **asdict(row.span)} for row in rows], indent=2))
    else:
        from rich.console import Console

        Console().print(_drawn(task_id, rows))


def _drawn(task_id: str, rows: "list[Row]") -> "Table":
    from rich.bar import Bar
    from rich.table import Table

    begun_ns, ended_ns = min(row.span.start_ns for row in rows), max(row.span.end_ns for row in rows)
    whole_s = max(ended_ns - begun_ns, 1) / 1e9
    stages = sum(row.depth == 0 for row in rows)
    title = plain(f"task {task_id}: {stages} stage{'s' * (stages > 1)} in {_time(whole_s)}")
    table = Table("span", "node", "at", "took", "", title=title, box=None, pad_edge=False)
    for row in rows:
        span = row.span
        at_s, end_s = (span.start_ns - begun_ns) / 1e9, (span.end_ns - begun_ns) / 1e9
        color = "red" if span.is_error else "cyan" if row.depth else "green"
        bar = Bar(whole_s, at_s, max(end_s, at_s + whole_s / BAR_CHARS / 8), width=BAR_CHARS, color=color)
        node = plain(span.node) if row.depth == 0 else ""
        table.add_row(_named(row), node, _time(at_s), _time(end_s - at_s), bar)
        for event in span.events:
            if row.depth == 0 or event.name == "fault":  # the error of a step is that of its stage
                table.add_row(_told(row.depth, event), "", _time((event.at_ns - begun_ns) / 1e9))
    return table


def _named(row: "Row") -> "Text":
    from rich.text import Text

    span = row.span
    if row.depth:
        return Text(f"  {plain(span.name)}")
    end = _end(span)
    style = {"PASS": "green", "FAIL": "yellow"}.get(end, "red")
    return Text.assemble((plain(span.attributes.get("ulos.stage", span.name)), "bold"), " ", (plain(end), style))


def _end(span: "RecordedSpan") -> str:
    return str(span.attributes.get("ulos.verdict") or span.attributes.get("error.type") or "")


def _told(depth: int, event: "Happening") -> "Text":
    from rich.text import Text

    whose = f"fault of the {event.attributes.get('error.type')}: " if event.name == "fault" else ""
    text = plain(f"{'  ' * depth}! {whose}{event.attributes.get('exception.message', '')}")
    return Text(text, "yellow" if event.name == "fault" else "red")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
