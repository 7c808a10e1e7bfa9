"""The verdict file: whose it is, and what else may stand in its place."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from workbench import container

from ulos_stream.errors import ExecutorCrashed
from ulos_stream.executors.verdict import discard_verdict, judge
from ulos_stream.tasks import Verdict

BY_FILE = container(passes="verdict-file")


def put(directory: Path, make: Callable[[Path], object]) -> Path:
    """Let `make` put something where the verdict file belongs."""
    (directory / "results").mkdir()
    make(directory / "results" / "passed.log")
    return directory / "results" / "passed.log"


@pytest.mark.parametrize(
    "make",
    [
        Path.touch,
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to("nowhere"),
        os.mkfifo,
        lambda path: (path / "deep" / "er").mkdir(parents=True),
    ],
    ids=["file", "link", "dead link", "fifo", "directory"],
)
def test_whatever_came_with_the_work_under_that_name_is_removed(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = put(tmp_path, make)

    discard_verdict(BY_FILE, tmp_path)

    assert not os.path.lexists(path)
    assert path.parent.is_dir()


def test_a_file_that_does_not_matter_is_left_alone(tmp_path: Path) -> None:
    path = put(tmp_path, Path.touch)

    discard_verdict(container(passes="exit-code"), tmp_path)
    judge(container(passes="exit-code"), 0, tmp_path)

    assert path.exists()


@pytest.mark.parametrize("make", [lambda path: None, Path.touch], ids=["nothing", "a file for a folder"])
def test_nothing_to_remove_is_fine(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "results")

    discard_verdict(BY_FILE, tmp_path)

    assert judge(BY_FILE, 0, tmp_path) is Verdict.FAIL


def test_a_regular_file_passes_and_is_taken_away(tmp_path: Path) -> None:
    path = put(tmp_path, Path.touch)

    verdict = judge(BY_FILE, 1, tmp_path)

    assert verdict is Verdict.PASS
    assert not path.exists()


@pytest.mark.parametrize(
    "make",
    [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, Path.mkdir],
    ids=["link", "fifo", "directory"],
)
def test_anything_else_in_its_place_fails(tmp_path: Path, make: Callable[[Path], object]) -> None:
    put(tmp_path, make)

    assert judge(BY_FILE, 0, tmp_path) is Verdict.FAIL


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    outside, work = tmp_path / "outside", tmp_path / "work"
    outside.mkdir()
    work.mkdir()
    (outside / "passed.log").touch()
    (work / "results").symlink_to(outside)

    discard_verdict(BY_FILE, work)
    verdict = judge(BY_FILE, 0, work)

    assert verdict is Verdict.FAIL
    assert (outside / "passed.log").exists()


def test_no_open_directory_is_left_behind(tmp_path: Path) -> None:
    put(tmp_path, Path.mkdir)
    before = os.listdir("/proc/self/fd")

    discard_verdict(BY_FILE, tmp_path)
    judge(BY_FILE, 0, tmp_path)

    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("left", [Path.touch, lambda path: None], ids=["with the file", "without it"])
def test_an_executor_that_says_it_failed_itself_gives_no_verdict(
    tmp_path: Path, left: Callable[[Path], object]
) -> None:
    put(tmp_path, left)

    with pytest.raises(ExecutorCrashed, match="exit code 70"):
        judge(container(passes="both"), 70, tmp_path)


@pytest.mark.parametrize("passes", ["exit-code", "verdict-file"])
def test_only_an_executor_that_has_a_better_way_to_say_fail_can_say_so(tmp_path: Path, passes: str) -> None:
    assert judge(container(passes=passes), 70, tmp_path) is Verdict.FAIL
