"""Files that nobody has touched go from the zip that came to the zip that leaves as they are.

To read, hash and compress them again is most of what a stage does with a large artifact, and would give the same.
"""

import errno
import os
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO, NamedTuple, cast
from zipfile import ZipFile, ZipInfo

from ulos_stream.archive.transfer import BLOCK_BYTES, add_as_it_is

# PKWARE's APPNOTE.TXT 6.3.10, 4.3.7: a local header, up to the lengths of name and extra field that follow it.
_LOCAL_HEADER = Struct("<26xHH")

Stamp = tuple[int, ...]
"""What any change of a file changes, beside its content: see `stamp`."""


class Extracted(NamedTuple):
    """A file as it was extracted, its content checked."""

    stamp: Stamp
    bundle: ZipFile
    info: ZipInfo
    line: str
    """What the `Fingerprint` says of it."""


def stamp(status: os.stat_result) -> Stamp:
    """Which file it is, and when it and its mode were last changed.

    A change of the content moves both times. Whoever puts the first back moves the second, and nobody can put that one
    back who may not set the machine's clock. It ticks every few ms: what is changed and put back in the very tick in
    which it was extracted passes for untouched.
    """
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def carry(file: Extracted, entry: ZipInfo, bundle: ZipFile) -> None:
    """Add a file to `bundle` as it lies in the zip that it was extracted from."""
    info = file.info
    entry.compress_type, entry.CRC = info.compress_type, info.CRC
    entry.compress_size, entry.file_size = info.compress_size, info.file_size
    add_as_it_is(_raw(file), entry, bundle)


def _raw(file: Extracted) -> Iterator[bytes]:
    """The content as it is stored. Members do not overlap, and the sizes are those with which it was extracted."""
    source, left = cast(BinaryIO, file.bundle.fp), file.info.compress_size
    source.seek(file.info.header_offset)
    name, extra = _LOCAL_HEADER.unpack(source.read(_LOCAL_HEADER.size))
    source.seek(name + extra, os.SEEK_CUR)
    while left:
        if not (block := source.read(min(left, BLOCK_BYTES))):
            raise OSError(errno.EIO, "the downloaded zip is shorter than it was")
        left -= len(block)
        yield block
