"""A six-joint arm: its geometry and limits, and the little language in which students tell it what to do.

    home                        all joints to zero: the arm stands upright
    speed 40                    percent of full speed from here on; 50 at the beginning
    move J1 J2 J3 J4 J5 J6      joint angles, in degrees
    reach X Y Z [ROLL]          the tip of the tool there, in mm, the tool pointing straight down
    grip close                  or: grip open
    wait 1.5                    seconds

One statement a line; `#` begins a comment. The origin is on the table, below the middle of the base; x points to the
front, y to the left, z up. All joints of a move start and end together, each at constant speed.

Python 3.11 or newer and nothing else.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

Pose = tuple[float, ...]
"""Angles of the six joints, in degrees."""
Point = tuple[float, float, float]
"""In mm."""


@dataclass(frozen=True)
class Joint:
    """A joint, and the link that follows it."""

    axis: str
    """`z`: turns around the link before it; `y`: bends it."""
    limit: float
    """Degrees to either side."""
    speed: float
    """Degrees a second at full speed."""
    link: float
    """Length in mm."""


JOINTS = (
    Joint("z", 170, 90, 160),
    Joint("y", 110, 60, 240),
    Joint("y", 150, 90, 110),
    Joint("z", 180, 120, 110),
    Joint("y", 120, 120, 120),
    Joint("z", 350, 180, 0),
)
BASE, UPPER_ARM, TOOL = JOINTS[0].link, JOINTS[1].link, JOINTS[4].link
FOREARM = JOINTS[2].link + JOINTS[3].link
HOME: Pose = (0.0,) * len(JOINTS)
THICKNESS = 40.0
"""Mm from the middle of the elbow or wrist to its skin."""
BASE_RADIUS = 90.0
"""Mm."""
STEP = 2.0
"""Degrees between two poses of a move that are looked at."""
GRIP_S = 0.5
MOST_WAIT_S = 10.0
MOST_STEPS = 1_000
MOST_MISTAKES = 20


class Impossible(Exception):
    """A statement that the arm cannot, or must not, carry out; the text says why."""


@dataclass(frozen=True)
class Step:
    """One statement, made ready for the arm."""

    line: int
    """In the program, from 1."""
    text: str
    """As the student wrote it."""
    command: str
    """As the arm's protocol has it; empty for a pause."""
    pose: Pose
    """In which the arm is afterwards."""
    closed: bool
    """Whether the gripper is, afterwards."""
    seconds: float


@dataclass
class Program:
    """What a text asks of the arm, and what is wrong with that."""

    steps: list[Step] = field(default_factory=list)
    mistakes: list[tuple[int, str, str]] = field(default_factory=list)
    """Line, what stands there, and what is wrong with it."""

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return sum(step.seconds for step in self.steps)


def read(text: str) -> Program:
    """Read a program and look at every pose on its way. Past a mistake the arm is taken to have stayed where it was."""
    program, speed, pose, closed = Program(), 50.0, HOME, False
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(program.steps) >= MOST_STEPS:
            program.mistakes.append((number, line.strip(), f"a program has at most {MOST_STEPS} statements"))
            break
        try:
            command, target, seconds = "", pose, 0.0
            match words:
                case ["home"]:
                    command, target = "home", HOME
                case ["speed", percent]:
                    speed = _number(percent, 1, 100, "a percentage")
                    continue
                case ["move", *angles] if len(angles) == len(JOINTS):
                    target = tuple(_angle(angle, which) for which, angle in enumerate(angles))
                case ["reach", *place] if len(place) in (3, 4):
                    target = solve(*(_number(value, -10_000, 10_000, "a number") for value in place))
                case ["grip", "open" | "close" as what]:
                    command, closed, seconds = f"grip {what}", what == "close", GRIP_S
                case ["wait", duration]:
                    seconds = _number(duration, 0, MOST_WAIT_S, "a number of seconds")
                case _:
                    raise Impossible(_usage(words[0]))
            if words[0] in ("home", "move", "reach"):
                look_along(pose, target)
                seconds = duration_s(pose, target, speed)
                command = command or f"move {' '.join(f'{angle:.3f}' for angle in target)} {speed:g}"
            pose = target
            program.steps.append(Step(number, " ".join(words), command, pose, closed, seconds))
        except Impossible as why:
            program.mistakes.append((number, " ".join(words), str(why)))
            if len(program.mistakes) == MOST_MISTAKES:
                break
    return program


def points(pose: Pose) -> list[Point]:
    """Where the links end: shoulder, elbow, middle of the forearm, wrist, tip of the tool, and that again."""
    x, y, z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
    here, ends = (0.0, 0.0, 0.0), []
    for joint, angle in zip(JOINTS, pose, strict=True):
        if joint.axis == "z":
            x, y = _turned(x, y, angle)
        else:
            z, x = _turned(z, x, angle)
        here = (here[0] + joint.link * z[0], here[1] + joint.link * z[1], here[2] + joint.link * z[2])
        ends.append(here)
    return ends


def solve(x: float, y: float, z: float, roll: float = 0.0) -> Pose:
    """The pose, elbow up, in which the tool points straight down and its tip is at (x, y, z).

    Raises:
        Impossible: There is none within the limits.
    """
    out, up = math.hypot(x, y), z + TOOL - BASE  # of the wrist, seen from the shoulder
    far = math.hypot(out, up)
    if not abs(UPPER_ARM - FOREARM) < far <= UPPER_ARM + FOREARM:
        away = "far from" if far > UPPER_ARM else "close to"
        raise Impossible(f"({x:g}, {y:g}, {z:g}) is too {away} the shoulder to reach it with the tool pointing down")
    lift = math.acos((UPPER_ARM**2 + far**2 - FOREARM**2) / (2 * UPPER_ARM * far))
    bend = math.pi - math.acos((UPPER_ARM**2 + FOREARM**2 - far**2) / (2 * UPPER_ARM * FOREARM))
    shoulder = math.atan2(out, up) - lift
    pose = tuple(map(math.degrees, (math.atan2(y, x), shoulder, bend, 0, math.pi - shoulder - bend)))
    return tuple(within(angle, which) for which, angle in enumerate((*pose, roll)))


def look_along(start: Pose, end: Pose) -> None:
    """See that nothing is in the way of a move.

    Raises:
        Impossible: The arm would hit the table or itself.
    """
    for pose in (end, *between(start, end)):  # the end first: if that is wrong, no other way helps
        shoulder, elbow, _, wrist, tip, _ = points(pose)
        for name, (x, y, z), radius in (("elbow", elbow, THICKNESS), ("wrist", wrist, THICKNESS), ("tool", tip, 0)):
            if z < radius - 0.5:
                advice = "" if pose == end else " on the way; go by a higher place first"
                raise Impossible(f"the {name} would hit the table near x {x:.0f}, y {y:.0f}{advice}")
            if math.hypot(x, y) < BASE_RADIUS and z < shoulder[2]:
                advice = "" if pose == end else " on the way; go round it"
                raise Impossible(f"the {name} would hit the arm's own base{advice}")


def between(start: Pose, end: Pose) -> Iterator[Pose]:
    """Poses of a move, the last one included, close enough to each other to miss nothing."""
    count = max(1, math.ceil(max(abs(b - a) for a, b in zip(start, end, strict=True)) / STEP))
    for part in range(1, count):
        yield along(start, end, part / count)
    yield end


def along(start: Pose, end: Pose, part: float) -> Pose:
    """The pose after `part`, from 0 to 1, of a move."""
    return tuple(a + (b - a) * part for a, b in zip(start, end, strict=True))


def duration_s(start: Pose, end: Pose, percent: float) -> float:
    """How long a move takes: as long as its slowest joint."""
    return max(abs(b - a) / (joint.speed * percent / 100) for joint, a, b in zip(JOINTS, start, end, strict=True))


def _turned(u: Point, v: Point, degrees: float) -> tuple[Point, Point]:
    """Two axes, turned in their plane, from `u` towards `v`."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (a, b, d), (e, f, g) = u, v
    return (c * a + s * e, c * b + s * f, c * d + s * g), (c * e - s * a, c * f - s * b, c * g - s * d)


def _number(word: str, least: float, most: float, what: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not least <= number <= most:  # which no NaN is
        raise Impossible(f"{word[:20]!r} is not {what} from {least:g} to {most:g}")
    return number


def _angle(word: str, which: int) -> float:
    return within(_number(word, -100_000, 100_000, "an angle"), which)


def within(angle: float, which: int) -> float:
    """The angle, if joint `which` (from 0) reaches it.

    Raises:
        Impossible: It does not.
    """
    limit = JOINTS[which].limit
    if abs(angle) > limit:
        raise Impossible(f"joint {which + 1} would be at {angle:.0f}°; it reaches from -{limit:g}° to {limit:g}°")
    return angle


_USAGE = {
    "home": "home",
    "speed": "speed PERCENT",
    "move": "move J1 J2 J3 J4 J5 J6",
    "reach": "reach X Y Z, or reach X Y Z ROLL",
    "grip": "grip open, or grip close",
    "wait": "wait SECONDS",
}


def _usage(word: str) -> str:
    if word in _USAGE:
        return f"write: {_USAGE[word]}"
    return f"{word[:20]!r} is no statement; there are {', '.join(_USAGE)}"
