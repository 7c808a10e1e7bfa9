"""The commands of `ulos`: what they share.

Standard output is data, standard error is for people. Exit codes: 0 done, 1 a task failed or something is
to be acted upon, 2 wrong settings or arguments, 3 something is not reachable, 130 interrupted. Heavy imports
wait until a command runs, so that `ulos --version` does not.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ulos_stream.settings import MessageBroker, Node
    from ulos_stream.topology.connection import Access
    from ulos_stream.topology.places import Places

Command = Callable[["Node", "Access", "Places"], Coroutine[Any, Any, int]]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run(command: Command) -> None:
    """Read the broker's settings, run `command`, and end with its exit code, or with that of what went wrong."""

    async def with_broker() -> int:
        from ulos_stream.settings import access_to, read_broker_settings

        broker, node = read_broker_settings()
        return await command(node, access_to(broker, node), places_of(broker))

    conclude(with_broker)


def conclude(command: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run `command`, and end with its exit code, or with that of what went wrong."""
    finish(lambda: asyncio.run(command()))


def finish(command: Callable[[], int]) -> None:
    """The same for a command with no loop, or with one of its own."""
    from ulos_stream.errors import ConfigurationError, Fault, ServiceMissing, TopologyMismatch, Unroutable
    from ulos_stream.lab import ServiceFailed

    # What the client libraries say of a lost broker is said once, by us.
    logging.basicConfig(level=logging.CRITICAL)
    try:
        code = command()
    except ConfigurationError as wrong:
        code = complain(2, *wrong.mistakes)
    except (TopologyMismatch, Unroutable) as mismatch:
        code = complain(1, str(mismatch))
    except (Fault, ServiceMissing, ServiceFailed) as away:
        code = complain(3, str(away))
    raise typer.Exit(code)


def say(line: str) -> None:
    """Print a line of a stream at once; end the command well if whoever read them has seen enough, as `head` does."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at its end
        raise SystemExit(0) from None


def plain(text: object) -> str:
    """Text of others, harmless for a terminal: control characters other than line ends and tabs are escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))


def one_line(text: object) -> str:
    """The same, in one line."""
    return " ".join(plain(text).split())


def complain(code: int, *lines: str) -> int:
    """Say each line on standard error; returns the exit code."""
    for line in lines:
        print(f"ulos: {plain(line)}", file=sys.stderr)
    return code


def console() -> "Console":
    """For tables and trees. In a pipe a line is a row, however long it is."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000)


def places_of(broker: "MessageBroker") -> "Places":
    """The names on the broker that the settings give."""
    from ulos_stream.tasks import Hop
    from ulos_stream.topology.places import Places

    return Places(
        broker.consumption_queue,
        logs=Hop(exchange=broker.logs_exchange, routing_key=broker.logs_routing_key),
        crashes=Hop(exchange=broker.crash_exchange, routing_key=broker.crash_routing_key),
    )
