"""`ulos submit`: a file and its task, sent on their way and, if wanted, followed to their end."""

import asyncio
import getpass
import json
import tempfile
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import AsJson, conclude, one_line, places_of, plain, say, telling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ulos_stream.feed import News
    from ulos_stream.settings import Settings
    from ulos_stream.tasks import Task

TIMEOUT_S = 60.0
"""Of a task made by `--route`."""


def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, readable=True, help="A zip, or a folder to zip.")
    ],
    task: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The task message, as JSON; FILE goes where it says."),
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="KEY,KEY,…", help="Instead: a task through these stages, each after PASS.")
    ] = None,
    on_failure: Annotated[
        str | None, typer.Option(metavar="KEY", help="With --route: where FAIL leads; the route ends there by default.")
    ] = None,
    exchange: Annotated[
        str | None, typer.Option(help="With --route: of all its hops; that of the logs by default.")
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="ID", help="With --route: by default whoever you are.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", min=0, help=f"With --route: seconds for a stage; {TIMEOUT_S:g} by default."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the task to its end, a line for each event.")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a file and publish its task.

    It goes to the first stage of its route, and both its ids are printed. The broker has confirmed the message
    when this is done. If no queue takes it, exit code 1, and the file stays on the storage. `--wait` ends with
    0 when the route's end was reached with PASS, with 1 when it was reached with FAIL or the task crashed. A
    last hop to a key that no executor of this machine claims counts as the end: somebody collects there what is
    done.
    """
    if (task is None) == (route is None):
        raise typer.BadParameter("give either --task or --route")
    if task is not None and {on_failure, exchange, owner, timeout} != {None}:
        raise typer.BadParameter("--on-failure, --exchange, --owner and --timeout are for --route; --task says it all")
    keys = [key.strip() for key in route.split(",")] if route is not None else []

    async def command() -> int:
        from ulos_stream.settings import read_settings

        settings = read_settings()
        if task is not None:
            sent = _read(task, settings.node.max_timeout_s)
        else:
            hops_exchange = settings.broker.logs_exchange if exchange is None else exchange
            seconds = TIMEOUT_S if timeout is None else timeout
            sent = _make(keys, on_failure, hops_exchange, owner or _user(), seconds, settings.node.max_timeout_s)
        return await _submit(file, sent, settings, wait=wait, as_json=as_json)

    conclude(command)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as nameless:  # in a container, often
        raise typer.BadParameter("--owner is needed, for this user has no name") from nameless


def _read(file: Path, max_timeout_s: float) -> "Task":
    from ulos_stream.errors import ConfigurationError, MalformedMessage
    from ulos_stream.tasks import parse_task

    try:
        return parse_task(file.read_bytes(), max_timeout_s)
    except MalformedMessage as wrong:
        raise ConfigurationError(f"{file}: {wrong}") from wrong


def _make(
    keys: list[str], on_failure: str | None, exchange: str, owner: str, timeout_s: float, max_timeout_s: float
) -> "Task":
    from pydantic import ValidationError

    from ulos_stream.errors import ConfigurationError, MalformedMessage
    from ulos_stream.routing import chain
    from ulos_stream.tasks import MAX_TREE_LEVELS, parse_task

    if len(keys) > MAX_TREE_LEVELS:
        raise ConfigurationError(f"--route: {len(keys)} stages, and a tree has at most {MAX_TREE_LEVELS} levels")
    task_id = str(uuid.uuid4())
    try:
        fields = {
            "taskId": task_id,
            "taskOwnerId": owner,
            "filePath": f"/{task_id}.zip",
            "timeout": int(timeout_s) if timeout_s.is_integer() else timeout_s,  # ULOS reads integers only
            "routingTree": chain(exchange, keys, on_failure).model_dump(by_alias=True, exclude_unset=True),
        }
        return parse_task(json.dumps(fields).encode(), max_timeout_s)
    except ValidationError as wrong:
        raise ConfigurationError(
            *(f"--route: {error['msg']} (it is {error['input']!r})" for error in wrong.errors())
        ) from wrong
    except MalformedMessage as wrong:
        raise ConfigurationError(str(wrong)) from wrong


async def _submit(file: Path, task: "Task", settings: "Settings", *, wait: bool, as_json: bool) -> int:
    from ulos_stream.errors import TopologyMismatch, Unroutable
    from ulos_stream.feed import listening
    from ulos_stream.parts import find_executors
    from ulos_stream.settings import access_to
    from ulos_stream.tasks import hop_of
    from ulos_stream.topology.connection import connected, look
    from ulos_stream.topology.sending import open_channel, send

    message_id, hop = str(uuid.uuid4()), hop_of(task.routing_tree)
    executors = find_executors(settings.node)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(access_to(settings.broker, settings.node)))
        shown = await look(connection, [hop.exchange], [])
        if reason := shown.exchanges.get(hop.exchange):
            raise TopologyMismatch(f"exchange {hop.exchange!r} {reason}; nothing was uploaded")
        # Listening begins before there is anything to hear.
        feed = await stack.enter_async_context(listening(connection, places_of(settings.broker))) if wait else None
        await _upload(file, task.file_path, message_id, settings)
        try:
            timeout_s = settings.node.publish_timeout_s
            channel = await open_channel(connection)
            await send(channel, hop, task.encode(), message_id=message_id, like=None, timeout_s=timeout_s)
        except Unroutable as nowhere:
            raise Unroutable(f"{nowhere}; the file stays at {task.file_path}") from nowhere
        ids = {"task_id": task.task_id, "message_id": message_id, "file_path": task.file_path}
        words = f"task {task.task_id}  message {message_id}  file {task.file_path}"
        say(json.dumps(ids) if as_json else plain(words))
        if feed is None:
            return 0
        return await _follow(feed, task.task_id, lambda key: executors.claim(key) is not None, as_json=as_json)


async def _upload(file: Path, path: str, stage_id: str, settings: "Settings") -> None:
    """Put the zip, or what is made of the folder, to its place on the storage."""
    from ulos_stream import archive
    from ulos_stream.errors import ArchiveRejected, ConfigurationError
    from ulos_stream.parts import open_storage

    storage = open_storage(settings)
    with tempfile.TemporaryFile() if file.is_dir() else file.open("rb") as content:
        try:
            if file.is_dir():
                await asyncio.to_thread(archive.pack, file, content, {}, settings.node.archive)
            await storage.upload(content, path, stage_id=stage_id)
        except ArchiveRejected as rejected:
            raise ConfigurationError(str(rejected)) from rejected
        finally:
            await storage.aclose()


async def _follow(
    feed: "AsyncIterator[News]", task_id: str, is_stage: "Callable[[str], bool]", *, as_json: bool
) -> int:
    from ulos_stream.feed import end

    tell = telling.as_json if as_json else telling.line
    async for news in feed:
        if news.task == task_id:
            say(tell(news))
            if ended := end(news, is_stage):
                words = f"{'done' if ended.well else 'failed'}: {ended.text}"
                say(json.dumps({"well": ended.well, "end": ended.text}) if as_json else one_line(words))
                return 0 if ended.well else 1
    raise AssertionError("a feed ends by an error alone")
