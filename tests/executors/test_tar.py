"""What a run left comes back as a tar, and whatever it holds stays where it belongs."""

import io
import tarfile
from pathlib import Path

import pytest

from ulos_stream.errors import EngineFault
from ulos_stream.executors import tar as tar_of_a_run
from ulos_stream.executors.directory import Overgrown
from ulos_stream.executors.tar import MIB, TooMuch, unpack


def a_tar(*members: tuple[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize(
    "name", ["work/../outside", "work/a/../../outside", "work//outside", "work/./a", "../../outside"]
)
def test_a_name_that_no_engine_gives_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(EngineFault, match="is named"):
        unpack(a_tar((name, b"x")), directory, MIB)

    assert list(directory.parent.rglob("*")) == [directory]


def test_a_hard_link_cannot_reach_outside(directory: Path) -> None:
    (directory.parent / "outside").write_text("the node's own")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        link = tarfile.TarInfo("work/link")
        link.type, link.linkname = tarfile.LNKTYPE, "work/../outside"
        tar.addfile(link)

    with pytest.raises(EngineFault, match="is named"):
        unpack(file, directory, MIB)


def test_links_and_devices_are_left_out(directory: Path) -> None:
    (directory.parent / "outside").write_text("the node's own")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"./{kind.decode()}")
            member.type, member.linkname = kind, "../outside"
            tar.addfile(member)

    unpack(file, directory, MIB)

    assert list(directory.iterdir()) == []


def test_files_that_hold_too_much_together_are_refused(directory: Path) -> None:
    with pytest.raises(TooMuch):
        unpack(a_tar(("work/a", bytes(700)), ("work/b", bytes(700))), directory, 1000)


def test_too_many_files_are_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_of_a_run, "MAX_ENTRIES", 3)

    with pytest.raises(Overgrown, match="more than 3 files"):
        unpack(a_tar(*((f"work/{number}", b"") for number in range(4))), directory, MIB)


def test_too_many_levels_are_refused(directory: Path) -> None:
    with pytest.raises(Overgrown, match="levels"):
        unpack(a_tar((f"work/{'d/' * 70}f", b"")), directory, MIB)


def test_a_name_that_is_too_long_for_the_system_is_the_runs_doing(directory: Path) -> None:
    with pytest.raises(Overgrown, match="levels"):
        unpack(a_tar((f"./{'/'.join(['d' * 250] * 14)}", b"")), directory, MIB)


def test_a_tar_that_was_cut_off_is_a_fault(directory: Path) -> None:
    whole = a_tar(("work/a", bytes(4000)), ("work/b", bytes(4000))).getvalue()

    with pytest.raises(EngineFault, match="has not arrived whole"):
        unpack(io.BytesIO(whole[:3000]), directory, MIB)
