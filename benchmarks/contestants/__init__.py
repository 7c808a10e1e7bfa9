"""Who is compared: each module says how a worker is started, at its best known setting, and what it understands."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.stage import EVENTS, Encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to work through a queue."""

    command: Callable[[int | None], list[str]]
    """Starts a worker for so many stages at once; None is what suits it best."""
    encode: Encode
    queue_arguments: Mapping[str, str] = field(default_factory=dict)
    """Those that it insists on for its queue."""
    consumers: int = 1
    """How many of its processes consume the queue."""
    events: tuple[str, ...] = EVENTS
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside the fifteen variables, for our node: settings that are compared with its own choice."""
    one_owner: bool = False
    """Whether all tasks are the same owner's, whatever the load says."""
    traced: bool = False
    """Whether it exports traces and serves metrics."""


FIXED = {"ulos-1": 1, "ulos-4": 4, "ulos-32": 32}
"""Our node with so many stages at once, whatever the machine feels."""
TITLES = {
    "ulos": "ulos-stream",
    "ulos-traced": "ulos-stream, traced",
    **{name: f"ulos-stream, always {at_once} at once" for name, at_once in FIXED.items()},
    "ulos-one-owner": "ulos-stream, all tasks one owner's",
    "celery-prefork": "Celery, prefork",
    "celery-threads": "Celery, threads",
    "dramatiq": "Dramatiq",
    "taskiq": "taskiq",
    "aiormq": "bare aiormq",
}
MODULES = {
    "ulos": "node",
    "ulos-traced": "node",
    **dict.fromkeys(FIXED, "node"),
    "ulos-one-owner": "node",
    "celery-prefork": "with_celery",
    "celery-threads": "with_celery",
    "dramatiq": "with_dramatiq",
    "taskiq": "with_taskiq",
    "aiormq": "with_aiormq",
}
"""By name: loaded when it is needed, so that a framework that is not installed is missed by nobody else."""


def find(name: str) -> Contestant:
    """The contestant of this name.

    Raises:
        ImportError: Its framework is not installed.
    """
    module = importlib.import_module(f"benchmarks.contestants.{MODULES[name]}")
    contestant: Contestant = module.CONTESTANTS[name]
    return contestant
