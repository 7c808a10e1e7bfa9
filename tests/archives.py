"""Zips made by hand, because no tool makes hostile ones; and what each of them is refused for."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIB = 1024 * 1024
LINK, PIPE, DEVICE, SOCKET = 0o120777, 0o010644, 0o020644, 0o140644
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


ATTACKS = {
    "parent": (a_zip(Entry(b"a/../../b")), "'a/../../b' climbs out by '..'"),
    "parent alone": (a_zip(Entry(b"../", b"", FOLDER)), "'..' climbs out by '..'"),
    "parent in litter": (a_zip(Entry(b"__MACOSX/../../b")), "climbs out by '..'"),
    "a dot alone": (a_zip(Entry(b".")), "'' has an empty part in its name"),
    "absolute": (a_zip(Entry(b"/etc/passwd")), "'/etc/passwd' is an absolute path"),
    "double slash": (a_zip(Entry(b"a//b")), "'a//b' has an empty part in its name"),
    "no name": (a_zip(Entry(b"")), "'' has an empty part in its name"),
    "backslash": (a_zip(Entry(b"a\\b")), r"'a\\b' has a backslash in its name"),
    "drive": (a_zip(Entry(b"C:/a")), "'C:/a' starts with the name of a drive"),
    "drive relative": (a_zip(Entry(b"c:a")), "'c:a' starts with the name of a drive"),
    "symbolic link": (a_zip(Entry(b"a", b"/etc/passwd", LINK)), "'a' is a link or another special file"),
    "symbolic link with a file below": (
        a_zip(Entry(b"a", b"..", LINK), Entry(b"a/b")),
        "'a' is a link or another special file",
    ),
    "socket": (a_zip(Entry(b"a", mode=SOCKET)), "'a' is a link or another special file"),
    "pipe": (a_zip(Entry(b"a", mode=PIPE)), "'a' is a link or another special file"),
    "device": (a_zip(Entry(b"a", mode=DEVICE)), "'a' is a link or another special file"),
    "file with the mode of a directory": (a_zip(Entry(b"a", mode=FOLDER)), "'a' is a link or another special file"),
    "directory with content": (a_zip(Entry(b"a/", b"data", FOLDER)), "'a/' is a directory with content"),
    "twice": (a_zip(Entry(b"a"), Entry(b"b"), Entry(b"a")), "'a' is there twice"),
    "twice by a dot": (a_zip(Entry(b"a/b"), Entry(b"a/./b")), "'a/b' is there twice"),
    "twice in another case": (a_zip(Entry(b"A"), Entry(b"a")), "'a' differs from 'A' in upper and lower case only"),
    "twice in another fold": (
        a_zip(Entry("straße".encode()), Entry(b"STRASSE")),
        "'STRASSE' differs from 'straße' in upper and lower case only",
    ),
    "twice in another composition": (
        a_zip(Entry("\xe9".encode()), Entry("e\u0301".encode())),
        "in upper and lower case only",
    ),
    "directories in two cases": (a_zip(Entry(b"Src/a"), Entry(b"src/b")), "'src/b' differs from 'Src' in upper"),
    "file, then directory": (a_zip(Entry(b"a"), Entry(b"a/b")), "'a/b' makes 'a' both a file and a directory"),
    "directory, then file": (a_zip(Entry(b"a/b"), Entry(b"a")), "'a' makes 'a' both a file and a directory"),
    "encrypted": (a_zip(Entry(b"a", flags=0x0801)), "'a' is encrypted"),
    "strongly encrypted": (a_zip(Entry(b"a", flags=0x0840)), "'a' is encrypted"),
    "bzip2": (a_zip(Entry(b"a", method=12)), "'a' is neither stored nor deflated"),
    "lzma": (a_zip(Entry(b"a", method=14)), "'a' is neither stored nor deflated"),
    "unknown method": (a_zip(Entry(b"a", method=99)), "'a' is neither stored nor deflated"),
    "patched data": (a_zip(Entry(b"a", flags=0x0820)), "'a' is damaged: compressed patched data (flag bit 5)"),
    "line feed": (a_zip(Entry(b"a\nb")), r"'a\nb' has a control character in its name"),
    "NUL": (a_zip(Entry(b"a.txt\0.exe")), r"'a.txt\x00.exe' has a control character in its name"),
    "C1 control": (a_zip(Entry("a\x9bb".encode())), r"'a\x9bb' has a control character in its name"),
    "not UTF-8": (a_zip(Entry(b"a\xff")), "no zip, or a damaged one: 'utf-8' codec can't decode byte 0xff"),
    "surrogate": (a_zip(Entry(b"a\xed\xb3\xbf")), "no zip, or a damaged one: 'utf-8' codec can't decode byte 0xed"),
    "same header": (a_zip(Entry(b"a"), Entry(b"b", offset=0)), "'b' overlaps another member"),
    "quoted overlap": (an_overlap_bomb(40, b"kernel" * 9), "'1' overlaps another member"),
    "beyond the end": (a_zip(Entry(b"a", offset=9)), "a member reaches beyond the end"),
    "deep": (a_zip(Entry(b"d/" * 32 + b"a")), "is 33 levels deep, more than 32"),
    "long name": (a_zip(Entry(b"n" * 256)), "has a part of more than 255 bytes in its name"),
    "long name in UTF-8": (a_zip(Entry("é".encode() * 128)), "has a part of more than 255 bytes in its name"),
    "declared too large": (
        a_zip(Entry(b"a", bytes(2 * MIB), size=257 * MIB, method=0), Entry(b"b")),
        "'a' is larger than 256 MiB",
    ),
    "declared too large in all": (
        a_zip(*(Entry(b"%d" % n, bytes(2 * MIB), size=200 * MIB, method=0) for n in range(3))),
        "more than 512 MiB in all",
    ),
    "declared as large as 32 bits say": (a_zip(Entry(b"a", size=2**32 - 1)), "is more than 200 times larger"),
    "declared larger than it is": (a_zip(Entry(b"a", size=9)), "'a' does not have the 9 bytes it announced"),
    "declared smaller than it is": (a_zip(Entry(b"a", size=2)), "'a' is damaged: Bad CRC-32 for file 'a'"),
    "wrong CRC": (a_zip(Entry(b"a", crc=1)), "'a' is damaged: Bad CRC-32 for file 'a'"),
    "another name in its header": (
        a_zip(Entry(b"a", bytes(60_000), method=0)).replace(b"\1\0\0\0a", b"\x60\xea\0\0a", 1),
        "'a' is damaged: File name in directory 'a' and header b'a",
    ),
    "no deflate data": (
        a_zip(Entry(b"a")).replace(b"KI,I\x04\x00", b"\xff" * 6),
        "'a' is damaged: Error -3 while decompressing data",
    ),
    "truncated": (a_zip(Entry(b"a"))[:-10], "no zip, or a damaged one: File is not a zip file"),
    "headless": (a_zip(Entry(b"a"))[20:], "'a' overlaps another member, or starts before the file"),
    "no zip": (b"MZ" * 500, "no zip, or a damaged one: File is not a zip file"),
    "its end too far from the end": (a_zip(Entry(b"a")) + bytes(70_000), "no zip, or a damaged one: File is not a zip"),
    "nothing": (b"", "no zip, or a damaged one: File is not a zip file"),
    "wild zip64 record": (b"PK\6\7" + bytes(16) + a_zip(), "no zip, or a damaged one: "),
}


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "ratio": (lambda: a_zip(Entry(b"a", bytes(200 * MIB))), "more than 200 times larger"),
    "overlap": (lambda: an_overlap_bomb(800, bytes(60_000)), "overlaps another member"),
    "declared small": (lambda: a_zip(Entry(b"a", bytes(200 * MIB), size=10)), "Bad CRC-32"),
    "declared small, and its CRC too": (lambda: a_zip(Entry(b"a", bytes(200 * MIB), size=10, crc=0xE38A6876)), ""),
    "70,000 entries": (
        lambda: a_table_of([b"%d" % n for n in range(70_000)]),
        "more than 10000 files and directories",
    ),
    "70,000 entries that are sound": (
        lambda: a_zip(*(Entry(b"%d" % n, b"", method=0) for n in range(70_000))),
        "more than 10000 files and directories",
    ),
    "a million entries": (
        lambda: a_table_of([b"n"] * 1_000_000),
        "^the archive: its table of contents is larger than 5120000 bytes",
    ),
    "a table of 90 MiB": (
        lambda: a_zip(Entry(b"a", bytes(90 * MIB), method=0), table_size=90 * MIB),
        "^the archive: its table of contents is larger than 5120000 bytes",
    ),
}
