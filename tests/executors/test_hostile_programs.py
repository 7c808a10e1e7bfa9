"""Hostile programs, once each; `python -m tests.faults.hostile_programs` runs them more often."""

import asyncio

import pytest
from faults import hostile_programs
from faults.hostile_programs import PROGRAMS, Program, besiege, system_calls
from workbench import RemoteLine

pytestmark = pytest.mark.usefixtures("docker")


def the(name: str) -> Program:
    return next(program for program in PROGRAMS if program.name == name)


@pytest.mark.timeout(300)
async def test_every_hostile_program_ends_as_it_must_and_leaves_nothing_behind() -> None:
    siege = await besiege(1, [*PROGRAMS, *system_calls()])

    assert siege.mistakes == []
    assert len(siege.ends) > 20
    assert siege.ends["bystander"].keys() == {"PASS"}


@pytest.mark.timeout(300)
async def test_an_engine_elsewhere_holds_them_as_well_and_is_only_slower_to_see_a_disk_fill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = ["memory by tmpfs", "links to secrets", "links to secret directories", "hard links", "verdict is a link"]
    held += ["everything shut", "names that are no text", "escapes", "network", "survivor", "treasure hunt"]
    stopped = {"disk fill", "inode fill", "holes for a result", "3,000 levels"}

    async with RemoteLine(None) as line:
        monkeypatch.setenv("DOCKER_HOST", line.host)
        # In a loop of its own: it also waits for `docker`, which goes over this line as well.
        siege = await asyncio.to_thread(asyncio.run, besiege(1, [the(name) for name in (*held, *stopped)]))

    differing = {mistake.partition(":")[0] for mistake in siege.mistakes}
    assert differing == stopped, siege.mistakes
    assert {name: dict(siege.ends[name]) for name in stopped} == {name: {"executor_crashed": 1} for name in stopped}


async def test_a_secret_that_gets_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_programs, "DESCRIPTOR", hostile_programs.DESCRIPTOR + 'network = "host"\n')

    siege = await besiege(1, [the("network")])

    assert "network: found the canary" in siege.mistakes


async def test_an_escape_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = 'user = "image"\nread_only = false\n'
    monkeypatch.setattr(hostile_programs, "DESCRIPTOR", hostile_programs.DESCRIPTOR + loose)

    siege = await besiege(1, [the("escapes")])

    assert ["escapes: ended with FAIL" in mistake and "escaped: " in mistake for mistake in siege.mistakes] == [True]
