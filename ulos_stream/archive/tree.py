"""Directories entered from descriptor to descriptor, so that no link is followed, and removed whatever they hold."""

import os
import stat
import uuid
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory, and nothing else, by its name."""

LIGHT_ENTRIES = 64
LIGHT_BYTES = 1024 * 1024
"""What is smaller is read, written or removed within some ms, as long as an event loop may be held up."""


def is_light(directory: Path) -> bool:
    """Whether what is in a directory is so little that a thread for it would cost more than it saves."""
    waiting, entries, size_bytes = [os.fspath(directory)], 0, 0
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                entries += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    size_bytes += entry.stat(follow_symlinks=False).st_size
                if entries > LIGHT_ENTRIES or size_bytes > LIGHT_BYTES:
                    return False
    return True


def remove_tree(directory: Path) -> None:
    """Remove a directory with whatever is in it; one that is not there is fine.

    No link is followed, and neither modes nor depth are in the way: directories are moved up
    to the top and emptied there, one after the other. Nobody may write into them meanwhile.

    Raises:
        OSError: The disk is broken, or the process is neither root nor the owner.
    """
    with suppress(FileNotFoundError):
        mode = os.lstat(directory).st_mode
        if not stat.S_ISDIR(mode):
            os.unlink(directory)
            return
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(directory, stat.S_IRWXU, follow_symlinks=False)
        with closing(os.open(directory, DIRECTORY)) as root:
            waiting = _clear(root, root)
            while waiting:
                name = waiting.pop()
                with closing(os.open(name, DIRECTORY, dir_fd=root)) as folder:
                    waiting += _clear(folder, root)
                os.rmdir(name, dir_fd=root)
        os.rmdir(directory)


def _clear(folder: int, root: int) -> list[str]:
    """Remove the files of a directory and move its directories to the root; returns their new names."""
    moved = []
    with os.scandir(folder) as found:
        entries = list(found)  # what is listed while it is removed may be listed by half
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
            continue
        if entry.stat(follow_symlinks=False).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(entry.name, stat.S_IRWXU, dir_fd=folder, follow_symlinks=False)
        moved.append(uuid.uuid4().hex)
        os.rename(entry.name, moved[-1], src_dir_fd=folder, dst_dir_fd=root)
    return moved


class closing:
    """Close a file descriptor at the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def beneath(start: int, name: str, *, create: bool = False) -> AbstractContextManager[int]:
    """The directory `name` below an open one, entered part by part; the empty name is that one itself."""
    if not name:
        return nullcontext(start)
    here = os.dup(start)
    try:
        for part in name.split("/"):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
            outer, here = here, os.open(part, DIRECTORY, dir_fd=here)
            os.close(outer)
            if create:
                os.fchmod(here, 0o755)
    except BaseException:
        os.close(here)
        raise
    return closing(here)
