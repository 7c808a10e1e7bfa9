"""What untrusted code left behind becomes a zip that every node accepts: walk → admit → add."""

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO, cast
from urllib.parse import quote
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from ulos_stream.archive.carrying import Extracted, carry, stamp
from ulos_stream.archive.fingerprint import Fingerprint
from ulos_stream.archive.rules import JOURNAL, MIB, Limits, Member, admitted, folded, shown, skipped
from ulos_stream.archive.transfer import BLOCK_BYTES, SMALL_BYTES, Check, copy, not_as_announced, store, watch
from ulos_stream.archive.tree import DIRECTORY, beneath, closing
from ulos_stream.errors import ArchiveRejected

_EARLIEST_S, _LATEST_S = 315_532_800, 4_354_819_198  # 1980-01-01 and 2107-12-31 23:59:58, all that a zip can say
LEAST_DEFLATED_BYTES = 512
"""What is smaller is stored: to set a compressor up takes longer than all the rest, and saves a few bytes."""
LEAST_DENSE_BYTES = 256 * 1024
"""What is smaller is deflated soon enough."""
PROBE_BYTES = 8 * 1024
"""How much of a file is looked at, twice: deflate's window is four times that, and hardly finds more in it."""
DENSE = 0.97
"""To which part of itself content shrinks, at least, that is stored as it is."""
_SOURCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}


def pack(
    directory: Path,
    archive: BinaryIO,
    extra: Mapping[str, BinaryIO],
    limits: Limits,
    stop: threading.Event | None = None,
    *,
    extracted: Mapping[str, Extracted] | None = None,
    journal: Callable[[str], bytes] | None = None,
) -> None:
    """Write what a directory holds at the root of a new zip, sorted by name.

    Links, pipes, sockets, devices and what `skipped` names are left out. A hard link is a
    regular file. What ought to be in the result and cannot be (a name that breaks a rule, an
    unreadable file) is refused, because a result with holes would pass for a whole one.

    Args:
        directory: What a stage left behind.
        archive: The zip to write, empty and open for reading too. It is not whole if an error is raised.
        extra: Files by their names in the zip. Each replaces whatever the directory has under that
            name, file or directory, in upper or lower case.
        limits: They hold for the result as for any archive.
        stop: Ends the work when set.
        extracted: How the directory came to be: `Artifact.extracted`, its archive still open. Files that nobody has
            touched since are taken from there.
        journal: Called once everything else is in, with the `Fingerprint` of it; returns the content of the
            journal. Without it there is none.

    Raises:
        ArchiveRejected: The result breaks a rule.
        StageTimeout: `stop` was set.
        OSError: The local disk is full or broken.
    """
    check = watch("packing", limits, stop)
    now = time.time()
    added = [Member(name, size=file.seek(0, os.SEEK_END), modified=now, source=file) for name, file in extra.items()]
    ours = [Member(JOURNAL, modified=now)] if journal else []
    taken = {folded(name) for name in extra}
    fingerprint = Fingerprint()
    with _readable("."):
        root = os.open(directory, DIRECTORY)
    with closing(root):
        with contextlib.closing(_walk(root, taken, check)) as found:  # a refusal leaves it half-way, with open files
            members = admitted(chain(ours, added, found), limits, "the result")[len(ours) :]
        is_small = sum(member.size for member in members) <= SMALL_BYTES
        parents = {member.name.rpartition("/")[0] for member in members}
        with ZipFile(memory := BytesIO() if is_small else archive, "w") as bundle:
            for member in sorted(members, key=lambda member: member.name):
                check()
                if known := _untouched(member, extracted or {}):
                    carry(known, _entry(member), bundle)
                    fingerprint.lines[member.name] = known.line
                elif not member.directory:
                    with _open(root, member) as source:
                        fingerprint.take_in(member, _add(bundle, member, source, limits, check))
                elif member.name not in parents:
                    store(b"", _entry(member), bundle)
            if journal:
                store(journal(fingerprint.hexdigest()), _entry(ours[0]), bundle)
    if isinstance(memory, BytesIO):
        archive.write(memory.getbuffer())
    if archive.seek(0, os.SEEK_END) > limits.zip_mib * MIB:
        raise ArchiveRejected(f"the result: its zip is larger than {limits.zip_mib} MiB")


@lru_cache(maxsize=256)  # a node sees the same few stages again and again
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


def _walk(root: int, taken: set[str], check: Check) -> Generator[Member, None, None]:
    """The regular files and the directories below an open directory, each before what is in it."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with _readable(folder), beneath(root, folder) as here, os.scandir(here) as entries:
            for entry in entries:
                check()
                status = entry.stat(follow_symlinks=False)
                member = _found(os.path.join(folder, entry.name), status)
                packable = member.directory or stat.S_ISREG(status.st_mode)
                if packable and not skipped(member) and folded(member.name) not in taken:
                    yield member
                    if member.directory:
                        waiting.append(member.name)


def _found(name: str, status: os.stat_result) -> Member:
    directory = stat.S_ISDIR(status.st_mode)
    size, executable = 0 if directory else status.st_size, bool(status.st_mode & 0o111)
    return Member(name, directory, size, executable, status.st_mtime, stamp=stamp(status))


def _untouched(member: Member, extracted: Mapping[str, Extracted]) -> Extracted | None:
    """What a file of the tree was extracted from, if it is still just that."""
    known = extracted.get(member.name)
    return known if known is not None and known.stamp == member.stamp else None


def _entry(member: Member) -> ZipInfo:
    """How a zip describes a member; of its mode, only the executable bit is left."""
    modified_s = min(max(member.modified or 0, _EARLIEST_S), _LATEST_S)
    entry = ZipInfo(member.name + "/" * member.directory, time.gmtime(modified_s)[:6])
    entry.create_system = 3  # Unix: its mode is the upper half of the attributes
    mode = stat.S_IFDIR | 0o755 if member.directory else stat.S_IFREG | (0o755 if member.executable else 0o644)
    entry.external_attr = mode << 16
    entry.file_size = member.size  # tells `ZipFile` whether it takes zip64
    return entry


def _open(root: int, member: Member) -> AbstractContextManager[IO[bytes]]:
    """A file to pack: one of ours as it is, one of the tree's without following or waiting for anything."""
    if member.source is not None:
        return nullcontext(cast(BinaryIO, member.source))
    parent, _, base = member.name.rpartition("/")
    with _readable(member.name), beneath(root, parent) as folder:
        file = open(base, "rb", opener=lambda name, _: os.open(name, _SOURCE, dir_fd=folder))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ArchiveRejected(f"the result: {shown(member.name)} changed while it was packed")
    return file


def _add(bundle: ZipFile, member: Member, source: IO[bytes], limits: Limits, check: Check) -> str:
    """Add a file; returns the sha256 of its content."""
    entry = _entry(member)
    if member.size < LEAST_DEFLATED_BYTES:
        source.seek(0)
        content = source.read(LEAST_DEFLATED_BYTES)  # more than announced, if there is more
        if len(content) != member.size:
            raise not_as_announced(member, "the result")
        store(content, entry, bundle)
        return hashlib.sha256(content).hexdigest()
    if _deflates(source, member.size, limits.ratio, check):
        entry.compress_type = ZIP_DEFLATED
    source.seek(0)
    with bundle.open(entry, "w") as sink:
        blocks = iter(partial(source.read, BLOCK_BYTES), b"")
        return copy(blocks, sink.write, member, "the result", check)


def _deflates(source: IO[bytes], size: int, ratio: int, check: Check) -> bool:
    """Whether a file that is not small is deflated, and not stored as it is."""
    return not _is_dense(source, size) and _may_deflate(source, size, ratio, check)


def _is_dense(source: IO[bytes], size: int) -> bool:
    """Whether a file would hardly shrink, by a look at its beginning and its middle: pictures, videos, zips.

    Deflating 1 MiB of such content takes 25 ms, which is nearly all that the whole stage takes.
    """
    if size < LEAST_DENSE_BYTES:
        return False
    for start in (0, size // 2):
        source.seek(start)
        block = source.read(PROBE_BYTES)
        if len(zlib.compress(block, 1)) < DENSE * len(block):
            return False
    return True


def _may_deflate(source: IO[bytes], size: int, ratio: int, check: Check) -> bool:
    """Whether a file stays within the ratio when deflated; the next node would take it for a bomb otherwise.

    Most files show after a few blocks that they do.
    """
    if size <= MIB:
        return True
    source.seek(0)
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = 0
    while size > max(MIB, ratio * deflated):
        check()
        if not (block := source.read(BLOCK_BYTES)):
            return False
        deflated += len(squeeze.compress(block))
    return True


class _readable:
    """What untrusted code made impossible to open is no error of the disk."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, OSError) and exc.errno in _UNREADABLE:
            raise ArchiveRejected(f"the result: {shown(self._name)} cannot be read: {exc.strerror}") from exc
