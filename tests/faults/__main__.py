"""The proof that nothing is lost: real nodes, real faults, and what must hold afterwards.

python -m tests.faults run --seed N      play scenarios, one line of results a round
python -m tests.faults mutants           break the node on purpose, and see it found
python -m tests.faults table             write the figures into docs/failure-matrix.md
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from . import broker_faults, engine_faults, node_faults, storage_faults  # noqa: F401 (they register scenarios)
from .invariants import CORRUPT, DUPLICATED, violations
from .mutants import find_all
from .rounds import a_round
from .scenarios import SCENARIOS, Scenario
from .table import FIGURES, write_table
from .world import a_lab

ROUND_S = 600.0
"""Seconds after which a round has hung."""


async def play(scenario: Scenario, number: int, options: argparse.Namespace, lab: Any) -> dict[str, Any]:
    """One round; what it is in the results."""
    broker, storages = lab
    draw = random.Random(f"{options.seed} {scenario.name} {number}")
    name = f"r{draw.getrandbits(32):08x}"
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ulos-faults-") as directory:
        storage = storages[number % len(storages)]
        async with (
            asyncio.timeout(ROUND_S),
            a_round(name, draw, options.tasks or scenario.tasks, broker, storage, Path(directory)) as round_,
        ):
            await scenario.play(round_)
            evidence = await round_.judge()
            found = violations(evidence)
            if found and options.results:
                round_.keep(options.results.with_suffix("") / f"{scenario.name} {options.seed} {number}")
    return {
        "scenario": scenario.name,
        "seed": options.seed,
        "round": number,
        "tasks": len(evidence.sent),
        "faults": dict(Counter(fault.kind for fault in evidence.faults)),
        "lost": sum(violation.code == "lost" for violation in found),
        "duplicated": sum(violation.code in DUPLICATED for violation in found),
        "corrupt": sum(violation.code in CORRUPT for violation in found),
        "violations": [str(violation) for violation in found],
        "seconds": round(time.monotonic() - begun, 1),
    }


def run(options: argparse.Namespace) -> int:
    """Play what the options name and is not in the results yet."""
    names = options.scenario or [name for name, it in SCENARIOS.items() if it.short or not options.short]
    results = []
    if options.results and options.results.exists():
        recorded = map(json.loads, options.results.read_text().splitlines())
        results = [it for it in recorded if it["seed"] == options.seed and it["scenario"] in names]
    done = {(it["scenario"], it["round"]) for it in results}
    with tempfile.TemporaryDirectory(prefix="ulos-faults-") as directory, a_lab(Path(directory)) as lab:
        for name in names:
            scenario = SCENARIOS[name]
            for number in range(options.rounds or (1 if options.short else scenario.rounds)):
                if (name, number) in done:
                    continue
                result = asyncio.run(play(scenario, number, options, lab))
                results.append(result)
                if options.results:
                    with options.results.open("a") as file:
                        file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)
    print(summary(results, options.seed), flush=True)
    return int(any(it["violations"] for it in results))


def summary(results: list[dict[str, Any]], seed: int) -> str:
    """What all rounds came to, in a line; those too that were played before."""
    faults = sum((Counter(it["faults"]) for it in results), Counter())
    tasks, lost, twice, corrupt = (sum(it[name] for it in results) for name in FIGURES[1:])
    bad = sum(bool(it["violations"]) for it in results)
    return (
        f"seed {seed}: {len(results)} rounds, {tasks:,} tasks, {faults.total():,} faults of {len(faults)} kinds in "
        f"{sum(it['seconds'] for it in results) / 60:.0f} minutes; lost {lost}, twice {twice}, corrupt {corrupt}; "
        f"rounds with any violation: {bad}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.set_defaults(command=run)
    running.add_argument("--seed", type=int, required=True)
    running.add_argument("--scenario", action="extend", nargs="+", choices=SCENARIOS)
    running.add_argument("--short", action="store_true")
    running.add_argument("--tasks", type=int, default=0)
    running.add_argument("--rounds", type=int, default=0)
    running.add_argument("--results", type=Path)
    breaking = commands.add_parser("mutants")
    breaking.set_defaults(command=lambda options: find_all(options.seed))
    breaking.add_argument("--seed", type=int, default=1)
    writing = commands.add_parser("table")
    writing.set_defaults(command=lambda options: write_table(options.results))
    writing.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    return int(options.command(options))


sys.exit(main())
