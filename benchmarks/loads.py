"""What the contestants are given to do."""

from dataclasses import dataclass, replace

from benchmarks.contestants import MODULES

KIB, MIB = 1024, 1024 * 1024
UNTRACED = tuple(name for name in MODULES if name != "ulos-traced")


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
    at_once: int | None = None
    """Stages at once; None is what suits each contestant best."""
    nodes: int = 1
    alone: int = 0
    """Tasks sent afterwards one at a time, each when the one before is done."""
    warm_up: int = 64
    contestants: tuple[str, ...] = UNTRACED

    @property
    def quick(self) -> "Load":
        """The same with so few tasks that its figures mean nothing."""
        tasks = 2 if self.size_bytes > MIB else 5
        return replace(self, tasks=tasks, alone=min(self.alone, 3), warm_up=2)


LOADS = {
    load.name: load
    for load in (
        Load(name="small", title="22 bytes", tasks=1_000, alone=200, contestants=tuple(MODULES)),
        Load(name="1-mib", title="1 MiB", tasks=100, size_bytes=MIB),
        Load(name="50-mib", title="50 MiB", tasks=10, size_bytes=50 * MIB),
        Load(name="chain", title="five stages, 22 bytes", tasks=200, stages=5),
        Load(name="simulated", title="20 ms of execution, 64 at once", tasks=1_000, delay_s=0.02, at_once=64),
        Load(
            name="backlog",
            title="a backlog of 10,000",
            tasks=10_000,
            contestants=("ulos", "celery-prefork", "aiormq"),
        ),
        Load(name="two-nodes", title="two nodes, 22 bytes", tasks=1_000, nodes=2),
        Load(name="four-nodes", title="four nodes, 22 bytes", tasks=1_000, nodes=4),
    )
}
