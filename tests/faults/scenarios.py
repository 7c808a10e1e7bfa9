"""The scenarios: what is done to the nodes while they work. Each is a function of a round.

A module of scenarios registers them by `@scenario("name")`, and is imported by `__main__`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .rounds import Round

Play = Callable[[Round], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to play in rounds."""

    name: str
    play: Play
    short: bool
    """Part of the short form, which every change must pass."""
    rounds: int
    """How often the long form plays it."""
    tasks: int
    """How many tasks a round sends."""


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, *, short: bool = False, rounds: int = 2, tasks: int = 40) -> Callable[[Play], Play]:
    """Register a function of a round as a scenario."""

    def register(play: Play) -> Play:
        SCENARIOS[name] = Scenario(name, play, short, rounds, tasks)
        return play

    return register
