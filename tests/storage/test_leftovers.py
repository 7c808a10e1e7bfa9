"""What killed nodes have left on the storage is removed, also where the server makes it only afterwards."""

import asyncio
from pathlib import Path

import pytest

from ulos_stream.errors import StorageFault
from ulos_stream.storage import leftovers, temporary_name
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.storage.leftovers import Leftovers


class Storage(FolderStorage):
    """Tells when it was swept."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, 2**20)
        self.sweeps: asyncio.Queue[str] = asyncio.Queue()

    async def sweep(self, path: str, *, stage_id: str) -> None:
        await super().sweep(path, stage_id=stage_id)
        self.sweeps.put_nowait(stage_id)


def a_leftover(folder: Path) -> Path:
    file = folder / temporary_name("/a.zip", "stage").lstrip("/")
    file.touch()
    return file


async def test_a_file_that_is_there_is_removed_at_once(tmp_path: Path) -> None:
    removes = Leftovers(FolderStorage(tmp_path, 2**20))
    left = a_leftover(tmp_path)

    await removes.remove("/a.zip", "stage")

    assert not left.exists()
    await removes.aclose()


async def test_a_file_that_comes_late_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "LATE_S", 0.01)
    removes = Leftovers(storage := Storage(tmp_path))
    await removes.remove("/a.zip", "stage")
    await storage.sweeps.get()
    late = a_leftover(tmp_path)

    await asyncio.wait_for(storage.sweeps.get(), 10)

    assert not late.exists()
    await removes.aclose()
    assert storage.sweeps.empty()


async def test_a_node_that_ends_does_not_wait_for_what_comes_late(tmp_path: Path) -> None:
    removes = Leftovers(FolderStorage(tmp_path, 2**20))
    await removes.remove("/a.zip", "stage")
    late = a_leftover(tmp_path)

    await asyncio.wait_for(removes.aclose(), leftovers.LATE_S / 2)

    assert not late.exists()


async def test_a_node_that_ends_does_not_wait_for_a_storage_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "CLOSE_S", 0.01)
    removes = Leftovers(storage := Storage(tmp_path))
    await removes.remove("/a.zip", "stage")

    async def hang(path: str, *, stage_id: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(storage, "sweep", hang)

    await asyncio.wait_for(removes.aclose(), 10)

    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_what_may_be_left_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    removes = Leftovers(storage := Storage(tmp_path))

    async def refuse(path: str, *, stage_id: str) -> None:
        raise StorageFault(f"no listing of what is beside {path!r}")

    monkeypatch.setattr(storage, "sweep", refuse)

    await removes.remove("/a.zip", "stage")

    assert caplog.messages == ["a temporary file may be left on the storage: no listing of what is beside '/a.zip'"]
    await removes.aclose()
