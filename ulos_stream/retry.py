"""Faults are retried with exponential back-off and jitter, within a budget."""

import asyncio
import itertools
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ulos_stream.errors import Fault, FaultBudgetSpent

T = TypeVar("T")


def delay_s(attempt: int, *, jitter: float, first_s: float = 0.1, longest_s: float = 15.0) -> float:
    """Seconds to wait after the failed `attempt` (0, 1, …): doubled each time, at most `longest_s`.

    `jitter`, from 0 to 1, takes off up to half, so that many stages do not come back together.
    """
    return float(min(first_s * 2 ** min(attempt, 30), longest_s) * (1 - jitter / 2))


async def retry(
    operation: Callable[[], Awaitable[T]],
    *,
    budget_s: float,
    report: Callable[[Fault, float], None],
    longest_s: float = 15.0,
    met: Fault | None = None,
) -> T:
    """Await `operation()` until it raises no `Fault`.

    Args:
        operation: Called anew for each attempt.
        budget_s: Seconds after the first fault within which the last attempt begins; `math.inf` for ever.
        report: Told each fault and the seconds until the next attempt.
        longest_s: The longest wait between two attempts, in seconds.
        met: What the first attempt has met, where the caller has made it.

    Raises:
        FaultBudgetSpent: The fault outlived the budget.
    """
    clock = asyncio.get_running_loop().time
    deadline: float | None = None
    for attempt in itertools.count():
        if met is None:
            try:
                return await operation()
            except Fault as fault:
                met = fault
        wait_s = delay_s(attempt, jitter=random.random(), longest_s=longest_s)  # noqa: S311 (no secret)
        deadline = clock() + budget_s if deadline is None else deadline
        if clock() + wait_s > deadline:
            raise FaultBudgetSpent(f"given up after {budget_s:g} s: {met}") from met
        report(met, wait_s)
        met = None
        await asyncio.sleep(wait_s)
    raise AssertionError("unreachable")


async def wait_for(operation: Callable[[], Awaitable[T]], say: Callable[[str], None]) -> T:
    """Await `operation()` until it raises no `Fault`, however long that takes.

    `say` is told each fault once, and again only when its text changes.
    """
    last = ""

    def on_change(fault: Fault, wait_s: float) -> None:
        nonlocal last
        if str(fault) != last:
            last = str(fault)
            say(last)

    return await retry(operation, budget_s=math.inf, report=on_change, longest_s=5)
