"""The printer that is simulated: `printer.properties`, and what the course has fixed."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from gcode.parsing import shown

SECTION = "PRINTER"
MOST_BYTES = 64 * 1024
"""Of a `printer.properties`."""
FIXED = "PRINTER_"
"""How the environment variables begin that overrule the file: PRINTER_MAX_X."""


@dataclass(frozen=True)
class Printer:
    """What it can do. Every field is a key of the file, in capitals."""

    max_x: float = 200.0
    """mm from 0 that it reaches, as for the other axes: a common bed."""
    max_y: float = 200.0
    max_z: float = 200.0
    long_move_threshold: float = 100.0
    """mm above which a travel move is warned of: half of that bed."""
    max_feedrate: float | None = None
    """mm/min that it never exceeds; a faster move is warned of and takes its time."""
    min_extrusion_temp: float | None = None
    """°C that the nozzle must have reached before filament advances; not looked at otherwise."""
    max_nozzle_temp: float | None = None
    """°C; not looked at otherwise."""
    max_bed_temp: float | None = None
    """°C; not looked at otherwise."""
    nozzle_diameter: float = 0.4
    """mm: how wide lines are drawn."""
    filament_diameter: float | None = None
    """mm; the volume of the filament is told if this is."""
    ignored_commands: frozenset[str] = frozenset()
    """Commands, separated by blanks or commas, that are passed over instead of refused, like M73."""


MOST = {"max_feedrate": 1e6, "filament_diameter": 10.0, "nozzle_diameter": 10.0}
"""Above it a value is a mistake; 10,000 (mm, °C) for the rest."""


class Wrong(Exception):
    """A value that no printer has.

    Args:
        reason: What is wrong, for the student.
        line: Where, from 1.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def read_printer(text: str, environment: Mapping[str, str]) -> tuple[Printer, list[Wrong]]:
    """The printer of a `printer.properties`, with what else is to be told of it: keys that mean nothing.

    Args:
        text: The file; nothing if there is none.
        environment: Variables that begin with `FIXED` overrule it.

    Raises:
        Wrong: A mistake in the file.
        ValueError: A mistake in the environment, which is not the student's.
    """
    known = [field.name for field in fields(Printer)]
    values: dict[str, float | frozenset[str]] = {}
    odd = []
    for line, key, value in _entries(text):
        name = key.lower()
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            odd.append(Wrong(f"{shown(key)} means nothing" + (f"; {near[0].upper()}?" if near else ""), line))
        elif name in values:
            raise Wrong(f"{key} is given twice", line)
        else:
            try:
                values[name] = _value(name, value)
            except ValueError as exc:
                raise Wrong(str(exc), line) from exc
    for name in known:
        if (value := environment.get(FIXED + name.upper(), "")) != "":
            values[name] = _value(name, value)
    return Printer(**values), odd  # type: ignore[arg-type]


def _entries(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, key and value of everything in the section. `configparser` would not tell the line of a wrong value."""
    section, found = None, False
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        entry = line.partition(";")[0].partition("#")[0].strip()
        if not entry:
            continue
        if entry.startswith("[") and entry.endswith("]"):
            section = entry[1:-1].strip().upper()
            found = found or section == SECTION
            continue
        key, equals, value = entry.partition("=" if "=" in entry else ":")
        if section is None:
            raise Wrong(f"{shown(entry)} stands before any section; begin with [{SECTION}]", number)
        if not equals:
            raise Wrong(f"{shown(entry)} is no KEY = VALUE", number)
        if section == SECTION:
            yield number, key.strip(), value.strip()
    if text and not found:
        raise Wrong(f"there is no section [{SECTION}]")


def _value(name: str, text: str) -> float | frozenset[str]:
    if name == "ignored_commands":
        return frozenset(text.upper().replace(",", " ").split())
    most = MOST.get(name, 10_000.0)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= most:  # which NaN is not either
        raise ValueError(f"{name.upper()} must be a number above 0 and up to {most:.0f}, not {shown(text) or 'empty'}")
    return value
