"""What the contestants are given to do."""

from dataclasses import dataclass, replace

from benchmarks.contestants import FIXED, MODULES
from benchmarks.stage import AT_ONCE

MIB = 1024 * 1024
BESIDE = tuple(name for name in MODULES if name == "ulos" or not name.startswith("ulos-"))
"""Our node as it is, and the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Tasks that are all in the queue at once, after some that warm the workers up."""

    name: str
    title: str
    tasks: int
    size_bytes: int = 22
    """Of the one file in each artifact; random, so that it does not compress."""
    stages: int = 1
    """Each is the success branch of the one before, and all are consumed from the same queue."""
    delay_s: float = 0
    """How long the simulated execution takes."""
    executors: tuple[str, ...] = ("testing",)
    """Of the stages of a task, in turn."""
    may_fail: bool = False
    """Whether the last stage of a task may fail, for it came too late; it does not count then."""
    guests: int = 0
    """So many of the tasks, the last of all that are sent at once, are another owner's."""
    at_once: int | None = None
    """Stages at once; None is what suits each contestant best."""
    nodes: int = 1
    alone: int = 0
    """Tasks sent afterwards one at a time, each when the one before is done."""
    warm_up: int = 2 * AT_ONCE
    """Enough that every connection of a pool is open."""
    contestants: tuple[str, ...] = BESIDE

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """How many tasks come first and alone, to warm up, all at once, and one at a time."""
        return 1, self.warm_up, self.tasks, self.alone

    @property
    def total(self) -> int:
        """All tasks."""
        return sum(self.parts)

    @property
    def quick(self) -> "Load":
        """The same with so few tasks that its figures mean nothing."""
        return replace(self, tasks=2 if self.size_bytes > MIB else 5, alone=min(self.alone, 3), warm_up=1)


LOADS = {
    load.name: load
    for load in (
        Load(name="small", title="22 bytes", tasks=1_000, alone=200, contestants=(*BESIDE, "ulos-traced")),
        Load(name="1-mib", title="1 MiB", tasks=100, size_bytes=MIB, warm_up=16),
        Load(name="50-mib", title="50 MiB", tasks=10, size_bytes=50 * MIB, warm_up=0),
        Load(name="chain", title="five stages, 22 bytes", tasks=200, stages=5),
        Load(
            name="simulated", title="20 ms of execution, 64 at once", tasks=1_000, delay_s=0.02, at_once=64, warm_up=128
        ),
        Load(
            name="backlog",
            title="a backlog of 10,000",
            tasks=10_000,
            contestants=("ulos", "celery-prefork", "aiormq"),
        ),
        Load(name="two-nodes", title="two nodes, 22 bytes", tasks=1_000, nodes=2, warm_up=128),
        Load(name="four-nodes", title="four nodes, 22 bytes", tasks=1_000, nodes=4, warm_up=256),
        Load(name="light", title="limit on light work: 22 bytes", tasks=1_000, contestants=(*FIXED, "ulos")),
        Load(
            name="heavy",
            title="limit on heavy work: 200 ms of processor time, of no use after 2 s",
            tasks=60,
            executors=("grind",),
            may_fail=True,
            contestants=(*FIXED, "ulos"),
        ),
        Load(
            name="mixed",
            title="limit on both, one stage after the other",
            tasks=60,
            stages=2,
            executors=("testing", "grind"),
            may_fail=True,
            delay_s=0.02,
            contestants=(*FIXED, "ulos"),
        ),
        Load(
            name="owners",
            title="500 tasks of one owner, and 5 of another behind them",
            tasks=505,
            executors=("burn",),
            guests=5,
            at_once=512,
            contestants=("ulos", "ulos-one-owner"),
        ),
    )
}
