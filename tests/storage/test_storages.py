"""What every storage promises: on both FTP servers, on an SFTP and an S3 server, and in a folder."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import obstore
import pytest
from by_path import ByPath
from obstore.store import ObjectStore
from pydantic import SecretStr
from servers import S3Server, SftpServer

from ulos_stream.errors import ArchiveRejected, ArtifactChanged, ArtifactMissing, StorageFault
from ulos_stream.lab import FtpServer
from ulos_stream.storage import mark_name, temporary_name
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.storage.ftp import FtpStorage
from ulos_stream.storage.s3 import S3Storage
from ulos_stream.storage.sftp import SftpStorage, read_private_key
from ulos_stream.storage.urls import bucket

MAX_BYTES = 5 * 1024 * 1024
CONTENTS = {"empty": b"", "small": b"a zip", "large": os.urandom(MAX_BYTES)}
NAMES = ["/plain.zip", "/two words (1).zip", "/großes Gerät 実験.zip", "/a folder/below/x.zip", "/" + "n" * 255]


@dataclass
class Place:
    """A storage, and the local folder that holds its files."""

    storage: ByPath
    root: Path

    def put(self, path: str, content: bytes, *, long_ago: bool = False) -> None:
        """Lay a file as another party would."""
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if long_ago:
            os.utime(file, (0, 0))

    def read(self, path: str) -> bytes:
        return (self.root / path[1:]).read_bytes()

    def remove(self, path: str) -> None:
        (self.root / path[1:]).unlink()

    def files(self) -> dict[str, bytes]:
        return {f"/{file.relative_to(self.root)}": file.read_bytes() for file in self.root.rglob("*") if file.is_file()}


class Swept(io.FileIO):
    """A result; while it is read, somebody sweeps its temporary file, if there is one, off the storage."""

    def __init__(self, file: Path, place: Place) -> None:
        super().__init__(file)
        self.swept: list[str] = []
        self._place = place

    def read(self, size: int | None = -1, /) -> bytes:
        for name in self._place.files() if self.tell() else ():
            if name.endswith(".tmp"):
                self._place.remove(name)
                self.swept.append(name)
        return super().read(-1 if size is None else size) or b""


class Promises:
    """The tests; the subclasses say where."""

    async def test_the_check_passes(self, place: Place) -> None:
        await place.storage.check()

    @pytest.mark.parametrize("path", NAMES, ids=["plain", "spaces", "utf-8", "folder", "longest"])
    async def test_what_was_uploaded_is_there_alone_and_comes_back(
        self, path: str, place: Place, tmp_path: Path
    ) -> None:
        place.put(path, b"what was there before")
        source, target = tmp_path / "source", tmp_path / "target"

        for content in CONTENTS.values():
            source.write_bytes(content)
            await place.storage.upload(source, path, stage_id="m")
            await place.storage.download(path, target)

            assert target.read_bytes() == content
            assert place.files() == {path: content}

    async def test_an_upload_replaces_the_version_that_it_expects(self, place: Place, tmp_path: Path) -> None:
        place.put("/a.zip", b"old")
        (tmp_path / "source").write_bytes(b"new one")

        version = await place.storage.download("/a.zip", tmp_path / "target")
        await place.storage.upload(tmp_path / "source", "/a.zip", stage_id="m", expected=version)

        assert place.files() == {"/a.zip": b"new one"}

    @pytest.mark.parametrize("change", [b"longer", None, b"els"], ids=["another size", "gone", "another time"])
    async def test_an_upload_over_another_version_says_so_and_changes_nothing(
        self, change: bytes | None, place: Place, tmp_path: Path
    ) -> None:
        place.put("/a.zip", b"old", long_ago=True)
        (tmp_path / "source").write_bytes(b"new one")
        version = await place.storage.download("/a.zip", tmp_path / "target")
        await place.storage.date("/a.zip", version)
        version = replace(version, seen_s=version.seen_s - 2)  # FTP tells seconds, and is not asked before one is over

        place.remove("/a.zip")
        if change is not None:
            place.put("/a.zip", change)
        with pytest.raises(ArtifactChanged, match="not what was downloaded"):
            await place.storage.upload(tmp_path / "source", "/a.zip", stage_id="m", expected=version)

        assert place.files() == ({} if change is None else {"/a.zip": change})

    @pytest.mark.parametrize("path", NAMES, ids=["plain", "spaces", "utf-8", "folder", "longest"])
    async def test_a_sweep_removes_what_the_same_stage_left_and_nothing_else(self, path: str, place: Place) -> None:
        others = [path, temporary_name(path, "another"), temporary_name("/b.zip", "m")]
        for left in [*others, temporary_name(path, "m"), temporary_name(path, "m")]:
            place.put(left, b"half")

        await place.storage.sweep(path, stage_id="m")

        assert sorted(place.files()) == sorted(others)

    @pytest.mark.parametrize("path", NAMES, ids=["plain", "spaces", "utf-8", "folder", "longest"])
    async def test_a_mark_of_a_stage_is_found_and_goes_with_what_it_left(self, path: str, place: Place) -> None:
        place.put(path, b"an artifact")
        storage = place.storage.storage
        mark, other = mark_name(path, "m", 0), mark_name(path, "m", 1)

        await storage.upload(io.BytesIO(), mark, stage_id="m")
        await storage.download(mark, found := io.BytesIO(b"no mark"))
        with pytest.raises(ArtifactMissing):
            await storage.download(other, io.BytesIO())
        before = sorted(place.files())
        await storage.sweep(path, stage_id="m")

        assert found.getvalue() == b""
        assert before == sorted([path, mark])
        assert place.files() == {path: b"an artifact"}

    async def test_an_upload_that_is_swept_by_another_node_is_a_fault_and_changes_nothing(
        self, place: Place, tmp_path: Path
    ) -> None:
        place.put("/a.zip", b"old")
        (tmp_path / "source").write_bytes(CONTENTS["large"])

        with Swept(tmp_path / "source", place) as result:
            try:
                await place.storage.storage.upload(result, "/a.zip", stage_id="m")
            except StorageFault:
                assert result.swept
                assert place.files() == {"/a.zip": b"old"}
            else:  # where a result has no other name meanwhile
                assert not result.swept
        await place.storage.upload(tmp_path / "source", "/a.zip", stage_id="m")

        assert place.files() == {"/a.zip": CONTENTS["large"]}

    async def test_an_upload_creates_what_was_not_there(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "source").write_bytes(b"new")

        await place.storage.upload(tmp_path / "source", "/new.zip", stage_id="m")

        assert place.files() == {"/new.zip": b"new"}

    @pytest.mark.parametrize("path", ["/none.zip", "/no folder/a.zip", "/folder", "/a.zip/b.zip"])
    async def test_a_download_of_what_is_no_file_says_missing(self, path: str, place: Place, tmp_path: Path) -> None:
        place.put("/folder/b.zip", b"b")
        place.put("/a.zip", b"a")

        with pytest.raises(ArtifactMissing, match=path):
            await place.storage.download(path, tmp_path / "target")
        await place.storage.download("/a.zip", tmp_path / "target")

        assert (tmp_path / "target").read_bytes() == b"a"

    async def test_an_artifact_over_the_limit_is_rejected(self, place: Place, tmp_path: Path) -> None:
        place.put("/a.zip", bytes(MAX_BYTES + 1))

        with pytest.raises(ArchiveRejected, match=f"{MAX_BYTES + 1} bytes, and {MAX_BYTES} are allowed"):
            await place.storage.download("/a.zip", tmp_path / "target")

    async def test_an_upload_of_what_cannot_be_read_is_a_fault_and_changes_nothing(
        self, place: Place, tmp_path: Path
    ) -> None:
        place.put("/a.zip", b"a")

        with (tmp_path / "source").open("wb") as unreadable:
            unreadable.write(b"new")
            with pytest.raises(StorageFault):
                await place.storage.storage.upload(unreadable, "/a.zip", stage_id="m")

        assert place.files() == {"/a.zip": b"a"}

    async def test_many_stages_use_it_at_once(self, place: Place, tmp_path: Path) -> None:
        async def stage(number: int) -> None:
            file = tmp_path / f"{number}"
            for turn in range(5):
                file.write_bytes(f"{number} {turn}".encode() * 1_000)
                await place.storage.upload(file, f"/{number}.zip", stage_id=str(number))
                await place.storage.download(f"/{number}.zip", tmp_path / f"{number} back")
                assert (tmp_path / f"{number} back").read_bytes() == file.read_bytes()

        await asyncio.gather(*(stage(number) for number in range(20)))

        assert place.files() == {f"/{number}.zip": f"{number} 4".encode() * 1_000 for number in range(20)}

    async def test_whoever_reads_during_uploads_sees_one_of_them_whole(self, place: Place, tmp_path: Path) -> None:
        contents = [bytes([number]) * 300_000 for number in range(10)]
        place.put("/a.zip", contents[0])
        seen = []

        async def watch() -> None:
            while True:
                seen.append(place.read("/a.zip"))
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        for content in contents:
            (tmp_path / "source").write_bytes(content)
            await place.storage.upload(tmp_path / "source", "/a.zip", stage_id="m")
        watcher.cancel()

        assert set(seen) <= set(contents)
        assert len(seen) > len(contents)

    async def test_closing_twice_is_harmless(self, place: Place) -> None:
        await place.storage.check()

        await place.storage.aclose()
        await place.storage.aclose()


class PromisesOfFolders(Promises):
    """What those promise beside it that have folders."""

    async def test_an_upload_into_a_folder_that_is_not_there_is_a_fault(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "source").write_bytes(b"new")

        with pytest.raises(StorageFault, match=r"upload of '/no folder/a.zip'"):
            await place.storage.upload(tmp_path / "source", "/no folder/a.zip", stage_id="m")

        assert place.files() == {}

    async def test_an_upload_onto_a_folder_is_a_fault_and_leaves_nothing_behind(
        self, place: Place, tmp_path: Path
    ) -> None:
        place.put("/folder/b.zip", b"b")
        (tmp_path / "source").write_bytes(b"new")

        with pytest.raises(StorageFault):
            await place.storage.upload(tmp_path / "source", "/folder", stage_id="m")

        assert place.files() == {"/folder/b.zip": b"b"}


class TestFolder(PromisesOfFolders):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        (tmp_path / "root").mkdir()
        return Place(ByPath(FolderStorage(tmp_path / "root", MAX_BYTES)), tmp_path / "root")


class TestFtp(PromisesOfFolders):
    @pytest.fixture
    async def place(self, ftp_server: FtpServer) -> AsyncIterator[Place]:
        storage = FtpStorage(
            host=ftp_server.host,
            port=ftp_server.port,
            username=ftp_server.username,
            password=SecretStr(ftp_server.password),
            tls=None,
            connections=4,
            timeout_s=30,
            max_bytes=MAX_BYTES,
        )
        yield Place(ByPath(storage), ftp_server.root)
        await storage.aclose()


class TestSftp(PromisesOfFolders):
    @pytest.fixture
    async def place(self, sftp_server: SftpServer) -> AsyncIterator[Place]:
        storage = SftpStorage(
            host=sftp_server.host,
            port=sftp_server.port,
            username=sftp_server.username,
            password=SecretStr(""),
            private_key=read_private_key(sftp_server.private_key, SecretStr("")),
            known_hosts=sftp_server.known_hosts,
            folder=str(sftp_server.root),
            connections=4,
            timeout_s=30,
            max_bytes=MAX_BYTES,
        )
        yield Place(ByPath(storage), sftp_server.root)
        await storage.aclose()


@dataclass
class BucketPlace(Place):
    """A storage in a bucket, which is reached here without it."""

    bucket: ObjectStore

    def put(self, path: str, content: bytes, *, long_ago: bool = False) -> None:
        obstore.put(self.bucket, path[1:], content)

    def read(self, path: str) -> bytes:
        return bytes(obstore.get(self.bucket, path[1:]).bytes())

    def remove(self, path: str) -> None:
        obstore.delete(self.bucket, path[1:])

    def files(self) -> dict[str, bytes]:
        return {
            f"/{found['path']}": self.read(f"/{found['path']}") for page in obstore.list(self.bucket) for found in page
        }


class TestS3(Promises):
    """Where another writing of the same bytes is no other version: a version is its content."""

    @pytest.fixture(params=["", "/a folder/of it"], ids=["bucket", "folder"])
    async def place(self, s3_server: S3Server, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
        storage = S3Storage(
            bucket=bucket(f"{s3_server.url(request.param)}"),
            access_key=("somebody", SecretStr("secret")),
            authority=None,
            timeout_s=30,
            max_bytes=MAX_BYTES,
        )
        yield BucketPlace(ByPath(storage), Path(), s3_server.store(request.param))
        await storage.aclose()
