"""The folder storage: its borders, and what a cancelled call leaves."""

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import threading
from pathlib import Path

import pytest
from by_path import ByPath

from ulos_stream.errors import ArtifactMissing, StorageFault
from ulos_stream.storage import folder, mark_name, temporary_name, temporary_prefix
from ulos_stream.storage.folder import FolderStorage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "outside" / "secret.zip"
    file.parent.mkdir()
    file.write_bytes(b"secret")
    return file


def storage(root: Path) -> ByPath:
    return ByPath(FolderStorage(root, 1024**3))


@pytest.mark.parametrize(
    "path", ["/link.zip", "/link/secret.zip", "/../outside/secret.zip", "/a/../../outside/secret.zip", "/loop", "/\0"]
)
async def test_a_path_that_leads_out_of_the_root_or_nowhere_is_missing(
    path: str, root: Path, secret: Path, tmp_path: Path
) -> None:
    (root / "link.zip").symlink_to(secret)
    (root / "link").symlink_to(secret.parent)
    (root / "loop").symlink_to("loop")

    with pytest.raises(ArtifactMissing):
        await storage(root).download(path, tmp_path / "target")

    assert (tmp_path / "target").read_bytes() == b""


@pytest.mark.parametrize("path", ["/link/secret.zip", "/../outside/secret.zip"])
async def test_an_upload_does_not_leave_the_root(path: str, root: Path, secret: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(secret.parent)
    (tmp_path / "source").write_bytes(b"new")

    with pytest.raises(ArtifactMissing, match="leads out of"):
        await storage(root).upload(tmp_path / "source", path, stage_id="m")

    assert secret.read_bytes() == b"secret"
    assert list(secret.parent.iterdir()) == [secret]


async def test_an_upload_over_a_link_replaces_the_link(root: Path, secret: Path, tmp_path: Path) -> None:
    (root / "a.zip").symlink_to(secret)
    (tmp_path / "source").write_bytes(b"new")

    await storage(root).upload(tmp_path / "source", "/a.zip", stage_id="m")

    assert (root / "a.zip").read_bytes() == b"new"
    assert secret.read_bytes() == b"secret"


async def test_links_within_the_root_and_a_root_that_is_a_link_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "a.zip").write_bytes(b"a")
    (root / "b.zip").symlink_to("a.zip")
    (tmp_path / "mount").symlink_to(root)

    await storage(tmp_path / "mount").download("/b.zip", tmp_path / "target")

    assert (tmp_path / "target").read_bytes() == b"a"


async def test_a_pipe_is_missing_and_blocks_nobody(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "a.zip")

    async with asyncio.timeout(10):
        with pytest.raises(ArtifactMissing):
            await storage(root).download("/a.zip", tmp_path / "target")


async def test_without_its_root_the_storage_is_at_fault_and_not_the_task(root: Path, tmp_path: Path) -> None:
    away = storage(root / "not mounted")
    (tmp_path / "source").write_bytes(b"new")

    with pytest.raises(StorageFault, match="check of"):
        await away.check()
    with pytest.raises(StorageFault, match=r"download of '/a.zip'"):
        await away.download("/a.zip", tmp_path / "target")
    with pytest.raises(StorageFault, match=r"upload of '/a.zip'"):
        await away.upload(tmp_path / "source", "/a.zip", stage_id="m")


async def test_a_cancelled_upload_never_takes_effect(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, go_on = threading.Event(), threading.Event()

    def fsync(_: int) -> None:
        written.set()
        go_on.wait(20)

    monkeypatch.setattr(os, "fsync", fsync)
    (root / "a.zip").write_bytes(b"old")
    (tmp_path / "source").write_bytes(b"new")
    upload = asyncio.create_task(storage(root).upload(tmp_path / "source", "/a.zip", stage_id="m"))

    await asyncio.to_thread(written.wait, 20)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    go_on.set()
    while list(root.glob("*.tmp")):
        await asyncio.sleep(0)

    assert [(file.name, file.read_bytes()) for file in root.iterdir()] == [("a.zip", b"old")]


def test_the_temporary_name_stands_beside_the_artifact_and_carries_the_hash_of_the_message_id() -> None:
    first, second = (temporary_name("/a folder/b.zip", "a-message") for _ in range(2))

    mark = hashlib.sha256(b"a-message").hexdigest()[:16]
    assert re.fullmatch(rf"/a folder/b\.zip\.ulos-{mark}-[0-9a-f]{{8}}\.tmp", first)
    assert first != second


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "実" * 85])
def test_the_temporary_name_of_the_longest_names_is_no_longer(name: str) -> None:
    temporary = temporary_name(f"/{name}", "m")

    assert 250 <= len(temporary.removeprefix("/").encode()) <= 255
    assert temporary.endswith(".tmp")


@pytest.mark.parametrize("letter", ["n", "é", "実"])
def test_the_temporary_of_a_mark_is_one_of_the_same_stage_however_long_the_name(letter: str) -> None:
    for length in range(1, 255 // len(letter.encode()) + 1):
        path = f"/folder/{letter * length}"
        folder, prefix = temporary_prefix(path, "m")
        mark = mark_name(path, "m", 0)

        for name in (mark, temporary_name(mark, "m")):
            assert name.startswith(f"{folder}/{prefix}")
            assert len(name.removeprefix("/folder/").encode()) <= 255


async def test_a_sweep_goes_on_where_another_one_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = os.unlink

    def unlink_twice(path: str) -> None:
        unlink(path)
        unlink(path)

    for _ in range(2):
        (tmp_path / temporary_name("/a.zip", "m")[1:]).touch()
    monkeypatch.setattr("ulos_stream.storage.folder.os.unlink", unlink_twice)

    await storage(tmp_path).storage.sweep("/a.zip", stage_id="m")

    assert os.listdir(tmp_path) == []


async def test_two_nodes_do_not_replace_one_version_at_the_same_time(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"old")
    (tmp_path / "target").touch()
    version = await storage(tmp_path).download("/a.zip", tmp_path / "target")
    sources = [tmp_path / f"source {number}" for number in range(20)]
    for source in sources:
        source.write_bytes(b"a new one")

    uploads = (storage(tmp_path).upload(source, "/a.zip", stage_id="m", expected=version) for source in sources)
    ended = await asyncio.gather(*uploads, return_exceptions=True)

    assert sorted(str(type(end).__name__) for end in ended) == ["ArtifactChanged"] * 19 + ["NoneType"]


async def test_a_folder_that_another_node_keeps_locked_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "LOCK_S", 0.1)
    (tmp_path / "a.zip").write_bytes(b"old")
    (tmp_path / "source").write_bytes(b"new")
    frozen = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(frozen, fcntl.LOCK_EX)

    with pytest.raises(StorageFault):
        await storage(tmp_path).upload(tmp_path / "source", "/a.zip", stage_id="m")

    os.close(frozen)
    await storage(tmp_path).upload(tmp_path / "source", "/a.zip", stage_id="m")
    assert (tmp_path / "a.zip").read_bytes() == b"new"


async def test_a_folder_without_locks_takes_uploads_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / "source").write_bytes(b"new")

    await storage(tmp_path).upload(tmp_path / "source", "/a.zip", stage_id="m")

    assert (tmp_path / "a.zip").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
async def test_a_folder_that_cannot_be_synced_takes_uploads_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, "not here")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    (tmp_path / "source").write_bytes(b"new")

    await storage(tmp_path).upload(tmp_path / "source", "/a.zip", stage_id="m")

    assert (tmp_path / "a.zip").read_bytes() == b"new"
