"""Artifacts in a local or mounted folder. Blocking work runs in threads."""

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from ulos_stream.errors import ArchiveRejected, ArtifactChanged, ArtifactMissing, StorageFault
from ulos_stream.storage import Version, temporary_name, temporary_prefix

T = TypeVar("T")

BLOCK_BYTES = 256 * 1024
LOCK_S = 5.0
"""Longest wait, in seconds, for another node that replaces an artifact of the same folder: it may be frozen there."""


class FolderStorage:
    """Keeps the artifact `/a/b.zip` in the file `a/b.zip` under `root`.

    Args:
        root: The folder. Nothing outside it is read or written, not even through a symbolic link.
        max_bytes: The largest artifact that is downloaded.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    async def check(self) -> None:
        await self._in_thread(f"check of {self._root}", lambda stop: os.scandir(self._root).close())

    async def download(self, path: str, target: BinaryIO) -> Version:
        def copy(stop: threading.Event) -> Version:
            source = self._inside(path)
            target.seek(0)
            target.truncate()
            if not source.is_file():
                os.stat(self._root)  # without its root the storage is away, and the artifact is not to blame
                raise ArtifactMissing(f"there is no {path!r} in {self._root}")
            with source.open("rb") as reader:
                version = _version(os.fstat(reader.fileno()))
                if (size := version.size) > self._max_bytes:
                    raise ArchiveRejected(f"{path!r} has {size} bytes, and {self._max_bytes} are allowed")
                count = 0
                while count <= size and not stop.is_set() and (block := reader.read(BLOCK_BYTES)):
                    count += target.write(block)
            if count != size:
                raise OSError(f"{count} bytes came, and {size} were announced")
            return version

        return await self._in_thread(f"download of {path!r} from {self._root}", copy)

    async def date(self, path: str, version: Version) -> None:
        """A version has been told its time."""

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        def replace(stop: threading.Event) -> None:
            folder, name = os.path.split(temporary_name(path, stage_id))
            temporary = self._inside(folder) / name
            try:
                size = source.seek(0, os.SEEK_END)
                source.seek(0)
                with temporary.open("xb") as writer:
                    while not stop.is_set() and (block := source.read(BLOCK_BYTES)):
                        writer.write(block)
                    writer.flush()
                    os.fsync(writer.fileno())
                    if writer.tell() != size:
                        raise OSError(f"{writer.tell()} of {size} bytes were read, or the upload was cancelled")
                target = temporary.with_name(path.rpartition("/")[2])
                with _alone(target.parent):
                    if expected is not None and expected != _version_of(target):
                        raise ArtifactChanged(f"{path!r} in {self._root} is not what was downloaded any more")
                    if not stop.is_set():
                        temporary.replace(target)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()

        await self._in_thread(f"upload of {path!r} to {self._root}", replace)

    async def sweep(self, path: str, *, stage_id: str) -> None:
        def remove(stop: threading.Event) -> None:
            folder, prefix = temporary_prefix(path, stage_id)
            with os.scandir(self._inside(folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(prefix):
                        with contextlib.suppress(FileNotFoundError):  # somebody else sweeps, too
                            os.unlink(entry.path)

        await self._in_thread(f"sweep beside {path!r} in {self._root}", remove)

    async def aclose(self) -> None:
        """Nothing is open between calls."""

    def _inside(self, path: str) -> Path:
        root = os.path.realpath(self._root)
        try:
            found = Path(os.path.realpath(os.path.join(root, path.lstrip("/"))))
        except ValueError as exc:  # a NUL, or no UTF-8
            raise ArtifactMissing(f"{path!r} can be no file name") from exc
        if not found.is_relative_to(root):
            raise ArtifactMissing(f"{path!r} leads out of {self._root}")
        return found

    async def _in_thread(self, doing: str, work: Callable[[threading.Event], T]) -> T:
        """Run `work` in a thread; when this task is cancelled, tell it to stop before it takes effect."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(work, stop)
        except OSError as exc:
            raise StorageFault(f"{doing} failed: {exc}") from exc
        finally:
            stop.set()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only node that looks at an artifact of this folder and replaces it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor)
        yield
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        try:  # the disk is to know of a rename: a task that is handed over relies on it
            os.fsync(descriptor)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a file system that has no such thing
                raise
    finally:
        os.close(descriptor)


def _lock(folder: int) -> None:
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        except OSError:  # a file system without locks: NFS, say, has none on folders
            return
        time.sleep(0.001)


def _version(status: os.stat_result) -> Version:
    return Version(status.st_size, str(status.st_mtime_ns))


def _version_of(file: Path) -> Version | None:
    try:
        return _version(file.stat())
    except FileNotFoundError:
        return None
