import math

import geometry
import pytest
from geometry import UNIT, NotARectangle, Rectangle, area


@pytest.mark.parametrize(("width", "height"), [(2, 3), (1, 1), (0.5, 8)])
def test_area(width, height):
    """The area of a rectangle is its width times its height."""
    assert area(width, height) == pytest.approx(width * height)


def test_unit():
    assert UNIT == "m"


def test_rectangles_are_compared_by_their_sides():
    assert Rectangle(2, 3) == Rectangle(2, 3)
    assert Rectangle(2, 3) != Rectangle(3, 2)
    assert len({Rectangle(2, 3), Rectangle(2, 3), Rectangle(1, 1)}) == 2


def test_scaling():
    rectangle = Rectangle(2, 3)

    rectangle.scale(2)

    assert (rectangle.width, rectangle.height) == (4, 6)


def test_a_negative_side_is_refused():
    with pytest.raises(NotARectangle) as caught:
        Rectangle(-1, 3)
    assert caught.value.side == -1
    with pytest.raises(ValueError, match="side"):
        Rectangle(3, -1)


def test_sorting_in_place():
    rectangles = [(3, 3), (1, 2), (2, 2)]

    geometry.sort_by(rectangles, lambda sides: sides[0] * sides[1])

    assert rectangles == [(1, 2), (2, 2), (3, 3)]


def test_diagonals_are_a_generator():
    diagonals = geometry.diagonals([Rectangle(3, 4), Rectangle(5, 12)])

    assert next(diagonals) == 5
    assert math.isclose(next(diagonals), 13)
    assert list(diagonals) == []
