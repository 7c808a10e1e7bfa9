"""The job's directory, while somebody hostile works in it."""

import os
from pathlib import Path

import pytest

from ulos_stream.executors.directory import MAX_LEVELS, Overgrown, give, measure


def test_what_the_files_take_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    empty = measure(tmp_path)
    open_files = len(os.listdir("/proc/self/fd"))
    (tmp_path / "a" / "one").write_bytes(b"x" * 100_000)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 200_000)

    used = measure(tmp_path) - empty

    assert 300_000 <= used < 320_000
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, work = tmp_path / "outside", tmp_path / "work"
    outside.mkdir()
    work.mkdir()
    (outside / "large").write_bytes(b"x" * 1_000_000)
    (work / "folder").symlink_to(outside)
    (work / "file").symlink_to(outside / "large")
    (work / "round").symlink_to(work)

    used = measure(work)

    assert used < 100_000


def test_a_directory_without_end_is_given_up(tmp_path: Path) -> None:
    here = os.getcwd()
    os.chdir(tmp_path)
    for _ in range(MAX_LEVELS):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    os.chdir(here)

    with pytest.raises(Overgrown, match=f"more than {MAX_LEVELS} levels"):
        measure(tmp_path)


def test_too_many_entries_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulos_stream.executors.directory.MAX_ENTRIES", 10)
    for number in range(11):
        (tmp_path / str(number)).touch()

    with pytest.raises(Overgrown, match="more than 10 files"):
        measure(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every directory")
def test_a_directory_that_cannot_be_read_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)

    with pytest.raises(Overgrown, match="cannot be read"):
        measure(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_everything_in_it_is_given_and_nothing_behind_a_link(tmp_path: Path) -> None:
    outside, work = tmp_path / "outside", tmp_path / "work"
    (work / "a" / "b").mkdir(parents=True)
    (work / "a" / "b" / "file").touch()
    outside.mkdir()
    (outside / "file").touch()
    (work / "folder").symlink_to(outside)
    (work / "link").symlink_to(outside / "file")

    give(work, 1234, 5678)

    given = [
        path for path in (work, *work.rglob("*")) if (os.lstat(path).st_uid, os.lstat(path).st_gid) == (1234, 5678)
    ]
    assert len(given) == 6
    assert {os.stat(path).st_uid for path in (outside, outside / "file")} == {0}
