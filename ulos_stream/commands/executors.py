"""`ulos executors`: what can run on this machine, and why the rest cannot."""

import json
from typing import TYPE_CHECKING

from ulos_stream.commands import AsJson, conclude, console, one_line

if TYPE_CHECKING:
    from ulos_stream.executors.registry import Entry


def executors(as_json: AsJson = False) -> None:
    """List what can run on this machine.

    Of each executor: its routing key, its kind, whether it can run now and else why not, what it does, and
    where it is from. A key that ends with * stands for every key that begins so. Needs neither broker nor
    storage.
    """

    async def command() -> int:
        from ulos_stream.parts import find_executors
        from ulos_stream.settings import read_node_settings

        registry = find_executors(read_node_settings())
        try:
            reasons = await registry.check()
        finally:
            await registry.aclose()
        if as_json:
            print(json.dumps([_object(entry, reasons.get(entry.key)) for entry in registry], indent=2))
        else:
            _print([(entry, reasons.get(entry.key)) for entry in registry])
        return 0

    conclude(command)


def _object(entry: "Entry", reason: str | None) -> dict[str, object]:
    return {
        "key": entry.key,
        "is_prefix": entry.is_prefix,
        "kind": entry.kind,
        "available": reason is None,
        "reason": reason,
        "description": entry.description,
        "origin": entry.origin,
    }


def _print(entries: "list[tuple[Entry, str | None]]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("key", "kind", "available", "description", "origin")
    for entry, reason in entries:
        available = Text("yes", style="green") if reason is None else Text(f"no: {one_line(reason)}", style="yellow")
        cells = [entry.key + "*" * entry.is_prefix, entry.kind, available, entry.description, entry.origin]
        table.add_row(*(cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in cells))
    console().print(table)
