"""`ulos crashes`: what crashed, why, and sending it back."""

import contextlib
import enum
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulos_stream.commands import plain, run

if TYPE_CHECKING:
    from ulos_stream.crashes import Case, Condition
    from ulos_stream.crashes.replaying import Refusal, Send
    from ulos_stream.settings import Node
    from ulos_stream.topology.connection import Access, Connection
    from ulos_stream.topology.places import Places

app = typer.Typer(no_args_is_help=True, help="Read crash reports and dead letters, and send tasks back.")


class Start(enum.StrEnum):
    """Where a replayed task begins."""

    FIRST = "first"
    CRASHED = "crashed"


Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="KEY=VALUE", help="Only those; KEY is code, task, owner or stage. All must hold."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeadLetters = Annotated[
    str | None,
    typer.Option("--dead-letters", metavar="QUEUE", help="Where dead letters lie; CONSUMPTION_QUEUE.dead-letters."),
]
MessageId = Annotated[str, typer.Argument(help="As `ulos crashes list` shows it.")]
From = Annotated[Start, typer.Option("--from", help="Repeat the crashed stage, or start anew at the first.")]
TaskFile = Annotated[
    Path | None, typer.Option("--task", exists=True, dir_okay=False, help="With --from first: the whole task, as JSON.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")]


@app.command("list")
def list_(where: Where = None, as_json: AsJson = False, dead_letters: DeadLetters = None) -> None:
    """List crashes, oldest first, and whether their dead letters are still there. Takes nothing away.

    The crash stream is read without consuming. The dead letters are held until the command ends:
    a quorum queue counts that as a delivery, which does no harm without a delivery limit.
    """
    conditions = _conditions(where)

    async def command(node: "Node", access: "Access", places: "Places") -> int:
        async with _cases(access, places, dead_letters) as (_, cases):
            matching = [case for case in cases if case.matches(conditions)]
        if as_json:
            print(json.dumps([_summary(case) for case in matching], indent=2))
        else:
            _print_table(matching)
        return 0

    run(command)


@app.command()
def show(message_id: MessageId, as_json: AsJson = False, dead_letters: DeadLetters = None) -> None:
    """Show everything about one crash, what its code means, and what can be done."""

    async def command(node: "Node", access: "Access", places: "Places") -> int:
        from ulos_stream.crashes.advice import advice
        from ulos_stream.errors import TopologyMismatch

        async with _cases(access, places, dead_letters) as (_, cases):
            case = next((case for case in cases if case.message_id == message_id), None)
        if case is None:
            raise TopologyMismatch(f"no crash of a message {message_id!r} is known; see ulos crashes list")
        advised = advice(case.code)
        everything = _summary(case) | {
            "output_tail": case.output_tail,
            "means": advised.means,
            "do": advised.do,
            "died": {name: str(value) for name, value in case.letters[-1].died.items()} if case.letters else None,
            "content": dict(case.fields or case.raw),
        }
        if as_json:
            print(json.dumps(everything, indent=2))
        else:
            for name, value in everything.items():
                text = json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict) else value
                print(plain(f"{name.replace('_', ' '):14} {text}".rstrip()))
        return 0

    run(command)


@app.command()
def replay(
    where: Where = None,
    start: From = Start.CRASHED,
    task: TaskFile = None,
    dry_run: DryRun = False,
    dead_letters: DeadLetters = None,
) -> None:
    """Send crashed tasks back, each confirmed by the broker before its dead letter is removed.

    `--from crashed` sends the message as it was, under its old id, to the queue in which it died: the
    stage is repeated, or, if its result is uploaded already, only handed over by nodes that keep a
    journal. `--from first` sends the task under a new id. A dead letter holds what remained of the
    routing tree, so that works where the first stage crashed; else give the whole task by `--task`.
    The file on the storage is as the last finished stage left it: replace it first where that matters.
    Exit code 1 when a task could not be sent; its dead letter stays.
    """
    conditions = _conditions(where)
    if task is not None and start is not Start.FIRST:
        raise typer.BadParameter("--task needs --from first")

    async def command(node: "Node", access: "Access", places: "Places") -> int:
        from ulos_stream.crashes.replaying import Refusal, carry_out, from_crashed, from_first
        from ulos_stream.errors import TopologyMismatch
        from ulos_stream.topology.sending import open_channel

        refused = 0
        async with _cases(access, places, dead_letters) as (connection, cases):
            chosen = [case for case in cases if case.letters and case.matches(conditions)]
            if task is not None and len(chosen) != 1:
                raise TopologyMismatch(
                    f"--task is for one crash, and {len(chosen)} match with a dead letter: use --where"
                )
            channel = await open_channel(connection)
            for case in chosen:
                plan: Send | Refusal
                if start is Start.CRASHED:
                    plan = from_crashed(case, places.consumption_queue, node.max_timeout_s)
                else:
                    whole = None if task is None else task.read_bytes()
                    plan = from_first(case, places.consumption_queue, node.max_timeout_s, whole)
                if isinstance(plan, Refusal):
                    outcome: Refusal | None = plan
                elif dry_run:
                    outcome = None
                else:
                    outcome = await carry_out(channel, case, plan, node.publish_timeout_s)
                refused += outcome is not None
                _say(case, plan, outcome, dry_run=dry_run)
        sent = len(chosen) - refused
        print(f"{sent} {'would be sent' if dry_run else 'sent'}, {refused} left where they are")
        return 1 if refused else 0

    run(command)


@contextlib.asynccontextmanager
async def _cases(
    access: "Access", places: "Places", dead_letter_queue: str | None
) -> "AsyncIterator[tuple[Connection, list[Case]]]":
    """Every case, its dead letters held. They are read first: whatever is dead then has been reported before."""
    from ulos_stream.crashes import join
    from ulos_stream.topology.connection import connected
    from ulos_stream.topology.reading import dead_letters, read_stream

    name = dead_letter_queue or places.dead_letter_queue
    async with connected(access) as connection:
        letters = await dead_letters(connection, name)
        yield connection, join(await read_stream(connection, places.crash_queue), letters)


def _conditions(where: list[str] | None) -> "list[Condition]":
    from ulos_stream.crashes import condition

    try:
        return [condition(text) for text in where or ()]
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong


def _summary(case: "Case") -> dict[str, Any]:
    return {
        "message_id": case.message_id,
        "at": case.at.isoformat() if case.at else None,
        "task": case.task,
        "owner": case.owner,
        "stage": case.stage,
        "code": case.code,
        "detail": case.detail,
        "reports": case.reports,
        "dead_letters": len(case.letters),
    }


def _print_table(cases: "list[Case]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("when", "message", "task", "owner", "stage", "code", "detail", "dead letter")
    for name in ("detail", "when"):
        next(column for column in table.columns if column.header == name).no_wrap = True
    for case in cases:
        at = case.at.strftime("%Y-%m-%d %H:%M:%S") if case.at else ""
        there = "there" if case.letters else "gone"
        cells = (at, case.message_id or "", case.task, case.owner, case.stage, case.code, case.detail, there)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    Console().print(table)
    print(f"{len(cases)} crashes, {sum(bool(case.letters) for case in cases)} with a dead letter")


def _say(case: "Case", plan: "Send | Refusal", outcome: "Refusal | None", *, dry_run: bool) -> None:
    from ulos_stream.crashes.replaying import Refusal

    about = f"{case.message_id or 'a message without an id'} (task {case.task!r}, {case.code})"
    if outcome is not None or isinstance(plan, Refusal):
        print(plain(f"left       {about}: {outcome.reason if outcome else ''}"))
    else:
        where = f"to {plan.hop.exchange or 'queue'} {plan.hop.routing_key} as {plan.message_id}"
        print(plain(f"{'would send' if dry_run else 'sent':10} {about} {where}"))
