"""Local disk: a directory for each stage, in one of the node's own that is locked while the node lives.

    <work directory>/ulos-node-<random>/lock        flocked by the node, and holds its name
                                        <random>/   the files of one stage, which is all that its run sees

A lock ends with its process, however that ends. So whoever starts next can tell what a killed
node has left behind, and removes it.
"""

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ulos_stream import archive
from ulos_stream.errors import NodeFault
from ulos_stream.executors.disk import is_enclosed, release, withdraw

PREFIX = "ulos-node-"
MOST_BYTES_IN_MEMORY = 1280 * 1024
"""Of each of a stage's own files; what is larger is on disk. A stage of 1 MiB takes a fifth less time in memory. As the
artifact goes when the result is there, twice this, times the stages at once, and once this for each that is packed now,
bounds the memory that they take."""
LEAST_ROOM_BYTES = 32 * 1024 * 1024
"""Below this, a file system in memory is left alone: a container has 64 MiB of it by default."""
LEAST_FREE_BYTES = 1024 * 1024
"""Below this, a disk counts as full."""


class Workspace:
    """The files of one stage, and those that only the node sees: in memory as long as they are small.

    Args:
        parent: The node's directory.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._in_memory = False
        self._is_made = False
        self._was_light: bool | None = None
        self.files = parent / secrets.token_hex(8)
        """The unpacked work; not there before `empty`."""
        self.artifact = self._file()
        """The zip as downloaded."""
        self.output = self._file()
        """What the executor prints."""
        self.result = self._file()
        """The zip to upload."""
        self.ran_s = 0.0
        """Seconds that the executor took."""

    def empty(self) -> None:
        """Make `files` anew, and `output` and `result` empty, for another attempt."""
        self._was_light = None
        for file in (self.output, self.result):
            file.seek(0)
            file.truncate()
        self._remove_files()
        os.mkdir(self.files)
        self._is_made = True

    @property
    def is_light(self) -> bool:
        """Whether packing or removing it takes a moment; what cannot be looked at is not light.

        Asked first when the run has ended: from then on nobody changes it before the next `empty`.
        """
        if not self._is_made:
            return True
        if self._was_light is None:
            self._was_light = self._looks_light()
        return self._was_light

    def _looks_light(self) -> bool:
        try:
            return (self._in_memory or not is_enclosed(self.files)) and archive.is_light(self.files)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def forget_artifact(self) -> None:
        """Free the memory that the artifact takes: the result is made."""
        if self.artifact.seek(0, os.SEEK_END) <= MOST_BYTES_IN_MEMORY:
            self.artifact.seek(0)
            self.artifact.truncate()

    def move(self, parent: Path) -> None:
        """Have `files` in another directory of the node, from the next `empty` on."""
        self._remove_files()
        self.files = parent / self.files.name
        self._in_memory = True  # and so nothing is ever mounted there

    def remove(self) -> None:
        """Remove all of it, and whatever is mounted there."""
        for file in (self.artifact, self.output, self.result):
            file.close()
        self._remove_files()

    def _remove_files(self) -> None:
        if not self._is_made:
            return
        if not self._in_memory and is_enclosed(self.files):
            withdraw(self.files)
            release(self.files)
        archive.remove_tree(self.files)
        self._is_made = False

    def _file(self) -> BinaryIO:
        file: tempfile.SpooledTemporaryFile[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (`remove` closes it)
            max_size=MOST_BYTES_IN_MEMORY, mode="w+b", dir=str(self._parent)
        )
        return cast(BinaryIO, file)


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

    @property
    def path(self) -> Path:
        """Where it is."""
        assert self._own is not None  # noqa: S101 (it is open)
        return self._own

    def new_stage(self) -> Workspace:
        """The place of one more stage; whoever asks for it removes it."""
        return Workspace(self.path)

    def has_room(self) -> bool:
        """Whether a stage fits in, as far as can be told."""
        try:
            free = os.statvfs(self._parent)
        except OSError:
            return False
        return free.f_bavail * free.f_frsize > LEAST_ROOM_BYTES

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
