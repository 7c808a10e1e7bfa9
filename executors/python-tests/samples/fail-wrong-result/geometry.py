"""Rectangles, with mistakes that people make."""

import math

UNIT = "cm"


class NotARectangle(ValueError):
    """A side is negative."""


class Rectangle:
    """Two sides."""

    def __init__(self, width, height):
        if width < 0:
            raise NotARectangle(f"no side is {width} {UNIT} long")
        self.width, self.height = width, height

    def scale(self, factor):
        self.width * factor
        self.height * factor


def area(width, height):
    return width * width


def sort_by(rectangles, key):
    return sorted(rectangles, key=key)


def diagonals(rectangles):
    return [math.hypot(rectangle.width, rectangle.heigth) for rectangle in rectangles]
