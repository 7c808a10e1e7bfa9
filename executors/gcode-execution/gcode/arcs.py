"""The geometry of G2 and G3, in the plane of X and Y. Lengths are mm, angles radians."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

Point = tuple[float, float]

SAME = 1e-6
"""mm within which two points are one."""
INEXACT = 0.05
"""mm by which the end of an arc may miss its circle: coordinates are rounded, to thousandths usually."""
FLAT = 0.02
"""mm between an arc and the chords that it is drawn as."""
MOST_CHORDS = 360


class Impossible(Exception):
    """No circle has such an arc; why, for the student."""


@dataclass(frozen=True, slots=True)
class Arc:
    """A part of a circle, perhaps all of it."""

    centre: Point
    radius: float
    begin: float
    """The angle at which it starts."""
    sweep: float
    """The angle that it covers: above 0 anticlockwise, below 0 clockwise."""

    @property
    def length(self) -> float:
        return abs(self.sweep) * self.radius

    def at(self, part: float) -> Point:
        """Where it is after a part of its way, from 0 to 1."""
        angle = self.begin + part * self.sweep
        return self.centre[0] + self.radius * math.cos(angle), self.centre[1] + self.radius * math.sin(angle)

    def extreme_points(self) -> Iterator[Point]:
        """Where it is farthest left, right, in front and behind, besides at its ends."""
        low, high = sorted((self.begin, self.begin + self.sweep))
        quarter = math.pi / 2
        for number in range(math.ceil(low / quarter), math.floor(high / quarter) + 1):
            east, north = ((1, 0), (0, 1), (-1, 0), (0, -1))[number % 4]
            yield self.centre[0] + self.radius * east, self.centre[1] + self.radius * north

    def chords(self) -> int:
        """How many chords follow it closely enough to be drawn."""
        if self.radius <= FLAT:
            return 4
        step = 2 * math.acos(1 - FLAT / self.radius)
        return min(MOST_CHORDS, math.ceil(abs(self.sweep) / step)) or 1


def arc_around(start: Point, end: Point, offset: Point, *, clockwise: bool) -> Arc:
    """The arc around the point that lies `offset` from the start; a full circle if it ends where it starts.

    Raises:
        Impossible: The end is not on the circle, or there is none.
    """
    centre = (start[0] + offset[0], start[1] + offset[1])
    radius = math.hypot(*offset)
    if radius <= SAME:
        raise Impossible("I and J are 0: the circle has no radius")
    missed = abs(math.dist(end, centre) - radius)
    if missed > INEXACT:
        raise Impossible(f"its end is {missed:.3g} mm off the circle around ({centre[0]:.6g}, {centre[1]:.6g})")
    return _arc(start, end, centre, radius, clockwise)


def arc_of_radius(start: Point, end: Point, radius: float, *, clockwise: bool) -> Arc:
    """The arc of that radius; the shorter of two, or the longer one if the radius is below 0.

    Raises:
        Impossible: The ends are one point, or too far apart.
    """
    chord = math.dist(start, end)
    if chord <= SAME:
        raise Impossible("it ends where it starts, so R leaves its centre open: a full circle needs I and J")
    if chord > 2 * abs(radius) + INEXACT:
        raise Impossible(f"its ends are {chord:.6g} mm apart, more than twice its R{radius:g}")
    half = chord / 2
    height = math.sqrt(max(radius * radius - half * half, 0))
    # Right of the way from start to end for a clockwise short arc or an anticlockwise long one; left otherwise.
    right = height if clockwise == (radius > 0) else -height
    along = ((end[0] - start[0]) / chord, (end[1] - start[1]) / chord)
    centre = ((start[0] + end[0]) / 2 + right * along[1], (start[1] + end[1]) / 2 - right * along[0])
    return _arc(start, end, centre, max(abs(radius), half), clockwise)


def _arc(start: Point, end: Point, centre: Point, radius: float, clockwise: bool) -> Arc:
    begin = math.atan2(start[1] - centre[1], start[0] - centre[0])
    sweep = math.atan2(end[1] - centre[1], end[0] - centre[0]) - begin
    turn = 2 * math.pi
    if math.dist(start, end) <= SAME:
        sweep = turn
    return Arc(centre, radius, begin, sweep % turn - turn if clockwise else turn - -sweep % turn)
