"""`ulos watch`: what happens to tasks is shown as it happens, and taken from nobody."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractExchange
from world import LIMIT_S, Proxy, World, a_tree, a_world, ulos

from ulos_stream import lab
from ulos_stream.commands.watch import MOST_TASKS, REDRAWS_PER_S, Board, _table
from ulos_stream.feed import News
from ulos_stream.lab import Broker


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path) as world:
        yield world


class Watching:
    """A running `ulos watch`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            return [(await self.process.stdout.readline()).decode().rstrip() for _ in range(count)]

    def hang_up(self) -> None:
        """Read no more, as `head` does."""
        transport: Any = self.process
        transport._transport.get_pipe_transport(1).close()

    async def end(self) -> tuple[int | None, str, str]:
        """Exit code, and what is left of its output."""
        async with asyncio.timeout(LIMIT_S):
            out, err = await self.process.communicate()
        return self.process.returncode, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def watching(world: World, *arguments: str, stdout: int = asyncio.subprocess.PIPE, **changes: str) -> Any:
    """Watch, from the moment at which nothing is missed any more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ulos_stream", "watch", *arguments,
        env={**world.environment(**changes), "COLUMNS": "120", "LINES": "30", "TERM": "xterm"},
        stdout=stdout, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        if stdout == asyncio.subprocess.PIPE:
            assert process.stderr is not None
            async with asyncio.timeout(LIMIT_S):
                assert await process.stderr.readline() == b"listening\n"
        yield Watching(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def tell(exchange: AbstractExchange, **fields: Any) -> None:
    """Publish a log message."""
    stage = {"exchange": "x", "routingKey": "grammar"}
    message = {"taskId": "t-1", "taskOwnerId": "o-1", "event": "received", "node": "n-1", "stage": stage, **fields}
    await exchange.publish(aio_pika.Message(json.dumps(message).encode()), "log")


async def test_each_event_and_each_crash_is_a_line(world: World) -> None:
    await world.tasks.bind(world.exchange, "pass")

    async with watching(world) as seen, world.node():
        await world.send(world.task(a_tree("pass", success=a_tree("nowhere"))))
        lines = await seen.lines(7)

    columns = [line.split("  ")[1:] for line in lines]
    events = [event for _, _, event, *_ in columns]
    assert [event for event in events if event != "crashed"] == [
        "received",
        "downloaded",
        "passed",
        "uploaded",
        "rejected",
    ]
    assert events.count("crashed") == 2  # the report, and the event
    assert {(task, stage) for task, stage, *_ in columns} == {("t-1", "pass")}
    assert [text for *_, text in columns if text.startswith("unroutable: no queue takes")]


async def test_those_of_an_owner_or_a_task_are_objects_in_json_and_nothing_is_taken_from_others(world: World) -> None:
    async with watching(world, "--json", "--owner", "me", "--task", "t-2", "--once", "2") as seen:
        for task, owner in [("t-1", "me"), ("t-2", "you"), ("t-2", "me"), ("t-2", "me"), ("t-2", "me")]:
            await tell(world.exchange, taskId=task, taskOwnerId=owner)
        code, said, _ = await seen.end()

    events = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert [(event["task"], event["owner"], event["stage"]) for event in events] == 2 * [("t-2", "me", "grammar")]
    assert await world.count(world.told) == 5


async def test_on_a_terminal_the_last_task_to_move_is_on_top_of_a_table_that_stays_at_the_end(world: World) -> None:
    ours, theirs = pty.openpty()

    async with watching(world, "--once", "3", stdout=theirs) as seen:
        os.close(theirs)
        drawn = await read_until(ours, "\x1b[?1049h")  # it listens before it draws
        await tell(world.exchange, taskId="t-1")
        await tell(world.exchange, taskId="t-2", event="failed", verdict="FAIL")
        await tell(world.exchange, taskId="t-1", event="passed", verdict="PASS")
        drawn += await read_until(ours, None)
        code = await seen.process.wait()

    screen, _, after = drawn.partition("\x1b[?1049l")
    assert code == 0
    assert "2 tasks, 3 events" in after
    assert after.index("t-1") < after.index("t-2")
    assert "\x1b[2J" not in screen  # never wiped, so it does not flicker


async def test_two_hundred_events_a_second_are_all_counted_and_redrawn_a_few_times_a_second(world: World) -> None:
    ours, theirs = pty.openpty()
    loop = asyncio.get_running_loop()

    async with watching(world, "--once", "600", stdout=theirs) as seen:
        os.close(theirs)
        drawn = await read_until(ours, "\x1b[?1049h")
        reading = asyncio.create_task(read_until(ours, None))
        began_s = loop.time()
        for number in range(600):
            await tell(world.exchange, taskId=f"t-{number % 100}")
            await asyncio.sleep(began_s + (number + 1) / 200 - loop.time())
        drawn += await reading
        took_s = loop.time() - began_s
        code = await seen.process.wait()

    screen, _, after = drawn.partition("\x1b[?1049l")
    assert code == 0
    assert "100 tasks, 600 events" in after
    assert 3 <= screen.count(" tasks, ") <= REDRAWS_PER_S * took_s + 2  # the first, and the one at the end
    assert "\x1b[2J" not in screen


async def test_a_hostile_text_cannot_steer_the_terminal(world: World) -> None:
    async with watching(world, "--once", "1") as seen:
        await tell(world.exchange, taskId="\x1b[2J\nt", logMessage="a\rb\x07")
        _, said, _ = await seen.end()

    [line] = said.splitlines()
    assert "\\x1b[2J t" in line
    assert line.endswith("a\\rb\\x07")


async def test_an_interrupt_ends_it_with_130(world: World) -> None:
    async with watching(world) as seen:
        seen.process.send_signal(signal.SIGINT)
        code, _, said = await seen.end()

    assert (code, said) == (130, "")


async def test_it_ends_well_when_who_reads_it_has_seen_enough(world: World) -> None:
    async with watching(world) as seen:
        await tell(world.exchange)
        await seen.lines(1)
        seen.hang_up()
        while seen.process.returncode is None:
            await tell(world.exchange)
            await asyncio.sleep(0.05)

        assert seen.process.stderr is not None
        assert (seen.process.returncode, await seen.process.stderr.read()) == (0, b"")


async def test_a_lost_connection_ends_it_with_3_and_one_line(world: World) -> None:
    async with Proxy(world.broker.host, world.broker.port).listening() as proxy:
        port = str(proxy.port)
        async with watching(world, MESSAGE_BROKER_PORT=port) as seen:
            proxy.drop()
            code, _, said = await seen.end()

    assert code == 3
    [line] = said.splitlines()
    assert line.startswith(f"ulos: broker 127.0.0.1:{proxy.port}, virtual host '/': ")


async def test_a_broker_that_is_stopped_ends_it_with_3_and_one_line(tmp_path: Path) -> None:
    with lab.rabbitmq() as broker:
        async with a_world(broker, tmp_path) as world, watching(world) as seen:
            await asyncio.to_thread(broker.stop)
            code, _, said = await seen.end()

    assert (code, said) == (3, "ulos: the connection to the broker is lost\n")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"MESSAGE_BROKER_PORT": "1"}, 3, "broker 127.0.0.1:1"),
        ({"MESSAGE_BROKER_PASSWORD": "wrong"}, 3, "ACCESS_REFUSED"),
        ({"MESSAGE_BROKER_LOGS_EXCHANGE": "missing"}, 1, "exchange 'missing' does not exist, so nobody can listen"),
        ({"MESSAGE_BROKER_LOGS_EXCHANGE": ""}, 1, "publish them to an exchange of their own"),
        ({"MESSAGE_BROKER_HOST": ""}, 2, "MESSAGE_BROKER_HOST: "),
    ],
)
async def test_a_refusal_is_one_line(world: World, changes: dict[str, str], code: int, words: str) -> None:
    ended = await ulos("watch", **world.environment(**changes))

    assert (ended.returncode, ended.stdout) == (code, "")
    [line] = ended.stderr.splitlines()
    assert words in line


def test_the_board_keeps_so_many_tasks_and_forgets_those_that_moved_least_recently() -> None:
    board = Board(clock=lambda: 0.0)
    for number in range(MOST_TASKS + 5):
        board.add(some_news(task=f"t-{number}"))
    board.add(some_news(task="t-5", event="passed"))
    board.add(some_news(task="new"))

    rows = board.rows(3)

    assert len(board) == MOST_TASKS
    assert [row[0] for row in rows] == ["new", "t-5", f"t-{MOST_TASKS + 4}"]
    assert "t-6" not in {row[0] for row in board.rows(MOST_TASKS)}


def test_ages_are_by_our_clock() -> None:
    now = 100.0
    board = Board(clock=lambda: now)
    board.add(some_news(task="t"))
    now = 107.2

    [row] = board.rows(1)

    assert row == ("t", "o", "grammar", "received", "-", "7 s", "n")


def test_the_code_of_a_crash_stays_until_the_task_is_received_anew() -> None:
    board = Board(clock=lambda: 0.0)
    shown = []
    for news in (
        some_news(task="t", event="passed", verdict="PASS"),
        some_news(task="t", event="crashed", code="unroutable"),
        some_news(task="t", event="crashed", verdict="PASS"),
        some_news(task="t", event="rejected", verdict="PASS"),
        some_news(task="t"),
        some_news(task="t", event="rejected"),
    ):
        board.add(news)
        shown += [row[4] for row in board.rows(1)]

    assert shown == ["PASS", "unroutable", "unroutable", "unroutable", "-", "-"]


@pytest.mark.parametrize(
    ("event", "verdict", "style"),
    [("passed", "PASS", "green"), ("acknowledged", "FAIL", "yellow"), ("rejected", "PASS", "red"),
     ("crashed", "", "red"), ("received", "", None)],
)  # fmt: skip
def test_a_row_is_red_after_a_crash_and_else_of_the_colour_of_its_verdict(
    event: str, verdict: str, style: str | None
) -> None:
    board = Board()
    board.add(some_news(task="t", event=event, verdict=verdict))

    assert [row.style for row in _table(board, height=10).rows] == [style]


def some_news(*, task: str, event: str = "received", verdict: str = "", code: str = "") -> News:
    return News("log", "2026-01-01T00:00:00Z", task, "o", "grammar", event, verdict, "n", code, "words", "m", None)


async def read_until(terminal: int, words: str | None) -> str:
    """What is written to a terminal up to these words, or until nobody can write to it any more."""
    written = ""
    async with asyncio.timeout(LIMIT_S):
        with contextlib.suppress(OSError):
            while words is None or words not in written:
                written += (await asyncio.to_thread(os.read, terminal, 65536)).decode(errors="replace")
    return written
