"""Where artifacts live: one small protocol, chosen by URL scheme."""

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

NAME_BYTES = 255
"""The longest file name that Linux file systems take."""


@dataclass(slots=True, weakref_slot=True)
class Version:
    """What a storage tells of an artifact without giving it away; another one is another artifact."""

    size: int
    """In bytes."""
    modified: str | None
    """When it was last written, in the storage's own words; FTP tells whole seconds. None as long as it does not tell;
    see `Storage.date`."""
    seen_s: float = field(default_factory=time.monotonic, compare=False)
    """When it was looked at, on this node's monotonic clock."""


class Storage(Protocol):
    """A remote place that holds artifacts by absolute path.

    Every method ends within the storage's time limit and raises `StorageFault` when the
    storage is away, refuses, or breaks off. Used by many stages at once.
    """

    async def check(self) -> None:
        """Reach the storage and log in.

        Raises:
            StorageFault: It cannot be reached or refuses the credentials.
        """
        ...

    async def download(self, path: str, target: BinaryIO) -> Version:
        """Copy the artifact at `path` into the local file `target`, whole, in place of what is in there.

        Returns:
            The artifact's version when the transfer began, or before.

        Raises:
            ArtifactMissing: The storage answers, and there is no such file.
            ArchiveRejected: The artifact is larger than the limit.
            StorageFault: Anything else, a short transfer included.
        """
        ...

    async def date(self, path: str, version: Version) -> None:
        """Let `version` know when the artifact was written, where that is a question of its own.

        FTP then asks by itself too, once somebody has kept a version for a moment.

        Raises:
            StorageFault: There is no answer.
        """
        ...

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        """Replace the artifact at `path` by the content of the local file `source`, at once or not at all.

        The bytes go to a temporary name beside `path`, are counted, and are renamed over it.

        Args:
            source: Read from its beginning to its end.
            path: The artifact.
            stage_id: The same for every attempt at the stage; the temporary name begins with it.
            expected: The version that is to be replaced, looked at last before the rename; None for any.

        Raises:
            ArtifactChanged: There is another version, or none any more.
            StorageFault: The artifact is whole, the old one or, if only the answer to the rename was lost, the new.
        """
        ...

    async def sweep(self, path: str, *, stage_id: str) -> None:
        """Remove the temporary files and marks beside `path` that earlier attempts at the stage have left.

        Raises:
            StorageFault: Some may be left.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        ...


def temporary_name(path: str, stage_id: str) -> str:
    """A new name beside `path` under which a stage stores its result before the rename."""
    folder, prefix = temporary_prefix(path, stage_id)
    return f"{folder}/{prefix}{secrets.token_hex(4)}.tmp"


def mark_name(path: str, stage_id: str, number: int) -> str:
    """The name of an empty file beside `path`, which stays if a node dies with the stage; a sweep removes it."""
    folder, prefix = temporary_prefix(path, stage_id)
    return f"{folder}/{prefix}mark{number}.tmp"


def temporary_prefix(path: str, stage_id: str) -> tuple[str, str]:
    """The folder of `path`, and how all names begin that are given there to a stage."""
    folder, _, name = path.rpartition("/")
    mark = f".ulos-{hashlib.sha256(stage_id.encode()).hexdigest()[:16]}-"
    name = name.partition(mark)[0]  # of a `mark_name`
    room = NAME_BYTES - len(mark) - len("12345678.tmp")
    return folder, name.encode()[:room].decode(errors="ignore") + mark
