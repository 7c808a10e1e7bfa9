"""What is told of tasks: log and crash messages, as one stream of news.

Read leniently, for others publish them too: a Scala node tells the task and a text, and no more.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ulos_stream.tasks import Verdict
from ulos_stream.topology.connection import Connection
from ulos_stream.topology.listening import overhearing
from ulos_stream.topology.places import Places


@dataclass(frozen=True, slots=True)
class News:
    """One log or crash message; what it does not tell is empty. No text of it is to be trusted."""

    kind: Literal["log", "crash"]
    at: str
    """ISO 8601 in UTC, by the node's clock."""
    task: str
    owner: str
    stage: str
    """Routing key of the stage that the node executes."""
    event: str
    verdict: str
    node: str
    code: str
    """Of a crash."""
    text: str
    message_id: str
    """Of the task message that it is about."""
    tree: Mapping[str, Any] | None
    """As received until the verdict; from then on the branch taken, None where the route ends."""


@dataclass(frozen=True, slots=True)
class End:
    """How a task ended, as far as nodes are concerned."""

    well: bool
    text: str


@contextlib.asynccontextmanager
async def listening(connection: Connection, places: Places) -> AsyncIterator[AsyncIterator[News]]:
    """Everything that is told of tasks from now on, in order.

    Raises:
        TopologyMismatch: The logs cannot be overheard.
        BrokerFault: The connection is lost; raised by the iteration.
    """
    # Where crashes cannot be overheard, the log message of each one tells what it was.
    hops = [places.logs, places.crashes] if places.crashes.exchange else [places.logs]
    async with overhearing(connection, hops) as messages:
        yield (news async for message in messages if (news := read(message.body, message.correlation_id)))


def read(body: bytes, correlation_id: str | None) -> News | None:
    """The news in a log or crash message; None in any other."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    error = fields.get("error")
    if "taskId" not in fields and not isinstance(error, dict):
        return None
    tree = fields.get("routingTree")
    stage = fields.get("stage") or tree
    return News(
        kind="crash" if isinstance(error, dict) else "log",
        at=_text(fields, "at"),
        task=_text(fields, "taskId"),
        owner=_text(fields, "taskOwnerId"),
        stage=_text(stage, "routingKey"),
        event="crashed" if isinstance(error, dict) else _text(fields, "event"),
        verdict=_text(fields, "verdict"),
        node=_text(fields, "node"),
        code=_text(error, "code"),
        text=_text(error, "detail") or _text(fields, "logMessage"),
        message_id=correlation_id or "",
        tree=tree if isinstance(tree, dict) else None,
    )


def end(news: News, is_stage: Callable[[str], bool]) -> End | None:
    """Whether the task ended with this message, and how.

    Where a route ends is not always written in it: its last hop may lead to a stage, or to somebody who
    collects what is done.

    Args:
        news: About the task.
        is_stage: Whether something runs for a routing key; else a hop to it that has no branches is the end.
    """
    if news.event == "crashed":
        return End(False, f"{news.code}: {news.text}" if news.code else news.text)
    if news.tree is None:
        if news.event in ("uploaded", "acknowledged"):
            return End(news.verdict == Verdict.PASS, f"the route ends at {news.stage}")
    elif news.event in ("forwarded", "acknowledged") and not _branches(news.tree):
        key = _text(news.tree, "routingKey")
        if not is_stage(key):
            return End(news.verdict == Verdict.PASS, f"handed over to {key}, where no executor is known")
    return None


def _branches(tree: Mapping[str, Any]) -> bool:
    return bool(tree.get("successRoutingDecision") or tree.get("failureRoutingDecision"))


def _text(fields: object, name: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    return "" if value is None else str(value)
