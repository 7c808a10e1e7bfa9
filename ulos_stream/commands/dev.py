"""`ulos dev`: everything that a task needs, on this machine, until Ctrl-C."""

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import conclude, places_of, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ulos_stream.executors.registry import Registry
    from ulos_stream.settings import Settings

PREFIXED = 5
"""Routing keys bound for an executor that claims a prefix: with a `-1` to a `-5` after it."""


def dev(
    queue: Annotated[str, typer.Option(metavar="NAME", help="The node's consumption queue.")] = "processing-queue",
    executors: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, file_okay=False, help="An executor, or a folder of some, beside the shipped ones; repeatable."
        ),
    ] = None,
    env_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the variables there too.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave a copy of the storage behind, and say where.")] = False,
) -> None:
    """Keep a lab up, with a node in it, until Ctrl-C.

    That is a private RabbitMQ, an FTP server, and all queues and exchanges that belong to them. Variables that lead
    elsewhere, like ULOS_STORAGE_URL, do not count. Prints the variables for other terminals; the node's log lines
    follow on standard error. Every executor's routing key
    leads to the node, on the exchange processing-exchange, and what goes to task.done or task.failed is
    collected. Ctrl-C is how it is meant to end, so then the exit code is 0; before all is up, it is 130.
    """

    async def command() -> int:
        from ulos_stream import shipped
        from ulos_stream.app import create_app, find_executors
        from ulos_stream.lab import Lab, elsewhere, pyftpd, rabbitmq
        from ulos_stream.settings import read_node_settings, read_settings

        if env_file is not None:
            _claim(env_file)
        foreign = elsewhere(os.environ)
        for name in foreign:
            del os.environ[name]
        ours = {"ULOS_TRACE_FILE": os.environ.get("ULOS_TRACE_FILE", str(Path("ulos-traces.jsonl").absolute()))}
        if executors:
            folders = [*(folder.absolute() for folder in executors), shipped("executors")]
            ours["ULOS_EXECUTORS_PATH"] = os.pathsep.join(str(folder) for folder in folders)
        os.environ.update(ours)
        registry = find_executors(read_node_settings())  # a mistake there is told before anything is started
        print("starting RabbitMQ and an FTP server", file=sys.stderr, flush=True)
        with rabbitmq(management=True) as broker, pyftpd() as storage:
            ours["ULOS_MANAGEMENT_URL"] = broker.management_url or ""
            variables = Lab(broker, storage).environment(queue, **ours)
            os.environ.update(variables)
            settings = read_settings()
            app = create_app(settings)
            await _declare(settings, registry)
            _show(variables, foreign, env_file)
            try:
                await app.run()
            finally:
                if keep:
                    kept = Path(tempfile.mkdtemp(prefix="ulos-dev-"))
                    shutil.copytree(storage.root, kept, dirs_exist_ok=True)
                    print(f"the storage's files are in {kept}", file=sys.stderr)
        return 0

    conclude(command)


def _claim(env_file: Path) -> None:
    """See that the file can be written, and be read by nobody else: it is to hold passwords.

    Raises:
        ConfigurationError: It cannot.
    """
    from ulos_stream.errors import ConfigurationError

    is_new = not os.path.lexists(env_file)
    try:
        env_file.open("a").close()
        if is_new:
            env_file.unlink()  # whoever waits for the file waits for its variables
        elif env_file.is_file():
            env_file.chmod(0o600)
    except OSError as closed:
        raise ConfigurationError(f"--env-file: cannot write {env_file}: {closed.strerror}") from closed


async def _declare(settings: "Settings", executors: "Registry") -> None:
    from ulos_stream.errors import TopologyMismatch
    from ulos_stream.settings import access_to
    from ulos_stream.topology.connection import connected, version
    from ulos_stream.topology.declaring import declare
    from ulos_stream.topology.places import wanted_for_trying

    async with connected(access_to(settings.broker, settings.node)) as connection:
        things = wanted_for_trying(places_of(settings.broker), _keys(executors), version(connection))
        if wrong := [one for one in await declare(connection, things) if not one.good]:
            raise TopologyMismatch("; ".join(f"{one.thing}: {one.note}" for one in wrong))


def _keys(executors: "Registry") -> "Iterator[str]":
    for entry in executors:
        yield entry.key
        if entry.is_prefix:
            yield from (f"{entry.key}-{number}" for number in range(1, PREFIXED + 1))


def _show(variables: dict[str, str], foreign: list[str], env_file: Path | None) -> None:
    text = "".join(f"unset {name}\n" for name in foreign if name not in variables)
    text += "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    print(text, end="", flush=True)
    if env_file is not None:
        env_file.touch(mode=0o600)
        env_file.write_text(text)
        print(plain(f"for other terminals: . {shlex.quote(str(env_file))}"), file=sys.stderr, flush=True)
