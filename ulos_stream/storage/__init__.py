"""Where artifacts live: one small protocol, chosen by URL scheme."""

from pathlib import Path
from typing import Protocol


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

    async def download(self, path: str, target: Path) -> None:
        """Copy the artifact at `path` into the local file `target`, whole.

        Raises:
            ArtifactMissing: The storage answers, and there is no such file.
            ArchiveRejected: The artifact is larger than the limit.
            StorageFault: Anything else, a short transfer included.
        """
        ...

    async def upload(self, source: Path, path: str, *, message_id: str) -> None:
        """Replace the artifact at `path` by the local file `source`, at once or not at all.

        The bytes go to a temporary name beside `path` (built from `message_id`, so that a
        redelivered stage knows its own leftovers), are counted, and are renamed over it.

        Raises:
            StorageFault: The artifact is whole, the old one or, if only the answer to the rename was lost, the new.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        ...
