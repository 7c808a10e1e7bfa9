"""The scenarios: what is done to the nodes while they work. Each is a function of a round."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .launcher import POINTS
from .rounds import Round

Play = Callable[[Round], Awaitable[None]]
ON_A_CRASH = ("reporting", "reported", "rejected")
"""Points that only a crashing task passes."""


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


def _kill_at(point: str) -> Play:
    async def play(round_: Round) -> None:
        tasks = round_.prepare()
        passing = [sent for sent in tasks if sent.crashes or point not in ON_A_CRASH]
        for sent in round_.draw.sample(passing, min(len(passing), len(tasks) // 5)):
            crashes = point in ON_A_CRASH
            stage = "crash" if crashes else round_.draw.choice(sent.stages)
            round_.kill_at(point, sent, stage)
        await round_.start_nodes()
        await round_.send(tasks)

    return play


for _point in POINTS:
    scenario(f"kill: {_point}", short=_point in ("storing", "renamed", "handed over"))(_kill_at(_point))
