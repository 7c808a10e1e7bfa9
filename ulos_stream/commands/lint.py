"""`ulos lint`: a task's tree drawn, and what is wrong with it before it is sent."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import AsJson, conclude, console, one_line, plain

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from ulos_stream.executors.registry import Registry
    from ulos_stream.linting import Remark
    from ulos_stream.settings import Node
    from ulos_stream.tasks import Hop, RoutingDecision, Task, Verdict


def lint(
    task: Annotated[
        Path, typer.Argument(metavar="TASK", exists=True, dir_okay=False, help="The task message, as JSON.")
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Ask no broker, and need none of its settings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw a task's routing tree, and name its mistakes.

    Nothing is sent to find them out. The executors are those of this machine. Whether exchanges and keys lead
    to a queue is read from RabbitMQ's management API (ULOS_MANAGEMENT_URL); without it AMQP shows whether the
    exchanges are there, and the rest is not checked, which is said. Exit code 1 when there is a mistake.
    """

    async def command() -> int:
        from ulos_stream.errors import MalformedMessage
        from ulos_stream.linting import Remark
        from ulos_stream.settings import read_node_settings
        from ulos_stream.tasks import parse_task

        node = read_node_settings()
        try:
            parsed = parse_task(task.read_bytes(), node.max_timeout_s)
        except MalformedMessage as wrong:
            remarks = [Remark("mistake", wrong.code, "", str(wrong))]
        else:
            remarks = await _lint(parsed, node, offline=offline, draw=not as_json)
        if as_json:
            print(json.dumps([asdict(remark) for remark in remarks], indent=2))
        else:
            for one in remarks:
                print(plain(f"{one.kind:12} {one.code:17} {f'{one.at}: ' if one.at else ''}{one.text}"))
            print(f"mistakes: {sum(remark.kind == 'mistake' for remark in remarks)}")
        return 1 if any(remark.kind == "mistake" for remark in remarks) else 0

    conclude(command)


async def _lint(task: "Task", node: "Node", *, offline: bool, draw: bool) -> "list[Remark]":
    from ulos_stream import linting
    from ulos_stream.parts import find_executors

    executors = find_executors(node)
    nowhere, unchecked = _unasked() if offline else await _ask_broker(task)

    def verdicts(key: str) -> "frozenset[Verdict] | None":
        entry = executors.claim(key)
        return None if entry is None else entry.verdicts

    seconds = {"fault_budget_s": node.fault_budget_s, "delivery_timeout_s": node.delivery_timeout_s}
    remarks = linting.lint(task, verdicts, nowhere, **seconds) + unchecked
    if draw:
        marked = {remark.at: "red" if remark.kind == "mistake" else "yellow" for remark in reversed(remarks)}
        console().print(_tree(task.routing_tree, executors, marked))
    return remarks


def _unasked() -> "tuple[Callable[[Hop], str], list[Remark]]":
    from ulos_stream.linting import Remark

    return lambda hop: "", [Remark("not checked", "unbound", "", "whether its hops lead to a queue: --offline")]


async def _ask_broker(task: "Task") -> "tuple[Callable[[Hop], str], list[Remark]]":
    """Why a hop leads nowhere, and what the broker does not show."""
    from ulos_stream import linting
    from ulos_stream.errors import BrokerFault, ManagementFault
    from ulos_stream.settings import access_to, read_broker_settings, tls_context
    from ulos_stream.tasks import hop_of
    from ulos_stream.topology import management
    from ulos_stream.topology.connection import connected, look

    broker, node = read_broker_settings()
    access = access_to(broker, node)
    hops = [hop_of(decision) for _, decision in linting.walk(task.routing_tree)]
    exchanges = dict.fromkeys(hop.exchange for hop in hops)
    queues = dict.fromkeys(hop.routing_key for hop in hops if not hop.exchange)
    try:
        async with connected(access) as connection:
            shown = await look(connection, exchanges, queues)
    except BrokerFault as away:
        raise BrokerFault(f"{away}; --offline checks the rest") from away
    host, unchecked = None, []
    try:
        url = node.management_url or management.default_url(access)
        host = await management.fetch(url, access, tls_context(node.broker_ca_file))
    except ManagementFault as unseen:
        unchecked.append(linting.Remark("not checked", "unbound", "", f"whether a queue takes its keys: {unseen}"))
    return lambda hop: linting.nowhere(hop, host, shown), unchecked


def _tree(decision: "RoutingDecision", executors: "Registry", styles: dict[str, str]) -> "Tree":
    from rich.tree import Tree

    from ulos_stream import linting

    drawn: dict[str, Tree] = {}
    for at, here in linting.walk(decision):
        above, _, branch = at.rpartition(".")
        text = _label(here, branch, executors)
        style = styles.get(at, "none")
        if at == linting.ROOT:
            drawn[at] = Tree(text, style=style)
        else:
            drawn[at] = drawn[above or linting.ROOT].add(text, style=style)
    return drawn[linting.ROOT]


def _label(decision: "RoutingDecision", branch: str, executors: "Registry") -> "Text":
    from rich.text import Text

    entry = executors.claim(decision.routing_key)
    what = "" if entry is None else f"  ({one_line(entry.description or entry.kind)})"
    verdict = {"success": "PASS → ", "failure": "FAIL → "}.get(branch, "")
    return Text(
        f"{verdict}{one_line(decision.exchange) or '(default exchange)'} / {one_line(decision.routing_key)}{what}"
    )
