"""Content moved block by block, with an eye on the clock."""

import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import BinaryIO, cast
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from ulos_stream.archive.rules import Limits, Member, shown
from ulos_stream.errors import ArchiveRejected, StageTimeout

BLOCK_BYTES = 256 * 1024
SMALL_BYTES = 16 * 1024
"""A zip that is no larger is read and written in memory as a whole: `zipfile` seeks more than it moves."""
Check = Callable[[], None]
"""Raises when it is time to stop."""


def watch(doing: str, limits: Limits, stop: threading.Event | None) -> Check:
    """A check for `limits.time_s` seconds from now: it raises once they are over, or `stop` is set."""
    deadline = time.monotonic() + limits.time_s

    def check() -> None:
        if stop is not None and stop.is_set():
            raise StageTimeout(f"stopped while {doing}")
        if time.monotonic() > deadline:
            raise ArchiveRejected(f"{doing} took longer than {limits.time_s:g} s")

    return check


def copy(content: Iterable[bytes], write: Callable[[bytes], object], member: Member, whose: str, check: Check) -> str:
    """Write the content of a member, block by block, if it is as long as announced; returns its sha256."""
    left, digest = member.size, hashlib.sha256()
    for block in content:
        check()
        left -= len(block)
        if left < 0:
            break
        write(block)
        digest.update(block)
    if left:
        raise not_as_announced(member, whose)
    return digest.hexdigest()


def not_as_announced(member: Member, whose: str) -> ArchiveRejected:
    """The refusal of a member that is longer or shorter than it should be; `whose` names its archive."""
    return ArchiveRejected(f"{whose}: {shown(member.name)} does not have the {member.size} bytes it announced")


def write_all(descriptor: int, block: bytes) -> None:
    """Write a block to an open file, which may take it in several parts."""
    written = os.write(descriptor, block)
    while written < len(block):
        written += os.write(descriptor, memoryview(block)[written:])


def store(content: bytes, entry: ZipInfo, bundle: ZipFile) -> None:
    """Add a member that is not compressed; `ZipFile` would write its header twice, as it learns the content later."""
    entry.compress_type, entry.CRC = ZIP_STORED, zlib.crc32(content)
    entry.compress_size = entry.file_size = len(content)
    add_as_it_is([content], entry, bundle)


def add_as_it_is(content: Iterable[bytes], entry: ZipInfo, bundle: ZipFile) -> None:
    """Add a member that is compressed already, if at all; its entry tells how, both sizes and the CRC.

    `zipfile` has no word for it: this writes what `ZipFile` would have written, and makes it known to it.
    """
    target = cast(BinaryIO, bundle.fp)
    entry.header_offset = bundle.start_dir
    target.seek(bundle.start_dir)
    target.write(entry.FileHeader(zip64=False))
    for block in content:
        target.write(block)
    bundle.start_dir = target.tell()
    bundle.filelist.append(entry)
    bundle.NameToInfo[entry.filename] = entry
