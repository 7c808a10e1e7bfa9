"""`ulos trace`: the way of one task, drawn from the traces in a file."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import complain, console, one_line, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.bar import Bar
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from ulos_stream.telemetry.recorded import Happening, RecordedSpan, Row

BAR_CHARS, LEAST_BAR_CHARS = 40, 10
GAP = 2
"""Characters between two columns."""
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
        terminal = console()
        terminal.print(_drawn(task_id, rows, terminal.width))


def _drawn(task_id: str, rows: "list[Row]", width: int) -> "Group":
    """A line for each span, with its place in time; below it, across all columns, what went wrong in it."""
    from rich.console import Group
    from rich.text import Text

    begun_ns, ended_ns = min(row.span.start_ns for row in rows), max(row.span.end_ns for row in rows)
    whole_s = max(ended_ns - begun_ns, 1) / 1e9
    stages = sum(row.depth == 0 for row in rows)
    head = [Text(name, "bold") for name in ("span", "node", "at", "took")]
    lines = [_words(row, begun_ns) for row in rows]
    widths = _widths([max(cell.cell_len for cell in column) for column in zip(head, *lines, strict=True)], width)

    title = Text(plain(f"task {task_id}: {stages} stage{'s' * (stages > 1)} in {_time(whole_s)}"))
    drawn: list[RenderableType] = [title, _line(head, widths)]
    for row, words in zip(rows, lines, strict=True):
        drawn.append(_line([*words, _bar(row, begun_ns, whole_s, widths[-1])], widths))
        drawn += [
            _told(row.depth, event, begun_ns)
            for event in row.span.events
            if row.depth == 0 or event.name == "fault"  # the error of a step is that of its stage
        ]
    return Group(*drawn)


def _widths(wanted: list[int], width: int) -> list[int]:
    """Of all columns, the bars' last; where there is no room, bars get shorter first, then names are folded."""
    name, node, *times = wanted
    room = width - sum(times) - GAP * len(wanted)
    bar = min(max(room - name - node, LEAST_BAR_CHARS), BAR_CHARS)
    if name + node + bar > room:
        node = min(node, max((room - bar) // 3, 1))
        name = max(room - bar - node, 1)
    return [name, node, *times, bar]


def _line(cells: "Sequence[RenderableType]", widths: list[int]) -> "Table":
    from rich.table import Table

    line = Table.grid(padding=(0, GAP, 0, 0))
    for width in widths:
        line.add_column(width=width, overflow="fold")
    line.add_row(*cells)
    return line


def _words(row: "Row", begun_ns: int) -> "list[Text]":
    """Name, node, begin and duration of a span."""
    from rich.text import Text

    span = row.span
    node = plain(span.node) if row.depth == 0 else ""
    times_ns = (span.start_ns - begun_ns, span.end_ns - span.start_ns)
    return [_named(row), Text(node), *(Text(_time(time_ns / 1e9)) for time_ns in times_ns)]


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


def _bar(row: "Row", begun_ns: int, whole_s: float, width: int) -> "Bar":
    from rich.bar import Bar

    span = row.span
    at_s, end_s = (span.start_ns - begun_ns) / 1e9, (span.end_ns - begun_ns) / 1e9
    color = "red" if span.is_error else "cyan" if row.depth else "green"
    return Bar(whole_s, at_s, max(end_s, at_s + whole_s / width / 8), width=width, color=color)


def _told(depth: int, event: "Happening", begun_ns: int) -> "Padding":
    from rich.padding import Padding
    from rich.text import Text

    whose = f"fault of the {event.attributes.get('error.type')}: " if event.name == "fault" else ""
    words = one_line(f"! {whose}{event.attributes.get('exception.message', '')}")
    text = f"{words} (at {_time((event.at_ns - begun_ns) / 1e9)})"
    return Padding(Text(text, "yellow" if event.name == "fault" else "red"), (0, 0, 0, 2 * depth), expand=False)


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
