"""Local disk: a directory for each stage, in one of the node's own that is locked while the node lives.

    <work directory>/ulos-node-<random>/lock        flocked by the node, and holds its name
                                        <random>/   one stage; what runs sees `files` alone

A lock ends with its process, however that ends. So whoever starts next can tell what a killed
node has left behind, and removes it.
"""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ulos_stream import archive
from ulos_stream.errors import NodeFault
from ulos_stream.executors.disk import release

PREFIX = "ulos-node-"
LEAST_FREE_BYTES = 1024 * 1024
"""Below this, a disk counts as full."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The directory of one stage."""

    directory: Path

    @property
    def artifact(self) -> Path:
        """The zip as downloaded."""
        return self.directory / "artifact.zip"

    @property
    def files(self) -> Path:
        """The unpacked work."""
        return self.directory / "files"

    @property
    def output(self) -> Path:
        """What the executor prints."""
        return self.directory / "output.txt"

    @property
    def result(self) -> Path:
        """The zip to upload."""
        return self.directory / "result.zip"

    def empty(self) -> None:
        """Make `files` anew, for another attempt."""
        _remove(self.files)
        self.files.mkdir()
        self.result.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it, and whatever is mounted in it."""
        _remove(self.directory)


class NodeDirectory:
    """This node's directory; opened once, before the first stage. Blocking.

    Args:
        parent: Where all nodes of this machine have theirs.
        node: Name of this node, written into the lock for whoever sweeps up after it.
    """

    def __init__(self, parent: Path, node: str) -> None:
        self._parent = parent
        self._node = node
        self._own: Path | None = None
        self._lock = -1

    def open(self) -> None:
        """Make and lock it.

        Raises:
            NodeFault: The disk is full, or closed to this user.
        """
        try:
            while self._own is None:
                directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
                with contextlib.suppress(FileNotFoundError):
                    self._lock = _try_lock(directory)
                if self._lock >= 0:  # or a node that starts at the same time has taken it for abandoned
                    os.write(self._lock, self._node.encode())
                    self._own = directory
        except OSError as broken:
            raise NodeFault(f"the work directory {self._parent}: {broken.strerror}") from broken

    def new_stage(self) -> Workspace:
        """The directory of one more stage; whoever asks for it removes it.

        Raises:
            NodeFault: The disk is full or broken.
        """
        try:
            return Workspace(Path(tempfile.mkdtemp(dir=self._own)))
        except OSError as broken:
            raise NodeFault(f"the work directory {self._own}: {broken.strerror}") from broken

    async def check(self) -> None:
        """See that there is room for a stage.

        Raises:
            NodeFault: There is hardly any, or the disk is broken.
        """
        try:
            free = os.statvfs(self._parent)
        except OSError as broken:
            raise NodeFault(f"the work directory {self._parent}: {broken.strerror}") from broken
        if free.f_bavail * free.f_frsize < LEAST_FREE_BYTES:
            raise NodeFault(f"the work directory {self._parent} is full")

    def close(self) -> None:
        """Remove it. Idempotent."""
        if self._own is not None:
            with contextlib.suppress(OSError):  # then the next node does
                _remove_all(self._own)
            os.close(self._lock)
            self._own, self._lock = None, -1

    def abandoned(self) -> Iterator["Abandoned"]:
        """What killed nodes have left. Each is locked while the caller looks at it, so only one node cleans up."""
        for directory in sorted(self._parent.glob(f"{PREFIX}*")):
            lock = -1
            with contextlib.suppress(FileNotFoundError):
                if directory != self._own and _is_ours(directory):
                    lock = _try_lock(directory)
            if lock >= 0:
                try:
                    yield Abandoned(directory, os.read(lock, 4096).decode(errors="replace"))
                finally:
                    os.close(lock)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The directory of a node that was killed."""

    directory: Path
    node: str
    """Its name, which its containers bear as a label."""

    def remove(self) -> None:
        """Remove it with everything in it.

        Raises:
            NodeFault: The disk is broken.
        """
        try:
            _remove_all(self.directory)
        except OSError as broken:
            raise NodeFault(f"{self.directory}, left by a killed node: {broken.strerror}") from broken


def _is_ours(directory: Path) -> bool:
    """Anybody may have made something under such a name, a link to somewhere else for instance."""
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _try_lock(directory: Path) -> int:
    """The lock of a directory, as an open file; -1 if it is held, or was removed while we took it."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return -1


def _remove(directory: Path) -> None:
    release(directory)
    archive.remove_tree(directory)


def _remove_all(directory: Path) -> None:
    """The stages first, the lock last: until then nobody else takes care of it."""
    for stage in directory.iterdir():
        if stage.name != "lock":
            _remove(stage)
    (directory / "lock").unlink(missing_ok=True)
    directory.rmdir()
