"""The job's directory, as the node has to treat it: somebody hostile may be at work in there.

Every step goes from an open directory to a name in it, never by a path and never through a link.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ulos_stream.executors.verdict import OPEN_DIRECTORY

MAX_LEVELS = 64
"""Twice what an archive may have. Each level costs an open file while it is looked at."""
MAX_ENTRIES = 100_000
"""Ten times what an archive may have."""


class Overgrown(Exception):
    """A directory is deeper, or has more entries, than an archive could hold, or cannot be read."""


def give(directory: Path, uid: int, gid: int) -> None:
    """Make `uid:gid` the owner of a freshly unpacked directory and of all that is in it."""
    os.chown(directory, uid, gid, follow_symlinks=False)
    for parent, entry in _walk(directory):
        os.chown(entry.name, uid, gid, dir_fd=parent, follow_symlinks=False)


def measure(directory: Path) -> int:
    """Bytes that the files in `directory` take on the disk, right now.

    Raises:
        Overgrown: Too deep, too many entries, or a directory that cannot be read.
    """
    used_bytes = 0
    for entries, (parent, entry) in enumerate(_walk(directory), start=1):
        if entries > MAX_ENTRIES:
            raise Overgrown(f"more than {MAX_ENTRIES} files and directories")
        with contextlib.suppress(FileNotFoundError):
            used_bytes += os.stat(entry.name, dir_fd=parent, follow_symlinks=False).st_blocks * 512
    return used_bytes


def _walk(directory: Path) -> Iterator[tuple[int, "os.DirEntry[str]"]]:
    """Everything in `directory`, each entry with the open directory that it is in."""
    try:
        top = os.open(directory, OPEN_DIRECTORY)
    except PermissionError as exc:
        raise Overgrown("a directory that cannot be read") from exc
    try:
        yield from _walk_open(top, 1)
    finally:
        os.close(top)


def _walk_open(parent: int, level: int) -> Iterator[tuple[int, "os.DirEntry[str]"]]:
    if level > MAX_LEVELS:
        raise Overgrown(f"more than {MAX_LEVELS} levels of directories")
    with os.scandir(parent) as entries:
        for entry in entries:
            yield parent, entry
            if not entry.is_dir(follow_symlinks=False):
                continue
            try:
                child = os.open(entry.name, OPEN_DIRECTORY, dir_fd=parent)
            except PermissionError as exc:
                raise Overgrown("a directory that cannot be read") from exc
            except OSError:  # gone, or another thing by now
                continue
            try:
                yield from _walk_open(child, level + 1)
            finally:
                os.close(child)
