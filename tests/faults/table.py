"""Writes what was measured into the rows of docs/failure-matrix.md; the words in them are people's."""

import json
import sys
from collections import Counter
from pathlib import Path

MATRIX = Path(__file__).parents[2] / "docs" / "failure-matrix.md"
FIGURES = ("faults", "tasks", "lost", "duplicated", "corrupt")
"""The last columns of the matrix."""


def measured(results: list[str]) -> dict[str, Counter[str]]:
    """By kind of fault: how often, and what the rounds with it came to."""
    by_kind: dict[str, Counter[str]] = {}
    for result in map(json.loads, results):
        for kind, count in result["faults"].items():
            figures = by_kind.setdefault(kind, Counter())
            figures.update({"faults": count} | {name: result[name] for name in FIGURES[1:]})
    return by_kind


def filled(matrix: str, by_kind: dict[str, Counter[str]]) -> str:
    """The matrix with these figures in the rows of their kinds.

    Raises:
        LookupError: A kind of fault has no row.
    """
    lines, seen = [], set()
    for line in matrix.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3 + len(FIGURES):
            kind = cells[0].strip("`")
            seen.add(kind)
            figures = by_kind.get(kind)
            cells[3:] = [f"{figures[name]:,}" if figures else "-" for name in FIGURES]
            line = f"| {' | '.join(cells)} |"
        lines.append(line)
    if unknown := by_kind.keys() - seen:
        raise LookupError(f"{MATRIX.name} has no row for {', '.join(sorted(unknown))}")
    return "\n".join(lines) + "\n"


def write_table(results: Path) -> int:
    """Fill the matrix, unless a round found a violation; a kind of fault without a row is an error."""
    lines = results.read_text().splitlines()
    if bad := [violation for line in lines for violation in json.loads(line)["violations"]]:
        print("\n".join(["nothing is written, since there are violations:", *bad]), file=sys.stderr)
        return 1
    MATRIX.write_text(filled(MATRIX.read_text(), measured(lines)))
    return 0
