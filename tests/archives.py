"""Zips made by hand, because no tool makes hostile ones."""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

LINK, PIPE, DEVICE = 0o120777, 0o010644, 0o020644
FILE, PROGRAM, FOLDER = 0o100644, 0o100755, 0o040755


@dataclass(frozen=True)
class Entry:
    """One member, with everything that a zip may lie about; what is None tells the truth."""

    name: bytes
    data: bytes = b"data"
    mode: int = FILE
    method: int = zlib.DEFLATED
    flags: int = 0x0800
    size: int | None = None
    crc: int | None = None
    offset: int | None = None
    date: tuple[int, int] = (0x21, 0)
    """Days and seconds as MS-DOS counts them; 1980-01-01 00:00:00."""


def a_zip(*entries: Entry, table_size: int | None = None) -> bytes:
    """The zip of the entries; its end record may lie about the size of the table of contents."""
    body, table = io.BytesIO(), io.BytesIO()
    for entry in entries:
        packed = _deflated(entry.data) if entry.method == zlib.DEFLATED else entry.data
        header = _header(entry, len(packed))
        table.write(_line(entry, header, body.tell() if entry.offset is None else entry.offset))
        body.write(header + entry.name + packed)
    return body.getvalue() + table.getvalue() + _end(table.getvalue(), body.tell(), len(entries), table_size)


def an_overlap_bomb(entries: int, kernel: bytes) -> bytes:
    """Every member's content is the next one's header and content: all share one kernel.

    The "quoted overlap" of David Fifield, A better zip bomb (2019): the data of a member starts
    with a stored deflate block that quotes the header of the next member.
    """
    packed, unpacked = _deflated(kernel), kernel
    chain: list[tuple[Entry, bytes]] = []
    for number in reversed(range(entries)):
        entry = Entry(b"%d" % number, unpacked, crc=zlib.crc32(unpacked), size=len(unpacked))
        header = _header(entry, len(packed))
        chain.insert(0, (entry, header))
        quoted = header + entry.name
        packed = struct.pack("<BHH", 0, len(quoted), len(quoted) ^ 0xFFFF) + quoted + packed
        unpacked = quoted + unpacked
    body, table, offset = packed[5:], b"", 0
    for entry, header in chain:
        table += _line(entry, header, offset)
        offset += len(header + entry.name) + 5
    return body + table + _end(table, len(body), entries)


def a_table_of(names: Sequence[bytes]) -> bytes:
    """A zip that is a table of contents and nothing else."""
    entry = Entry(b"", b"", method=0)
    header = _header(entry, 0)
    table = b"".join(
        _line(Entry(name, b"", method=0), header[:-4] + struct.pack("<HH", len(name), 0), 0) for name in names
    )
    return table + _end(table, 0, len(names))


def with_zip64_end(archive: bytes) -> bytes:
    """The same zip, with the end record that tools write who expect more than 65,535 entries."""
    body, end = archive[:-22], archive[-22:]
    count, table_size, table_offset = struct.unpack("<10xHLL2x", end)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, table_size, table_offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body), 1)
    return body + record + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)


def _deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


def _header(entry: Entry, packed_size: int) -> bytes:
    size = len(entry.data) if entry.size is None else entry.size
    crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
    date, time = entry.date
    fields = (20, entry.flags, entry.method, time, date, crc, packed_size, size, len(entry.name), 0)
    return struct.pack("<4s5H3L2H", b"PK\3\4", *fields)


def _line(entry: Entry, header: bytes, offset: int) -> bytes:
    attributes = entry.mode << 16
    return (
        struct.pack("<4s2B", b"PK\1\2", 20, 3)
        + header[4:]
        + struct.pack("<3H2L", 0, 0, 0, attributes, offset)
        + entry.name
    )


def _end(table: bytes, offset: int, count: int, table_size: int | None = None) -> bytes:
    size = len(table) if table_size is None else table_size
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, size, offset, 0)
