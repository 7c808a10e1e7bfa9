"""Whose turn it is, and how many may run: decided from what is told, without a clock."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ulos_stream.admission import ALONE, Admission, Share


class Stages:
    """Stages that ask for a turn and keep it until they are told to end."""

    def __init__(self, **admission: Any) -> None:
        self.admission = Admission(**{"adaptive": False, "free": lambda: 1.0, "idle": lambda: 1.0, **admission})
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, owner: str = "o", key: str = "k", share: Share = Share()) -> None:  # noqa: B008
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._run(name, owner, key, share))
        await settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await settle()

    async def _run(self, name: str, owner: str, key: str, share: Share) -> None:
        async with self.admission.turn(owner, key, share):
            self.begun.append(name)
            await self._ends[name].wait()

    async def aclose(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def stages(**admission: Any) -> AsyncIterator[Stages]:
    stages = Stages(**admission)
    try:
        yield stages
    finally:
        await stages.aclose()
    assert (stages.admission.running, stages.admission.waiting, stages.admission.weight) == (0, 0, 0)


async def test_no_more_stages_run_than_the_limit_lets() -> None:
    async with stages(most=2) as some:
        for name in "abc":
            await some.ask(name)
        before = list(some.begun)
        await some.end("a")

        assert before == ["a", "b"]
        assert some.begun == ["a", "b", "c"]


async def test_owners_take_turns_however_many_each_has() -> None:
    async with stages(most=1) as some:
        for name in ("many-1", "many-2", "many-3", "many-4"):
            await some.ask(name, owner="many")
        for name in ("few-1", "few-2"):
            await some.ask(name, owner="few")
        for name in ("many-1", "many-2", "few-1", "many-3", "few-2"):
            await some.end(name)

        assert some.begun == ["many-1", "many-2", "few-1", "many-3", "few-2", "many-4"]


async def test_an_owner_has_no_more_at_once_than_the_ceiling_and_leaves_room_to_others() -> None:
    async with stages(most=3, most_per_owner=1) as some:
        for name, owner in (("a-1", "a"), ("a-2", "a"), ("b-1", "b")):
            await some.ask(name, owner=owner)
        before = list(some.begun)
        await some.end("a-1")

        assert before == ["a-1", "b-1"]
        assert some.begun == ["a-1", "b-1", "a-2"]


async def test_an_executor_has_no_more_at_once_than_its_ceiling_and_leaves_room_to_others() -> None:
    async with stages(most=3) as some:
        for name, key in (("browser-1", "browser"), ("browser-2", "browser"), ("look-1", "look")):
            await some.ask(name, key=key, share=Share(most=1 if key == "browser" else None))
        before = list(some.begun)
        await some.end("browser-1")

        assert before == ["browser-1", "look-1"]
        assert some.begun == ["browser-1", "look-1", "browser-2"]


async def test_a_heavy_stage_waits_for_room_and_is_not_overtaken() -> None:
    async with stages(most=4) as some:
        await some.ask("light-1")
        await some.ask("heavy", share=Share(weight=4))
        await some.ask("light-2")
        before = list(some.begun)
        await some.end("light-1")
        meanwhile = list(some.begun)
        await some.end("heavy")

        assert (before, meanwhile) == (["light-1"], ["light-1", "heavy"])
        assert some.begun == ["light-1", "heavy", "light-2"]


async def test_a_stage_that_is_heavier_than_the_limit_runs_alone() -> None:
    async with stages(most=2) as some:
        await some.ask("heavy", share=Share(weight=8))
        await some.ask("light")

        assert some.begun == ["heavy"]


async def test_a_stage_that_is_to_run_alone_waits_for_those_that_run_and_lets_no_other_begin() -> None:
    async with stages(most=8) as some:
        await some.ask("before")
        await some.ask("alone", share=Share(ALONE))
        await some.ask("after-1", owner="another")
        await some.ask("after-2")
        beside = list(some.begun)
        await some.end("before")
        alone = list(some.begun)
        await some.end("alone")

        assert (beside, alone) == (["before"], ["before", "alone"])
        assert some.begun == ["before", "alone", "after-1", "after-2"]


async def test_a_stage_that_is_cancelled_while_it_waits_leaves_its_place() -> None:
    async with stages(most=1) as some:
        for name in "abc":
            await some.ask(name)
        await some.cancel("b")
        await some.end("a")

        assert some.begun == ["a", "c"]


async def test_nothing_begins_as_long_as_something_hinders_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulos_stream.admission.LOOK_S", 0)
    reason = "the disk is full"
    async with stages(most=2, hindrance=lambda: reason) as some:
        await some.ask("a")
        before = list(some.begun)
        reason = ""
        await settle()

        assert (before, some.begun) == ([], ["a"])


async def test_stages_of_an_executor_that_is_held_back_wait_and_the_others_pass_them() -> None:
    async with stages(most=4) as some:
        await some.ask("runs", key="container")
        with some.admission.held_back("container"), some.admission.held_back("container"):
            await some.ask("waits", key="container")
            await some.ask("passes", key="inline")
            before = list(some.begun)
        await settle()

        assert (before, some.begun) == (["runs", "passes"], ["runs", "passes", "waits"])


async def test_without_memory_one_stage_runs_at_a_time() -> None:
    async with stages(most=4, free=lambda: 0.01) as some:
        await some.ask("a")
        await some.ask("b")
        before = list(some.begun)
        await some.end("a")

        assert (before, some.begun) == (["a"], ["a", "b"])


async def test_the_limit_grows_while_stages_wait_and_their_overhead_stays_what_it_was() -> None:
    async with stages(most=32, adaptive=True) as some:
        for number in range(40):
            await some.ask(str(number))
        for _ in range(400):
            some.admission.observe(0.01)

        assert some.admission.limit == 32


async def test_the_limit_shrinks_while_the_overhead_is_many_times_that_of_an_idle_node_and_not_below_one() -> None:
    async with stages(most=32, adaptive=True) as some:
        some.admission.observe(0.01)
        limits = []
        for _ in range(300):
            some.admission.observe(0.5)
            limits.append(some.admission.limit)

        assert min(limits) == 1
        # A machine that stays slow is what it is.
        assert limits == sorted(limits, reverse=True)


async def test_the_limit_does_not_grow_while_the_cores_are_busy_and_comes_back_to_what_keeps_them_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ulos_stream.admission.LOOK_S", 0)
    async with stages(most=32, adaptive=True, idle=lambda: 0.0) as some:
        for number in range(40):
            await some.ask(str(number))
        for _ in range(100):
            some.admission.observe(0.01)
        before = some.admission.limit
        some.admission.limit = 32.0
        for _ in range(400):
            some.admission.observe(0.01)

        assert (before, some.admission.limit) == (some.admission.busy, some.admission.busy)


async def test_the_limit_stays_while_the_cores_have_some_time_left_and_not_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ulos_stream.admission.LOOK_S", 0)
    async with stages(most=32, adaptive=True, idle=lambda: 0.1) as some:
        some.admission.limit = 12.0
        for number in range(40):
            await some.ask(str(number))
        for _ in range(400):
            some.admission.observe(0.01)

        assert some.admission.limit == 12


async def test_the_limit_comes_back_by_looks_however_many_stages_end_and_however_late_they_are_on_busy_cores() -> None:
    async with stages(most=32, adaptive=True, idle=lambda: 0.0) as some:
        some.admission.limit = 32.0
        some.admission.observe(0.01)
        for _ in range(400):
            some.admission.observe(5.0)

        assert some.admission.limit == (32 + some.admission.busy) / 2


async def test_the_limit_shrinks_without_memory_though_the_cores_are_busy() -> None:
    async with stages(most=32, adaptive=True, free=lambda: 0.01, idle=lambda: 0.0) as some:
        some.admission.limit = 32.0
        for _ in range(400):
            some.admission.observe(0.01)

        assert some.admission.limit == 1


async def test_the_limit_grows_though_no_stage_ends_as_long_as_the_cores_have_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ulos_stream.admission.LOOK_S", 0)
    async with stages(most=12, adaptive=True) as some:
        for number in range(12):
            await some.ask(str(number))
        async with asyncio.timeout(10):
            while len(some.begun) < 12:
                await asyncio.sleep(0)

        assert some.admission.waiting == 0


async def test_the_limit_does_not_grow_while_a_stage_is_why_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulos_stream.admission.LOOK_S", 0)
    async with stages(most=12, adaptive=True) as some:
        await some.ask("before")
        limits = [some.admission.limit]
        await some.ask("alone", share=Share(ALONE))
        for number in range(11):
            await some.ask(str(number))
        for end in ("before", "alone"):
            for _ in range(100):
                some.admission.observe(0.01)
            limits.append(some.admission.limit)
            await some.end(end)

        assert len(set(limits)) == 1
        async with asyncio.timeout(10):
            while len(some.begun) < 13:
                await asyncio.sleep(0)


async def test_the_limit_does_not_grow_when_nobody_waits() -> None:
    async with stages(most=32, adaptive=True) as some:
        before = some.admission.limit
        for _ in range(100):
            some.admission.observe(0.01)

        assert some.admission.limit == before


@pytest.mark.parametrize(("cores", "expected"), [(0.1, 1), (0.75, 1.5), (2, 4), (64, 32)])
def test_the_limit_begins_where_the_cores_are_busy(cores: float, expected: float) -> None:
    assert Admission(most=32, cores=cores).limit == expected


async def test_one_stage_runs_at_a_time_where_there_is_hardly_a_core() -> None:
    async with stages(most=32, adaptive=True, cores=0.1, idle=lambda: 0.0) as some:
        await some.ask("a")
        await some.ask("b")

        assert some.begun == ["a"]
        await some.end("a")
        assert some.begun == ["a", "b"]
