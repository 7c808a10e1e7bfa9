"""Hostile programs, once each; `python -m tests.faults.hostile_programs` runs them more often."""

import pytest
from faults import hostile_programs
from faults.hostile_programs import PROGRAMS, Program, besiege, system_calls

pytestmark = pytest.mark.usefixtures("docker")


def the(name: str) -> Program:
    return next(program for program in PROGRAMS if program.name == name)


@pytest.mark.timeout(300)
async def test_every_hostile_program_ends_as_it_must_and_leaves_nothing_behind() -> None:
    siege = await besiege(1, [*PROGRAMS, *system_calls()])

    assert siege.mistakes == []
    assert len(siege.ends) > 20
    assert siege.ends["bystander"].keys() == {"PASS"}


async def test_a_secret_that_gets_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_programs, "DESCRIPTOR", hostile_programs.DESCRIPTOR + 'network = "host"\n')

    siege = await besiege(1, [the("network")])

    assert "network: found the canary" in siege.mistakes


async def test_an_escape_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = 'user = "image"\nread_only = false\n'
    monkeypatch.setattr(hostile_programs, "DESCRIPTOR", hostile_programs.DESCRIPTOR + loose)

    siege = await besiege(1, [the("escapes")])

    assert ["escapes: ended with FAIL" in mistake and "escaped: " in mistake for mistake in siege.mistakes] == [True]
