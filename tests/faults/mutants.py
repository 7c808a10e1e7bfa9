"""Broken nodes that the scenarios must find: each `mutants/*.patch` says how it breaks, and by what it is found.

A patch begins with a line in words, `Scenario: ` and `Violation: `, and is applied to a copy of the tree.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def find_mutant(patch: Path, seed: int) -> str | None:
    """Play the scenario that must find this mutant; why it was not found, or None."""
    head = patch.read_text()
    wanted = dict(re.findall(r"^(Scenario|Violation): (.+)$", head, re.MULTILINE))
    with tempfile.TemporaryDirectory(prefix="ulos-mutant-") as directory:
        for part in ("ulos_stream", "tests/faults"):
            shutil.copytree(ROOT / part, Path(directory, part), ignore=shutil.ignore_patterns("__pycache__"))
        applied = subprocess.run(
            ["git", "apply", "-C1", patch.absolute()], cwd=directory, capture_output=True, text=True, check=False
        )
        if applied.returncode:
            return f"the patch no longer applies: {applied.stderr.strip()}"
        results = Path(directory, "results.jsonl")
        command = ["-m", "tests.faults", "run", "--seed", str(seed), "--rounds", "1", "--scenario", wanted["Scenario"]]
        played = subprocess.run(
            [sys.executable, *command, "--results", results], cwd=directory, capture_output=True, text=True, check=False
        )
        if not results.exists():
            return f"the scenario did not come to its end: {played.stderr[-2000:]}"
        found = json.loads(results.read_text())["violations"]
    if not any(f" {wanted['Violation']}: " in violation for violation in found):
        return f"{wanted['Scenario']!r} did not find {wanted['Violation']!r}, only {found}"
    return None


def find_all(seed: int) -> int:
    """Play every mutant; returns how many were not found."""
    missed = 0
    for patch in sorted(Path(__file__).with_name("mutants").glob("*.patch")):
        why = find_mutant(patch, seed)
        print(f"mutant {patch.stem}: {why or 'found'}", flush=True)
        missed += why is not None
    return missed
