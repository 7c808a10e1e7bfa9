"""Unpack and pack artifacts: blocking code, on its guard on both sides.

What comes in was made by anybody, and what goes out was left behind by untrusted code. The
same rules on names, counts and sizes hold for both, and they are checked before a byte is
moved: what `pack` writes, `unpack` accepts on every node with the same limits. Below a
directory all is opened from descriptor to descriptor, so that no link is ever followed.
"""

import errno
import hashlib
import io
import os
import re
import stat
import threading
import time
import unicodedata
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO
from urllib.parse import quote
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from pydantic import BaseModel, ConfigDict, Field

from ulos_stream.errors import ArchiveRejected, StageTimeout, UlosError

_MIB = 1024 * 1024
_BLOCK_BYTES = 64 * 1024
_NAME_RULES = (
    (re.compile(r"[\x00-\x1f\x7f-\x9f]"), "has a control character in its name"),
    (re.compile(r"[\ud800-\udfff]"), "has a name that is not UTF-8"),
    (re.compile(r"\\"), "has a backslash in its name"),
    (re.compile(r"^/"), "is an absolute path"),
    (re.compile(r"^[A-Za-z]:"), "starts with the name of a drive"),
    (re.compile(r"(^|/)\.\.(/|$)"), "climbs out by '..'"),
    (re.compile(r"(^|/)\.?(/|$)"), "has an empty part in its name"),
)
# PKWARE's APPNOTE.TXT 6.3.10: flag bits in 4.4.4, the local header without name and extra field in 4.3.7.
_UTF8, _ENCRYPTED, _HEADER_BYTES = 0x0800, 0x0001 | 0x0040 | 0x2000, 30
_EARLIEST_S, _LATEST_S = 315_532_800, 4_354_819_198  # 1980-01-01 and 2107-12-31 23:59:58, all that a zip can say
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SOURCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_TARGET = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}

Check = Callable[[], None]
"""Raises when it is time to stop."""


class Limits(BaseModel):
    """How large an artifact may be, on its way in as on its way out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    zip_mib: int = Field(default=100, gt=0)
    """Largest zip, in MiB. Student projects have a few, build outputs some tens."""
    entries: int = Field(default=10_000, gt=0)
    """Most files and directories. They cost inodes and system calls, which no limit in MiB sees."""
    total_mib: int = Field(default=512, gt=0)
    """Largest sum of all unpacked files, in MiB: what one running stage may take of the disk, or of a tmpfs."""
    file_mib: int = Field(default=256, gt=0)
    """Largest unpacked file, in MiB: half of the total, so that no single file is the whole artifact."""
    ratio: int = Field(default=200, gt=0)
    """How many times a file over 1 MiB may shrink. Text shrinks about 10 times; deflate ends at 1,032."""
    depth: int = Field(default=32, gt=0, le=255)
    """Most parts in a name. Tools that recurse break on deep trees; Java packages need about 15."""
    name_bytes: int = Field(default=255, gt=0, le=255)
    """Longest part of a name, in bytes of UTF-8: what Linux file systems take."""
    time_s: float = Field(default=60, gt=0, allow_inf_nan=False)
    """Longest unpack or pack, in seconds: a few times what 512 MiB take on a slow machine."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file or a directory, in an archive or in a tree."""

    name: str
    """Its parts with `/` between them, and at neither end."""
    directory: bool = False
    size: int = 0
    executable: bool = False
    modified: float | None = None
    """Seconds since 1970. A zip holds a wall clock without a zone: read and written as UTC on every node."""
    source: ZipInfo | Path | None = None
    """Where its content is; None for what lies in the tree itself."""


def unpack(archive: Path, directory: Path, limits: Limits, stop: threading.Event | None = None) -> None:
    """Extract a zip into an existing, empty directory, as `contents` arranges it.

    Files keep their time, and of their mode whether they are executable: 0755 or 0644.

    Raises:
        ArchiveRejected: The archive breaks a rule; the text names member, rule and limit. The directory may
            hold a part of it.
        StageTimeout: `stop` was set.
        OSError: The local disk is full or broken.
    """
    check = _watch("unpacking", limits, stop)
    with opened(archive, limits) as (bundle, members), _closing(os.open(directory, _DIRECTORY)) as root:
        for member in contents(members):
            check()
            parent, base = os.path.split(member.name)
            with _beneath(root, member.name if member.directory else parent, create=True) as folder:
                if not member.directory:
                    _write(folder, base, member, blocks(bundle, member), check)


def pack(
    directory: Path,
    archive: Path,
    extra: Mapping[str, Path],
    limits: Limits,
    stop: threading.Event | None = None,
) -> None:
    """Write what a directory holds at the root of a new zip, sorted by name.

    Links, pipes, sockets, devices and what `skipped` names are left out. A hard link is a
    regular file. What ought to be in the result and cannot be (a name that breaks a rule, an
    unreadable file) is refused, because a result with holes would pass for a whole one.

    Args:
        directory: What a stage left behind.
        archive: The zip to write. It is not whole if an error is raised.
        extra: Files by their names in the zip. Each replaces whatever the directory has under that
            name, file or directory, in upper or lower case.
        limits: They hold for the result as for any archive.
        stop: Ends the work when set.

    Raises:
        ArchiveRejected: The result breaks a rule.
        StageTimeout: `stop` was set.
        OSError: The local disk is full or broken.
    """
    check = _watch("packing", limits, stop)
    added = [replace(_found(name, path.stat()), source=path) for name, path in extra.items()]
    taken = {_folded(name) for name in extra}
    with _readable("."):
        root = os.open(directory, _DIRECTORY)
    with _closing(root), ZipFile(archive, "w") as bundle:
        members = _admitted(chain(added, _walk(root, taken, check)), limits, "the result")
        parents = {os.path.dirname(member.name) for member in members}
        for member in sorted(members, key=lambda member: member.name):
            check()
            if not member.directory:
                _add(bundle, member, _open(root, member), limits, check)
            elif member.name not in parents:
                bundle.writestr(_entry(member), b"")
    if archive.stat().st_size > limits.zip_mib * _MIB:
        raise ArchiveRejected(f"the result: its zip is larger than {limits.zip_mib} MiB")


def output_name(exchange: str, routing_key: str) -> str:
    """The name of a stage's output file: `output_<exchange>_<routingKey>.txt`.

    Every character outside `[A-Za-z0-9._-]` is %-encoded. A name over 200 bytes becomes its
    first 187, `-`, the first 8 hex digits of the whole name's sha256, and `.txt`.
    """
    parts = (quote(part, safe="", errors="surrogatepass").replace("~", "%7E") for part in (exchange, routing_key))
    name = f"output_{'_'.join(parts)}.txt"
    if len(name) > 200:
        name = f"{name[:187]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.txt"
    return name


def remove_tree(directory: Path) -> None:
    """Remove a directory with whatever is in it; one that is not there is fine.

    No link is followed, and neither modes nor depth are in the way: directories are moved up
    to the top and emptied there, one after the other. Nobody may write into them meanwhile.

    Raises:
        OSError: The disk is broken, or the process is neither root nor the owner.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(directory.lstat().st_mode):
            directory.unlink()
            return
        os.chmod(directory, stat.S_IRWXU, follow_symlinks=False)
        with _closing(os.open(directory, _DIRECTORY)) as root:
            waiting = _clear(root, root)
            while waiting:
                name = waiting.pop()
                with _closing(os.open(name, _DIRECTORY, dir_fd=root)) as folder:
                    waiting += _clear(folder, root)
                os.rmdir(name, dir_fd=root)
        directory.rmdir()


def _clear(folder: int, root: int) -> list[str]:
    """Remove the files of a directory and move its directories to the root; returns their new names."""
    moved = []
    for name in os.listdir(folder):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            if mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(name, stat.S_IRWXU, dir_fd=folder, follow_symlinks=False)
            moved.append(uuid.uuid4().hex)
            os.rename(name, moved[-1], src_dir_fd=folder, dst_dir_fd=root)
        else:
            os.unlink(name, dir_fd=folder)
    return moved


@contextmanager
def opened(archive: Path, limits: Limits) -> Iterator[tuple[ZipFile, list[Member]]]:
    """A zip that keeps every rule, and all its members: those too that `skipped` names.

    Raises:
        ArchiveRejected: It breaks a rule.
    """
    with _Bounded(io.FileIO(archive)) as file:
        if os.fstat(file.fileno()).st_size > limits.zip_mib * _MIB:
            raise ArchiveRejected(f"the archive: larger than {limits.zip_mib} MiB")
        file.most_bytes = max(_BLOCK_BYTES, limits.entries * 512)
        with _sound("no zip, or a damaged one"):
            bundle = ZipFile(file)
        with bundle:
            yield bundle, plan(bundle.filelist, bundle.start_dir, limits)


class _Bounded(io.BufferedReader):
    """Bounds what `ZipFile` reads at once: it believes any size that a zip gives for its central directory."""

    most_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most_bytes:
            raise ArchiveRejected(f"the archive: its table of contents is larger than {self.most_bytes} bytes")
        return super().read(size)


def blocks(bundle: ZipFile, member: Member) -> Iterator[bytes]:
    """The content of an archive's member, in blocks.

    Raises:
        ArchiveRejected: It is damaged, which may show at the end only.
    """
    assert isinstance(member.source, ZipInfo)  # noqa: S101
    with _sound(f"{_shown(member.name)} is damaged"), bundle.open(member.source) as source:
        while block := source.read(_BLOCK_BYTES):
            yield block


def plan(infos: Sequence[ZipInfo], end: int, limits: Limits) -> list[Member]:
    """The members of an archive whose table of contents starts at the offset `end`.

    Raises:
        ArchiveRejected: They break a rule.
    """
    reached = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < reached:
            raise ArchiveRejected(
                f"the archive: {_shown(info.orig_filename)} overlaps another member, or starts before the file"
            )
        reached = info.header_offset + _HEADER_BYTES + len(info.orig_filename) + info.compress_size
    if reached > end:
        raise ArchiveRejected("the archive: a member reaches beyond the end")
    members = (_member(info, limits) for info in infos)
    return _admitted((member for member in members if member.name or not member.directory), limits, "the archive")


def contents(members: Iterable[Member]) -> list[Member]:
    """What a stage sees of an archive: not what `skipped` names, and no single directory around all the rest."""
    kept = [member for member in members if not skipped(member)]
    tops = {_top(member.name) for member in kept}
    if len(tops) != 1 or any(member.name in tops and not member.directory for member in kept):
        return kept
    around = len(tops.pop()) + 1
    return [replace(member, name=member.name[around:]) for member in kept if member.name[around:]]


def skipped(member: Member) -> bool:
    """Whether a member is litter of macOS, or lies in `.ulos/`, which belongs to the node."""
    *folders, base = member.name.split("/")
    if member.directory:
        folders.append(base)
    return (
        "__MACOSX" in folders or (base == ".DS_Store" and not member.directory) or _folded(_top(member.name)) == ".ulos"
    )


def _member(info: ZipInfo, limits: Limits) -> Member:
    name = info.orig_filename  # `filename` ends at the first NUL
    if not info.flag_bits & _UTF8:
        with suppress(UnicodeError):  # macOS writes UTF-8 and does not say so
            name = name.encode("cp437").decode()
    directory = name.endswith("/")
    mode = info.external_attr >> 16
    for rule in _unfit(info, stat.S_IFDIR if directory else stat.S_IFREG, limits):
        raise ArchiveRejected(f"the archive: {_shown(name)} {rule}")
    modified = None
    with suppress(ValueError):
        modified = datetime(*info.date_time, tzinfo=UTC).timestamp()
    name = "/".join(part for part in name.split("/") if part != ".").removesuffix("/")
    return Member(name, directory, info.file_size, bool(mode & 0o111), modified, info)


def _unfit(info: ZipInfo, kind: int, limits: Limits) -> Iterator[str]:
    """The rules that a zip's entry breaks by how it is stored."""
    if info.flag_bits & _ENCRYPTED:
        yield "is encrypted"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        yield "is neither stored nor deflated"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, kind):
        yield "is a link or another special file"
    if kind == stat.S_IFDIR and info.file_size:
        yield "is a directory with content"
    if info.file_size > max(_MIB, limits.ratio * info.compress_size):
        yield f"is more than {limits.ratio} times larger than in the zip"


def _admitted(members: Iterable[Member], limits: Limits, whose: str) -> list[Member]:
    """The same members, taken one by one, if names, counts and sizes keep the rules."""
    admitted: list[Member] = []
    known: dict[str, tuple[str, bool]] = {}
    total_bytes = 0
    for member in members:
        admitted.append(member)
        total_bytes += member.size
        for rule in chain(_broken(member, limits), _conflicts(member, known)):
            raise ArchiveRejected(f"{whose}: {_shown(member.name)} {rule}")
        if max(len(admitted), len(known)) > limits.entries:
            raise ArchiveRejected(f"{whose}: more than {limits.entries} files and directories")
        if total_bytes > limits.total_mib * _MIB:
            raise ArchiveRejected(f"{whose}: more than {limits.total_mib} MiB in all")
    return admitted


def _broken(member: Member, limits: Limits) -> Iterator[str]:
    """The rules that a member breaks by itself."""
    yield from (rule for pattern, rule in _NAME_RULES if pattern.search(member.name))
    parts = member.name.split("/")
    if len(parts) > limits.depth:
        yield f"is {len(parts)} levels deep, more than {limits.depth}"
    if any(len(part.encode()) > limits.name_bytes for part in parts):
        yield f"has a part of more than {limits.name_bytes} bytes in its name"
    if member.size > limits.file_mib * _MIB:
        yield f"is larger than {limits.file_mib} MiB"


def _conflicts(member: Member, known: dict[str, tuple[str, bool]]) -> Iterator[str]:
    """What a member has against those before it; `known` maps folded paths to what has them, named or implied."""
    parts = member.name.split("/")
    for end in range(1, len(parts) + 1):
        path, directory = "/".join(parts[:end]), end < len(parts) or member.directory
        folded = _folded(path)
        if folded not in known:
            known[folded] = path, directory
            continue
        other, was_directory = known[folded]
        if path != other:
            yield f"differs from {_shown(other)} in upper and lower case only"
        elif directory != was_directory:
            yield f"makes {_shown(path)} both a file and a directory"
        elif not directory:
            yield "is there twice"


def _walk(root: int, taken: set[str], check: Check) -> Iterator[Member]:
    """The regular files and the directories below an open directory, each before what is in it."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with _readable(folder), _beneath(root, folder) as here, os.scandir(here) as entries:
            for entry in entries:
                check()
                status = entry.stat(follow_symlinks=False)
                member = _found(os.path.join(folder, entry.name), status)
                packable = member.directory or stat.S_ISREG(status.st_mode)
                if packable and not skipped(member) and _folded(member.name) not in taken:
                    yield member
                    if member.directory:
                        waiting.append(member.name)


def _found(name: str, status: os.stat_result) -> Member:
    directory = stat.S_ISDIR(status.st_mode)
    return Member(name, directory, 0 if directory else status.st_size, bool(status.st_mode & 0o111), status.st_mtime)


def _entry(member: Member) -> ZipInfo:
    """How a zip describes a member; of its mode, only the executable bit is left."""
    modified_s = min(max(member.modified or 0, _EARLIEST_S), _LATEST_S)
    entry = ZipInfo(member.name + "/" * member.directory, time.gmtime(modified_s)[:6])
    entry.create_system = 3  # Unix: its mode is the upper half of the attributes
    mode = stat.S_IFDIR | 0o755 if member.directory else stat.S_IFREG | (0o755 if member.executable else 0o644)
    entry.external_attr = mode << 16
    entry.file_size = member.size  # tells `ZipFile` whether it takes zip64
    return entry


def _open(root: int, member: Member) -> IO[bytes]:
    """A file to pack: one of ours by its path, one of the tree's without following or waiting for anything."""
    if isinstance(member.source, Path):
        return member.source.open("rb")
    parent, base = os.path.split(member.name)
    with _readable(member.name), _beneath(root, parent) as folder:
        return open(base, "rb", opener=lambda name, _: os.open(name, _SOURCE, dir_fd=folder))


def _add(bundle: ZipFile, member: Member, source: IO[bytes], limits: Limits, check: Check) -> None:
    with source:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise ArchiveRejected(f"the result: {_shown(member.name)} changed while it was packed")
        entry = _entry(member)
        entry.compress_type = ZIP_DEFLATED if _may_deflate(source, member.size, limits.ratio, check) else ZIP_STORED
        source.seek(0)
        with bundle.open(entry, "w") as sink:
            _copy(iter(lambda: source.read(_BLOCK_BYTES), b""), sink, member, "the result", check)


def _may_deflate(source: IO[bytes], size: int, ratio: int, check: Check) -> bool:
    """Whether a file stays within the ratio when deflated; the next node would take it for a bomb otherwise.

    Most files show after a few blocks that they do.
    """
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = 0
    while size > max(_MIB, ratio * deflated):
        check()
        if not (block := source.read(_BLOCK_BYTES)):
            return False
        deflated += len(squeeze.compress(block))
    return True


def _write(folder: int, base: str, member: Member, content: Iterable[bytes], check: Check) -> None:
    with open(base, "wb", opener=lambda name, _: os.open(name, _TARGET, 0o600, dir_fd=folder)) as file:
        _copy(content, file, member, "the archive", check)
        file.flush()
        os.fchmod(file.fileno(), 0o755 if member.executable else 0o644)
        if member.modified is not None:
            os.utime(file.fileno(), (member.modified, member.modified))


def _copy(content: Iterable[bytes], sink: IO[bytes], member: Member, whose: str, check: Check) -> None:
    left = member.size
    for block in content:
        check()
        left -= len(block)
        if left < 0:
            break
        sink.write(block)
    if left:
        raise ArchiveRejected(f"{whose}: {_shown(member.name)} does not have the {member.size} bytes it announced")


def _watch(doing: str, limits: Limits, stop: threading.Event | None) -> Check:
    deadline = time.monotonic() + limits.time_s

    def check() -> None:
        if stop is not None and stop.is_set():
            raise StageTimeout(f"stopped while {doing}")
        if time.monotonic() > deadline:
            raise ArchiveRejected(f"{doing} took longer than {limits.time_s:g} s")

    return check


@contextmanager
def _beneath(start: int, name: str, *, create: bool = False) -> Iterator[int]:
    """The directory `name` below an open one, entered part by part; the empty name is that one itself."""
    here = os.dup(start)
    try:
        for part in filter(None, name.split("/")):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
            outer, here = here, os.open(part, _DIRECTORY, dir_fd=here)
            os.close(outer)
            if create:
                os.fchmod(here, 0o755)
        yield here
    finally:
        os.close(here)


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What untrusted code made impossible to open is no error of the disk."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _UNREADABLE:
            raise
        raise ArchiveRejected(f"the result: {_shown(name)} cannot be read: {exc.strerror}") from exc


@contextmanager
def _sound(otherwise: str) -> Iterator[None]:
    """Only `zipfile` works in here, which raises a dozen unrelated types at damaged input."""
    try:
        yield
    except (UlosError, OSError):
        raise
    except Exception as exc:
        raise ArchiveRejected(f"the archive: {otherwise}: {(str(exc) or type(exc).__name__)[:200]}") from exc


def _shown(name: str) -> str:
    """A name as one line that is not too long."""
    return repr(name if len(name) <= 80 else f"{name[:40]}…{name[-39:]}")


def _folded(name: str) -> str:
    """The same for names that some file systems take for one: in upper and lower case, composed or not."""
    return unicodedata.normalize("NFC", name.casefold())


def _top(name: str) -> str:
    return name.partition("/")[0]
