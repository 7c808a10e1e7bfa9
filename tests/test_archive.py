"""Archives: what is kept on the way in and out, and what is refused."""

import contextlib
import errno
import io
import itertools
import os
import random
import re
import resource
import shutil
import socket
import stat
import tempfile
import threading
import time
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from archives import (
    ATTACKS,
    BOMBS,
    FILE,
    FOLDER,
    PROGRAM,
    Entry,
    a_zip,
    with_zip64_end,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ulos_stream import archive as the_archive
from ulos_stream.archive import Limits, output_name, remove_tree
from ulos_stream.archive.rules import Member, admitted, contents, skipped
from ulos_stream.archive.transfer import BLOCK_BYTES
from ulos_stream.archive.unpacking import Artifact, blocks, opens_at_once
from ulos_stream.errors import ArchiveRejected, StageTimeout

MIB = 1024 * 1024
SECRET = b"root's own secret"
Tree = Mapping[str, bytes | None]
"""Files by their paths; None is a directory."""


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    remove_tree(tmp_path)


@contextmanager
def a_directory(tree: Tree | None = None) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ulos-test-"))
    try:
        yield planted(directory, tree or {})
    finally:
        remove_tree(directory)


def planted(directory: Path, tree: Tree) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in tree.items():
        path = directory / name
        (path.parent if content is not None else path).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    return directory


def prose(size: int) -> bytes:
    """Bytes that shrink about 20 times."""
    words = random.Random(1)
    return b"".join(b"prose " * 20 + words.randbytes(2) for _ in range(size // 122 + 1))[:size]


def listing(directory: Path) -> dict[str, bytes | None]:
    """Every file, and every directory that has nothing in it."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


@contextmanager
def opened(archive: Path, limits: Limits) -> Iterator[Artifact]:
    with archive.open("rb", buffering=0) as file, the_archive.opened(cast(BinaryIO, file), limits) as artifact:
        yield artifact


def unpack(archive: Path, directory: Path, limits: Limits, stop: threading.Event | None = None) -> str:
    with opened(archive, limits) as artifact:
        return artifact.unpack(directory, stop)


def pack(
    directory: Path,
    archive: Path,
    extra: Mapping[str, Path],
    limits: Limits,
    stop: threading.Event | None = None,
) -> None:
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(path.open("rb")) for name, path in extra.items()}
        result = stack.enter_context(archive.open("w+b"))
        the_archive.pack(directory, result, files, limits, stop)


def unpacked(archive: bytes, space: Path, limits: Limits | None = None, **options: Any) -> Path:
    (space / "in.zip").write_bytes(archive)
    directory = space / "unpacked"
    directory.mkdir()
    unpack(space / "in.zip", directory, limits or Limits(), **options)
    return directory


def packed(directory: Path, extra: Mapping[str, Path] | None = None, limits: Limits | None = None) -> zipfile.ZipFile:
    result = directory.with_name("result.zip")
    pack(directory, result, extra or {}, limits or Limits())
    return zipfile.ZipFile(result)


def a_deep_tree(directory: Path, levels: int) -> Path:
    directory.mkdir()
    here = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        outer, here = here, os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(outer)
    os.close(os.open("bottom", os.O_CREAT, dir_fd=here))
    os.close(here)
    return directory


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Modes mean nothing to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class Meddler(threading.Event):
    """A stop event that does something the n-th time it is asked."""

    def __init__(self, moment: int, meddle: Callable[[], object]) -> None:
        super().__init__()
        self.asked = 0
        self.moment = moment
        self.meddle = meddle

    def is_set(self) -> bool:
        self.asked += 1
        if self.asked == self.moment:
            self.meddle()
        return super().is_set()


# What survives


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\:"), min_size=1).filter(
    lambda name: len(name.encode()) <= 255 and name not in (".", "..", "__MACOSX", ".DS_Store", ".ulos")
)
TREES = st.recursive(
    st.binary(max_size=200),
    lambda below: st.lists(st.tuples(NAMES, below), max_size=5, unique_by=lambda item: _folded(item[0])).map(dict),
    max_leaves=20,
).filter(lambda tree: isinstance(tree, dict))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, bytes | None]:
    flat: dict[str, bytes | None] = {}
    for name, below in tree.items():
        if isinstance(below, bytes):
            flat[prefix + name] = below
        else:
            flat |= _flat(below, f"{prefix}{name}/") or {prefix + name: None}
    return flat


@given(TREES)
@settings(deadline=None)
def test_any_tree_survives_packing_and_unpacking(nested: dict[str, Any]) -> None:
    tree = _flat(nested)
    with a_directory(tree) as directory, a_directory({"log": b"output"}) as beside, a_directory() as again:
        log = {"output_x_y.txt": beside / "log", ".ulos/journal.json": beside / "log"}

        pack(directory, beside / "result.zip", log, Limits())
        unpack(beside / "result.zip", again, Limits())

        assert listing(again) == {**tree, "output_x_y.txt": b"output"}


@given(st.binary(min_size=1, max_size=300), st.integers(MIB - 100, 3 * MIB), st.integers(0, 20_000))
@settings(deadline=None, max_examples=25)
def test_a_file_of_any_compressibility_survives_packing_and_unpacking(pattern: bytes, size: int, noise: int) -> None:
    content = random.Random(noise).randbytes(noise) + (pattern * (size // len(pattern) + 1))[:size]
    with a_directory({"a": content, "b": b""}) as directory, a_directory() as beside, a_directory() as again:
        result = beside / "result.zip"

        pack(directory, result, {}, Limits())
        unpack(result, again, Limits())

        assert listing(again) == {"a": content, "b": b""}


def test_a_file_that_shrinks_like_a_bomb_is_stored_and_others_are_deflated(space: Path) -> None:
    files = planted(space / "files", {"zeros": bytes(4 * MIB), "text": prose(4 * MIB)})

    methods = {info.filename: info.compress_type for info in packed(files).infolist()}

    assert methods == {"zeros": zipfile.ZIP_STORED, "text": zipfile.ZIP_DEFLATED}


def test_the_same_tree_makes_the_same_bytes_in_sorted_order(space: Path) -> None:
    names = ["b", "a/c", "a/b", "Z", "é"]
    for directory, order in (space / "one", names), (space / "two", names[::-1]):
        planted(directory, {name: name.encode() for name in order} | {"empty": None})
        for path in directory.rglob("*"):
            os.utime(path, (1e9, 1e9))

    first, second = [(packed(space / name), (space / "result.zip").read_bytes()) for name in ("one", "two")]

    assert first[1] == second[1]
    assert first[0].namelist() == ["Z", "a/b", "a/c", "b", "empty/", "é"]


@pytest.mark.parametrize(
    ("mode", "kept"),
    [(FILE, 0o644), (PROGRAM, 0o755), (0o100000, 0o644), (0o107777, 0o755), (0o104755, 0o755), (0, 0o644)],
    ids=oct,
)
def test_of_a_members_mode_only_the_executable_bit_is_kept(space: Path, mode: int, kept: int) -> None:
    archive = a_zip(Entry(b"gradlew", mode=mode), Entry(b"b/c"))

    directory = unpacked(archive, space)

    assert stat.S_IMODE((directory / "gradlew").stat().st_mode) == kept
    assert stat.S_IMODE((directory / "b").stat().st_mode) == 0o755


@pytest.mark.parametrize(("mode", "kept"), [(0o4711, 0o755), (0o6644, 0o644), (0o600, 0o644), (0o500, 0o755)], ids=oct)
def test_of_a_files_mode_only_the_executable_bit_is_packed(space: Path, mode: int, kept: int) -> None:
    files = planted(space / "files", {"gradlew": b"#!/bin/sh"})
    (files / "gradlew").chmod(mode)

    (info,) = packed(files).infolist()

    assert info.external_attr >> 16 == stat.S_IFREG | kept


def test_a_restrictive_umask_changes_no_mode(space: Path) -> None:
    before = os.umask(0o077)
    try:
        directory = unpacked(a_zip(Entry(b"a/b", mode=PROGRAM), Entry(b"c")), space)
    finally:
        os.umask(before)

    assert [stat.S_IMODE((directory / name).stat().st_mode) for name in ("a", "a/b", "c")] == [0o755, 0o755, 0o644]


@pytest.mark.parametrize(
    ("modified_s", "packed_as"),
    [
        (1_700_000_000, (2023, 11, 14, 22, 13, 20)),
        (0, (1980, 1, 1, 0, 0, 0)),
        (-5_000_000_000, (1980, 1, 1, 0, 0, 0)),
        (8_000_000_000, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_the_time_of_a_file_is_packed_as_near_as_a_zip_can(
    space: Path, modified_s: int, packed_as: tuple[int, ...]
) -> None:
    files = planted(space / "files", {"a": b""})
    os.utime(files / "a", (modified_s, modified_s))

    (info,) = packed(files).infolist()

    assert info.date_time == packed_as


def test_the_time_of_a_member_is_kept_in_every_time_zone(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Bogota")
    time.tzset()
    try:
        directory = unpacked(
            a_zip(Entry(b"a", date=((2023 - 1980) << 9 | 11 << 5 | 14, 22 << 11 | 13 << 5 | 10))), space
        )
    finally:
        monkeypatch.undo()
        time.tzset()

    assert (directory / "a").stat().st_mtime == 1_700_000_000


def test_an_impossible_time_is_that_of_unpacking(space: Path) -> None:
    archive = a_zip(Entry(b"a", date=(0xFFFF, 0xFFFF)), Entry(b"b", date=(0, 0)))

    directory = unpacked(archive, space)

    assert (directory / "a").stat().st_mtime == pytest.approx(time.time(), abs=60)
    assert (directory / "b").stat().st_mtime == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(
    ("name", "flags", "read"),
    [
        ("año 実験.txt".encode(), 0x0800, "año 実験.txt"),
        ("año 実験.txt".encode(), 0, "año 実験.txt"),
        ("año.txt".encode("cp437"), 0, "año.txt"),
        (b"./a", 0, "a"),
        (b"a:b.txt".replace(b"a:", b"aa:"), 0, "aa:b.txt"),
    ],
)
def test_a_name_is_utf8_where_it_can_be_and_else_what_old_windows_wrote(
    space: Path, name: bytes, flags: int, read: str
) -> None:
    archive = a_zip(Entry(name, flags=flags), Entry(b"./", b"", FOLDER))

    directory = unpacked(archive, space)

    assert listing(directory) == {read: b"data"}


@pytest.mark.parametrize(
    ("archive", "at_once"),
    [
        (a_zip(Entry(b"large", bytes(100_000))), True),
        (a_zip(*(Entry(b"%d" % number) for number in range(500))), False),
        (with_zip64_end(a_zip(Entry(b"a"))), False),
        (a_zip(Entry(b"a"))[:-2] + b"\x01\x00!", False),
        (b"no zip", True),
        (bytes(100), False),
    ],
    ids=["few", "many", "zip64", "comment", "short", "no zip"],
)
def test_a_zip_whose_end_tells_of_a_short_table_is_opened_at_once(archive: bytes, at_once: bool) -> None:
    assert opens_at_once(io.BytesIO(archive)) is at_once


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_a_zip64_end_record_and_a_leading_program_are_read(space: Path, comment: bytes) -> None:
    archive = with_zip64_end(a_zip(Entry(b"a"), Entry(b"b")))
    archive = b"#!/bin/sh\n" + archive[:-2] + len(comment).to_bytes(2, "little") + comment

    directory = unpacked(archive, space)

    assert listing(directory) == {"a": b"data", "b": b"data"}


def test_an_empty_archive_makes_an_empty_directory(space: Path) -> None:
    assert listing(unpacked(a_zip(), space)) == {}


# What is left out, and what is hoisted


@pytest.mark.parametrize(
    ("name", "directory", "out"),
    [
        ("__MACOSX", True, True),
        ("__MACOSX/._a", False, True),
        ("a/__MACOSX/b/c", False, True),
        ("__MACOSX", False, False),
        ("a/__MACOSX", False, False),
        ("__macosx/a", False, False),
        ("my__MACOSX/a", False, False),
        (".DS_Store", False, True),
        ("a/b/.DS_Store", False, True),
        (".DS_Store", True, False),
        (".DS_Store/a", False, False),
        ("a.DS_Store", False, False),
        (".ulos", True, True),
        (".ulos/journal.json", False, True),
        (".ULOS/journal.json", False, True),
        (".ulos", False, True),
        ("a/.ulos/journal.json", False, False),
        (".ulos2/a", False, False),
    ],
)
def test_litter_and_the_nodes_own_directory_are_skipped(name: str, directory: bool, out: bool) -> None:
    assert skipped(Member(name, directory)) is out


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        (["a/b", "a/c/d"], ["b", "c/d"]),
        (["a/", "a/b"], ["b"]),
        (["a/b/c", "a/b/d"], ["b/c", "b/d"]),
        (["a/b", "__MACOSX/a/._b", ".DS_Store"], ["b"]),
        (["a/b", ".ulos/journal.json"], ["b"]),
        (["a/.ulos/b"], [".ulos/b"]),
        (["a/.DS_Store", "a/b"], ["b"]),
        (["a/"], []),
        (["a/b/"], ["b/"]),
        (["a/b", "c"], ["a/b", "c"]),
        (["a/b", "c/"], ["a/b", "c/"]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([".DS_Store"], []),
        ([], []),
    ],
)
def test_a_single_directory_around_everything_is_hoisted_once(names: list[str], seen: list[str]) -> None:
    members = [Member(name.removesuffix("/"), name.endswith("/")) for name in names]

    left = contents(members)

    assert [member.name + "/" * member.directory for member in left] == seen


def test_unpacking_skips_and_hoists(space: Path) -> None:
    archive = a_zip(
        Entry(b"project/", b"", FOLDER),
        Entry(b"project/src/Main.kt"),
        Entry(b"project/empty/", b"", FOLDER),
        Entry(b"project/.DS_Store"),
        Entry(b"__MACOSX/project/._src"),
        Entry(b".ulos/journal.json"),
    )

    directory = unpacked(archive, space)

    assert listing(directory) == {"src/Main.kt": b"data", "empty": None}


def test_an_opened_archive_shows_its_journal_too(space: Path) -> None:
    (space / "a.zip").write_bytes(a_zip(Entry(b".ulos/journal.json"), Entry(b"a")))

    with opened(space / "a.zip", Limits()) as artifact:
        names = [member.name for member in artifact.members]

    assert names == [".ulos/journal.json", "a"]


# What an archive is refused for


@pytest.mark.parametrize(("archive", "reason"), ATTACKS.values(), ids=ATTACKS)
def test_a_hostile_archive_is_refused_with_its_reason_on_one_line(space: Path, archive: bytes, reason: str) -> None:
    with pytest.raises(ArchiveRejected) as refusal:
        unpacked(archive, space)

    assert str(refusal.value).startswith("the archive: ")
    assert reason in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400
    assert list(space.parent.glob("b")) == []


@pytest.mark.parametrize(("archive", "reason"), ATTACKS.values(), ids=ATTACKS)
def test_a_hostile_archive_is_refused_alike_in_memory(space: Path, archive: bytes, reason: str) -> None:
    with tempfile.SpooledTemporaryFile(max_size=MIB) as file:
        file.write(archive)

        with pytest.raises(ArchiveRejected) as refusal, the_archive.opened(cast(BinaryIO, file), Limits()) as artifact:
            artifact.unpack(space)

    assert reason in str(refusal.value)


@given(st.text(st.sampled_from("aZ9_-. é\u0301/\\:\n\0\x7f\x85\ud800"), max_size=6))
@settings(deadline=None, max_examples=1000)
def test_a_name_of_any_characters_is_refused_if_a_file_system_could_take_it_amiss(name: str) -> None:
    hostile = (
        any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
        or "\\" in name
        or re.match("[A-Za-z]:", name)
        or not {"", ".", ".."}.isdisjoint(name.split("/"))
    )

    with pytest.raises(ArchiveRejected) if hostile else nullcontext():
        admitted([Member(name)], Limits(), "the archive")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"entries": 2}, "the archive: more than 2 files and directories"),
        ({"depth": 2}, "the archive: 'a/b/c' is 3 levels deep, more than 2"),
        ({"name_bytes": 5}, "the archive: 'longer' has a part of more than 5 bytes in its name"),
        ({"file_mib": 1}, "the archive: 'large' is larger than 1 MiB"),
        ({"total_mib": 2}, "the archive: more than 2 MiB in all"),
        ({"ratio": 10}, "the archive: 'large' is more than 10 times larger than in the zip"),
        ({"zip_mib": 1}, "the archive: larger than 1 MiB"),
        ({"time_s": 1e-9}, "unpacking took longer than 1e-09 s"),
    ],
)
def test_every_limit_is_held_on_the_way_in(space: Path, limits: dict[str, Any], reason: str) -> None:
    archive = a_zip(
        Entry(b"a/b/c"),
        Entry(b"longer"),
        Entry(b"large", prose(2 * MIB)),
        Entry(b"stored", bytes(MIB), method=0),
    )

    with pytest.raises(ArchiveRejected) as refusal:
        unpacked(archive, space, Limits(**limits))

    assert str(refusal.value) == reason


def test_a_ratio_is_no_matter_up_to_1_mib(space: Path) -> None:
    archive = a_zip(Entry(b"a", bytes(MIB)), Entry(b"b"))

    directory = unpacked(archive, space)

    assert (directory / "a").stat().st_size == MIB


def test_few_entries_may_be_large(space: Path) -> None:
    archive = a_zip(Entry(b"a", random.Random(1).randbytes(MIB)))

    directory = unpacked(archive, space, Limits(entries=1))

    assert (directory / "a").stat().st_size == MIB


def test_directories_that_names_imply_count_as_entries(space: Path) -> None:
    archive = a_zip(*(Entry(b"%d/%d/%d/a" % (n, n, n)) for n in range(10)))

    with pytest.raises(ArchiveRejected, match="more than 39 files and directories"):
        unpacked(archive, space, Limits(entries=39))


@pytest.mark.parametrize(("bomb", "reason"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_ends_within_seconds_and_little_memory(space: Path, bomb: Callable[[], bytes], reason: str) -> None:
    archive = bomb()
    started = time.process_time()

    tracemalloc.start()
    with pytest.raises(ArchiveRejected, match=reason) if reason else nullcontext():
        unpacked(archive, space)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert time.process_time() - started < 10  # tracemalloc makes it ten times slower
    assert peak < 48 * MIB
    assert sum(file.stat().st_size for file in (space / "unpacked").rglob("*")) <= MIB


SOUND = a_zip(
    Entry(b"a/b", random.Random(2).randbytes(100) * 3),
    Entry("año".encode(), flags=0),
    Entry(b"c", method=0),
    Entry(b"d/", b"", FOLDER),
)


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_damage_of_any_kind_is_refused_or_harmless(data: st.DataObject) -> None:
    archive = bytearray(data.draw(st.sampled_from([SOUND, with_zip64_end(SOUND), SOUND[:-1] + b"\3abc"])))
    for position, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(archive) - 1), st.integers(0, 255)), max_size=4)
    ):
        archive[position] = byte
    cut = data.draw(st.one_of(st.just(0), st.integers(0, len(archive))))
    with a_directory() as space:
        (space / "in.zip").write_bytes(archive[cut:] if cut % 2 else archive[: len(archive) - cut])
        (space / "out").mkdir()

        reason = ""
        try:
            unpack(space / "in.zip", space / "out", Limits())
        except ArchiveRejected as refusal:
            reason = str(refusal)

        assert reason.isprintable()
        assert {path.name for path in space.iterdir()} == {"in.zip", "out"}


# What untrusted code leaves behind


def test_what_is_neither_a_regular_file_nor_a_directory_is_left_out(space: Path) -> None:
    outside = planted(space / "outside", {"secret": SECRET, "folder/secret": SECRET})
    files = planted(space / "files", {"a": b"a", "only links": None})
    (files / "link").symlink_to(outside / "secret")
    (files / "only links" / "link").symlink_to(outside / "folder")
    (files / "dangling").symlink_to("nowhere")
    (files / "loop").symlink_to("loop")
    os.mkfifo(files / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(files / "socket"))

    result = packed(files)

    assert result.namelist() == ["a", "only links/"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_devices_are_left_out_and_not_opened(space: Path) -> None:
    files = planted(space / "files", {"a": b"a"})
    try:
        os.mknod(files / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(files / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    except PermissionError:
        pytest.skip("this root makes no devices")

    result = packed(files)

    assert result.namelist() == ["a"]


def test_a_directory_that_is_a_link_itself_is_not_packed(space: Path) -> None:
    planted(space / "outside", {"secret": SECRET})
    (space / "files").symlink_to(space / "outside")

    with pytest.raises(ArchiveRejected, match=r"^the result: '.' cannot be read: Not a directory$"):
        pack(space / "files", space / "result.zip", {}, Limits())


def test_a_hard_link_is_a_regular_file(space: Path) -> None:
    files = planted(space / "files", {"a": b"content"})
    (files / "b").hardlink_to(files / "a")

    result = packed(files)

    assert [result.read(name) for name in ("a", "b")] == [b"content", b"content"]


@pytest.mark.parametrize("moment", range(1, 9))
@pytest.mark.parametrize("name", ["sub", "sub/file"])
def test_what_is_swapped_for_a_link_meanwhile_leads_nowhere(space: Path, name: str, moment: int) -> None:
    outside = planted(space / "outside", {"sub/file": SECRET})
    files = planted(space / "files", {"a": b"", "sub/file": b"x" * len(SECRET), "z": b""})

    def swap() -> None:
        (files / name).rename(space / "moved")
        (files / name).symlink_to(outside / name)

    with suppress(ArchiveRejected):
        pack(files, space / "result.zip", {}, Limits(), Meddler(moment, swap))

    assert (files / name).is_symlink()
    if not (space / "result.zip").stat().st_size:
        return  # refused
    with zipfile.ZipFile(space / "result.zip") as result:
        assert SECRET not in [result.read(name) for name in result.namelist()]


@pytest.mark.parametrize("planted_kind", ["pipe", "directory", "device"])
def test_what_is_swapped_for_something_else_meanwhile_is_refused(space: Path, planted_kind: str) -> None:
    files = planted(space / "files", {"a": b"", "b": b"content"})

    def swap() -> None:
        (files / "b").unlink()
        if planted_kind == "pipe":
            os.mkfifo(files / "b")
        elif planted_kind == "directory":
            (files / "b").mkdir()
        else:
            (files / "b").symlink_to("/dev/zero")

    with pytest.raises(ArchiveRejected, match=r"^the result: 'b' (changed|cannot be read)"):
        pack(files, space / "result.zip", {}, Limits(), Meddler(4, swap))


@pytest.mark.parametrize("change", [b"", b"x" * 301, b"x" * 400_000])
@pytest.mark.parametrize(("size", "moment"), [(300, 2), (300_000, 3)])
def test_a_file_that_changes_its_size_meanwhile_is_refused(space: Path, size: int, moment: int, change: bytes) -> None:
    files = planted(space / "files", {"a": random.Random(1).randbytes(size)})

    with pytest.raises(ArchiveRejected, match=rf"^the result: 'a' does not have the {size} bytes it announced$"):
        pack(files, space / "result.zip", {}, Limits(), Meddler(moment, lambda: (files / "a").write_bytes(change)))


def test_a_file_that_never_ends_is_refused_once_it_is_too_long(space: Path) -> None:
    files = planted(space / "files", {"a": random.Random(1).randbytes(300_000)})

    def grow() -> None:
        stop.moment += 1
        with (files / "a").open("ab") as file:
            file.write(bytes(100_000))

    stop = Meddler(3, grow)
    with pytest.raises(ArchiveRejected, match=r"^the result: 'a' does not have the 300000 bytes it announced$"):
        pack(files, space / "result.zip", {}, Limits(time_s=5), stop)

    assert stop.asked < 20


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"caf\xe9", r"'caf\udce9' has a name that is not UTF-8"),
        (b"a\nb", r"'a\nb' has a control character in its name"),
        (b"a\\b", r"'a\\b' has a backslash in its name"),
        (b"C:", "'C:' starts with the name of a drive"),
    ],
)
def test_a_name_that_no_archive_may_have_is_refused(space: Path, name: bytes, reason: str) -> None:
    files = planted(space / "files", {})
    Path(os.fsdecode(os.fsencode(files) + b"/" + name)).touch()

    with pytest.raises(ArchiveRejected) as refusal:
        packed(files)

    assert str(refusal.value) == f"the result: {reason}"


def test_names_that_differ_in_case_only_are_refused(space: Path) -> None:
    files = planted(space / "files", {"a/B": b"", "a/b": b""})

    with pytest.raises(ArchiveRejected, match="in upper and lower case only"):
        packed(files)


@pytest.mark.parametrize("name", ["a/locked", "a"])
def test_what_cannot_be_read_is_refused(name: str) -> None:
    with an_ordinary_user(), a_directory({"files/a/locked": b"content"}) as space:
        (space / "files" / name).chmod(0)

        with pytest.raises(ArchiveRejected) as refusal:
            packed(space / "files")

        assert str(refusal.value) == f"the result: {name!r} cannot be read: Permission denied"


def test_a_tree_of_3000_levels_is_refused(space: Path) -> None:
    files = a_deep_tree(space / "files", 3_000)

    with pytest.raises(ArchiveRejected) as refusal:
        packed(files)

    assert str(refusal.value) == f"the result: {'d/' * 32 + 'd'!r} is 33 levels deep, more than 32"


def test_a_sparse_file_counts_with_all_its_bytes(space: Path) -> None:
    files = planted(space / "files", {"a": b""})
    os.truncate(files / "a", 2**40)

    with pytest.raises(ArchiveRejected, match=r"^the result: 'a' is larger than 256 MiB$"):
        packed(files)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"entries": 3}, "the result: more than 3 files and directories"),
        ({"depth": 1}, "the result: 'a/b' is 2 levels deep, more than 1"),
        ({"name_bytes": 4}, "the result: 'large' has a part of more than 4 bytes in its name"),
        ({"file_mib": 1}, "the result: 'large' is larger than 1 MiB"),
        ({"total_mib": 1, "file_mib": 3}, "the result: more than 1 MiB in all"),
        ({"zip_mib": 1}, "the result: its zip is larger than 1 MiB"),
        ({"time_s": 1e-9}, "packing took longer than 1e-09 s"),
    ],
)
def test_every_limit_is_held_on_the_way_out(space: Path, limits: dict[str, Any], reason: str) -> None:
    files = planted(space / "files", {"a/b": b"", "large": random.Random(1).randbytes(2 * MIB), "none": None})

    with pytest.raises(ArchiveRejected) as refusal:
        packed(files, limits=Limits(**limits))

    assert str(refusal.value) == reason


# What the node adds


@pytest.mark.parametrize(
    "tree",
    [
        {"output_x_y.txt": b"forged"},
        {"OUTPUT_x_Y.txt": b"forged"},
        {"output_x_y.txt": None},
        {"output_x_y.txt/b": b"forged"},
        {"Output_x_y.txt/b/c": b"forged", "output_x_y.TXT/b": b"forged"},
        {".ulos/journal.json": b"forged"},
        {".ULOS": b"forged"},
    ],
    ids=str,
)
def test_the_nodes_files_replace_what_the_directory_has_in_their_place(space: Path, tree: Tree) -> None:
    files = planted(space / "files", {"a": b"a", "sub/output_x_y.txt": b"kept", **tree})
    ours = planted(space / "ours", {"log": b"output", "journal": b"[]"})
    extra = {"output_X_y.txt": ours / "log", ".ulos/journal.json": ours / "journal"}

    result = packed(files, extra)

    assert {name: result.read(name) for name in result.namelist()} == {
        ".ulos/journal.json": b"[]",
        "a": b"a",
        "output_X_y.txt": b"output",
        "sub/output_x_y.txt": b"kept",
    }


def test_the_nodes_directory_never_comes_out_of_a_stage(space: Path) -> None:
    files = planted(space / "files", {"a": b"", ".ulos/journal.json": b"forged"})

    assert packed(files).namelist() == ["a"]


@pytest.mark.parametrize(
    ("exchange", "routing_key", "name"),
    [
        ("processing-exchange", "testing-1", "output_processing-exchange_testing-1.txt"),
        ("", "pass", "output__pass.txt"),
        ("Lab_2", "a.b-c", "output_Lab_2_a.b-c.txt"),
        ("a/b", "../c d", "output_a%2Fb_..%2Fc%20d.txt"),
        ("x", "año~*#", "output_x_a%C3%B1o%7E%2A%23.txt"),
        ("x", "%2F", "output_x_%252F.txt"),
        ("e" * 94, "k" * 95, f"output_{'e' * 94}_{'k' * 85}-c378999b.txt"),
        ("e" * 93, "k" * 95, f"output_{'e' * 93}_{'k' * 95}.txt"),
    ],
)
def test_an_output_file_is_named_after_the_stage(exchange: str, routing_key: str, name: str) -> None:
    assert output_name(exchange, routing_key) == name


@given(st.text(max_size=127), st.text(st.characters(), min_size=1, max_size=255))
def test_an_output_name_is_short_and_safe_for_any_stage(exchange: str, routing_key: str) -> None:
    name = output_name(exchange, routing_key)

    assert re.fullmatch(r"output_[A-Za-z0-9._%-]+\.txt", name)
    assert len(name) <= 200


@given(st.text(max_size=127), st.lists(st.text(st.characters(), min_size=1, max_size=255), min_size=2, unique=True))
def test_stages_of_one_exchange_have_different_output_names(exchange: str, keys: list[str]) -> None:
    names = {output_name(exchange, key) for key in keys}

    assert len(names) == len(keys)


# When to stop


def _unpack_much(space: Path, stop: threading.Event) -> None:
    unpacked(a_zip(Entry(b"a", bytes(250 * MIB)), Entry(b"b")), space, Limits(ratio=2_000), stop=stop)


def _pack_much(space: Path, stop: threading.Event) -> None:
    pack(planted(space / "files", {"a": bytes(250 * MIB)}), space / "result.zip", {}, Limits(), stop)


WORKS = pytest.mark.parametrize("work", [_unpack_much, _pack_much])


@WORKS
def test_a_stop_that_is_set_beforehand_ends_it_before_a_file_is_written(
    space: Path, work: Callable[[Path, threading.Event], None]
) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(StageTimeout, match=r"^stopped while (un)?packing$"):
        work(space, stop)

    assert not (space / "unpacked" / "a").exists()


@WORKS
def test_a_stop_from_another_thread_ends_it_in_the_middle_of_a_file(
    space: Path, work: Callable[[Path, threading.Event], None]
) -> None:
    started = threading.Event()
    stop = Meddler(20, started.set)

    def stopper() -> None:
        started.wait()
        stop.set()

    other = threading.Thread(target=stopper, daemon=True)
    other.start()
    with pytest.raises(StageTimeout):
        work(space, stop)
    other.join()

    assert stop.asked < 250 * MIB / BLOCK_BYTES  # once for each block


# The local disk


def test_a_full_disk_is_no_fault_of_the_result(space: Path) -> None:
    files = planted(space / "files", {"a": random.Random(1).randbytes(MIB)})

    with pytest.raises(OSError, match="No space left on device") as full:
        pack(files, Path("/dev/full"), {}, Limits())

    assert full.value.errno == errno.ENOSPC


def test_a_full_disk_is_no_fault_of_the_archive(space: Path) -> None:
    archive = a_zip(Entry(b"a", bytes(MIB)), Entry(b"b"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as full:
            unpacked(archive, space)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert full.value.errno == errno.EFBIG


def test_a_disk_that_takes_a_block_by_halves_gets_all_of_it(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, taken = os.write, []

    def take_half(file: int, block: bytes) -> int:
        taken.append(write(file, block[: (len(block) + 1) // 2]))
        return taken[-1]

    monkeypatch.setattr(os, "write", take_half)
    directory = unpacked(a_zip(Entry(b"a", prose(600_000))), space)

    assert listing(directory) == {"a": prose(600_000)}
    assert sum(taken) == 600_000
    assert len(taken) > 6


def test_a_broken_disk_is_no_fault_of_the_archive(space: Path) -> None:
    (space / "in.zip").write_bytes(a_zip(Entry(b"a", random.Random(1).randbytes(MIB))))

    with (space / "in.zip").open("rb") as file, the_archive.opened(file, Limits()) as artifact:
        with a_directory() as unreadable:
            broken = os.open(unreadable, os.O_RDONLY)
            os.dup2(broken, file.fileno())
            os.close(broken)

        with pytest.raises(IsADirectoryError):
            list(blocks(artifact.bundle, artifact.members[0]))


def test_what_would_hardly_shrink_is_stored_and_the_rest_is_deflated(space: Path) -> None:
    noise = random.Random(1).randbytes(MIB)
    tree: Tree = {
        "noise": noise,
        "prose": prose(MIB),
        "noise then prose": noise[: MIB // 4] + prose(MIB),
        "little": noise[:99],
        "hardly anything": b"line\n" * 20,
    }
    files = planted(space / "files", tree)

    with packed(files) as result:
        stored = {info.filename for info in result.infolist() if info.compress_type == zipfile.ZIP_STORED}
        content = {name: result.read(name) for name in result.namelist()}

    assert stored == {"noise", "little", "hardly anything"}
    assert content == tree


def test_a_result_is_byte_for_byte_what_zipfile_would_write(space: Path) -> None:
    tree: Tree = {"empty/folder": None, "größe": b"little", "nothing": b"", "prose": prose(10_000)}

    with packed(planted(space / "files", tree)) as result:
        anew = io.BytesIO()
        with zipfile.ZipFile(anew, "w") as bundle:
            for info in result.infolist():
                entry = zipfile.ZipInfo(info.filename, info.date_time)
                entry.create_system, entry.external_attr = info.create_system, info.external_attr
                bundle.writestr(entry, result.read(info), info.compress_type)

    assert (space / "result.zip").read_bytes() == anew.getvalue()


CAME: dict[str, bytes | None] = {
    "a.txt": prose(10_000),
    "b/c.txt": prose(9_000),
    "noise": random.Random(2).randbytes(MIB),
}


@contextmanager
def extracted(space: Path) -> Iterator[tuple[Path, str, Callable[[], tuple[zipfile.ZipFile, str]]]]:
    """What came, as nobody here would pack it: stored, every file of it. Its directory, fingerprint, and packing it."""
    with zipfile.ZipFile(space / "in.zip", "w") as bundle:
        for name, content in CAME.items():
            bundle.writestr(name, content or b"")
    (space / "files").mkdir()
    with opened(space / "in.zip", Limits()) as artifact, (space / "out.zip").open("w+b") as result:

        def pack() -> tuple[zipfile.ZipFile, str]:
            told: list[str] = []

            def journal(fingerprint: str) -> bytes:
                told.append(fingerprint)
                return b"{}"

            the_archive.pack(space / "files", result, {}, Limits(), extracted=artifact.extracted, journal=journal)
            return zipfile.ZipFile(space / "out.zip"), told[0]

        yield space / "files", artifact.unpack(space / "files"), pack


def test_what_nobody_touched_leaves_as_it_came(space: Path) -> None:
    with extracted(space) as (_, came, pack):
        result, left = pack()

    with result:
        assert result.testzip() is None
        assert {name: result.read(name) for name in result.namelist()} == {**CAME, ".ulos/journal.json": b"{}"}
        assert {info.compress_type for info in result.infolist()} == {zipfile.ZIP_STORED}
    assert left == came
    with opened(space / "out.zip", Limits()) as artifact:
        assert artifact.fingerprint() == came


def same_size_and_times(path: Path) -> None:
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the kernel's clock has ticked
        with path.open("r+b") as file:
            file.write(b"PROSE")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_in_its_place(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes().upper())
    shutil.copystat(path, path.with_name("new"))
    path.with_name("new").rename(path)


def a_bit_more(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b".")


TOUCHES = [same_size_and_times, another_in_its_place, a_bit_more, lambda path: path.chmod(0o755)]


@pytest.mark.parametrize("touch", TOUCHES)
def test_what_was_touched_is_packed_anew(space: Path, touch: Callable[[Path], None]) -> None:
    with extracted(space) as (files, came, pack):
        touch(files / "b/c.txt")
        wanted = listing(files)
        result, left = pack()

    with result:
        assert {name: result.read(name) for name in result.namelist()} == wanted | {".ulos/journal.json": b"{}"}
        deflated = {info.filename for info in result.infolist() if info.compress_type == zipfile.ZIP_DEFLATED}
        assert deflated == {"b/c.txt"}
    assert left != came
    with opened(space / "out.zip", Limits()) as artifact:
        assert artifact.fingerprint() == left


def test_no_descriptor_is_left_open(space: Path) -> None:
    files = planted(space / "files", {f"{n}/{n}": b"" for n in range(20)})
    before = len(os.listdir("/proc/self/fd"))

    packed(files).close()
    unpacked((space / "result.zip").read_bytes(), space)
    for archive, _ in itertools.islice(ATTACKS.values(), 10):
        with a_directory() as elsewhere, suppress(ArchiveRejected):
            unpacked(archive, elsewhere)

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_refused_result_keeps_no_descriptor_while_the_refusal_is_remembered(space: Path) -> None:
    files = planted(space / "files", {f"{n}/{n}": b"" for n in range(20)})
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(ArchiveRejected) as refusal:
        packed(files, limits=Limits(entries=30))

    assert len(os.listdir("/proc/self/fd")) == before
    assert "more than 30 files" in str(refusal.value)


# What is removed


def test_a_tree_of_3000_levels_is_removed(space: Path) -> None:
    files = a_deep_tree(space / "files", 3_000)

    remove_tree(files)

    assert not files.exists()


def test_what_links_lead_to_is_not_removed(space: Path) -> None:
    outside = planted(space / "outside", {"secret": SECRET})
    files = planted(space / "files", {"a/b": b""})
    (files / "link").symlink_to(outside)
    (files / "a" / "link").symlink_to(outside / "secret")
    os.mkfifo(files / "pipe")
    (outside / "secret").chmod(0o600)

    remove_tree(files)

    assert not files.exists()
    assert listing(outside) == {"secret": SECRET}
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o600


def test_a_directory_that_became_a_link_is_removed_alone(space: Path) -> None:
    outside = planted(space / "outside", {"secret": SECRET})
    outside.chmod(0o755)
    (space / "files").symlink_to(outside)

    remove_tree(space / "files")

    assert [path.name for path in space.iterdir()] == ["outside"]
    assert listing(outside) == {"secret": SECRET}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


def test_no_mode_keeps_a_tree_from_being_removed_by_its_owner() -> None:
    with an_ordinary_user(), a_directory({"files/a/b/c": b"", "files/d": b"", "files/e": None}) as space:
        for name in ("a/b/c", "a/b", "a", "d", "e", ""):
            (space / "files" / name).chmod(0)

        remove_tree(space / "files")

        assert list(space.iterdir()) == []


def test_names_of_any_bytes_are_removed(space: Path) -> None:
    files = planted(space / "files", {})
    for name in (b"caf\xe9", b"a\nb", b"-rf", b"\xff" * 255):
        os.mkdir(os.fsencode(files) + b"/" + name)

    remove_tree(files)

    assert not files.exists()


def test_removing_what_is_not_there_is_fine(space: Path) -> None:
    remove_tree(space / "nothing")

    assert list(space.iterdir()) == []


# The limits


@pytest.mark.parametrize("wrong", [{"zip_mib": 0}, {"depth": 256}, {"name_bytes": 256}, {"time_s": "inf"}, {"x": 1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Limits(**wrong)


def test_every_limit_says_what_it_is() -> None:
    assert all(field.description for field in Limits.model_fields.values())


# The samples

ARTIFACTS = Path(__file__).parent.parent / "samples" / "artifacts"


def test_the_sample_artifact_is_the_zip_of_its_folder(space: Path) -> None:
    directory = unpacked((ARTIFACTS / "greeting.zip").read_bytes(), space)

    assert listing(directory) == listing(ARTIFACTS / "greeting")


def test_the_broken_sample_is_refused(space: Path) -> None:
    with pytest.raises(ArchiveRejected, match="no zip, or a damaged one"):
        unpacked((ARTIFACTS / "broken.zip").read_bytes(), space)
