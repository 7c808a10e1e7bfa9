"""`ulos watch`: tasks as they move, in a live table or one event a line."""

import asyncio
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import AsJson, one_line, run, say, telling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

    from ulos_stream.feed import News
    from ulos_stream.settings import Node
    from ulos_stream.topology.connection import Access
    from ulos_stream.topology.places import Places

MOST_TASKS = 1_000
"""Tasks remembered: more than any screen has lines."""
CRASHED = ("crashed", "rejected")
"""Events of a stage that could not be carried out."""
REDRAWS_PER_S = 8


def watch(
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only this task.")] = None,
    owner: Annotated[str | None, typer.Option(metavar="ID", help="Only tasks of this owner.")] = None,
    as_json: AsJson = False,
    once: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N events; by default at Ctrl-C.")
    ] = None,
) -> None:
    """Show tasks as they move, from now on.

    On a terminal a table is redrawn, the last task to move on top; elsewhere each event is a line, and with
    --json an object. Nothing is taken from those who read logs and crashes.
    """

    async def command(node: "Node", access: "Access", places: "Places") -> int:
        from ulos_stream.feed import listening
        from ulos_stream.topology.connection import connected

        async with connected(access) as connection, listening(connection, places) as feed:
            wanted = _some(feed, task, owner, once)
            if sys.stdout.isatty() and not as_json:
                await _draw(wanted)
            else:
                print("listening", file=sys.stderr, flush=True)
                async for news in wanted:
                    say(telling.as_json(news) if as_json else telling.line(news))
        return 0

    run(command)


class Board:
    """The last news of each task and, if it crashed, how; the last one first, of so many tasks at most.

    Args:
        clock: Seconds. Ages are by our own clock, whatever those of the nodes say.
    """

    def __init__(self, clock: "Callable[[], float]" = time.monotonic) -> None:
        self._clock = clock
        self._last: OrderedDict[str, tuple[float, News, str]] = OrderedDict()
        self.events = 0

    def __len__(self) -> int:
        return len(self._last)

    def add(self, news: "News") -> None:
        """Take in one message."""
        self.events += 1
        code = news.code or (self._code(news.task) if news.event in CRASHED else "")
        self._last[news.task] = (self._clock(), news, code)
        self._last.move_to_end(news.task)
        if len(self._last) > MOST_TASKS:
            self._last.popitem(last=False)

    def rows(self, count: int) -> "list[tuple[str, ...]]":
        """Task, owner, stage, event, verdict or code, age and node of the first `count` tasks."""
        newest = [self._last[task] for task in list(reversed(self._last))[:count]]
        return [self._row(*last) for last in newest]

    def _code(self, task: str) -> str:
        """That of its crash, which only one message about it tells."""
        return self._last[task][2] if task in self._last else ""

    def _row(self, heard_s: float, news: "News", code: str) -> tuple[str, ...]:
        age = f"{self._clock() - heard_s:.0f} s"
        cells = (news.task, news.owner, news.stage, news.event, code or news.verdict, age, news.node)
        return tuple(one_line(cell) or "-" for cell in cells)


async def _draw(feed: "AsyncIterator[News]") -> None:
    """Show the table on a screen of its own, where nothing has to be wiped before it is redrawn."""
    from rich.console import Console
    from rich.live import Live

    board, console = Board(), Console()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            drawing = asyncio.create_task(_redraw(live, board))
            try:
                async for news in feed:
                    board.add(news)
            finally:
                drawing.cancel()
    finally:
        console.print(_table(board, console.height))  # the screen is gone, and with it the table


async def _redraw(live: "Live", board: Board) -> None:
    """Redraw a few times a second while something happens, and once a second for the ages."""
    drawn, idle = -1, 0
    while True:
        if drawn != board.events or idle == REDRAWS_PER_S:
            drawn, idle = board.events, 0
            live.update(_table(board, live.console.height), refresh=True)
        idle += 1
        await asyncio.sleep(1 / REDRAWS_PER_S)


def _table(board: Board, height: int) -> "Table":
    from rich.table import Table
    from rich.text import Text

    names = ("task", "owner", "stage", "event", "verdict", "age", "node")
    table = Table(*names, title=f"{len(board)} tasks, {board.events} events", expand=True)
    for row in board.rows(max(height - 6, 1)):  # but for the title and the lines around
        cells: list[RenderableType] = [Text(cell, no_wrap=True, overflow="ellipsis") for cell in row]
        table.add_row(*cells, style=_style(event=row[3], verdict=row[4]))
    return table


def _style(event: str, verdict: str) -> str | None:
    """A crash is red, whatever the executor had said before it."""
    return "red" if event in CRASHED else {"PASS": "green", "FAIL": "yellow"}.get(verdict)


async def _some(
    feed: "AsyncIterator[News]", task: str | None, owner: str | None, count: int | None
) -> "AsyncIterator[News]":
    """Those of a task or an owner, `count` of them if that is given."""
    left = count
    async for news in feed:
        if task in (None, news.task) and owner in (None, news.owner):
            yield news
            if left is not None and (left := left - 1) == 0:
                return
