"""What befalls the storage and the lines to it."""

import asyncio
import re
from typing import get_args

from .invariants import Fault
from .nodes import Node
from .proxies import FtpLine, TransferFault
from .rounds import Round
from .scenarios import scenario
from .world import Sent


@scenario("ftp: broken transfers", short=True, rounds=8, tasks=48)
async def break_transfers(round_: Round) -> None:
    """Transfers end early in every way a server or a network can end them, each for one task alone."""
    tasks = round_.prepare()
    kinds = get_args(TransferFault) * 2
    planned: dict[tuple[str, str], TransferFault] = {}
    for kind, sent in zip(kinds, round_.draw.sample(tasks, len(kinds)), strict=True):
        verb = round_.draw.choice(("RETR", "STOR"))
        planned[verb, sent.task] = kind
        round_.awaited.add(f"{kind} of {sent.task}")
    round_.bystanders_hold = True

    def befall(verb: str, path: str) -> TransferFault | None:
        task = re.sub(r"^.*/|\.zip.*$", "", path)
        if kind := planned.pop((verb, task), None):
            round_.faults.append(Fault(f"ftp: {kind}", frozenset([task])))
            round_.awaited.remove(f"{kind} of {task}")
        return kind

    line = FtpLine(round_.storage.host, round_.storage.port, befall)
    await round_.keep_open(line.open())
    await round_.start_nodes(REMOTE_STORAGE_PORT=str(line.port), ULOS_STORAGE_TIMEOUT_S="4")
    await round_.send(tasks)


@scenario("ftp: server killed during transfers", rounds=4)
async def kill_the_server(round_: Round) -> None:
    """The server dies in the middle of an upload, and is back a moment later."""
    tasks = round_.prepare()
    there = asyncio.Lock()

    async def kill(node: Node) -> None:
        await there.acquire()
        round_.faults.append(Fault("ftp: server killed", None))
        await asyncio.to_thread(round_.storage.stop)
        round_.background(come_back())

    async def come_back() -> None:
        await asyncio.to_thread(round_.storage.start)
        there.release()

    for sent in round_.draw.sample(tasks, 4):
        round_.plan["storing", sent.task, sent.stages[0]] = kill
    await round_.start_nodes()
    for sent in tasks:
        await round_.send([sent])


@scenario("ftp: away for 6 s", short=True)
async def away_for_a_moment(round_: Round) -> None:
    """Nodes wait for the storage, say so, and go on."""
    await _away(round_, 6, round_.prepare())


@scenario("ftp: away for 30 s", rounds=1, tasks=200)
async def away_for_long(round_: Round) -> None:
    """Two hundred tasks outlast half a minute without a storage: all of them pass, with no crash report."""
    await _away(round_, 30, round_.prepare(end="done"))


async def _away(round_: Round, seconds: float, tasks: list[Sent]) -> None:
    await round_.start_nodes()
    await round_.send(tasks)
    await round_.ended(len(tasks) // 4)
    async with round_.outage("ftp: server away"):
        await asyncio.to_thread(round_.storage.stop)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(round_.storage.start)
