"""Our node beside what a user would pick instead, doing the same work on the same machine.

python -m benchmarks run       measure; a line of results for each contestant, load and round
python -m benchmarks report    write what was measured into docs/benchmarks.md
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.artifacts import Artifacts, Wrong
from benchmarks.contestants import MODULES, find
from benchmarks.loads import LOADS, Load
from benchmarks.machine import machine
from benchmarks.processes import WorkerFailed
from benchmarks.trial import measure
from ulos_stream import lab
from ulos_stream.errors import ServiceMissing


def plan(options: argparse.Namespace) -> Iterator[tuple[Load, int, str]]:
    """What the options ask for: load, round and contestant, in the order in which it is measured.

    Within a round every contestant has its turn, so that what slows the machine down meets all of them.
    """
    only = set(options.only or ())
    for load in LOADS.values():
        if only & LOADS.keys() and load.name not in only:
            continue
        for number in range(options.rounds):
            names = [name for name in load.contestants if not only & MODULES.keys() or name in only]
            random.Random(f"{options.seed} {load.name} {number}").shuffle(names)
            yield from ((load.quick if options.quick else load, number, name) for name in names)


def run(options: argparse.Namespace) -> int:
    """Measure what is not in the results yet; stop at a contestant that does not do its work."""
    kept = options.results.read_text().splitlines() if options.results.exists() else []
    done = {(it["load"], it["round"], it["contestant"]) for it in map(json.loads, kept) if "load" in it}

    def keep(line: dict[str, Any]) -> None:
        if not options.quick:
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")

    with lab.rabbitmq() as broker, lab.vsftpd() as storage, tempfile.TemporaryDirectory() as directory:
        if not kept:
            keep({"machine": asyncio.run(machine(broker, storage))})
        artifacts: dict[str, Artifacts] = {}
        for load, number, name in plan(options):
            if not options.quick and (load.name, number, name) in done:
                continue
            if load.name not in artifacts:
                artifacts = {load.name: Artifacts(Path(directory), load.size_bytes, options.seed)}
                artifacts[load.name].make(load.total)
            try:
                figures = asyncio.run(measure(find(name), load, broker, storage, artifacts[load.name]))
            except (Wrong, WorkerFailed) as failed:
                print(f"{load.name} round {number} {name}: {failed}", file=sys.stderr)
                return 1
            result = {"load": load.name, "round": number, "contestant": name, "seed": options.seed, **figures}
            keep(result)
            print(report.line(result), flush=True)
    return 0


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
    running.add_argument("--only", action="extend", nargs="+", choices=[*LOADS, *MODULES], metavar="NAME")
    running.add_argument("--quick", action="store_true", help="a few tasks each, to see that all works; keeps nothing")
    writing = commands.add_parser("report", help="write docs/benchmarks.md and its plot")
    writing.set_defaults(command=lambda options: report.write(options.results))
    options = parser.parse_args()
    try:
        return int(options.command(options))
    except (ImportError, ServiceMissing) as missing:
        print(f"{missing}; `make bench` installs what is missing", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
