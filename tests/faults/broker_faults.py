"""What befalls the broker and the lines to it."""

import asyncio
from dataclasses import replace

from .invariants import Fault
from .proxies import Line
from .rounds import Round, a_channel
from .scenarios import scenario
from .world import rabbitmqctl


@scenario("broker: kill -9", short=True, rounds=4)
async def kill_the_broker(round_: Round) -> None:
    """A power cut in the middle of the work."""
    tasks = round_.prepare(pause_s=0.2)
    await round_.start_nodes()
    await round_.send(tasks)
    await round_.ended(len(tasks) // 4)
    async with round_.outage("broker: kill -9"):
        await asyncio.to_thread(round_.broker.kill)
        await asyncio.sleep(round_.draw.uniform(0, 3))
        await asyncio.to_thread(round_.broker.start)


@scenario("broker: all connections closed", rounds=4)
async def close_all_connections(round_: Round) -> None:
    """As an operator may do it; the ledger is cut off too."""
    tasks = round_.prepare(pause_s=0.2)
    await round_.start_nodes()
    await round_.send(tasks)
    for part in (1, 2, 3):
        await round_.ended(len(tasks) * part // 5)
        round_.faults.append(Fault("broker: all connections closed", None))
        await rabbitmqctl(round_.broker, "close_all_connections", "fault")


@scenario("broker: lines reset", rounds=4)
async def reset_lines(round_: Round) -> None:
    """RST on every connection of the nodes, again and again."""
    tasks = round_.prepare(pause_s=0.2)
    line = Line(round_.broker.host, round_.broker.port)
    await round_.keep_open(line.open())
    await round_.start_nodes(MESSAGE_BROKER_PORT=str(line.port))
    await round_.send(tasks)
    for part in range(1, 6):
        await round_.ended(len(tasks) * part // 8)
        round_.faults.append(Fault("broker: lines reset", None))
        line.drop()


@scenario("broker: line reset during a long stage", short=True, tasks=4)
async def reset_during_a_long_stage(round_: Round) -> None:
    """A lone node goes on with its stage, and the redelivery joins it: no second execution."""
    await _reset_during_stages(round_, pause_s=6)


@scenario("broker: line reset during a stage of a minute", rounds=1, tasks=4)
async def reset_during_a_minute(round_: Round) -> None:
    """The same, with time for a node to be taken for dead."""
    await _reset_during_stages(round_, pause_s=60)


async def _reset_during_stages(round_: Round, *, pause_s: float) -> None:
    tasks = round_.prepare(pause_s=pause_s)
    line = Line(round_.broker.host, round_.broker.port)
    await round_.keep_open(line.open())
    first, _ = await round_.start_nodes(1, MESSAGE_BROKER_PORT=str(line.port))
    await round_.send(tasks)
    while len(first.inside) < len(tasks):
        await asyncio.sleep(0.05)
    await asyncio.sleep(2)
    round_.faults.append(Fault("broker: line reset during a long stage", frozenset()))
    line.drop()


@scenario("broker: bad hops", short=True, rounds=4)
async def bad_hops(round_: Round) -> None:
    """Missing exchange, key without a queue: a crash report each, and no neighbour notices."""
    hops = {"missing exchange": ("nowhere", "stage2"), "unroutable key": (None, "nobody")}
    tasks = _misdirect(round_, hops)
    round_.faults += [Fault(f"broker: {kind}", frozenset([task])) for kind, task in tasks]
    round_.bystanders_hold = True
    await round_.start_nodes()
    await round_.send(round_.sent)


@scenario("broker: forbidden exchange", rounds=4)
async def forbid_an_exchange(round_: Round) -> None:
    """The broker closes the channel of all publishers; neighbours repeat, and their hops may come twice with one id."""
    name = round_.topology.name
    async with a_channel(round_.broker) as channel:
        forbidden = await channel.declare_exchange(f"{name}-secret", auto_delete=True)
        held = await channel.declare_queue(f"{name}-secret", auto_delete=True)
        await held.bind(forbidden, "stage2")
    await rabbitmqctl(round_.broker, "add_user", name, "limited")
    await rabbitmqctl(round_.broker, "set_permissions", name, ".*", "^(?!.*secret)", ".*")
    tasks = _misdirect(round_, {"forbidden exchange": (f"{name}-secret", "stage2")})
    round_.faults += [Fault(f"broker: {kind}", None) for kind, _ in tasks]
    await round_.start_nodes(MESSAGE_BROKER_USERNAME=name, MESSAGE_BROKER_PASSWORD="limited")
    await round_.send(round_.sent)


def _misdirect(round_: Round, hops: dict[str, tuple[str | None, str]]) -> list[tuple[str, str]]:
    """Send some tasks, three of each kind, to a wrong second hop; returns kind and task."""
    tasks = round_.prepare()
    good = [number for number, sent in enumerate(tasks) if sent.end == "done"]
    chosen = []
    for kind, number in zip(list(hops) * 3, round_.draw.sample(good, 3 * len(hops)), strict=True):
        bad = replace(tasks[number], end="unroutable", stages=tasks[number].stages[:1], second=hops[kind])
        round_.sent[number] = bad
        chosen.append((kind, bad.task))
    return chosen


@scenario("broker: memory alarm", rounds=2)
async def raise_the_memory_alarm(round_: Round) -> None:
    """Publishers are blocked, and deliveries go on."""
    tasks = round_.prepare(pause_s=0.2)
    await round_.start_nodes()
    await round_.send(tasks)
    await round_.ended(len(tasks) // 5)
    round_.faults.append(Fault("broker: memory alarm", None))
    await rabbitmqctl(round_.broker, "set_vm_memory_high_watermark", "0.00001")
    await asyncio.sleep(6)
    await rabbitmqctl(round_.broker, "set_vm_memory_high_watermark", "0.4")


@scenario("broker: next queue full", rounds=2)
async def fill_the_next_queue(round_: Round) -> None:
    """The next queue refuses what it is offered, until somebody consumes it."""
    queue = round_.topology.queue("stage2")
    definition = '{"max-length": 3, "overflow": "reject-publish"}'
    await rabbitmqctl(round_.broker, "set_policy", "full", f"^{queue}$", definition, "--apply-to", "queues")
    tasks = round_.prepare()
    await round_.start_nodes(stages=["stage1"])
    await round_.send(tasks)
    await asyncio.sleep(5)
    round_.faults.append(Fault("broker: next queue full", None))
    await round_.start_nodes(stages=["stage2"])


@scenario("broker: delivery timeout", rounds=1, tasks=12)
async def time_out_deliveries(round_: Round) -> None:
    """A stage outlasts the broker's patience (`consumer_timeout`); the redelivery joins it."""
    await rabbitmqctl(round_.broker, "eval", _timeouts(3_000, 1_000))
    back = _timeouts(1_800_000, 60_000)
    round_.stack.push_async_callback(rabbitmqctl, round_.broker, "eval", back)
    await round_.start_nodes()
    round_.faults.append(Fault("broker: delivery timeout", None))
    round_.expect_redelivery()
    await round_.send(round_.prepare(pause_s=8))


def _timeouts(patience_ms: int, look_ms: int) -> str:
    names = {"consumer_timeout": patience_ms, "channel_tick_interval": look_ms}
    return " ".join(f"application:set_env(rabbit, {name}, {value})," for name, value in names.items()) + " ok."
