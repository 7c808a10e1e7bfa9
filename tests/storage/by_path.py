"""A storage whose files on this side are given by their paths, for tests that look at them afterwards."""

from pathlib import Path
from typing import Any

from ulos_stream.storage import Version


class ByPath:
    """Opens the local file; everything else is the storage's own."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage

    async def download(self, path: str, target: Path) -> Version:
        with target.open("wb") as file:
            version: Version = await self.storage.download(path, file)
        return version

    async def upload(self, source: Path, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        with source.open("rb") as file:
            await self.storage.upload(file, path, stage_id=stage_id, expected=expected)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)
