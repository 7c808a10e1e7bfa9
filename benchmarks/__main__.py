"""Our node beside everything that a user would pick instead, doing the same work on the same machine.

python -m benchmarks run       measure, one line of results for each contestant, load and round
python -m benchmarks report    write what was measured into docs/benchmarks.md
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.artifacts import Artifacts, Wrong
from benchmarks.contestants import MODULES
from benchmarks.loads import LOADS
from benchmarks.machine import machine
from benchmarks.processes import WorkerFailed
from benchmarks.trial import measure
from ulos_stream import lab


def run(options: argparse.Namespace) -> int:
    """Measure what the options name and is not in the results yet, contestants in turn within a round."""
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    done = {(it["load"], it["round"], it["contestant"]) for it in map(json.loads, lines) if "load" in it}
    only = set(options.only or ())
    with lab.rabbitmq() as broker, lab.vsftpd() as storage, tempfile.TemporaryDirectory() as directory:
        if not lines:
            _keep(options.results, {"machine": asyncio.run(machine(broker, storage))})
        for load in LOADS.values():
            if only & LOADS.keys() and load.name not in only:
                continue
            load = load.quick if options.quick else load
            artifacts = Artifacts(Path(directory), load.size_bytes, options.seed)
            artifacts.make()
            for number in range(options.rounds):
                names = [name for name in load.contestants if not only & MODULES.keys() or name in only]
                random.Random(f"{options.seed} {load.name} {number}").shuffle(names)
                for name in names:
                    if (load.name, number, name) in done:
                        continue
                    try:
                        figures = asyncio.run(measure(name, load, broker, storage, artifacts))
                    except (Wrong, WorkerFailed) as failed:
                        print(f"{load.name} round {number} {name}: {failed}", file=sys.stderr)
                        return 1
                    trial = {"load": load.name, "round": number, "contestant": name, "seed": options.seed}
                    result = trial | {key: it and round(it, 4) for key, it in figures.items()}
                    _keep(options.results, result)
                    print(report.line(result), flush=True)
    return 0


def _keep(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as results:
        results.write(json.dumps(line) + "\n")


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks.jsonl"), help="where figures are kept")
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="measure; what the results hold already is not measured again")
    running.set_defaults(command=run)
    running.add_argument("--rounds", type=int, default=3)
    running.add_argument("--seed", type=int, default=1, help="of contents, and of the order within a round")
    running.add_argument("--only", action="extend", nargs="+", choices=[*LOADS, *MODULES], help="loads, contestants")
    running.add_argument("--quick", action="store_true", help="a few tasks each, to see that all works")
    writing = commands.add_parser("report", help="write docs/benchmarks.md and its plot")
    writing.set_defaults(command=lambda options: report.write(options.results))
    options = parser.parse_args()
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
