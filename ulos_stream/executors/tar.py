"""A directory as a tar, out and back in: how files get to where no mount reaches. Blocking.

What comes back was left by untrusted code: regular files and directories are taken, everything else is left out,
and no link is ever made, so that none can be followed.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ulos_stream.errors import EngineFault, ExecutorCrashed
from ulos_stream.executors.directory import MAX_ENTRIES, MAX_LEVELS

MIB = 1024 * 1024
MOST_NAME_BYTES = 3000
"""Longest path in a tar: with the job's directory before it, less than the 4,096 that Linux takes."""
HEADERS_MIB = 64
"""What the headers of `MAX_ENTRIES` names take, beside the files."""


def write_tar(directory: Path, file: BinaryIO, *, last: str) -> None:
    """Write all of a freshly unpacked directory, and `last`, an empty file: who finds that has everything."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isreg() or member.isdir()):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for entry in sorted(os.listdir(directory)):
            tar.add(directory / entry, arcname=entry, filter=plain)
        tar.addfile(tarfile.TarInfo(last))


class Limited:
    """Takes a tar into a file, as long as it is no larger than a run may leave.

    Args:
        file: Empty.
        disk_mib: How much a run may leave.
    """

    def __init__(self, file: BinaryIO, disk_mib: int) -> None:
        self._file = file
        self._left = (disk_mib + HEADERS_MIB) * MIB
        self._disk_mib = disk_mib

    def write(self, data: bytes) -> None:
        """Append to it.

        Raises:
            ExecutorCrashed: That is more than a run may leave.
        """
        self._left -= len(data)
        if self._left < 0:
            raise ExecutorCrashed(f"stopped: the run left more than {self._disk_mib} MiB on the disk")
        self._file.write(data)


def read_tar(file: BinaryIO, directory: Path, disk_mib: int) -> None:
    """Write what a run left, by the tar of it, into an empty directory.

    Raises:
        ExecutorCrashed: It is more than a run may leave, or more than an archive could hold.
        EngineFault: The tar is damaged.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            left = disk_mib * MIB
            for entries, (member, path) in enumerate(_members(tar, directory), start=1):
                left -= member.size
                if left < 0:
                    raise ExecutorCrashed(f"stopped: the run left more than {disk_mib} MiB on the disk")
                if entries > MAX_ENTRIES:
                    raise ExecutorCrashed(f"stopped: the run left more than {MAX_ENTRIES} files and directories")
                _write(tar, member, path)
    except tarfile.TarError as exc:
        raise EngineFault(f"what the run left has not arrived whole: {exc}") from exc


def _members(tar: tarfile.TarFile, directory: Path) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    for member in tar:
        name = os.path.normpath(member.name)
        if name == "." or not (member.isreg() or member.isdir() or member.islnk()):
            continue
        if name.startswith(("/", "../")) or name == "..":
            raise EngineFault(f"what the run left climbs out of its directory: {name[:80]!r}")
        if name.count("/") >= MAX_LEVELS or len(os.fsencode(name)) > MOST_NAME_BYTES:
            raise ExecutorCrashed(f"stopped: the run left more than {MAX_LEVELS} levels of directories")
        yield member, directory / name


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.islnk():  # another name for a file that came before, or for what was left out
        first = path.parents[len(Path(os.path.normpath(member.name)).parts) - 1] / os.path.normpath(member.linkname)
        if ".." not in first.parts and first.is_file():
            os.link(first, path)
        return
    content = tar.extractfile(member)
    assert content is not None  # noqa: S101 (it is a regular file)
    with path.open("xb") as target:
        while block := content.read(MIB):
            target.write(block)
        os.fchmod(target.fileno(), 0o755 if member.mode & 0o100 else 0o644)
        os.utime(target.fileno(), (member.mtime, member.mtime))
