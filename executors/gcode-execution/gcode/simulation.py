"""The printer at work: where each line of a file takes it, and what is wrong with going there.

It follows Marlin where firmwares differ: G90 and G91 set how E is read, too, until M82 or M83 says otherwise.
"""

import enum
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from gcode.arcs import Arc, Impossible, Point, arc_around, arc_of_radius
from gcode.parsing import Command, Malformed, Unknown, parse
from gcode.printer import Printer

Position = tuple[float, float, float]

AXES = "XYZ"
INCH = 25.4
NEAR = 1e-6
"""mm beyond the volume that are no more than a rounding error."""
FIRST_FEEDRATE = 1500.0
"""mm/min before a file has set one."""
MOST_TOLD = 30
"""Lines that are told of for each rule; the rest is counted. More would not be read."""
MOST_LINES = 2_000_000
"""Of a file; a minute's worth."""
MOST_POINTS = 600_000
"""Of the way that are kept to be drawn: a minute's worth at most."""


class Rule(enum.StrEnum):
    """What a file must keep to, in the words of the report."""

    READABLE = "every line can be read"
    COMMANDS = "every command is known"
    HOMED = "axes are homed before they move"
    VOLUME = "every move stays inside the printer"
    ARCS = "every arc is possible"
    WARM = "filament advances through a hot nozzle only"
    HEAT = "no heater is set too high"
    MOVES = "something moves"
    FEEDRATE = "no move is faster than the printer"
    TRAVEL = "no travel move is long"

    @property
    def warns(self) -> bool:
        """Whether breaking it is a warning only."""
        return self in (Rule.FEEDRATE, Rule.TRAVEL)


class Kind(enum.IntEnum):
    """What happens on the way to a point."""

    JUMP = 0
    """Nothing that is drawn: homing, or an arc that does not exist."""
    RAPID = 1
    """G0 without filament: travel."""
    FEED = 2
    """G1 to G3 without filament: the work of a plotter or a laser, travel for a printer."""
    EXTRUSION = 3


OUTSIDE = 4
"""Added to the kind of a way that leaves the printer's volume."""


class Told:
    """What was found against one rule."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, str]] = []
        """The first `MOST_TOLD`: line, from 1, or 0 for the whole file, and what is wrong there."""

    def tell(self, line: int, text: str) -> None:
        self.count += 1
        if self.count <= MOST_TOLD:
            self.first.append((line, text))

    @classmethod
    def merged(cls, several: "Iterable[Told]") -> "Told":
        """All of them as one, by line."""
        several = list(several)
        all_ = cls()
        all_.first = sorted(entry for told in several for entry in told.first)[:MOST_TOLD]
        all_.count = sum(told.count for told in several)
        return all_


@dataclass
class Box:
    """The least space that holds some points, in mm."""

    low: list[float] = field(default_factory=lambda: [math.inf] * 3)
    high: list[float] = field(default_factory=lambda: [-math.inf] * 3)

    def include(self, point: Iterable[float]) -> None:
        for axis, value in enumerate(point):
            if value < self.low[axis]:
                self.low[axis] = value
            if value > self.high[axis]:
                self.high[axis] = value


class ToolPath:
    """The way of the nozzle, point by point, to be drawn."""

    def __init__(self) -> None:
        self.x, self.y, self.z = array("f"), array("f"), array("f")
        self.kinds = array("B")
        """Of the way to that point: a `Kind`, and perhaps `OUTSIDE`."""

    def add(self, x: float, y: float, z: float, kind: int) -> None:
        self.x.append(x)
        self.y.append(y)
        self.z.append(z)
        self.kinds.append(kind)

    def __len__(self) -> int:
        return len(self.kinds)


class Simulation:
    """One file on one printer.

    Args:
        printer: What it runs on.
    """

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.problems = {rule: Told() for rule in Rule}
        self.path = ToolPath()
        self.drawn_to: int | None = None
        """The line after which the way is too long to be drawn, if it is."""
        self.moves = 0
        self.time_s = 0.0
        """By feed rate and G4 alone: without acceleration, homing and heating."""
        self.filament_mm = 0.0
        """What the file needs at most: what is drawn back at the end is not taken off."""
        self.layers: set[float] = set()
        """Heights, in mm, at which a move in X or Y extrudes."""
        self.travelled_mm = dict.fromkeys(Kind, 0.0)
        self.boxes = {kind: Box() for kind in Kind}

        self._limits = (printer.max_x, printer.max_y, printer.max_z)
        self._line = 0
        self._position = (0.0, 0.0, 0.0)
        """In mm from home, wherever the file says that 0 is."""
        self._zero = [0.0, 0.0, 0.0]
        """Where on the printer the file's 0 is."""
        self._e = 0.0
        self._filament = 0.0
        self._scale = 1.0
        self._relative = self._e_relative = False
        self._feedrate = FIRST_FEEDRATE
        self._homed: set[str] = set()
        self._target = self._reached = 0.0
        self._long = {Kind.RAPID: Told(), Kind.FEED: Told()}
        self._do = {
            **dict.fromkeys(("G0", "G1", "G2", "G3"), self._move),
            **dict.fromkeys(("G20", "G21", "G90", "G91", "M82", "M83"), self._set_mode),
            **dict.fromkeys(("M140", "M190"), self._heat_bed),
            "G4": self._dwell,
            "G28": self._home,
            "G92": self._set_position,
            "M84": self._motors_off,
            "M104": self._heat,
            "M109": self._heat_and_wait,
        }
        self.path.add(*self._position, Kind.JUMP)

    @property
    def extrudes(self) -> bool:
        """Whether it prints at all; if not, what G1 to G3 do is its work."""
        return bool(self.travelled_mm[Kind.EXTRUSION])

    @property
    def work(self) -> Kind:
        """What its work is made of."""
        return Kind.EXTRUSION if self.extrudes else Kind.FEED

    @property
    def travel(self) -> tuple[Kind, ...]:
        """What only leads to the work."""
        return (Kind.RAPID, Kind.FEED) if self.extrudes else (Kind.RAPID,)

    def run(self, lines: Iterable[bytes]) -> None:
        """Carry out all lines, whatever is wrong with some."""
        for self._line, line in enumerate(lines, 1):
            if self._line > MOST_LINES:
                self._tell(Rule.READABLE, f"the file goes on, but only {MOST_LINES:,} lines are looked at")
                break
            try:
                command = parse(line)
            except Malformed as exc:
                self._tell(Rule.READABLE, str(exc))
            except Unknown as exc:
                if str(exc) not in self.printer.ignored_commands:
                    self._tell(Rule.COMMANDS, f"this printer has no {exc}")
            else:
                if command is not None and (do := self._do.get(command.name)):
                    do(command)
        self.problems[Rule.TRAVEL] = Told.merged(self._long[kind] for kind in self.travel)
        if not self.moves:
            self.problems[Rule.MOVES].tell(0, "no line moves X, Y or Z")

    def _tell(self, rule: Rule, text: str) -> None:
        self.problems[rule].tell(self._line, text)

    def _move(self, command: Command) -> None:
        name, words = command
        start = self._position
        if "F" in words:
            self._set_feedrate(words["F"] * self._scale)
        end = self._end(words)
        advance = self._advance(words)
        kind = Kind.EXTRUSION if advance > 0 else Kind.RAPID if name == "G0" else Kind.FEED
        arc = None
        if name in ("G2", "G3"):
            try:
                arc = self._arc(name, words, start[:2], end[:2])
            except Impossible as exc:
                self._tell(Rule.ARCS, str(exc))
                self._jump(end)
                return
        self._position = end
        flat_mm = arc.length if arc else math.dist(start[:2], end[:2])
        length_mm = math.hypot(flat_mm, end[2] - start[2])
        self.time_s += (length_mm or abs(advance)) / self._feedrate * 60
        if not length_mm:
            return
        self.moves += 1
        self.travelled_mm[kind] += length_mm
        if kind is Kind.EXTRUSION:
            if flat_mm:
                self.layers.add(round(end[2], 3))
        elif flat_mm > (limit := self.printer.long_move_threshold):
            self._long[kind].tell(self._line, f"{flat_mm:.1f} mm without printing, above {limit:g}")
        reached = [(start[0], start[1], start[2]), end]
        if arc:
            reached += [(x, y, end[2]) for x, y in arc.extreme_points()]
        for point in reached:
            self.boxes[kind].include(point)
        outside = any(self._is_outside(point) for point in reached)
        if outside:
            self._tell_outside(reached[1:], start)
        self._draw(arc, end, kind | (OUTSIDE if outside else 0))

    def _end(self, words: dict[str, float]) -> Position:
        end = list(self._position)
        if lost := [letter for letter in AXES if letter in words and letter not in self._homed]:
            self._tell(Rule.HOMED, f"nobody knows where {' and '.join(lost)} is; G28 comes before a move")
        for axis, letter in enumerate(AXES):
            if letter in words:
                value = words[letter] * self._scale
                end[axis] = value + (end[axis] if self._relative else self._zero[axis])
        return end[0], end[1], end[2]

    def _advance(self, words: dict[str, float]) -> float:
        """Move the filament; returns by how many mm."""
        if "E" not in words:
            return 0.0
        value = words["E"] * self._scale
        advance = value if self._e_relative else value - self._e
        self._e += advance
        self._filament += advance
        self.filament_mm = max(self.filament_mm, self._filament)
        least = self.printer.min_extrusion_temp
        if least is not None and advance > 0 and self._reached < least:
            waited = "M104 does not wait; M109 does" if self._target >= least else f"wait for it with M109 S{least:g}"
            self._tell(Rule.WARM, f"E advances at {self._reached:g} °C, below MIN_EXTRUSION_TEMP = {least:g}; {waited}")
        return advance

    def _arc(self, name: str, words: dict[str, float], start: Point, end: Point) -> Arc:
        clockwise = name == "G2"
        has_offset = "I" in words or "J" in words
        if has_offset == ("R" in words):
            raise Impossible(f"{name} needs either I and J, the way to the centre, or R, the radius")
        if has_offset:
            offset = (words.get("I", 0) * self._scale, words.get("J", 0) * self._scale)
            return arc_around(start, end, offset, clockwise=clockwise)
        return arc_of_radius(start, end, words["R"] * self._scale, clockwise=clockwise)

    def _is_outside(self, point: Position) -> bool:
        return any(not -NEAR <= value <= limit + NEAR for value, limit in zip(point, self._limits, strict=True))

    def _tell_outside(self, reached: list[Position], start: Position) -> None:
        """Tell of every axis that this move takes out of the volume; one that was there before is not told again."""
        for axis, letter in enumerate(AXES):
            values = [point[axis] for point in reached]
            if (low := min(values)) < -NEAR and low != start[axis]:
                self._tell(Rule.VOLUME, f"{letter} gets to {low:.6g}, below 0")
            limit = self._limits[axis]
            if (high := max(values)) > limit + NEAR and high != start[axis]:
                self._tell(Rule.VOLUME, f"{letter} gets to {high:.6g}, beyond MAX_{letter} = {limit:g}")

    def _jump(self, end: Position) -> None:
        """Be somewhere else, with nothing drawn on the way."""
        self._position = end
        if self._has_room(1):
            self.path.add(*end, Kind.JUMP)

    def _draw(self, arc: Arc | None, end: Position, kind: int) -> None:
        chords = arc.chords() if arc else 1
        if not self._has_room(chords):
            return
        if arc:
            z = self.path.z[-1]
            for number in range(1, chords):
                part = number / chords
                self.path.add(*arc.at(part), z + part * (end[2] - z), kind)
        self.path.add(*end, kind)

    def _has_room(self, points: int) -> bool:
        """Whether so many more can be drawn; after the first that cannot, nothing is."""
        if self.drawn_to is None and len(self.path) + points > MOST_POINTS:
            self.drawn_to = self._line - 1
        return self.drawn_to is None

    def _set_feedrate(self, feedrate: float) -> None:
        fastest = self.printer.max_feedrate
        if fastest is not None and feedrate > fastest:
            self._tell(Rule.FEEDRATE, f"F{feedrate:g} mm/min, but MAX_FEEDRATE = {fastest:g}")
            feedrate = fastest
        self._feedrate = feedrate

    def _dwell(self, command: Command) -> None:
        self.time_s += command.words.get("S", 0) + command.words.get("P", 0) / 1000

    def _set_mode(self, command: Command) -> None:
        match command.name:
            case "G20":
                self._scale = INCH
            case "G21":
                self._scale = 1.0
            case "G90" | "G91":
                self._relative = self._e_relative = command.name == "G91"
            case "M82" | "M83":
                self._e_relative = command.name == "M83"

    def _home(self, command: Command) -> None:
        position = list(self._position)
        for letter in command.words or AXES:
            axis = AXES.index(letter)
            position[axis] = self._zero[axis] = 0.0
            self._homed.add(letter)
        self._jump((position[0], position[1], position[2]))

    def _set_position(self, command: Command) -> None:
        for letter, value in (command.words or dict.fromkeys("XYZE", 0.0)).items():
            if letter == "E":
                self._e = value * self._scale
            else:
                axis = AXES.index(letter)
                self._zero[axis] = self._position[axis] - value * self._scale

    def _motors_off(self, command: Command) -> None:
        if not command.words:
            self._homed.clear()
        elif "S" not in command.words:  # M84 S60 is a time after which, if nothing moved
            self._homed -= command.words.keys()

    def _heat(self, command: Command) -> None:
        """M104: a nozzle that is to get colder does at once, one that is to get hotter has to be waited for."""
        self._target = command.words.get("S", self._target)
        self._reached = min(self._reached, self._target)
        self._check_heat(self._target, self.printer.max_nozzle_temp, "MAX_NOZZLE_TEMP")

    def _heat_and_wait(self, command: Command) -> None:
        self._target = self._reached = command.words.get("S", command.words.get("R", self._target))
        self._check_heat(self._target, self.printer.max_nozzle_temp, "MAX_NOZZLE_TEMP")

    def _heat_bed(self, command: Command) -> None:
        target = command.words.get("S", command.words.get("R", 0.0))
        self._check_heat(target, self.printer.max_bed_temp, "MAX_BED_TEMP")

    def _check_heat(self, target: float, limit: float | None, key: str) -> None:
        if limit is not None and target > limit:
            self._tell(Rule.HEAT, f"{target:g} °C, but {key} = {limit:g}")
