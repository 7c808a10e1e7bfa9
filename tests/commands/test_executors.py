"""`ulos executors`: what can run on this machine, and why the rest cannot."""

import json
from pathlib import Path

from world import ulos

PROCESS = 'kind = "process"\nrouting_key_prefix = "count-"\ndescription = "Counts words."\ncommand = ["true"]\n'
CONTAINER = 'kind = "container"\nrouting_key = "draw"\nimage = "{image}"\n'


def folder(tmp_path: Path, **descriptors: str) -> str:
    for name, text in descriptors.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "executor.toml").write_text(text)
    return str(tmp_path)


async def test_each_executor_is_an_object_with_the_reason_why_it_cannot_run(docker: str, tmp_path: Path) -> None:
    path = folder(tmp_path, count=PROCESS, draw=CONTAINER.format(image="ulos-test/none"))

    ended = await ulos("executors", "--json", ULOS_EXECUTORS_PATH=path)

    found = {one["key"]: one for one in json.loads(ended.stdout)}
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(found) == ["skip", "pass", "fail", "crash", "testing", "count-", "draw"]
    assert [key for key, one in found.items() if one["is_prefix"]] == ["testing", "count-"]
    assert [key for key, one in found.items() if not one["available"]] == ["draw"]
    assert "docker pull ulos-test/none" in found["draw"]["reason"]
    assert found["count-"] == {
        "key": "count-",
        "is_prefix": True,
        "kind": "process",
        "available": True,
        "reason": None,
        "description": "Counts words.",
        "origin": f"{tmp_path}/count/executor.toml",
    }


async def test_an_image_that_is_there_makes_its_executor_available(docker: str, tmp_path: Path) -> None:
    path = folder(tmp_path, draw=CONTAINER.format(image=docker))

    ended = await ulos("executors", "--json", ULOS_EXECUTORS_PATH=path)

    assert [one["available"] for one in json.loads(ended.stdout) if one["key"] == "draw"] == [True]


async def test_in_a_pipe_a_line_is_a_row(tmp_path: Path) -> None:
    path = folder(tmp_path, count=PROCESS, draw=CONTAINER.format(image="i"))

    ended = await ulos("executors", ULOS_EXECUTORS_PATH=path, ULOS_DOCKER_HOST="unix:///nonexistent", COLUMNS="40")

    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    assert ended.returncode == 0
    assert ["testing*", "mock", "yes", "a mock: PASS", "built in"] in rows
    assert ["count-*", "process", "yes", "Counts words.", f"{tmp_path}/count/executor.toml"] in rows
    [draw] = [row for row in rows if row[0] == "draw"]
    assert draw[2].startswith("no: the container engine at unix:///nonexistent cannot be reached")


async def test_a_wrong_descriptor_ends_it_with_2_and_a_line(tmp_path: Path) -> None:
    path = folder(tmp_path, odd='kind = "odd"\n')

    ended = await ulos("executors", ULOS_EXECUTORS_PATH=path)

    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"ulos: {tmp_path}/odd/executor.toml: kind: is 'odd'")
