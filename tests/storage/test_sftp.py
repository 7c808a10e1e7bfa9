"""SFTP: what breaks, on OpenSSH where that can be made to break, else on a server that misbehaves by a line or two."""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import servers
from by_path import ByPath
from conftest import required
from pydantic import SecretStr
from servers import SftpServer
from world import Proxy

from ulos_stream.errors import ArchiveRejected, ArtifactMissing, StorageFault
from ulos_stream.storage import sftp, temporary_name
from ulos_stream.storage.sftp import SftpStorage, read_private_key

ARTIFACT = "/a.zip"
OLD = b"the old artifact"
NEW = b"the new and longer artifact"

Connect = Callable[..., ByPath]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    storages = []

    def connect(server: SftpServer, **changes: Any) -> ByPath:
        settings: dict[str, Any] = {
            "host": server.host,
            "port": server.port,
            "username": server.username,
            "password": SecretStr(""),
            "private_key": read_private_key(server.private_key, SecretStr("")),
            "known_hosts": server.known_hosts,
            "folder": str(server.root),
            "connections": 8,
            "timeout_s": 20,
            "max_bytes": 1024**3,
        }
        storages.append(ByPath(SftpStorage(**settings | changes)))
        return storages[-1]

    yield connect
    for storage in storages:
        await storage.aclose()


@pytest.fixture
def server(sftp_server: SftpServer) -> SftpServer:
    (sftp_server.root / "a.zip").write_bytes(OLD)
    return sftp_server


@pytest.fixture
def new(tmp_path: Path) -> Path:
    file = tmp_path / "new.zip"
    file.write_bytes(NEW)
    return file


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    with file.open("wb") as sparse:
        sparse.truncate(64 * 1024**2)
    return file


@contextlib.contextmanager
def a_server(**options: Any) -> Iterator[SftpServer]:
    """An sshd of the test's own, with the old artifact."""
    with required(), servers.sshd(**options) as server:
        (server.root / "a.zip").write_bytes(OLD)
        yield server


def files(server: SftpServer) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in server.root.iterdir()}


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not happened():
            await asyncio.sleep(0)


# --- who it is


async def test_a_password_lets_in_and_a_wrong_one_is_a_fault_that_does_not_show_it(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with a_server(password="the-password") as server:
        await connect(server, private_key=None, password=SecretStr("the-password")).check()
        storage = connect(server, private_key=None, password=SecretStr("not-this-one"))

        with pytest.raises(StorageFault, match="Permission denied for user") as caught:
            await storage.check()

    assert f"{server.host}:{server.port}" in str(caught.value)
    for text in (str(caught.value), repr(caught.value.__cause__), repr(storage), caplog.text):
        assert "the-password" not in text
        assert "not-this-one" not in text


async def test_a_key_that_the_server_does_not_know_is_a_fault(server: SftpServer, connect: Connect) -> None:
    another = asyncssh.generate_private_key("ssh-ed25519")

    with pytest.raises(StorageFault, match="Permission denied for user"):
        await connect(server, private_key=another).check()


@pytest.mark.parametrize("known", ["no file", "empty file", "key of another server"])
async def test_a_server_whose_host_key_is_not_known_is_refused_until_the_commands_of_the_fault_are_run(
    known: str, server: SftpServer, connect: Connect, tmp_path: Path
) -> None:
    known_hosts = tmp_path / "known hosts"
    if known != "no file":
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        known_hosts.write_text(f"[{server.host}]:{server.port} {other}" if known.startswith("key") else "")
    storage = connect(server, known_hosts=known_hosts)

    with pytest.raises(StorageFault, match="its host key is ") as caught:
        await storage.check()

    assert ("is another one than in" in str(caught.value)) == (known == "key of another server")
    commands = re.search(r"ssh-key.*", str(caught.value))
    assert commands
    subprocess.run(["sh", "-c", commands[0]], check=True, capture_output=True)
    await storage.check()


async def test_no_file_of_the_user_and_no_agent_has_a_say(
    server: SftpServer, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  HostName 192.0.2.1\n  User nobody\n  ProxyCommand false\n")
    shutil.copy(server.private_key, tmp_path / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(tmp_path))

    await connect(server).check()
    with pytest.raises(StorageFault, match="Permission denied for user"):
        await connect(server, private_key=None).check()


# --- what the server can do


async def test_a_server_that_cannot_replace_a_file_at_once_is_refused_by_the_check(connect: Connect, new: Path) -> None:
    with a_server(ForceCommand="internal-sftp -P posix-rename") as server:
        storage = connect(server)

        with pytest.raises(StorageFault, match=r"the server lacks posix-rename@openssh\.com"):
            await storage.check()
        with pytest.raises(StorageFault, match=r"the server lacks posix-rename@openssh\.com"):
            await storage.upload(new, ARTIFACT, stage_id="m")

        assert files(server) == {"a.zip": OLD}


async def test_a_server_that_cannot_sync_a_file_is_good_enough(connect: Connect, new: Path) -> None:
    with a_server(ForceCommand="internal-sftp -P fsync") as server:
        await connect(server).upload(new, ARTIFACT, stage_id="m")

        assert files(server) == {"a.zip": NEW}


async def test_a_server_that_lets_us_only_read_is_a_fault_of_an_upload(
    connect: Connect, new: Path, tmp_path: Path
) -> None:
    with a_server(ForceCommand="internal-sftp -R") as server:
        storage = connect(server)
        await storage.download(ARTIFACT, tmp_path / "a")

        with pytest.raises(StorageFault, match=r"upload of '/a.zip' .* the server said Permission denied"):
            await storage.upload(new, ARTIFACT, stage_id="m")

        assert (tmp_path / "a").read_bytes() == OLD
        assert files(server) == {"a.zip": OLD}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lock users up in a directory")
async def test_a_server_that_locks_its_users_up_in_a_directory_has_artifacts_in_its_root(
    connect: Connect, new: Path, tmp_path: Path
) -> None:
    # Each directory above must belong to root, and be writable by nobody else.
    with tempfile.TemporaryDirectory(dir="/run") as jail, a_server(ChrootDirectory=jail) as server:
        os.chmod(jail, 0o755)
        storage = connect(server, folder="")

        await storage.check()
        await storage.upload(new, ARTIFACT, stage_id="m")
        await storage.download(ARTIFACT, tmp_path / "back")
        (Path(jail) / temporary_name(ARTIFACT, "m")[1:]).touch()
        await storage.sweep(ARTIFACT, stage_id="m")

        assert os.listdir(jail) == ["a.zip"]
        assert (tmp_path / "back").read_bytes() == NEW


async def test_without_its_folder_the_storage_is_at_fault_and_not_the_task(
    server: SftpServer, connect: Connect
) -> None:
    with pytest.raises(StorageFault, match="there is no folder /nowhere on it"):
        await connect(server, folder="/nowhere").check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
async def test_a_full_disk_is_a_fault_and_leaves_the_old_artifact_alone(
    server: SftpServer, connect: Connect, tmp_path: Path
) -> None:
    small = server.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        (small / "a.zip").write_bytes(OLD)
        (tmp_path / "large").write_bytes(bytes(3 * 1024**2))

        with pytest.raises(StorageFault, match=r"upload of '/small/a.zip'"):
            await connect(server).upload(tmp_path / "large", "/small/a.zip", stage_id="m")

        assert {file.name: file.read_bytes() for file in small.iterdir()} == {"a.zip": OLD}
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


async def test_a_link_is_followed_to_read_and_replaced_to_write(
    server: SftpServer, connect: Connect, new: Path, tmp_path: Path
) -> None:
    (server.root / "b.zip").symlink_to("a.zip")
    storage = connect(server)

    version = await storage.download("/b.zip", tmp_path / "b")
    await storage.upload(new, "/b.zip", stage_id="m", expected=version)

    assert (tmp_path / "b").read_bytes() == OLD
    assert files(server) == {"a.zip": OLD, "b.zip": NEW}
    assert not (server.root / "b.zip").is_symlink()


async def test_a_pipe_is_missing_and_blocks_nobody(server: SftpServer, connect: Connect, tmp_path: Path) -> None:
    os.mkfifo(server.root / "pipe")

    async with asyncio.timeout(10):
        with pytest.raises(ArtifactMissing):
            await connect(server).download("/pipe", tmp_path / "target")


# --- connections


async def test_all_operations_share_one_connection_and_few_channels(
    server: SftpServer, connect: Connect, tmp_path: Path
) -> None:
    async with Proxy(server.host, server.port).listening() as proxy:
        known = tmp_path / "known"
        known.write_text(server.known_hosts.read_text().replace(str(server.port), str(proxy.port)))
        storage = connect(server, port=proxy.port, known_hosts=known, connections=100)

        await asyncio.gather(*(storage.download(ARTIFACT, tmp_path / str(number)) for number in range(50)))

        assert proxy.connections == 1
        assert len(storage.storage._idle) <= sftp.CHANNELS
    assert all((tmp_path / str(number)).read_bytes() == OLD for number in range(50))


async def test_while_the_server_is_down_there_are_faults_and_afterwards_there_are_none(
    server: SftpServer, connect: Connect, tmp_path: Path
) -> None:
    storage = connect(server)
    await storage.check()

    server.stop()
    for _ in range(2):
        with pytest.raises(StorageFault, match=r"download of '/a.zip'"):
            await storage.download(ARTIFACT, tmp_path / "a")
    server.start()
    await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD


async def test_a_server_killed_in_an_upload_leaves_the_old_artifact_whole(
    server: SftpServer, connect: Connect, large: Path
) -> None:
    upload = asyncio.create_task(connect(server).upload(large, ARTIFACT, stage_id="m"))

    await until(lambda: list(server.root.glob("*.tmp")))
    server.stop()
    with pytest.raises(StorageFault):
        await upload

    assert (server.root / "a.zip").read_bytes() == OLD


async def test_a_cancelled_upload_leaves_the_old_artifact_and_nothing_beside_it(
    server: SftpServer, connect: Connect, large: Path, new: Path
) -> None:
    storage = connect(server)
    upload = asyncio.create_task(storage.upload(large, ARTIFACT, stage_id="m"))

    await until(lambda: list(server.root.glob("*.tmp")))
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert files(server) == {"a.zip": OLD}
    await storage.upload(new, ARTIFACT, stage_id="m")
    assert files(server) == {"a.zip": NEW}


async def test_a_cancelled_download_does_not_spoil_the_next_one(
    server: SftpServer, connect: Connect, large: Path, tmp_path: Path
) -> None:
    large.rename(server.root / "large.zip")
    storage = connect(server, connections=1)
    download = asyncio.create_task(storage.download("/large.zip", tmp_path / "cancelled"))

    await until(lambda: (tmp_path / "cancelled").exists() and (tmp_path / "cancelled").stat().st_size)
    download.cancel()
    with pytest.raises(asyncio.CancelledError):
        await download
    await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD


@pytest.fixture
async def proxy(server: SftpServer, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with Proxy(server.host, server.port).listening() as proxy:
        yield proxy


@pytest.fixture
def behind(proxy: Proxy, server: SftpServer, connect: Connect, tmp_path: Path) -> Connect:
    """Connects through the proxy."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(server.known_hosts.read_text().replace(f":{server.port} ", f":{proxy.port} "))
    return lambda **changes: connect(server, port=proxy.port, known_hosts=known_hosts, **changes)


@pytest.mark.parametrize("way", ["download", "upload"])
async def test_a_connection_cut_in_a_transfer_is_a_fault_and_the_next_attempt_has_a_new_one(
    way: str, behind: Connect, proxy: Proxy, server: SftpServer, large: Path, tmp_path: Path
) -> None:
    shutil.copy(large, server.root / "large.zip")
    storage, back = behind(), tmp_path / "back"

    async def transfer() -> None:
        if way == "upload":
            await storage.upload(large, ARTIFACT, stage_id="m")
        else:
            await storage.download("/large.zip", back)

    cut = asyncio.create_task(transfer())
    await until(lambda: list(server.root.glob("*.tmp")) if way == "upload" else back.exists() and back.stat().st_size)
    proxy.drop()
    lost = r"Connection (lost|closed)|\[Errno \d+\] (Connection reset by peer|Broken pipe)"
    with pytest.raises(StorageFault, match=f"{way} of .*: ({lost})$"):
        await cut

    assert (server.root / "a.zip").read_bytes() == OLD
    await transfer()
    assert ((server.root / "a.zip") if way == "upload" else back).stat().st_size == large.stat().st_size


@pytest.mark.parametrize("operation", ["check", "download", "upload", "sweep"])
async def test_a_server_that_falls_silent_is_a_fault_within_the_limit(
    operation: str, behind: Connect, proxy: Proxy, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp, "TIDY_S", 0.1)
    storage = behind()
    await storage.check()
    storage.storage.timeout_s = 0.3
    operations = {
        "check": storage.check,
        "download": lambda: storage.download(ARTIFACT, tmp_path / "a"),
        "upload": lambda: storage.upload(new, ARTIFACT, stage_id="m"),
        "sweep": lambda: storage.sweep(ARTIFACT, stage_id="m"),
    }

    proxy.silence()
    async with asyncio.timeout(5):
        with pytest.raises(StorageFault, match="it took too long"):
            await operations[operation]()

    proxy.flow()
    storage.storage.timeout_s = 20
    await operations[operation]()


async def test_a_server_that_is_silent_when_it_is_connected_to_is_a_fault_within_the_limit(
    behind: Connect, proxy: Proxy
) -> None:
    proxy.silence()

    async with asyncio.timeout(5):
        with pytest.raises(StorageFault, match="it took too long"):
            await behind(timeout_s=0.3).check()


async def test_a_connection_that_died_without_a_word_is_noticed_and_replaced(
    behind: Connect, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp, "KEEPALIVE_S", 0.05)
    storage = behind()
    await storage.check()

    proxy.silence()
    async with asyncio.timeout(5):
        with pytest.raises(StorageFault, match="Server not responding to keepalive"):
            await storage.download(ARTIFACT, tmp_path / "a")

    proxy.flow()
    await storage.download(ARTIFACT, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == OLD


async def test_closing_the_storage_closes_its_connection(behind: Connect, proxy: Proxy) -> None:
    storage = behind()
    await storage.check()

    await storage.aclose()

    await until(lambda: not proxy.open)


async def test_a_port_where_nobody_listens_is_a_fault_that_names_it(
    server: SftpServer, connect: Connect, unused_tcp_port: int
) -> None:
    with pytest.raises(StorageFault, match=f"check on 127.0.0.1:{unused_tcp_port} failed: .*Connect call failed"):
        await connect(server, port=unused_tcp_port).check()


# --- a server that misbehaves


class Honest(asyncssh.SFTPServer):
    """Answers as it should; the tests replace what it says to one request."""

    root: Path

    def __init__(self, channel: "asyncssh.SSHServerChannel[bytes]") -> None:
        super().__init__(channel, chroot=os.fsencode(self.root))


class NoAuthentication(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


Misbehave = Callable[..., Any]


@pytest.fixture
async def misbehaving(connect: Connect, tmp_path: Path) -> AsyncIterator[Misbehave]:
    """Starts a server of which some methods do something else; gives a storage on it."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.zip").write_bytes(OLD)
    async with contextlib.AsyncExitStack() as stack:

        async def start(**methods: Any) -> ByPath:
            factory = type("Misbehaving", (Honest,), {"root": tmp_path / "root", **methods})
            listener = await asyncssh.listen(
                "127.0.0.1", 0, server_factory=NoAuthentication, server_host_keys=[host_key], sftp_factory=factory
            )
            stack.push_async_callback(listener.wait_closed)
            stack.callback(listener.close)
            known_hosts = tmp_path / "known_hosts"
            known_hosts.write_text(f"[127.0.0.1]:* {host_key.export_public_key().decode()}")
            (tmp_path / "key").write_bytes(host_key.export_private_key())
            server = SftpServer(
                "127.0.0.1",
                listener.get_port(),
                "one",
                tmp_path / "key",
                known_hosts,
                Path("/"),
                None,  # type: ignore[arg-type]
            )
            return connect(server, folder="")

        yield start


@pytest.mark.parametrize("size", [len(OLD) + 1, 100_000])
async def test_a_file_that_is_shorter_than_announced_is_a_fault(
    size: int, misbehaving: Misbehave, tmp_path: Path
) -> None:
    def stat(self: Honest, path: bytes) -> asyncssh.SFTPAttrs:
        return asyncssh.SFTPAttrs(size=size, permissions=0o100644, mtime=0, atime=0)

    storage = await misbehaving(stat=stat)

    with pytest.raises(StorageFault, match=f"it ends before the {size} bytes that were announced"):
        await storage.download(ARTIFACT, tmp_path / "a")


async def test_a_server_that_gives_less_than_is_asked_for_is_asked_again(
    misbehaving: Misbehave, tmp_path: Path
) -> None:
    def read(self: Honest, file: Any, offset: int, size: int) -> bytes:
        return bytes(asyncssh.SFTPServer.read(self, file, offset, min(size, 5)))  # type: ignore[arg-type]

    storage = await misbehaving(read=read)

    await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD


async def test_an_artifact_over_the_limit_is_rejected_before_it_is_opened(
    misbehaving: Misbehave, tmp_path: Path
) -> None:
    opened = []
    storage = await misbehaving(open=lambda self, path, *_: opened.append(path))
    storage.storage.max_bytes = len(OLD) - 1

    with pytest.raises(ArchiveRejected, match="16 bytes, and 15 are allowed"):
        await storage.download(ARTIFACT, tmp_path / "a")

    assert opened == []


async def test_an_upload_of_which_a_part_was_lost_is_a_fault_and_leaves_the_old_artifact_alone(
    misbehaving: Misbehave, new: Path, tmp_path: Path
) -> None:
    def write(self: Honest, file: Any, offset: int, data: bytes) -> int:
        asyncssh.SFTPServer.write(self, file, offset, data[:5])
        return len(data)

    storage = await misbehaving(write=write)

    with pytest.raises(StorageFault, match=f"5 of {len(NEW)} bytes arrived"):
        await storage.upload(new, ARTIFACT, stage_id="m")

    assert [(file.name, file.read_bytes()) for file in (tmp_path / "root").iterdir()] == [("a.zip", OLD)]


@pytest.mark.parametrize("method", ["open", "write", "fsync", "fstat", "close", "posix_rename"])
async def test_an_upload_that_is_refused_is_a_fault_and_leaves_the_old_artifact_alone(
    method: str, misbehaving: Misbehave, new: Path, tmp_path: Path
) -> None:
    def refuse(self: Honest, *_: Any) -> None:
        raise asyncssh.SFTPFailure("not on a Sunday")

    storage = await misbehaving(**{method: refuse})

    with pytest.raises(StorageFault, match=r"upload of '/a.zip' .* the server said not on a Sunday"):
        await storage.upload(new, ARTIFACT, stage_id="m")

    assert [(file.name, file.read_bytes()) for file in (tmp_path / "root").iterdir()] == [("a.zip", OLD)]


async def test_a_server_that_repeats_the_password_does_not_put_it_into_the_fault(
    misbehaving: Misbehave,
) -> None:
    def isdir(self: Honest, path: bytes) -> None:
        raise asyncssh.SFTPFailure("nobody has the password hunter2")

    storage = await misbehaving(stat=isdir)
    storage.storage.password = SecretStr("hunter2")

    with pytest.raises(StorageFault, match="nobody has the password") as caught:
        await storage.check()

    assert "hunter2" not in str(caught.value)


async def test_operations_that_fail_again_and_again_use_up_no_channels(
    connect: Connect, new: Path, tmp_path: Path
) -> None:
    with a_server(ForceCommand="internal-sftp -R", MaxSessions="2") as server:
        storage = connect(server, connections=1)

        for _ in range(5):
            with pytest.raises(StorageFault, match="the server said Permission denied"):
                await storage.upload(new, ARTIFACT, stage_id="m")
            await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD


async def test_a_listing_that_stops_in_the_middle_is_a_fault_within_the_limit(misbehaving: Misbehave) -> None:
    async def scandir(self: Honest, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        line.silence()
        yield asyncssh.SFTPName(b"a.zip")

    storage = await misbehaving(scandir=scandir)
    async with Proxy("127.0.0.1", storage.storage.port).listening() as line:
        storage.storage.port, storage.storage.timeout_s = line.port, 0.5

        async with asyncio.timeout(5):
            with pytest.raises(StorageFault, match="it took too long"):
                await storage.sweep(ARTIFACT, stage_id="m")
