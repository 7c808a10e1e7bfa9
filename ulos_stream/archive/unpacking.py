"""A zip that anybody made is read: opened → plan → contents → write, or only the journal or the hash of it."""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import BinaryIO, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from ulos_stream.archive.carrying import Extracted, Stamp, stamp
from ulos_stream.archive.fingerprint import Fingerprint
from ulos_stream.archive.rules import JOURNAL, MIB, Limits, Member, admitted, contents, shown
from ulos_stream.archive.transfer import BLOCK_BYTES, SMALL_BYTES, Check, copy, watch, write_all
from ulos_stream.archive.tree import DIRECTORY, LIGHT_BYTES, LIGHT_ENTRIES, beneath, closing
from ulos_stream.errors import ArchiveRejected, UlosError

# PKWARE's APPNOTE.TXT 6.3.10: flag bits in 4.4.4, the local header without name and extra field in 4.3.7.
_UTF8, _ENCRYPTED, _HEADER_BYTES = 0x0800, 0x0001 | 0x0040 | 0x2000, 30
_ENTRY = b"PK\1\2"  # begins each entry of the table of contents, 4.3.12
_LOCATOR = b"PK\6\7"  # begins the locator of a zip64's end record, 4.3.15
_END = Struct(
    "<4s16x4s8xL4xH"
)  # 4.3.15 and 4.3.16: signatures of the locator for zip64, if any, and of the end record,
# size of the table, length of the comment that ends the zip
SHORT_TABLE_BYTES = 4096
"""Of some 64 entries, which `ZipFile` reads within a ms or two."""
LEAST_TABLE_BYTES = 64 * 1024
"""So large may the table of contents be, however few entries are allowed."""
_TARGET = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Artifact:
    """A zip that keeps every rule, open for reading until the end of its `with`."""

    bundle: ZipFile
    members: Sequence[Member]
    """All of them: those too that `skipped` names."""
    limits: Limits
    extracted: dict[str, Extracted] = field(default_factory=dict)
    """What the last `unpack` has extracted, by name: `pack` takes from it what is untouched."""

    def __enter__(self) -> "Artifact":
        return self

    def __exit__(self, *_: object) -> None:
        self.bundle.close()

    @property
    def is_light(self) -> bool:
        """Whether reading all of it takes a moment, so that a thread for it would cost more."""
        return len(self.members) <= LIGHT_ENTRIES and sum(member.size for member in self.members) <= LIGHT_BYTES

    def journal(self, most_bytes: int) -> bytes | None:
        """The journal that it carries; see `read`."""
        return self.read(JOURNAL, most_bytes)

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """The content of one file, by its full name in the zip; None without it, or if it has more than `most_bytes`.

        Raises:
            ArchiveRejected: It is damaged.
            OSError: The local disk is broken.
        """
        for member in self.members:
            if member.name == name and not member.directory and member.size <= most_bytes:
                return b"".join(blocks(self.bundle, member))
        return None

    def fingerprint(self, stop: threading.Event | None = None) -> str:
        """The `Fingerprint` of what `unpack` would extract.

        Raises:
            ArchiveRejected: A member is damaged.
            StageTimeout: `stop` was set.
            OSError: The local disk is broken.
        """
        return self._fingerprint(stop).hexdigest()

    def files(self) -> dict[str, str]:
        """The files that `unpack` would extract, by name: what differs in content or mode differs in value.

        Raises:
            ArchiveRejected: A member is damaged.
            OSError: The local disk is broken.
        """
        return self._fingerprint(None).lines

    def _fingerprint(self, stop: threading.Event | None) -> Fingerprint:
        check = watch("reading", self.limits, stop)
        fingerprint = Fingerprint()
        for member in contents(self.members):
            if not member.directory:
                digest = hashlib.sha256()
                for block in blocks(self.bundle, member):
                    check()
                    digest.update(block)
                fingerprint.take_in(member, digest.hexdigest())
        return fingerprint

    def unpack(self, directory: Path, stop: threading.Event | None = None) -> str:
        """Extract into an existing, empty directory, as `contents` arranges it.

        Files keep their time, and of their mode whether they are executable: 0755 or 0644.

        Returns:
            The `Fingerprint` of what was extracted.

        Raises:
            ArchiveRejected: A member is damaged. The directory may hold a part of it.
            StageTimeout: `stop` was set.
            OSError: The local disk is full or broken.
        """
        check = watch("unpacking", self.limits, stop)
        fingerprint = Fingerprint()
        self.extracted.clear()
        with closing(os.open(directory, DIRECTORY)) as root:
            for member in contents(self.members):
                check()
                parent, _, base = member.name.rpartition("/")
                with beneath(root, member.name if member.directory else parent, create=True) as folder:
                    if not member.directory:
                        digest, written = _write(folder, base, member, blocks(self.bundle, member), check)
                        line = fingerprint.take_in(member, digest)
                        self.extracted[member.name] = Extracted(
                            written, self.bundle, cast(ZipInfo, member.source), line
                        )
        return fingerprint.hexdigest()


def opens_at_once(archive: BinaryIO) -> bool:
    """Whether to open a zip takes a moment, so that a thread for it would cost more: by what its end says of its table.

    Raises:
        OSError: The local disk is broken.
    """
    archive.seek(max(0, archive.seek(0, os.SEEK_END) - _END.size))
    end = archive.read()
    if len(end) < _END.size:
        return True  # no zip
    locator, signature, table_bytes, comment_bytes = _END.unpack(end)
    is_plain = locator != _LOCATOR and signature == b"PK\5\6" and comment_bytes == 0
    return bool(is_plain and table_bytes <= SHORT_TABLE_BYTES)


def opened(archive: BinaryIO, limits: Limits) -> Artifact:
    """Open a zip, if it keeps every rule; for use in a `with`. The file stays its owner's to close.

    Raises:
        ArchiveRejected: It breaks a rule; the text names member, rule and limit.
        OSError: The local disk is broken.
    """
    size = archive.seek(0, os.SEEK_END)
    if size > limits.zip_mib * MIB:
        raise ArchiveRejected(f"the archive: larger than {limits.zip_mib} MiB")
    archive.seek(0)
    if size <= SMALL_BYTES and _LOCATOR not in (content := archive.read()):  # it may point to before the beginning
        file: BytesIO | _Bounded = BytesIO(content)
    else:
        file = _Bounded(archive, limits)
    with _sound():
        bundle = ZipFile(cast(BinaryIO, file))
    if isinstance(file, _Bounded):
        file.limits = None
    return Artifact(bundle, plan(bundle.filelist, bundle.start_dir, limits), limits)


class _WildSeek(OSError):
    """`ZipFile` expects an `OSError` at some places; at the others it is the archive's doing, and no disk's."""


class _Bounded:
    """Bounds the table of contents before `ZipFile` believes its size, and makes an object of a KiB for each entry."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self.limits: Limits | None = limits
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._size}[whence]
        if start + offset < 0:  # which is an error on a disk, and the beginning in memory
            raise _WildSeek(errno.EINVAL, "it points to before its beginning")
        return self._file.seek(offset, whence)

    def read(self, size: int = -1, /) -> bytes:
        if self.limits is None:
            return self._file.read(size)
        most_bytes = max(LEAST_TABLE_BYTES, self.limits.entries * 512)
        if size > most_bytes:
            raise ArchiveRejected(f"the archive: its table of contents is larger than {most_bytes} bytes")
        content = self._file.read(size)
        if content.startswith(_ENTRY) and content.count(_ENTRY) > self.limits.entries:
            raise ArchiveRejected(f"the archive: more than {self.limits.entries} files and directories")
        return content


def blocks(bundle: ZipFile, member: Member) -> Iterator[bytes]:
    """The content of an archive's member, in blocks.

    Raises:
        ArchiveRejected: It is damaged, which may show at the end only.
    """
    assert isinstance(member.source, ZipInfo)  # noqa: S101
    with _sound(member.name), bundle.open(member.source) as source:
        while block := source.read(BLOCK_BYTES):
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
                f"the archive: {shown(info.orig_filename)} overlaps another member, or starts before the file"
            )
        reached = info.header_offset + _HEADER_BYTES + len(info.orig_filename) + info.compress_size
    if reached > end:
        raise ArchiveRejected("the archive: a member reaches beyond the end")
    members = (_member(info, limits) for info in infos)
    return admitted((member for member in members if member.name or not member.directory), limits, "the archive")


def _member(info: ZipInfo, limits: Limits) -> Member:
    name = info.orig_filename  # `filename` ends at the first NUL
    if not (name.isascii() or info.flag_bits & _UTF8):
        with suppress(UnicodeError):  # macOS writes UTF-8 and does not say so
            name = name.encode("cp437").decode()
    directory = name.endswith("/")
    mode = info.external_attr >> 16
    if rule := _unfit(info, stat.S_IFDIR if directory else stat.S_IFREG, limits):
        raise ArchiveRejected(f"the archive: {shown(name)} {rule}")
    try:
        modified = datetime(*info.date_time, tzinfo=UTC).timestamp()
    except ValueError:
        modified = None
    name = "/".join(part for part in name.split("/") if part != ".").removesuffix("/")
    return Member(name, directory, info.file_size, bool(mode & 0o111), modified, info)


def _unfit(info: ZipInfo, kind: int, limits: Limits) -> str | None:
    """The first rule that a zip's entry breaks by how it is stored, if any."""
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return "is neither stored nor deflated"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, kind):
        return "is a link or another special file"
    if kind == stat.S_IFDIR and info.file_size:
        return "is a directory with content"
    if info.file_size > MIB and info.file_size > limits.ratio * info.compress_size:
        return f"is more than {limits.ratio} times larger than in the zip"
    return None


def _write(folder: int, base: str, member: Member, content: Iterable[bytes], check: Check) -> tuple[str, Stamp]:
    """Make a file; returns the sha256 of its content, and its stamp."""
    with closing(os.open(base, _TARGET, 0o600, dir_fd=folder)) as file:
        digest = copy(content, partial(write_all, file), member, "the archive", check)
        os.fchmod(file, 0o755 if member.executable else 0o644)
        if member.modified is not None:
            os.utime(file, (member.modified, member.modified))
        return digest, stamp(os.fstat(file))


class _sound:
    """Only `zipfile` works in here, which raises a dozen unrelated types at damaged input.

    Args:
        member: The name of what it reads; None for the table of contents.
    """

    def __init__(self, member: str | None = None) -> None:
        self._member = member

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, _WildSeek):
            reason = exc.strerror
        elif isinstance(exc, Exception) and not isinstance(exc, UlosError | OSError):
            reason = (str(exc) or type(exc).__name__)[:200]
        else:
            return
        what = "no zip, or a damaged one" if self._member is None else f"{shown(self._member)} is damaged"
        raise ArchiveRejected(f"the archive: {what}: {reason}") from exc
