"""Faults are retried with growing, jittered waits, within a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulos_stream.errors import ArtifactMissing, Fault, FaultBudgetSpent, StorageFault
from ulos_stream.retry import delay_s, retry, wait_for


class Flaky:
    """Raises each of `errors` in turn, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "done"


@given(attempt=st.integers(0, 5_000), jitter=st.floats(0, 1))
def test_a_wait_is_between_half_and_all_of_its_step_and_never_above_the_longest(attempt: int, jitter: float) -> None:
    step = min(0.1 * 2 ** min(attempt, 30), 15)

    assert step / 2 <= delay_s(attempt, jitter=jitter) <= step


async def test_a_fault_is_tried_again_until_it_is_gone() -> None:
    storage = Flaky(StorageFault("away"), StorageFault("still away"))
    told: list[str] = []

    result = await retry(storage, budget_s=60, report=lambda fault, _: told.append(str(fault)))

    assert (result, storage.calls, told) == ("done", 3, ["away", "still away"])


async def test_a_fault_that_outlives_its_budget_is_a_crash_with_its_reason() -> None:
    storage = Flaky(*[StorageFault("away")] * 3)

    with pytest.raises(FaultBudgetSpent, match="given up after 0 s: away") as spent:
        await retry(storage, budget_s=0, report=lambda *_: None)

    assert isinstance(spent.value.__cause__, Fault)


async def test_the_tasks_own_error_is_not_tried_again() -> None:
    storage = Flaky(ArtifactMissing("no such file"))

    with pytest.raises(ArtifactMissing):
        await retry(storage, budget_s=60, report=lambda *_: None)

    assert storage.calls == 1


async def test_waiting_says_each_reason_once() -> None:
    world = Flaky(StorageFault("refused"), StorageFault("refused"), StorageFault("wrong password"))
    said: list[str] = []

    await wait_for(world, said.append)

    assert said == ["refused", "wrong password"]


async def test_what_the_caller_has_met_counts_as_the_first_attempt() -> None:
    storage = Flaky(StorageFault("still away"))
    told: list[str] = []

    result = await retry(
        storage, budget_s=60, report=lambda fault, _: told.append(str(fault)), met=StorageFault("away")
    )

    assert (result, storage.calls, told) == ("done", 2, ["away", "still away"])
