"""`ulos doctor`: whether a node could work here, and what to do where it could not."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import AsJson, conclude, console, one_line, places_of

if TYPE_CHECKING:
    from ulos_stream.doctor import Diagnosis, State

MARKS: "dict[State, tuple[str, str]]" = {
    "well": ("✓", "green"),
    "doubtful": ("!", "yellow"),
    "wrong": ("✗", "red"),
    "not checked": ("-", "dim"),
}
"""Of each state, with its colour."""


def doctor(
    folder: Annotated[str, typer.Option(metavar="PATH", help="Where artifacts lie on the storage.")] = "/",
    as_json: AsJson = False,
) -> None:
    """Look at all that a node needs, and name remedies.

    A line for each thing, by the settings of this environment: ✓ is well, ✗ is wrong (exit code 1), ! may be
    meant so, - could not be looked at. Nothing is consumed or published; a small file makes a round trip over
    the storage and is removed.
    """

    async def command() -> int:
        from ulos_stream.doctor import broker, machine, storage
        from ulos_stream.parts import find_executors, open_storage
        from ulos_stream.settings import access_to, read_settings

        settings = read_settings()
        executors, artifacts = find_executors(settings.node), open_storage(settings)
        try:
            found = [
                *await broker.examine(
                    access_to(settings.broker, settings.node), places_of(settings.broker), executors.devices
                ),
                *await storage.examine(artifacts, folder),
                *await machine.examine(settings, executors),
            ]
        finally:
            await artifacts.aclose()
            await executors.aclose()
        if as_json:
            print(json.dumps([asdict(one) for one in found], indent=2))
        else:
            _print(found)
        return 1 if any(one.state == "wrong" for one in found) else 0

    conclude(command)


def _print(found: "list[Diagnosis]") -> None:
    from rich.text import Text

    terminal = console()
    for one in found:
        mark, style = MARKS[one.state]
        remedy = f" → {one.remedy}" if one.remedy else ""
        terminal.print(Text(mark, style=style), Text(one_line(f"{one.part}: {one.text}{remedy}")))
