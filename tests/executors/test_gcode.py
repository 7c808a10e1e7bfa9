"""The simulated printer of `executors/gcode-execution`; its pictures need its image, and are tried with that."""

import io
import math

import pytest
from gcode.arcs import INEXACT, Arc, Impossible, arc_around, arc_of_radius
from gcode.parsing import WORDS, Command, Malformed, Unknown, lines, parse, shown
from gcode.printer import Printer, Wrong, read_printer
from gcode.simulation import MOST_LINES, MOST_POINTS, MOST_TOLD, OUTSIDE, Kind, Rule, Simulation
from hypothesis import assume, given
from hypothesis import strategies as st

PRINTER = Printer()
LENGTHS = st.floats(-500, 500).map(lambda value: round(value, 3))
POINTS = st.tuples(LENGTHS, LENGTHS)
ANGLES = st.floats(0, 2 * math.pi)
RADII = st.floats(0.1, 500)


def simulated(*code: str, printer: Printer = PRINTER) -> Simulation:
    """A file after its end."""
    simulation = Simulation(printer)
    simulation.run(line.encode() for line in code)
    return simulation


def told(simulation: Simulation, *, without: tuple[Rule, ...] = (Rule.TRAVEL,)) -> dict[Rule, list[tuple[int, str]]]:
    """What was found wrong, by rule: line and text."""
    return {rule: found.first for rule, found in simulation.problems.items() if found.count and rule not in without}


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        (b"G1 X10 Y5", "G1", {"X": 10, "Y": 5}),
        (b"G1X10Y5", "G1", {"X": 10, "Y": 5}),
        (b"  g01 x-.5 y+3. ", "G1", {"X": -0.5, "Y": 3}),
        (b"G1 X 10", "G1", {"X": 10}),
        (b"N40 G1 X10", "G1", {"X": 10}),
        (b"N40G1X10", "G1", {"X": 10}),
        (b"G1 (to the right) X10 (far)", "G1", {"X": 10}),
        (b"G1 X10 ; *99 (", "G1", {"X": 10}),
        (b"G1 X10 (5*2 mm)", "G1", {"X": 10}),
        (b"G1 (a;b) X10", "G1", {"X": 10}),
        (b"G1 X10 ; (a", "G1", {"X": 10}),
        ("G1 X1 ; größer".encode(), "G1", {"X": 1}),
        (b"G1 X1 ; \xff\xfe", "G1", {"X": 1}),
        (b"G1 X1e2", "G1", {"X": 1, "E": 2}),
        (b"G28 X Y0", "G28", {"X": 0, "Y": 0}),
        (b"M84 X E", "M84", {"X": 0, "E": 0}),
        (b"G000", "G0", {}),
    ],
)
def test_a_line_is_read_as_a_printer_reads_it(line: bytes, name: str, words: dict[str, float]) -> None:
    assert parse(line) == Command(name, words)


@pytest.mark.parametrize("line", [b"", b"   ", b"; G1 X10", b"(G1 X10)", b"%", b"N7", b"N7 ; nothing"])
def test_a_line_may_do_nothing(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"G1 X", "X has no number"),
        (b"G1 Xnan", "X has no number"),
        (b"G1 X--5", "--5 cannot be read"),
        (b"G1 X1.2.3", ".3 cannot be read"),
        (b"G1 X1,5", ",5 cannot be read"),
        (b"G1 \xff", "cannot be read"),
        (b"G1 X1 X2", "X is given twice"),
        (b"G1 Q5", "G1 takes no Q: it takes X, Y, Z, E, F"),
        (b"G21 S1", "G21 takes no S: it takes nothing"),
        (b"G90 G1 X5", "G90 takes no G: one line has one command"),
        (b"X10 Y10", "X10 Y10 has no command in front"),
        (b"G", "G is no command"),
        (b"hello", "HELLO is no command"),
        (b"G1 F0", "F must be above 0"),
        (b"G1 F-100", "F must not be negative"),
        (b"G4 P-5", "P must not be negative"),
        (b"M109 R-5", "R must not be negative"),
        (b"(a;b", "a ( of a comment without its other half"),
        (b"G1 X1 (open ; not", "a ( of a comment without its other half"),
        (b"G1 X5*2 Y3", "the checksum is *2 Y3"),
        (b"G1 X1 (open", "a ( of a comment without its other half"),
        (b"G1 X1 close)", "a ) of a comment without its other half"),
        (b"G1 X1000000001", "X has a number beyond 1000000000"),
        (b"G1 X" + b"9" * 250, "X has a number beyond"),
        (b"G1 X" + b"9" * 300, "longer than 256 characters"),
    ],
)
def test_a_malformed_line_is_told_with_its_reason(line: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(line)

    assert reason in str(caught.value)


@pytest.mark.parametrize("line", [b"G5 X1", b"M117 Hello, world!", b"M117 50*2 :)", b"T0", b"G28.1", b"G029"])
def test_a_command_that_the_printer_lacks_is_named_whatever_follows_it(line: bytes) -> None:
    with pytest.raises(Unknown) as caught:
        parse(line)

    assert str(caught.value) == line.split()[0].decode().replace("G029", "G29")


@pytest.mark.parametrize("line", [b"N3 G90*19", b"N3 G90* 19 ; and a comment", b"G90 *110", b"G90(*)*101 (*)"])
def test_a_checksum_is_the_exclusive_or_of_the_bytes_before_it(line: bytes) -> None:
    assert parse(line) == Command("G90", {})


@pytest.mark.parametrize("line", [b"N4 G90*19", b"G90*", b"G90*99999999999999", b"G90*x", b"G90*\xff", b"N3 G90*19*19"])
def test_a_line_that_was_changed_after_its_checksum_is_told(line: bytes) -> None:
    with pytest.raises(Malformed, match="the checksum is"):
        parse(line)


@given(st.binary(max_size=300))
def test_no_line_breaks_the_parser(line: bytes) -> None:
    reason, command = "", None
    try:
        command = parse(line)
    except (Malformed, Unknown) as exc:
        reason = str(exc)

    assert reason.isprintable()
    assert command is None or all(map(math.isfinite, command.words.values()))


@given(st.sampled_from([name for name in WORDS if name != "G28"]), st.data())
def test_what_a_command_takes_is_read_in_any_order_and_spacing(name: str, data: st.DataObject) -> None:
    letters = data.draw(st.lists(st.sampled_from(WORDS[name] or "X"), unique=True) if WORDS[name] else st.just([]))
    words = {letter: data.draw(st.integers(1, 999_999)) / 1000 for letter in letters}
    line = name + "".join(
        data.draw(st.sampled_from(["", " ", "  "])) + letter + f"{value:.3f}" for letter, value in words.items()
    )

    assert parse(line.lower().encode()) == Command(name, words)


def test_a_long_line_is_cut_and_no_line_after_it_is_lost() -> None:
    content = b";" + b"x" * 10_000 + b"\nG28\r\n" + b"G1 X" + b"1" * 9_000 + b"\n\nG90"

    read = list(lines(io.BytesIO(content)))

    assert [line[:5] for line in read] == [b";xxxx", b"G28", b"G1 X1", b"", b"G90"]
    assert max(map(len, read)) == 4096


def test_what_is_shown_is_short_and_printable() -> None:
    assert shown("a\x1b[31m\udcffb\n") == "a?[31m?b?"
    assert shown("x" * 50) == "x" * 40 + "…"


def test_the_printer_has_a_default_for_everything() -> None:
    assert read_printer("", {}) == (Printer(), [])
    assert (PRINTER.max_x, PRINTER.max_y, PRINTER.max_z, PRINTER.long_move_threshold) == (200, 200, 200, 100)


def test_properties_are_read_whatever_their_case_and_comments() -> None:
    text = "\ufeff; mine\n[printer]\nmax_x = 220 ; mm\nMAX_Y: 210.5 # too\n\nIGNORED_COMMANDS = M73, m201 t0\n"
    text += "[OTHER]\nMAX_Z = no\n"

    printer, odd = read_printer(text, {})

    assert printer == Printer(max_x=220, max_y=210.5, ignored_commands=frozenset({"M73", "M201", "T0"}))
    assert odd == []


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[PRINTER]\nMAX_X = big", 2, "MAX_X must be a number above 0 and up to 10000, not big"),
        ("[PRINTER]\nMAX_X =", 2, "not empty"),
        ("[PRINTER]\n\nMAX_Y = 0", 3, "MAX_Y must be a number above 0"),
        ("[PRINTER]\nMAX_Z = -5", 2, "not -5"),
        ("[PRINTER]\nMAX_Z = nan", 2, "not nan"),
        ("[PRINTER]\nMAX_Z = 1e308", 2, "not 1e308"),
        ("[PRINTER]\nMAX_Z = 200 mm", 2, "not 200 mm"),
        ("[PRINTER]\nFILAMENT_DIAMETER = 175", 2, "up to 10, not 175"),
        ("[PRINTER]\nMAX_X = 1\nmax_x = 2", 3, "max_x is given twice"),
        ("[PRINTER]\nMAX_X 200", 2, "MAX_X 200 is no KEY = VALUE"),
        ("MAX_X = 200", 1, "MAX_X = 200 stands before any section; begin with [PRINTER]"),
        ("[PRINTERS]\nMAX_X = 200", None, "there is no section [PRINTER]"),
    ],
)
def test_a_wrong_property_is_told_with_its_line(text: str, line: int | None, reason: str) -> None:
    with pytest.raises(Wrong) as caught:
        read_printer(text, {})

    assert reason in str(caught.value)
    assert caught.value.line == line


def test_a_property_that_means_nothing_is_told_with_what_was_perhaps_meant() -> None:
    printer, odd = read_printer("[PRINTER]\nMAXX = 300\nCOLOUR = red\n", {})

    assert printer == Printer()
    assert [(str(wrong), wrong.line) for wrong in odd] == [
        ("MAXX means nothing; MAX_X?", 2),
        ("COLOUR means nothing", 3),
    ]


def test_the_course_overrules_the_file_and_its_mistakes_are_not_the_students() -> None:
    printer, _ = read_printer("[PRINTER]\nMAX_X = 9999\n", {"PRINTER_MAX_X": "180", "PRINTER_MAX_Y": "", "MAX_Z": "1"})

    assert printer == Printer(max_x=180)
    with pytest.raises(ValueError, match="MAX_X must be a number"):
        read_printer("", {"PRINTER_MAX_X": "wide"})


def _sampled(arc: Arc, number: int = 2000) -> list[tuple[float, float]]:
    return [arc.at(part / number) for part in range(number + 1)]


@given(POINTS, RADII, ANGLES, ANGLES, st.booleans())
def test_an_arc_begins_ends_and_reaches_where_its_points_do(
    centre: tuple[float, float], radius: float, begin: float, end: float, clockwise: bool
) -> None:
    start = (centre[0] + radius * math.cos(begin), centre[1] + radius * math.sin(begin))
    finish = (centre[0] + radius * math.cos(end), centre[1] + radius * math.sin(end))

    arc = arc_around(start, finish, (centre[0] - start[0], centre[1] - start[1]), clockwise=clockwise)

    assert math.dist(arc.at(0), start) < 1e-6
    assert math.dist(arc.at(1), finish) < 1e-4
    assert 0 < abs(arc.sweep) <= 2 * math.pi
    assert (arc.sweep < 0) is clockwise
    reached, points = [*arc.extreme_points(), start, finish], _sampled(arc)
    for axis in (0, 1):
        for extreme in (min, max):
            coarse = extreme(point[axis] for point in points)
            assert extreme(point[axis] for point in reached) == pytest.approx(coarse, abs=radius * 2e-6 + 1e-4)


@given(POINTS, POINTS, st.floats(0.5001, 20), st.booleans(), st.booleans())
def test_an_arc_of_a_radius_is_one_of_two_and_turns_as_it_is_told(
    start: tuple[float, float], end: tuple[float, float], factor: float, clockwise: bool, long: bool
) -> None:
    chord = math.dist(start, end)
    assume(chord > 0.01)
    radius = chord * factor

    arc = arc_of_radius(start, end, -radius if long else radius, clockwise=clockwise)

    assert arc.radius == pytest.approx(radius)
    assert math.dist(arc.at(0), start) < radius * 1e-6
    assert math.dist(arc.at(1), end) < radius * 1e-6
    assert (abs(arc.sweep) > math.pi) is long
    assert (arc.sweep < 0) is clockwise


@pytest.mark.parametrize(
    ("command", "middle"),
    [
        ("G2 X60 Y50 I10 J0", (50, 60)),
        ("G3 X60 Y50 I10 J0", (50, 40)),
        ("G2 X60 Y50 R10", (50, 60)),
        ("G3 X60 Y50 R10", (50, 40)),
    ],
)
def test_g2_turns_clockwise_and_g3_the_other_way(command: str, middle: tuple[float, float]) -> None:
    simulation = simulated("G28", "G1 X40 Y50 F3000", command)

    assert told(simulation) == {}
    halfway = len(simulation.path) - 1 - (len(simulation.path) - 3) // 2
    assert (simulation.path.x[halfway], simulation.path.y[halfway]) == pytest.approx(middle, abs=1.5)
    assert simulation.travelled_mm[Kind.FEED] == pytest.approx(math.hypot(40, 50) + 10 * math.pi)


def test_an_arc_back_to_its_start_is_a_full_circle_and_may_climb() -> None:
    simulation = simulated("G28", "G1 X50 Y50 F600", "G2 I10", "G3 J-10 Z3")

    flat, climbing = 20 * math.pi, math.hypot(20 * math.pi, 3)
    assert simulation.travelled_mm[Kind.FEED] == pytest.approx(math.hypot(50, 50) + flat + climbing)
    assert simulation.boxes[Kind.FEED].low == pytest.approx([0, 0, 0])
    assert simulation.boxes[Kind.FEED].high == pytest.approx([70, 60, 3])
    assert sorted(simulation.path.z) == list(simulation.path.z)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("G2 X60 Y50", "needs either I and J"),
        ("G2 X60 Y50 I10 R10", "needs either I and J"),
        ("G2 X60 Y50 I0 J0", "the circle has no radius"),
        ("G2 X69 Y50 I10 J0", "its end is 1 mm off the circle around (60, 50)"),
        ("G2 X50 Y50 R10", "a full circle needs I and J"),
        ("G2 X90 Y50 R10", "its ends are 40 mm apart, more than twice its R10"),
        ("G2 X60 Y50 R0", "more than twice its R0"),
    ],
)
def test_an_impossible_arc_is_told_and_its_end_is_where_the_file_goes_on(command: str, reason: str) -> None:
    simulation = simulated("G28", "G1 X50 Y50 F3000", command, "G1 X55 Y50")

    (line, text), *more = told(simulation)[Rule.ARCS]
    assert line == 3
    assert reason in text
    assert more == []
    assert set(told(simulation)) == {Rule.ARCS}
    assert simulation.travelled_mm[Kind.FEED] < 120


def test_an_end_that_was_rounded_is_on_its_circle() -> None:
    assert arc_around((0, 0), (20, INEXACT / 2), (10, 0), clockwise=True).radius == 10
    with pytest.raises(Impossible):
        arc_around((0, 0), (20 + 2 * INEXACT, 0), (10, 0), clockwise=True)


def test_an_arc_leaves_the_printer_between_ends_that_are_inside() -> None:
    simulation = simulated("G28", "G1 X180 Y20 F3000", "G3 X180 Y100 I0 J40", "G3 X180 Y20 I0 J-40")

    assert told(simulation) == {Rule.VOLUME: [(3, "X gets to 220, beyond MAX_X = 200")]}
    assert [kind >= OUTSIDE for kind in (simulation.path.kinds[2], simulation.path.kinds[-1])] == [False, False]
    assert any(kind >= OUTSIDE for kind in simulation.path.kinds)


def test_every_axis_is_told_once_when_it_leaves_and_not_while_it_stays_away() -> None:
    simulation = simulated(
        "G28",
        "G1 X201 Y-1 Z10 F3000",
        "G1 Z11",
        "G1 Y50",
        "G1 Z201",
        "G1 X202",
        "G1 X200.0000001 Z200",
        "G91",
        "G1 X-201",
    )

    assert told(simulation) == {
        Rule.VOLUME: [
            (2, "X gets to 201, beyond MAX_X = 200"),
            (2, "Y gets to -1, below 0"),
            (5, "Z gets to 201, beyond MAX_Z = 200"),
            (6, "X gets to 202, beyond MAX_X = 200"),
            (9, "X gets to -1, below 0"),
        ]
    }


def test_the_way_back_into_the_printer_is_drawn_as_outside_too() -> None:
    simulation = simulated("G28", "G1 X300 F3000", "G1 X10", "G1 Y10")

    assert [kind >= OUTSIDE for kind in simulation.path.kinds] == [False, False, True, True, False]


def test_units_distances_and_the_origin_change_where_a_number_leads() -> None:
    simulation = simulated("G28", "G20", "G1 X1 Y1 F60", "G91", "G1 X1", "G90", "G21", "G92 X0 Y10", "G1 X10 Y20")

    assert simulation.path.x[-1] == pytest.approx(2 * 25.4 + 10)
    assert simulation.path.y[-1] == pytest.approx(25.4 + 10)
    first, second, third = math.hypot(25.4, 25.4), 25.4, math.hypot(10, 10)
    assert simulation.time_s == pytest.approx((first + second + third) / 25.4)


def test_homing_forgets_the_origin_of_its_axes_alone() -> None:
    simulation = simulated("G28", "G1 X50 Y50 Z5 F3000", "G92 X0 Y0", "G28 X", "G1 X1 Y1")

    assert list(simulation.path.x)[-2:] == [0, 1]
    assert list(simulation.path.y)[-2:] == [50, 51]
    assert simulation.path.z[-1] == 5
    assert told(simulation) == {}


def test_g92_alone_makes_all_axes_zero() -> None:
    simulation = simulated("G28", "G1 X50 Y50 E5 F3000", "G92", "G1 X1 E1")

    assert simulation.path.x[-1] == 51
    assert simulation.filament_mm == 6


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 50)), min_size=1, max_size=20))
def test_relative_and_absolute_files_lead_the_same_way(points: list[tuple[int, int, int]]) -> None:
    steps = zip([(0, 0, 0), *points], points, strict=False)
    relative = [f"G1 X{b[0] - a[0]} Y{b[1] - a[1]} Z{b[2] - a[2]} E1" for a, b in steps]
    absolute = [f"G1 X{x} Y{y} Z{z} E{number}" for number, (x, y, z) in enumerate(points, 1)]

    one, other = simulated("G28", "G91", *relative), simulated("G28", "G90", *absolute)

    assert (one.path.x, one.path.y, one.path.z) == (other.path.x, other.path.y, other.path.z)
    assert one.path.kinds == other.path.kinds
    assert (one.time_s, one.filament_mm) == pytest.approx((other.time_s, other.filament_mm))
    assert one.layers == other.layers
    assert told(one) == told(other)


def test_axes_move_once_they_are_homed() -> None:
    simulation = simulated("G1 X10 Y10 F3000", "G28 X", "G1 X10 E1", "G1 Y10", "G28", "G1 Z5", "M84 S60", "G1 Z6")

    assert told(simulation) == {
        Rule.HOMED: [
            (1, "nobody knows where X and Y is; G28 comes before a move"),
            (4, "nobody knows where Y is; G28 comes before a move"),
        ]
    }


@pytest.mark.parametrize(("off", "lost"), [("M84", "X and Y"), ("M84 Y", "Y"), ("M84 E", "")])
def test_axes_are_lost_when_their_motors_are_off(off: str, lost: str) -> None:
    simulation = simulated("G28", "G1 X5 F3000", off, "G1 X10 Y10")

    expected = {Rule.HOMED: [(4, f"nobody knows where {lost} is; G28 comes before a move")]} if lost else {}
    assert told(simulation) == expected


def test_filament_advances_at_what_the_nozzle_has_reached() -> None:
    printer = Printer(min_extrusion_temp=180)
    code = [
        "G28", "M83", "G1 X10 E1 F3000",  # 3: cold
        "M104 S200", "G1 X20 E1",  # 5: heating
        "G1 E-1", "G1 X25",  # neither advances
        "M109", "G1 X30 E1",  # waited for the 200
        "M104 S150", "G1 X40 E1",  # 11: colder at once
        "M109 R190", "G1 X50 E1",
        "M104 S0", "G1 E1",  # 15
    ]  # fmt: skip

    simulation = simulated(*code, printer=printer)

    assert told(simulation) == {
        Rule.WARM: [
            (3, "E advances at 0 °C, below MIN_EXTRUSION_TEMP = 180; wait for it with M109 S180"),
            (5, "E advances at 0 °C, below MIN_EXTRUSION_TEMP = 180; M104 does not wait; M109 does"),
            (11, "E advances at 150 °C, below MIN_EXTRUSION_TEMP = 180; wait for it with M109 S180"),
            (15, "E advances at 0 °C, below MIN_EXTRUSION_TEMP = 180; wait for it with M109 S180"),
        ]
    }
    assert told(simulated(*code)) == {}


def test_heaters_have_a_limit_if_the_printer_has() -> None:
    code = ["G28", "G1 X1 F3000", "M104 S261", "M109 S260", "M109 R300", "M140 S101", "M190 S100", "M190 R110", "M140"]

    assert told(simulated(*code)) == {}
    assert told(simulated(*code, printer=Printer(max_nozzle_temp=260, max_bed_temp=100))) == {
        Rule.HEAT: [
            (3, "261 °C, but MAX_NOZZLE_TEMP = 260"),
            (5, "300 °C, but MAX_NOZZLE_TEMP = 260"),
            (6, "101 °C, but MAX_BED_TEMP = 100"),
            (8, "110 °C, but MAX_BED_TEMP = 100"),
        ]
    }


def test_a_file_is_looked_at_to_its_end_whatever_is_wrong_with_it() -> None:
    simulation = simulated("G1 X1O", "G5", "G28", "G1 X300 F3000", "G2 X10 Y10", "M104 S200", "G1 Y-5")

    assert {rule: [line for line, _ in found] for rule, found in told(simulation).items()} == {
        Rule.READABLE: [1],
        Rule.COMMANDS: [2],
        Rule.VOLUME: [4, 7],
        Rule.ARCS: [5],
    }


def test_a_command_may_be_ignored_on_purpose() -> None:
    simulation = simulated("M73 P0", "G28", "G1 X1", "M117 done!", printer=Printer(ignored_commands=frozenset({"M73"})))

    assert told(simulation) == {Rule.COMMANDS: [(4, "this printer has no M117")]}


def test_problems_are_told_up_to_a_number_and_counted_beyond() -> None:
    simulation = simulated(*["G5"] * (MOST_TOLD + 12))

    found = simulation.problems[Rule.COMMANDS]
    assert len(found.first) == MOST_TOLD
    assert found.count == MOST_TOLD + 12


@pytest.mark.parametrize("code", [[], ["; nothing"], ["G28", "M84"], ["G28", "G1 E5"], ["G28", "G1 X0 Y0"]])
def test_a_file_that_moves_nothing_is_told(code: list[str]) -> None:
    assert told(simulated(*code)) == {Rule.MOVES: [(0, "no line moves X, Y or Z")]}


def test_long_travel_is_told_and_long_lines_are_not() -> None:
    code = ["G28", "M83", "G1 X150 E5 F3000", "G0 X0", "G1 Y150", "G1 X100"]

    assert told(simulated(*code), without=()) == {
        Rule.TRAVEL: [(4, "150.0 mm without printing, above 100"), (5, "150.0 mm without printing, above 100")]
    }
    drawn = [line.replace(" E5", "") for line in code]
    assert told(simulated(*drawn), without=()) == {Rule.TRAVEL: [(4, "150.0 mm without printing, above 100")]}
    assert all(rule.warns for rule in (Rule.TRAVEL, Rule.FEEDRATE))
    assert sum(rule.warns for rule in Rule) == 2


def test_time_is_way_by_feed_rate_and_dwelling() -> None:
    assert simulated("G28", "G1 X100 F6000").time_s == pytest.approx(1)
    assert simulated("G28", "G1 X100 F6000", "G1 Y100").time_s == pytest.approx(2), "F stays"
    assert simulated("G28", "G1 X30 Y40 F600").time_s == pytest.approx(5)
    assert simulated("G28", "G1 E10 F600").time_s == pytest.approx(1), "filament alone takes time too"
    assert simulated("G28", "G0 X25").time_s == pytest.approx(1), "1500 mm/min unless F is set"
    assert simulated("G4 S2 P500").time_s == pytest.approx(2.5)
    assert simulated("G28", "G1 F6000", "G1 X100").time_s == pytest.approx(1)


def test_a_move_that_is_too_fast_takes_its_time_and_is_warned_of() -> None:
    simulation = simulated("G28", "G1 X100 F12000", printer=Printer(max_feedrate=6000))

    assert simulation.time_s == pytest.approx(1)
    assert told(simulation) == {Rule.FEEDRATE: [(2, "F12000 mm/min, but MAX_FEEDRATE = 6000")]}


def test_filament_is_what_is_needed_at_most() -> None:
    simulation = simulated("G28", "G1 X10 E5 F3000", "G1 E3", "G1 E5", "G1 X20 E10", "G92 E0", "G1 X30 E5", "G1 E-2")

    assert simulation.filament_mm == 15
    assert simulated("G28", "G1 E-2 F3000", "G1 X1").filament_mm == 0


def test_m82_and_m83_read_e_apart_from_the_axes_until_g90_or_g91() -> None:
    steps = ["G1 X10 E5 F3000", "G1 X20 E5"]

    assert simulated("G28", *steps).filament_mm == 5
    assert simulated("G28", "M83", *steps).filament_mm == 10
    assert simulated("G28", "G91", *steps).filament_mm == 10
    assert simulated("G28", "G91", "M82", *steps).filament_mm == 5
    assert simulated("G28", "M83", "G90", *steps).filament_mm == 5


def test_layers_are_the_heights_at_which_a_move_extrudes() -> None:
    simulation = simulated(
        "G28", "M83", "G1 Z0.2 F3000", "G1 X10 E1", "G1 Z5", "G1 E-1", "G1 E1", "G1 X20", "G1 Z0.4", "G1 Y5 E1",
        "G1 Z0.2", "G1 X0 E1", "G1 Z0.8 E1",
    )  # fmt: skip

    assert simulation.layers == {0.2, 0.4}
    assert simulation.work is Kind.EXTRUSION
    assert simulation.boxes[Kind.EXTRUSION].high == pytest.approx([20, 5, 0.8])


def test_without_filament_g1_is_the_work_and_g0_is_travel() -> None:
    simulation = simulated("G28", "G0 X10 Y10 F3000", "G1 X20", "G1 Y20", "G0 X0 Y0")

    assert simulation.work is Kind.FEED
    assert simulation.travelled_mm[simulation.work] == 20
    assert sum(simulation.travelled_mm[kind] for kind in simulation.travel) == pytest.approx(
        math.hypot(10, 10) + math.hypot(20, 20)
    )
    assert simulation.boxes[simulation.work].low == [10, 10, 0]


def test_a_way_too_long_to_be_drawn_is_judged_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcode.simulation.MOST_POINTS", 100)
    simulation = simulated("G28", *["G1 X10 F3000", "G1 X0"] * 100, "G28", "G2 X0 Y1", "G1 X300")

    assert len(simulation.path) == 100
    assert simulation.drawn_to == 99
    assert simulation.moves == 201
    assert set(told(simulation)) == {Rule.ARCS, Rule.VOLUME}
    assert MOST_POINTS >= 500_000


@pytest.mark.parametrize("jump", ["G28", "G3 X0 Y1"])
def test_jumps_are_points_of_the_way_too(monkeypatch: pytest.MonkeyPatch, jump: str) -> None:
    monkeypatch.setattr("gcode.simulation.MOST_POINTS", 100)
    simulation = simulated(*[jump] * 200, "G1 X10 F3000")

    assert len(simulation.path) == 100
    assert simulation.drawn_to == 99
    assert simulation.moves == 1


def test_filament_on_the_way_up_is_work_without_a_layer() -> None:
    simulation = simulated("G28", "M83", "G1 Z10 E5", "G1 X150")

    assert simulation.work is Kind.EXTRUSION
    assert simulation.travelled_mm[simulation.work] == 10
    assert simulation.layers == set()


def test_a_file_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcode.simulation.MOST_LINES", 10)
    simulation = simulated("G28", "G1 X10 F3000", *[""] * 8, "G5")

    assert told(simulation) == {Rule.READABLE: [(11, "the file goes on, but only 10 lines are looked at")]}
    assert MOST_LINES >= 500_000


NUMBERS = st.one_of(st.integers(-10, 250), st.sampled_from([0.1, -0.25, 1e9, -1e9, 123456789.5]))


FILES = st.lists(
    st.builds(
        lambda name, words: name + "".join(f" {letter}{number:.3f}" for letter, number in words.items()),
        st.sampled_from([*WORDS]),
        st.dictionaries(st.sampled_from("XYZEFIJRSP"), NUMBERS, max_size=5),
    ),
    max_size=30,
)


@given(FILES)
def test_no_file_breaks_the_simulation(code: list[str]) -> None:
    simulation = simulated(*code)

    assert math.isfinite(simulation.time_s)
    assert math.isfinite(simulation.filament_mm)
    assert all(map(math.isfinite, [*simulation.path.x, *simulation.path.y, *simulation.path.z]))
    assert len(simulation.path) <= 1 + 360 * len(code)
