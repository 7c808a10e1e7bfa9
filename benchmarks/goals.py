"""What is asked of our node, and whether it is so: pure, from the results of many trials."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.contestants import FIXED

CELERY = ("celery-prefork", "celery-threads")

Result = dict[str, Any]
"""One line of the results: load, round, contestant and figures."""


class Results:
    """The figures of all trials.

    Args:
        lines: Of the results, in any order.
    """

    def __init__(self, lines: Iterable[Result]) -> None:
        self._by_trial = {(it["load"], it["contestant"], it["round"]): it for it in lines}

    def rounds(self, load: str, contestant: str, figure: str) -> dict[int, float]:
        """A figure in every round that has it."""
        return {
            number: it[figure]
            for (its_load, its_contestant, number), it in sorted(self._by_trial.items())
            if (its_load, its_contestant) == (load, contestant) and it.get(figure) is not None
        }

    def median(self, load: str, contestant: str, figure: str) -> float | None:
        """Over all rounds; None if there are none."""
        return median(rounds.values()) if (rounds := self.rounds(load, contestant, figure)) else None

    def ratio(self, load: str, contestant: str, others: Sequence[str]) -> float | None:
        """Stages per second, as a multiple of those of the best of the others in the same round: the median.

        Beside one that did nothing in time it is infinite.
        """
        best = max(others, key=lambda other: self.median(load, other, "stages_per_s") or 0)
        ours, theirs = (self.rounds(load, name, "stages_per_s") for name in (contestant, best))
        both = ours.keys() & theirs.keys()
        ratios = [ours[number] / theirs[number] if theirs[number] else math.inf for number in both]
        return median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Goal:
    """A measure, what it must be, what we want it to be."""

    measure: str
    must: float
    goal: float
    figure: Callable[[Results], float | None]
    """None while it is not measured."""
    unit: str = ""
    at_least: bool = True

    def met(self, figure: float, bound: float) -> bool:
        """Whether a figure is good enough."""
        return figure >= bound if self.at_least else figure <= bound


def _at_most(measure: str, must: float, goal: float, unit: str, load: str, figure: str) -> Goal:
    return Goal(measure, must, goal, lambda results: results.median(load, "ulos", figure), unit, at_least=False)


def _below_fixed(results: Results) -> float | None:
    """By how many per cent the limit that moves stays behind the best fixed one, on the load where that is most."""
    ratios = [results.ratio(load, "ulos", tuple(FIXED)) for load in ("light", "heavy", "mixed")]
    known = [ratio for ratio in ratios if ratio is not None]
    return 100 * max(0.0, 1 - min(known)) if len(known) == len(ratios) else None


def _over_all(results: Results) -> float | None:
    """The speed of the limit that moves beside the fixed one that does best over all three loads: geometric means."""
    means = []
    for fixed in FIXED:
        ratios = [results.ratio(load, "ulos", [fixed]) for load in ("light", "heavy", "mixed")]
        known = [ratio for ratio in ratios if ratio is not None]
        if len(known) < len(ratios):
            return None
        means.append(math.prod(known) ** (1 / len(known)))
    return min(means)


def _sooner(results: Results) -> float | None:
    """How many times sooner the tasks of the small owner end than if all tasks waited in one row."""
    alone, among = (results.median("owners", name, "guests_p95_ms") for name in ("ulos-one-owner", "ulos"))
    return alone / among if alone and among else None


GOALS = (
    Goal("stages/s, 22 bytes, against the better Celery", 1.6, 2.2, lambda it: it.ratio("small", "ulos", CELERY), "×"),
    Goal(
        "the same with traces, 1 in 10 sampled, and metrics",
        1.4,
        1.8,
        lambda it: it.ratio("small", "ulos-traced", CELERY),
        "×",
    ),
    Goal("stages/s, 22 bytes, against bare aiormq", 0.9, 1.2, lambda it: it.ratio("small", "ulos", ["aiormq"]), "×"),
    Goal("stages/s, 1 MiB, against the better Celery", 2, 4, lambda it: it.ratio("1-mib", "ulos", CELERY), "×"),
    _at_most("CPU of the worker for 1,000 stages", 2.5, 1.7, " s", "small", "cpu_s_per_1000"),
    _at_most("one at a time, p50", 10, 7, " ms", "small", "p50_ms"),
    _at_most("one at a time, p99", 20, 15, " ms", "small", "p99_ms"),
    _at_most("peak memory with a backlog of 10,000", 90, 65, " MB", "backlog", "peak_rss_mb"),
    _at_most("start to end of the first task", 1.2, 0.7, " s", "small", "first_task_s"),
    Goal("adaptive limit, below the best fixed setting", 15, 5, _below_fixed, " %", at_least=False),
    Goal("adaptive limit over light, heavy and mixed load, against the best fixed one", 1, 1, _over_all, "×"),
    Goal("p95 wait of an owner of 5 tasks beside one of 500, divided by", 5, 20, _sooner),
)


def rows(results: Results) -> list[str]:
    """A row of Markdown for each `must` and each `goal`."""
    table = ["| | measure | asked | measured | |", "|---|---|---:|---:|---|"]
    for it in GOALS:
        figure = it.figure(results)
        for kind, bound in (("must", it.must), ("goal", it.goal)):
            asked = f"{'≥' if it.at_least else '≤'} {bound:g}{it.unit}"
            if figure is None:
                measured, verdict = "", "not measured"
            else:
                measured = f"{figure:.2f}{it.unit}" if figure < 10 else f"{figure:.0f}{it.unit}"
                verdict = "met" if it.met(figure, bound) else "missed"
            table.append(f"| {kind} | {it.measure} | {asked} | {measured} | {verdict} |")
    return table
