"""Writes what was measured into docs/benchmarks.md, and draws it; the words in there are people's."""

import json
import re
from pathlib import Path

from benchmarks.contestants import TITLES
from benchmarks.goals import Result, Results, rows
from benchmarks.loads import LOADS, Load
from benchmarks.plot import plot

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
FIGURES = {
    "stages_per_s": "stages/s",
    "cpu_s_per_1000": "CPU s per 1,000",
    "peak_rss_mb": "peak MB",
    "first_task_s": "first task s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "late_percent": "too late, %",
    "guests_p95_ms": "p95 of the 5, ms",
}
"""The columns of each load's table."""


def line(result: Result) -> str:
    """One trial, for whoever is waiting."""
    figures = (f"{title} {number(result[key])}" for key, title in FIGURES.items() if result.get(key) is not None)
    return f"{result['load']:10} round {result['round']} {result['contestant']:15} {', '.join(figures)}"


def number(figure: float) -> str:
    """With as many digits as mean something."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def table(results: Results, load: Load) -> list[str]:
    """The medians of one load, a row for each contestant that was measured, the fastest first."""
    medians_of_all = ((name, results.median(load.name, name, "stages_per_s")) for name in load.contestants)
    speeds = {name: speed for name, speed in medians_of_all if speed is not None}
    figures = [key for key in FIGURES if any(results.median(load.name, name, key) is not None for name in speeds)]
    if not load.alone:  # then neither is the start of interest, which is the same under every load
        figures = [key for key in figures if key != "first_task_s"]
    lines = [f"| {load.title} | {' | '.join(FIGURES[key] for key in figures)} |", f"|---|{'---:|' * len(figures)}"]
    for name in sorted(speeds, key=lambda name: -speeds[name]):
        medians = [results.median(load.name, name, key) for key in figures]
        cells = ["" if it is None else number(it) for it in medians]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return lines if speeds else []


def filled(page: str, block: str, lines: list[str]) -> str:
    """The page with these lines between the marks of a block.

    Raises:
        LookupError: It has no such block.
    """
    marked = re.compile(rf"(<!-- {block} -->\n).*?(<!-- end of {block} -->)", re.DOTALL)
    if not marked.search(page):
        raise LookupError(f"{PAGE.name} has no block {block!r}")
    return marked.sub(lambda found: "\n".join((found[1], *lines, "", found[2])), page)


def write(file: Path) -> int:
    """Fill the page's blocks and draw the plot."""
    lines = [json.loads(it) for it in file.read_text().splitlines()]
    machine = lines[0]["machine"]
    results = Results(it for it in lines if "load" in it)
    tables = [line for load in LOADS.values() if (its := table(results, load)) for line in (*its, "")][:-1]
    about = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine.items())]
    page = PAGE.read_text()
    drawing = PAGE.with_suffix(".svg")
    shown = [f"![Speed, processor time and memory of each contestant: the tables below, drawn]({drawing.name})"]
    for block, content in (("goals", rows(results)), ("plot", shown), ("figures", tables), ("machine", about)):
        page = filled(page, block, content)
    PAGE.write_text(page)
    drawing.write_text(plot(results))
    return 0
