"""From a submission to a verdict: every file is run, told of and drawn."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from judge import Check, Judge

from gcode.drawing import Drawing
from gcode.parsing import lines, shown
from gcode.printer import MOST_BYTES, Printer, Wrong, read_printer
from gcode.simulation import AXES, Rule, Simulation

PROPERTIES = "printer.properties"
ENDINGS = (".gcode", ".gco", ".g", ".nc")
MOST_FILES = 10
"""Of G-code: each takes a second at least, and a minute at most."""


def main(work: Path) -> None:
    """Judge the submission at `work`; ends the process."""
    judge = Judge("gcode-execution", work, copied=False)
    try:
        printer, checks = _printer(work)
    except Wrong as exc:
        judge.conclude([Check("the printer's properties make sense", False, str(exc), PROPERTIES, exc.line)])
    files = sorted(_files(work))
    if not files:
        judge.conclude([*checks, Check("there is G-code", False, f"no file ends in {', '.join(ENDINGS)}")])
    if len(files) > MOST_FILES:
        told = f"there are {len(files)} files, and {MOST_FILES} may be handed in at once"
        judge.conclude([*checks, Check("there is not too much G-code", False, told)])
    notes = [_described(printer)]
    for file in files:
        name = file.relative_to(work).as_posix()
        simulation = Simulation(printer)
        with file.open("rb") as opened:
            simulation.run(lines(opened))
        checks += [_check(rule, simulation, shown(name, 200)) for rule in _rules(printer)]
        figures = _figures(simulation)
        print(f"{shown(name, 200)}: " + ", ".join(f"{what} {value}" for what, value in figures.items()), flush=True)
        table = "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in figures.items())])
        notes += [f"## `{shown(name, 200).replace('`', '?')}`", table, *_draw(simulation, name, judge.results)]
    judge.conclude(checks, notes="\n\n".join(notes))


def _printer(work: Path) -> tuple[Printer, list[Check]]:
    """The printer that the submission and the course describe, and what was found right or odd.

    Raises:
        Wrong: The submission's file has a mistake.
        ValueError: The course's variables have.
    """
    text = ""
    if (file := work / PROPERTIES).is_file():
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise Wrong(f"the file is larger than {MOST_BYTES // 1024} KiB")
        text = content.decode(errors="replace")
    printer, odd = read_printer(text, os.environ)
    checks = [Check("the printer's properties make sense", True, file=PROPERTIES)] if text else []
    name = "every property of the printer is known"
    checks += [Check(name, False, str(wrong), PROPERTIES, wrong.line, warning=True) for wrong in odd]
    if not text and (elsewhere := next(work.rglob(PROPERTIES), None)):
        told = "it is not read there; put it at the top"
        place = elsewhere.relative_to(work).as_posix()
        checks.append(Check("the printer's properties are found", False, told, shown(place, 200), warning=True))
    return printer, checks


def _files(work: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(work):
        for name in names:
            path = Path(directory, name)
            if path.suffix.lower() in ENDINGS and path.is_file() and not path.is_symlink():
                yield path


def _rules(printer: Printer) -> list[Rule]:
    """The rules that such a printer has."""
    without = {
        Rule.WARM: printer.min_extrusion_temp is None,
        Rule.HEAT: printer.max_nozzle_temp is None and printer.max_bed_temp is None,
        Rule.FEEDRATE: printer.max_feedrate is None,
    }
    return [rule for rule in Rule if not without.get(rule)]


def _check(rule: Rule, simulation: Simulation, file: str) -> Check:
    told = simulation.problems[rule]
    if not told.count:
        return Check(rule, True, file=file)
    messages = [f"line {line}: {text}" if line else text for line, text in told.first]
    if more := told.count - len(told.first):
        messages.append(f"and {more:,} more")
    return Check(rule, False, "\n".join(messages), file, told.first[0][0] or None, warning=rule.warns)


def _draw(simulation: Simulation, name: str, results: Path) -> list[str]:
    """Draw a file into `results`; returns its pictures as Markdown."""
    if not simulation.moves:
        return []
    begin = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:]  # needs no quoting, and no folder
    while (results / f"{begin}-top.png").exists():
        begin += "_"
    return [f"![{title}]({picture.name})" for title, picture in Drawing(simulation, name).save(results / begin)]


def _described(printer: Printer) -> str:
    """The printer in a sentence: the student may have described it."""
    told = [f"{printer.max_x:g} x {printer.max_y:g} x {printer.max_z:g} mm"]
    told += [
        f"{name.upper()} {value:g}"
        for name in ("min_extrusion_temp", "max_nozzle_temp", "max_bed_temp", "max_feedrate")
        if (value := getattr(printer, name)) is not None
    ]
    if printer.ignored_commands:
        told.append("passes over " + shown(" ".join(sorted(printer.ignored_commands)), 200).replace("`", "?"))
    return f"The printer: `{', '.join(told)}`"


def _figures(simulation: Simulation) -> dict[str, str]:
    """What came out, in the words of the report."""
    printer = simulation.printer
    figures = {"time": _duration(simulation.time_s), "moves": f"{simulation.moves:,}"}
    work_mm = simulation.travelled_mm[simulation.work]
    travel_mm = sum(simulation.travelled_mm[kind] for kind in simulation.travel)
    if simulation.extrudes:
        figures |= {"layers": f"{len(simulation.layers):,}", "filament": f"{simulation.filament_mm:,.0f} mm"}
        if printer.filament_diameter is not None:
            volume_mm3 = math.pi * (printer.filament_diameter / 2) ** 2 * simulation.filament_mm
            figures["filament"] += f" = {volume_mm3 / 1000:,.2f} cm³"
    figures |= {
        "printed" if simulation.extrudes else "drawn": f"{work_mm:,.0f} mm",
        "travelled": f"{travel_mm:,.0f} mm",
    }
    if work_mm:
        box = simulation.boxes[simulation.work]
        for letter, low, high in zip(AXES, box.low, box.high, strict=True):
            figures[letter] = f"{low:.2f} to {high:.2f} mm"
    return figures


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
