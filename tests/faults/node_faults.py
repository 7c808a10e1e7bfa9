"""What befalls nodes: killed at each point of a stage and at random, stopped, restarted, out of disk, poisoned."""

import asyncio
import itertools
import signal
from dataclasses import replace
from pathlib import Path

from .invariants import Fault
from .launcher import POINTS
from .nodes import Node
from .rounds import Round
from .scenarios import Play, scenario
from .world import Sent

ON_A_CRASH = ("reporting", "reported", "rejected")
"""Points that only a crashing task passes."""


def _kill_at(point: str) -> Play:
    async def play(round_: Round) -> None:
        tasks = round_.prepare()
        passing = [sent for sent in tasks if sent.crashes or point not in ON_A_CRASH]
        for sent in round_.draw.sample(passing, min(len(passing), len(tasks) // 5)):
            stage = "crash" if point in ON_A_CRASH else round_.draw.choice(sent.stages)
            round_.kill_at(point, sent, stage)
        await round_.start_nodes()
        await round_.send(tasks)

    return play


for _point in POINTS:
    scenario(f"kill: {_point}", short=_point in ("storing", "renamed", "handed over"), rounds=3)(_kill_at(_point))


@scenario("kill: storing a copy", short=True, rounds=3, tasks=20)
async def kill_storing_a_copy(round_: Round) -> None:
    """A producer in doubt sends a task twice, two nodes carry it out at once, and the slower is killed as it stores."""
    twice = round_.prepare(round_.tasks // 5, pause_s=2, end="done")
    others = iter(round_.prepare(round_.tasks - len(twice), pause_s=0.5))
    order = []
    for sent in twice:
        round_.faults.append(Fault("sent twice", frozenset({sent.task})))

        async def let_pass(node: Node, sent: Sent = sent) -> None:
            round_.kill_at("storing", sent, "stage1")

        round_.plan["storing", sent.task, "stage1"] = let_pass
        # Both nodes are done with the others, and a killed one is back, long before the first of the next two ends.
        order += [sent, sent, *itertools.islice(others, 4)]
    await round_.start_nodes(MESSAGE_BROKER_PREFETCH_COUNT="1")
    await round_.send(order)


@scenario("kill: at random", rounds=4)
async def kill_at_random(round_: Round) -> None:
    """Any node, at any time."""
    nodes = await round_.start_nodes()
    await round_.send(round_.prepare(pause_s=0.5))
    for _ in range(8):
        await asyncio.sleep(round_.draw.uniform(0.1, 0.8))
        standing = [node for node in nodes if node.process is not None]
        await round_.kill(round_.draw.choice(standing), "kill -9: at random")


@scenario("node: stopped longer than the heartbeat", rounds=3)
async def stop_longer_than_the_heartbeat(round_: Round) -> None:
    """The broker gives up a node that does not answer, and it comes back with work that others have done."""
    nodes = await round_.start_nodes(FAULTS_HEARTBEAT_S="2")
    tasks = round_.prepare(pause_s=0.3)
    await round_.send(tasks)
    await round_.ended(len(tasks) // 4)
    for node in (nodes[0], nodes[2]):
        round_.faults.append(Fault("SIGSTOP", None))  # it takes deliveries still, unread
        node.send(signal.SIGSTOP)
    round_.expect_redelivery()
    await asyncio.sleep(7)
    for node in (nodes[0], nodes[2]):
        node.send(signal.SIGCONT)


@scenario("node: rolling restarts", rounds=2, tasks=240)
async def restart_in_turn(round_: Round) -> None:
    """The two nodes of each queue are restarted in turn, ten times, under load: nothing is executed twice."""
    nodes = await round_.start_nodes()
    tasks = round_.prepare(pause_s=1)
    await round_.send(tasks)
    for turn in range(20):
        pair = nodes[turn % 2 :: 2]
        await asyncio.gather(*(node.stop() for node in pair))
        round_.faults += [Fault("SIGTERM", frozenset()) for _ in pair]
        await asyncio.gather(*(node.restart() for node in pair))
    if await round_.ended(limit_s=0.1):
        round_.awaited.add("work until the last restart")


@scenario("node: disk full", rounds=2)
async def fill_the_disk(round_: Round) -> None:
    """The work directory is a small file system of the node's own, full for a while."""
    mount = f'mount -t tmpfs -o size=8m none {round_.directory / "work"} && exec "$@"'
    nodes = await round_.start_nodes(1, within=("unshare", "--mount", "sh", "-c", mount, "sh"))
    await round_.send(round_.prepare(pause_s=0.3))
    await round_.ended(4)
    fillers = [_fill(node, round_) for node in nodes]
    round_.faults.append(Fault("disk full", None, attempts=6))
    await asyncio.sleep(3)
    for filler in fillers:
        filler.unlink()


def _fill(node: Node, round_: Round) -> Path:
    """Take the last byte of the node's work directory; the file to remove again."""
    assert node.process is not None
    filler = Path(f"/proc/{node.process.pid}/root{round_.directory}/work/filler")
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(65536)):
                pass
    except OSError:
        return filler
    raise AssertionError("the disk has no end")


@scenario("node: a task that kills it", short=True, rounds=1, tasks=20)
async def poison(round_: Round) -> None:
    """Each node that executes it dies; it is reported as `poison`, and those beside it, as often delivered, are not."""
    await round_.start_nodes(1, MESSAGE_BROKER_REQUEUE_ON_REJECT="true")
    poisonous, *others = round_.prepare(pause_s=1)
    round_.sent[0] = poisonous = replace(poisonous, stages=(), end="poison")
    deaths = 0

    async def die(node: Node) -> None:
        nonlocal deaths
        deaths += 1
        if deaths < 20:
            round_.plan["executing", poisonous.task, "stage1"] = die
        await round_.kill(node, "kill -9: by the task itself")

    round_.plan["executing", poisonous.task, "stage1"] = die
    await round_.send([poisonous, *others])
    await round_.ended(len(others) + 1)
    round_.plan.clear()


@scenario("two ids on one path", rounds=2)
async def share_a_path(round_: Round) -> None:
    """Two tasks name the same artifact at the same time: it stays whole, and each has its outcome."""
    tasks = round_.prepare()
    for number, sent in enumerate(tasks[1::2]):
        other = tasks[2 * number]
        round_.sent[2 * number + 1] = replace(sent, path=other.path, end=other.end, second=other.second)
    await round_.start_nodes()
    await round_.send(round_.sent)
    # Whoever comes second begins anew, with each of its stages, as often as the other is faster.
    round_.faults.append(Fault("two ids on one path", None, attempts=6))
