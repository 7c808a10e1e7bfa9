"""The commands of `ulos` that talk to a broker as a person does: what they share.

Exit codes: 0 done, 1 something to act upon, 2 wrong settings or arguments, 3 the broker is not
reachable, 130 interrupted. Heavy imports wait until a command runs, so that `ulos --version` does not.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ulos_stream.settings import Node
    from ulos_stream.topology.connection import Access
    from ulos_stream.topology.places import Places

Command = Callable[["Node", "Access", "Places"], Coroutine[Any, Any, int]]


def run(command: Command) -> None:
    """Read the settings, run `command`, and end with its exit code, or with that of what went wrong."""
    from ulos_stream.errors import BrokerFault, ConfigurationError, TopologyMismatch

    # What the client libraries say of a lost broker is said once, by us.
    logging.basicConfig(level=logging.CRITICAL)
    try:
        code = asyncio.run(command(*_read()))
    except ConfigurationError as wrong:
        code = complain(2, *wrong.mistakes)
    except TopologyMismatch as mismatch:
        code = complain(1, str(mismatch))
    except BrokerFault as away:
        code = complain(3, str(away))
    raise typer.Exit(code)


def plain(text: object) -> str:
    """Text of others, harmless for a terminal: control characters other than line ends and tabs are escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))


def complain(code: int, *lines: str) -> int:
    """Say each line on standard error; returns the exit code."""
    for line in lines:
        print(f"ulos: {plain(line)}", file=sys.stderr)
    return code


def _read() -> "tuple[Node, Access, Places]":
    from ulos_stream.settings import read_broker_settings, tls_context
    from ulos_stream.tasks import Hop
    from ulos_stream.topology.connection import Access
    from ulos_stream.topology.places import Places

    broker, node = read_broker_settings()
    access = Access(
        broker.host,
        broker.port,
        node.virtual_host,
        broker.username,
        broker.password,
        tls_context(node.broker_ca_file) if node.broker_tls else None,
    )
    places = Places(
        broker.consumption_queue,
        logs=Hop(exchange=broker.logs_exchange, routing_key=broker.logs_routing_key),
        crashes=Hop(exchange=broker.crash_exchange, routing_key=broker.crash_routing_key),
    )
    return node, access, places
