"""The node's own directory: locked while it lives, found and removed once it was killed."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ulos_stream.errors import NodeFault
from ulos_stream.workspace import NodeDirectory

KILLED = """
import os, signal, sys
from pathlib import Path
from ulos_stream.workspace import NodeDirectory
directory = NodeDirectory(Path(sys.argv[1]), "killed")
directory.open()
space = directory.new_stage()
space.files.mkdir()
(space.files / "a.txt").write_text("a")
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_node(parent: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(parent)], check=False)


def test_a_directory_is_there_from_open_to_close(tmp_path: Path) -> None:
    directory = NodeDirectory(tmp_path, "n")
    directory.open()
    space = directory.new_stage()
    space.empty()
    (space.files / "a.txt").write_text("a")

    directory.close()
    directory.close()

    assert os.listdir(tmp_path) == []


def test_what_a_killed_node_left_is_found_under_its_name_and_removed(tmp_path: Path) -> None:
    kill_a_node(tmp_path)
    directory = NodeDirectory(tmp_path, "n")
    directory.open()

    names = []
    for left in directory.abandoned():
        names.append(left.node)
        left.remove()

    assert names == ["killed"]
    assert list(directory.abandoned()) == []
    directory.close()
    assert os.listdir(tmp_path) == []


def test_a_living_node_is_left_alone(tmp_path: Path) -> None:
    living, other = NodeDirectory(tmp_path, "living"), NodeDirectory(tmp_path, "other")
    living.open()
    other.open()

    assert list(other.abandoned()) == []
    assert list(living.abandoned()) == []


def test_two_nodes_do_not_clean_up_after_the_same_one(tmp_path: Path) -> None:
    kill_a_node(tmp_path)
    first, second = NodeDirectory(tmp_path, "first"), NodeDirectory(tmp_path, "second")

    for _ in first.abandoned():
        assert list(second.abandoned()) == []

    assert [left.node for left in second.abandoned()] == ["killed"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_only_looks_like_a_nodes_directory_is_left_alone(kind: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    planted = tmp_path / "ulos-node-planted"
    planted.symlink_to(tmp_path / "home") if kind == "link" else planted.write_text("")

    assert list(NodeDirectory(tmp_path, "n").abandoned()) == []
    assert os.listdir(tmp_path / "home") == ["thesis.txt"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_left_alone(tmp_path: Path) -> None:
    kill_a_node(tmp_path)
    [left] = tmp_path.iterdir()
    os.chown(left, 65534, 65534)

    assert list(NodeDirectory(tmp_path, "n").abandoned()) == []


def test_a_parent_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    directory = NodeDirectory(tmp_path / "none", "n")

    with pytest.raises(NodeFault, match="none: No such file"):
        directory.open()
    with pytest.raises(NodeFault, match="none: No such file"):
        asyncio.run(directory.check())


def test_a_stage_in_a_directory_that_was_removed_cannot_begin(tmp_path: Path) -> None:
    directory = NodeDirectory(tmp_path, "n")
    directory.open()
    [own] = tmp_path.iterdir()
    (own / "lock").unlink()
    own.rmdir()

    with pytest.raises(FileNotFoundError):
        directory.new_stage().empty()
