"""`ulos lint` on a real broker: what is wrong with a task, and what was not checked."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from world import World, a_tree, a_world, ulos

from ulos_stream.lab import Broker


@pytest.fixture
async def world(managed_broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(managed_broker, tmp_path) as world:
        world.settings["ULOS_MANAGEMENT_URL"] = managed_broker.management_url or ""
        await world.tasks.bind(world.exchange, "pass")
        yield world


def a_file(world: World, tree: dict[str, Any], **fields: Any) -> str:
    path = world.artifacts / "task.json"
    path.write_text(json.dumps(world.task(tree, **fields)))
    return str(path)


async def lint(world: World, *arguments: str, **changes: str) -> tuple[int, list[tuple[str, str, str]]]:
    ended = await ulos("lint", *arguments, "--json", **world.environment(**changes))
    assert ended.stderr == ""
    return ended.returncode, [(one["kind"], one["code"], one["at"]) for one in json.loads(ended.stdout)]


async def test_a_sound_task_ends_with_0(world: World) -> None:
    assert await lint(world, a_file(world, a_tree("pass", success=a_tree("pass")))) == (0, [])


async def test_its_mistakes_are_found_on_the_broker_and_among_the_executors(world: World) -> None:
    tree = a_tree("pass", success=a_tree("nobody", success=a_tree("pass", exchange="missing"), failure=a_tree("pass")))

    code, found = await lint(world, a_file(world, tree, timeout=1_600))

    assert code == 1
    assert found == [
        ("mistake", "timeout", ""),
        ("mistake", "unbound", "success"),
        ("mistake", "unknown-executor", "success"),
        ("mistake", "unbound", "success.success"),
    ]
    assert await world.count(world.tasks) == 0  # nothing was sent to find out


async def test_without_the_management_api_it_says_what_was_not_checked(world: World) -> None:
    tree = a_tree("pass", success=a_tree("unbound"), failure=a_tree("pass", exchange="missing"))

    code, found = await lint(world, a_file(world, tree), ULOS_MANAGEMENT_URL="http://127.0.0.1:1")

    assert code == 1
    assert ("mistake", "unbound", "failure") in found
    assert ("mistake", "unbound", "success") not in found
    assert ("not checked", "unbound", "") in found


async def test_offline_it_needs_no_settings_and_draws_the_tree(world: World) -> None:
    tree = a_tree("pass", success=a_tree("check", success=a_tree("done")), exchange="x")
    file = a_file(world, tree)

    ended = await ulos("lint", file, "--offline")

    lines = ended.stdout.splitlines()
    assert ended.returncode == 1
    assert lines[0] == "x / pass  (a mock: PASS)"
    assert lines[1].startswith("└── PASS → ")
    assert lines[2].startswith("    └── PASS → ")
    assert lines[-2:] == ["not checked  unbound           whether its hops lead to a queue: --offline", "mistakes: 1"]


async def test_what_is_no_task_is_a_mistake(world: World) -> None:
    (world.artifacts / "odd.json").write_text('{"taskId": 1}')

    ended = await ulos("lint", str(world.artifacts / "odd.json"), "--offline")

    assert ended.returncode == 1
    assert ended.stdout.startswith("mistake      malformed_message ")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"MESSAGE_BROKER_PORT": "1"}, 3, "broker 127.0.0.1:1, virtual host '/'"),
        ({"MESSAGE_BROKER_PASSWORD": "wrong"}, 3, "ACCESS_REFUSED"),
        ({"MESSAGE_BROKER_HOST": ""}, 2, "MESSAGE_BROKER_HOST"),
        ({"ULOS_DELIVERY_TIMEOUT_S": "soon"}, 2, "ULOS_DELIVERY_TIMEOUT_S"),
    ],
)
async def test_a_refusal_is_one_line(world: World, changes: dict[str, str], code: int, words: str) -> None:
    ended = await ulos("lint", a_file(world, a_tree("pass")), **world.environment(**changes))

    assert (ended.returncode, ended.stdout) == (code, "")
    [line] = ended.stderr.splitlines()
    assert words in line
    assert ("--offline" in line) == (code == 3)


async def test_a_missing_file_ends_it_with_2() -> None:
    ended = await ulos("lint", "missing.json", "--offline")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "'missing.json' does not exist" in ended.stderr
