"""A directory as a tar, out and back in: how files get to where no mount reaches. Blocking.

What comes back was left by untrusted code: regular files and directories are taken, everything else is left out,
and no link is ever made, so that none can be followed.
"""

import contextlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO, BinaryIO

from ulos_stream.errors import EngineFault
from ulos_stream.executors.directory import MAX_ENTRIES, MAX_LEVELS, Overgrown

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


class TooMuch(Exception):
    """What is to be fetched is larger than it may be."""


class Limited:
    """Takes a tar into a file, as long as it is no larger than a run may leave.

    Args:
        file: Empty.
        disk_mib: How much a run may leave.
    """

    def __init__(self, file: BinaryIO, disk_mib: int) -> None:
        self._file = file
        self._left = (disk_mib + HEADERS_MIB) * MIB

    def write(self, data: bytes) -> None:
        """Append to it.

        Raises:
            TooMuch: That is more than a run may leave.
        """
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch
        self._file.write(data)


def unpack(file: IO[bytes], directory: Path, limit_bytes: int) -> None:
    """Put in place of a directory's content what a tar holds of what untrusted code left.

    Only regular files and directories: what else there is, a stage's result leaves out anyway. Since nothing here is
    ever a link, a path that does not climb stays inside. Of a mode, the executable bit is left.

    Args:
        file: The tar, all of it in one directory; read from its beginning.
        directory: Nobody else may write there.
        limit_bytes: The most that all files together may hold.

    Raises:
        TooMuch: They hold more.
        Overgrown: There are more entries, or levels, than a directory may have.
        EngineFault: It is no whole tar.
    """
    file.seek(0)
    shutil.rmtree(directory)
    directory.mkdir()
    left_bytes = limit_bytes
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for entries, member in enumerate(tar, start=1):
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                if entries > MAX_ENTRIES:
                    raise Overgrown(f"more than {MAX_ENTRIES} files and directories")
                left_bytes -= member.size
                if left_bytes < 0:
                    raise TooMuch
                _extract(tar, member, directory)
    except tarfile.TarError as exc:
        raise EngineFault(f"what the run left has not arrived whole: {exc}") from exc


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    path = _place(member.name, directory)
    if member.isdir():
        path.mkdir(exist_ok=path == directory)
    elif member.islnk():  # of a link to what was left out there is nothing to be had
        with contextlib.suppress(FileNotFoundError):
            os.link(_place(member.linkname, directory), path, follow_symlinks=False)
    elif source := tar.extractfile(member) if member.isreg() else None:
        with path.open("xb") as target:
            shutil.copyfileobj(source, target)
            os.fchmod(target.fileno(), 0o755 if member.mode & 0o111 else 0o644)
        os.utime(path, (member.mtime, member.mtime))


def _place(name: str, directory: Path) -> Path:
    """Where an entry of a tar belongs, whose first part is the directory itself, by a name or as `.`."""
    _, *parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise EngineFault(f"what the run left has a file that is named {name[:80]!r}")
    if len(parts) > MAX_LEVELS or len(os.fsencode(name)) > MOST_NAME_BYTES:
        raise Overgrown(f"more than {MAX_LEVELS} levels of directories")
    return directory.joinpath(*parts)
