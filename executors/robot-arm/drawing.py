"""The way of the tool, drawn: from above, and from the side in the plane in which the arm stands."""

import math
from collections.abc import Callable, Iterable, Iterator
from html import escape

import robot

WIDTH, HEIGHT, MARGIN = 1360, 740, 28
SCALE = 0.5
"""Pixels for a mm."""
ABOVE = (350, 366)
"""Where the origin is, seen from above."""
BESIDE = (1024, 560)
"""The same, seen from the side."""
REACH = robot.UPPER_ARM + robot.FOREARM + robot.TOOL
"""Mm from the shoulder to the tip, at most."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #334155 }
.title { font-weight: 600; font-size: 15px }
.small { font-size: 11px; fill: #64748b }
.floor { stroke: #94a3b8; stroke-width: 2 }
.grid { stroke: #e2e8f0 }
.reach { fill: #f1f5f9; stroke: #cbd5e1; stroke-dasharray: 4 4 }
.table { fill: #fff }
.base { fill: #475569 }
.arm { fill: none; stroke: #94a3b8; stroke-width: 7; stroke-linecap: round; stroke-linejoin: round; opacity: .35 }
.empty { fill: none; stroke: #2563eb; stroke-width: 2 }
.holding { fill: none; stroke: #ea580c; stroke-width: 3.5 }
.stop { fill: #fff; stroke: #1e293b; stroke-width: 1.5 }
.number { font-size: 11px; font-weight: 600; fill: #1e293b; paint-order: stroke; stroke: #fff; stroke-width: 3px }
"""

Spot = tuple[float, float]
"""In pixels."""


def draw(program: robot.Program) -> str:
    """An SVG of the program's way. Numbers are those of the program's lines."""
    above, beside = [list(_view(program, seen)) for seen in (_from_above, _from_the_side)]
    poses = dict.fromkeys(step.pose for step in program.steps)
    arms = [_line("arm", [_from_the_side(pose, at) for at in robot.points(pose)]) for pose in poses]
    note = f"{len(program.steps)} statements, {program.seconds:.1f} s"
    if program.mistakes:
        note += "; without the statements that the arm cannot do"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f"<title>The way of the tool</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<circle class="reach" cx="{ABOVE[0]}" cy="{ABOVE[1]}" r="{REACH * SCALE}"/>',
        f'<circle class="reach" cx="{BESIDE[0]}" cy="{BESIDE[1] - robot.BASE * SCALE}" r="{REACH * SCALE}"/>',
        f'<rect class="table" x="{BESIDE[0] - 310}" y="{BESIDE[1]}" width="620" height="{REACH * SCALE}"/>',
        *_grid(),
        f'<circle class="base" cx="{ABOVE[0]}" cy="{ABOVE[1]}" r="{robot.BASE_RADIUS * SCALE:.0f}"/>',
        *above,
        *arms,
        f'<rect class="base" x="{BESIDE[0] - robot.BASE_RADIUS * SCALE}" y="{BESIDE[1] - robot.BASE * SCALE}"'
        f' width="{2 * robot.BASE_RADIUS * SCALE}" height="{robot.BASE * SCALE}" rx="6"/>',
        f'<line class="floor" x1="{BESIDE[0] - 310}" y1="{BESIDE[1]}" x2="{BESIDE[0] + 310}" y2="{BESIDE[1]}"/>',
        *beside,
        f'<text class="title" x="{MARGIN}" y="34">From above: x to the right, y up, in mm</text>',
        f'<text class="title" x="{BESIDE[0] - 310}" y="34">From the side: away from the base, and height, in mm</text>',
        *_legend(),
        f'<text class="small" x="{WIDTH - MARGIN}" y="{HEIGHT - 14}" text-anchor="end">{escape(note)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _from_above(pose: robot.Pose, at: robot.Point) -> Spot:
    """X to the right, y up."""
    return ABOVE[0] + at[0] * SCALE, ABOVE[1] - at[1] * SCALE


def _from_the_side(pose: robot.Pose, at: robot.Point) -> Spot:
    """Away from the base, as the arm is turned, to the right; height up."""
    turned = math.radians(pose[0])
    away = at[0] * math.cos(turned) + at[1] * math.sin(turned)
    return BESIDE[0] + away * SCALE, BESIDE[1] - at[2] * SCALE


def _view(program: robot.Program, seen: Callable[[robot.Pose, robot.Point], Spot]) -> Iterator[str]:
    """The tool's way, and where it stops."""
    pose, closed = robot.HOME, False
    numbers: dict[Spot, list[int]] = {}
    for step in program.steps:
        spots = [seen(one, robot.points(one)[4]) for one in (pose, *robot.between(pose, step.pose))]
        if step.pose != pose:
            yield _line("holding" if closed else "empty", spots)
        x, y = spots[-1]
        numbers.setdefault((round(x), round(y)), []).append(step.line)
        pose, closed = step.pose, step.closed
    for (x, y), lines in numbers.items():
        yield f'<circle class="stop" cx="{x}" cy="{y}" r="3.5"/>'
        yield f'<text class="number" x="{x + 7}" y="{y - 6}">{_ranges(lines)}</text>'


def _line(kind: str, spots: Iterable[Spot]) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in spots)}"/>'


def _grid() -> Iterator[str]:
    for mm in range(-600, 601, 200):
        far = 600 * SCALE
        yield from _mark(ABOVE[0] + mm * SCALE, ABOVE[1] - far, ABOVE[1] + far, mm)
        yield from _mark(BESIDE[0] + mm * SCALE, BESIDE[1] - 760 * SCALE, BESIDE[1], mm)
        yield from _mark(ABOVE[1] - mm * SCALE, ABOVE[0] - far, ABOVE[0] + far, mm, level=True)
    for mm in range(0, 701, 100):
        yield from _mark(BESIDE[1] - mm * SCALE, BESIDE[0] - 600 * SCALE, BESIDE[0] + 600 * SCALE, mm, level=True)


def _mark(at: float, start: float, end: float, mm: int, *, level: bool = False) -> Iterator[str]:
    """A line of the grid, and its number."""
    if level:
        yield f'<line class="grid" x1="{start}" y1="{at}" x2="{end}" y2="{at}"/>'
        yield f'<text class="small" x="{start - 6}" y="{at + 4}" text-anchor="end">{mm}</text>'
    else:
        yield f'<line class="grid" x1="{at}" y1="{start}" x2="{at}" y2="{end}"/>'
        yield f'<text class="small" x="{at}" y="{end + 16}" text-anchor="middle">{mm}</text>'


def _legend() -> Iterator[str]:
    for x, kind, text in ((MARGIN, "empty", "gripper open"), (MARGIN + 130, "holding", "gripper closed")):
        yield _line(kind, [(x, HEIGHT - 18), (x + 26, HEIGHT - 18)])
        yield f'<text x="{x + 34}" y="{HEIGHT - 14}">{text}</text>'


def _ranges(lines: list[int]) -> str:
    """Such as `3, 5-7`, and no more than four of them."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][-1] + 1:
            runs[-1].append(line)
        else:
            runs.append([line])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(words[:4]) + (" …" if len(words) > 4 else "")
