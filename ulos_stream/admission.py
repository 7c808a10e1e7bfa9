"""How many stages may run now, and whose turn it is.

A node holds as many messages as its prefetch count lets it; how many of them are at work at once is decided here.
One limit, between 1 and that count, is moved by what is felt: as long as the machine's cores have ample time left, and
the stages' overhead (download, unpack, pack, upload: all but the run) takes about what it takes on an idle node, more
may run. When the cores are busy, more at once would only make each of them later, and some late for their timeout: the
limit goes back, at each look half of the way to where cores would begin to stand idle. Overhead tells nothing then, for
it waits for a core as well. In between it stays.

Pure but for its looks at the machine (`capacity.py`), which can be replaced.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from ulos_stream import capacity

PER_CORE = 2
"""Stages for each core that keep it busy, where each computes but when it waits for its files or its server."""
TOLERANCE = 40.0
"""How many times the overhead on an idle node is still well: a busy loop shows in it long before it is in the way.
With 6, stages of 1 MiB were kept a quarter below what the machine carries; 32 light ones at once take 20 times."""
AMPLE_IDLE = 0.15
"""Part of the cores' time that must be left for the limit to grow."""
LEAST_IDLE = 0.05
"""With less left, the cores are busy."""
SETTLED = 0.1
"""Weight of the newest overhead in the running mean: the last ten stages or so."""
FORGOTTEN = 1.002
"""By how much the idle overhead grows with each stage that does not confirm it: a machine that became slow is
believed after some hundred stages."""
LEAST_FREE = 0.05
"""Part of the memory that must be available for another stage to begin beside one that runs."""
LOOK_S = 0.5
"""Seconds between two looks at the machine."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one executor's stages take of a node."""

    weight: float = 1.0
    """Compared with an ordinary stage: a browser counts more than a look at a file."""
    most: int | None = None
    """The most of them at once; None for as many as the limit lets."""


ALONE = math.inf
"""Weight of a stage beside which no other runs."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A stage that waits for its turn."""

    owner: str
    key: str
    share: Share
    admitted: "asyncio.Future[None]"


@dataclass(kw_only=True, eq=False)
class Admission:
    """Gives stages their turn: owners one after the other, within the limit."""

    most: int
    """The limit never exceeds this."""
    adaptive: bool = True
    """Whether the limit moves; otherwise it is `most`."""
    most_per_owner: int | None = None
    """Stages of one owner at once; None for no such ceiling."""
    hindrance: Callable[[], str] = lambda: ""
    """Why no stage may begin now (a full disk, say); empty if one may. Asked again every second."""
    cores: float = field(default_factory=capacity.cores)
    """How many the node may keep busy."""
    free: Callable[[], float] = capacity.free_memory
    """The part of the memory that is available, 0 to 1."""
    idle: Callable[[], float] = field(default_factory=capacity.IdleTime)
    """The part of the cores' time that was left since the last look, 0 to 1."""

    def __post_init__(self) -> None:
        self.busy = max(1.0, PER_CORE * self.cores)
        """The weight that keeps all cores busy."""
        self.limit = float(min(self.most, self.busy) if self.adaptive else self.most)
        """The weight that may run at once."""
        self.weight = 0.0
        """The weight that runs."""
        self._running: Counter[str] = Counter()
        self._owners: Counter[str] = Counter()
        self._held_back: Counter[str] = Counter()
        self._waiting: dict[str, deque[Ticket]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._usual_s = self._idle_s = 0.0
        self._looked_s = -math.inf
        self._is_scarce, self._cores_left = False, 1.0

    @property
    def running(self) -> int:
        """Stages that run."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Stages that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, owner: str, key: str, share: Share = Share()) -> AsyncIterator[None]:
        """Wait until a stage may run, and let it."""
        ticket = Ticket(owner, key, share, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(owner, deque()).append(ticket)
        self._admit()
        try:
            await ticket.admitted
        except asyncio.CancelledError:
            if ticket.admitted.cancelled():
                self._withdraw(ticket)
            else:
                self._leave(ticket)
            raise
        try:
            yield
        finally:
            self._leave(ticket)

    @contextmanager
    def held_back(self, key: str) -> Iterator[None]:
        """Within it no stage of the executor `key` begins: one that runs has met a fault that the others would meet."""
        self._held_back[key] += 1
        try:
            yield
        finally:
            self._held_back[key] -= 1
            self._admit()

    def observe(self, overhead_s: float) -> None:
        """Take note of what a stage took beside its run, in seconds, and move the limit."""
        if not self.adaptive:
            return
        self._usual_s += SETTLED * (overhead_s - self._usual_s) if self._usual_s else overhead_s
        self._idle_s = min(self._idle_s * FORGOTTEN or overhead_s, overhead_s)
        self._look()
        step = 1 / math.sqrt(self.limit)
        is_late = self._usual_s > TOLERANCE * self._idle_s and self._cores_left >= LEAST_IDLE
        if is_late or self._is_scarce:
            self._move(-step)
        elif self._cores_left > AMPLE_IDLE and self._is_short:
            self._move(step)

    def _look(self) -> None:
        """Look at the machine, unless that was done just now, and move the limit: runs may last long."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._looked_s + LOOK_S:
            return
        self._looked_s = now_s
        self._is_scarce, self._cores_left = self.free() < LEAST_FREE, self.idle()
        if not self.adaptive or self._is_scarce:
            return
        if self._cores_left > AMPLE_IDLE and self._is_short:
            self._move(1)
        elif self._cores_left < LEAST_IDLE and (beyond := self.limit - self.busy) > 0:
            self._move(-min(beyond, max(1.0, beyond / 2)))

    @property
    def _is_short(self) -> bool:
        """Whether stages wait because of the limit, and not because of one that runs alone, or is to."""
        waiting = [ticket.share.weight for tickets in self._waiting.values() for ticket in tickets]
        return bool(waiting) and ALONE not in (self.weight, *waiting)

    def _move(self, step: float) -> None:
        self.limit = min(float(self.most), max(1.0, self.limit + step))

    def _admit(self) -> None:
        """Give every stage its turn that may have it now."""
        if not self._waiting:
            return
        self._look()
        if not self.hindrance():
            while (ticket := self._next()) and not (self.weight and self._is_scarce):
                self._enter(ticket)
        if self._waiting and self._looking is None:
            self._looking = asyncio.create_task(self._look_again())

    def _next(self) -> Ticket | None:
        """The next stage in turn; None where there is none, or it does not fit beside those that run."""
        for owner, tickets in self._waiting.items():
            if self.most_per_owner is not None and self._owners[owner] >= self.most_per_owner:
                continue
            for ticket in tickets:
                if ticket.admitted.cancelled() or self._held_back[ticket.key]:  # cancelled: it is about to leave
                    continue
                if ticket.share.most is None or self._running[ticket.key] < ticket.share.most:
                    # The next one waits for room, and nobody overtakes it: heavy stages would never have it.
                    fits = not self.weight or self.weight + ticket.share.weight <= max(1.0, math.floor(self.limit))
                    return ticket if fits else None
        return None

    def _enter(self, ticket: Ticket) -> None:
        tickets = self._waiting.pop(ticket.owner)
        tickets.remove(ticket)
        if tickets:
            self._waiting[ticket.owner] = tickets  # behind the other owners
        self.weight += ticket.share.weight
        self._running[ticket.key] += 1
        self._owners[ticket.owner] += 1
        ticket.admitted.set_result(None)

    def _leave(self, ticket: Ticket) -> None:
        self.weight = max(0.0, self.weight - ticket.share.weight)
        for counter, name in ((self._running, ticket.key), (self._owners, ticket.owner)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        if not self._running:
            self.weight = 0.0  # whatever fractions have left
        self._admit()

    def _withdraw(self, ticket: Ticket) -> None:
        tickets = self._waiting[ticket.owner]
        tickets.remove(ticket)
        if not tickets:
            del self._waiting[ticket.owner]
        self._admit()

    async def _look_again(self) -> None:
        """Stages wait: admit some when anything but another one's end lets them."""
        await asyncio.sleep(LOOK_S)
        self._looking = None
        self._admit()
