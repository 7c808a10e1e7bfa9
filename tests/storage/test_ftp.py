"""FTP: what breaks, on real servers where these can be made to break, else on a scripted one."""

import asyncio
import errno
import gc
import hashlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from by_path import ByPath
from pydantic import SecretStr

from ulos_stream import lab
from ulos_stream.errors import ArchiveRejected, ArtifactChanged, ArtifactMissing, StorageFault
from ulos_stream.lab import FtpServer
from ulos_stream.storage import Version, ftp, temporary_name
from ulos_stream.storage.ftp import FtpStorage

PASSWORD = "correct-horse"
ARTIFACT = "/a.zip"
OLD = b"the old artifact"
NEW = b"the new and longer artifact"

Data = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[..., ByPath]


class Session:
    """A control connection as the scripted server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.renamed = ""
        self.data: asyncio.Future[Data] = asyncio.get_running_loop().create_future()

    def say(self, line: str) -> None:
        self.writer.write(f"{line}\r\n".encode())

    async def listen(self) -> int:
        self.data = asyncio.get_running_loop().create_future()
        listener = await asyncio.start_server(lambda *streams: self.data.set_result(streams), "127.0.0.1", 0)
        self.data.add_done_callback(lambda _: listener.close())
        return int(listener.sockets[0].getsockname()[1])

    def hang_up(self) -> None:
        self.writer.close()
        if not self.data.cancel() and not self.data.cancelled():
            self.data.result()[1].transport.abort()


Verb = Callable[[Session, str], Awaitable[None]]


class Stub:
    """A small FTP server that notes what it is told; each test lets it misbehave in one verb."""

    def __init__(self) -> None:
        self.files = {ARTIFACT: OLD}
        self.told: list[str] = []
        self.open = self.most_open = self.logins = self.port = 0
        self.stalled = asyncio.Event()
        self.on: dict[str, Verb] = {
            "USER": self._user,
            "PASS": self._pass,
            "TYPE": self._type,
            "NOOP": self._noop,
            "SIZE": self._size,
            "MDTM": self._mdtm,
            "EPSV": self._epsv,
            "RETR": self._retr,
            "STOR": self.take,
            "RNFR": self._rnfr,
            "RNTO": self._rnto,
            "DELE": self._dele,
        }

    @property
    def verbs(self) -> list[str]:
        return [line.partition(" ")[0] for line in self.told]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self.sessions: set[asyncio.Task[None] | None] = set()
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield
            self.hang_up()

    def hang_up(self) -> None:
        for session in self.sessions:
            assert session
            session.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions.add(asyncio.current_task())
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        session = Session(reader, writer)
        try:
            session.say("220 at your service")
            while line := await reader.readline():
                self.told.append(line.decode().rstrip("\r\n"))
                verb, _, argument = self.told[-1].partition(" ")
                await self.on[verb](session, argument)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            session.hang_up()
            self.sessions.discard(asyncio.current_task())

    async def stall(self, session: Session, _: str) -> None:
        """Answer nothing until the client goes away."""
        self.stalled.set()
        await session.reader.read()
        raise ConnectionError

    async def _user(self, session: Session, name: str) -> None:
        session.say("331 who says so")

    async def _pass(self, session: Session, password: str) -> None:
        self.logins += 1
        session.say("230 come in" if password == PASSWORD else "530 no")

    async def _type(self, session: Session, kind: str) -> None:
        session.say("200 so be it")

    async def _noop(self, session: Session, _: str) -> None:
        session.say("200 done nothing")

    async def _size(self, session: Session, path: str) -> None:
        session.say(f"213 {len(self.files[path])}" if path in self.files else "550 nothing there")

    async def _mdtm(self, session: Session, path: str) -> None:
        session.say("213 20261124080000" if path in self.files else "550 nothing there")

    async def _epsv(self, session: Session, _: str) -> None:
        session.say(f"229 go on (|||{await session.listen()}|)")

    async def _retr(self, session: Session, path: str) -> None:
        await self.send(session, self.files[path])

    async def send(
        self, session: Session, content: bytes, end: str = "226 that was all", opening: str = "150 here it comes"
    ) -> None:
        session.say(opening)
        _, data = await session.data
        data.write(content)
        data.close()
        session.say(end)

    async def take(self, session: Session, path: str, most: int = -1, end: str = "226 got it") -> None:
        session.say("150 let me have it")
        reader, data = await session.data
        self.files[path] = await reader.read(most)
        data.close()
        session.say(end)

    async def _rnfr(self, session: Session, path: str) -> None:
        session.renamed = path
        session.say("350 to what")

    async def _rnto(self, session: Session, path: str) -> None:
        self.files[path] = self.files.pop(session.renamed)
        session.say("250 renamed")

    async def _dele(self, session: Session, path: str) -> None:
        session.say("250 gone" if self.files.pop(path, None) is not None else "550 nothing there")


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    stub = Stub()
    async with stub.serving():
        yield stub


def a_storage(server: Any, **changes: Any) -> ByPath:
    settings: dict[str, Any] = {
        "host": getattr(server, "host", "127.0.0.1"),
        "port": server.port,
        "username": getattr(server, "username", "somebody"),
        "password": SecretStr(getattr(server, "password", PASSWORD)),
        "tls": None,
        "connections": 4,
        "timeout_s": 20,
        "max_bytes": 1024**3,
    }
    return ByPath(FtpStorage(**settings | changes))


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    storages = []

    def connect(server: Any, **changes: Any) -> ByPath:
        storages.append(a_storage(server, **changes))
        return storages[-1]

    yield connect
    for storage in storages:
        await storage.aclose()


@pytest.fixture
def new(tmp_path: Path) -> Path:
    file = tmp_path / "new.zip"
    file.write_bytes(NEW)
    return file


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not happened():
            await asyncio.sleep(0)


# --- real servers


@pytest.fixture
def server(ftp_server: FtpServer) -> FtpServer:
    (ftp_server.root / "a.zip").write_bytes(OLD)
    return ftp_server


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    with file.open("wb") as sparse:
        sparse.truncate(200 * 1024**2)
    return file


async def test_a_wrong_password_is_a_fault_that_does_not_show_it(
    server: FtpServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    storage = connect(server, password=SecretStr("not-the-password"))

    with pytest.raises(StorageFault, match="530") as caught:
        await storage.check()

    assert f"{server.host}:{server.port}" in str(caught.value)
    assert "\n" not in str(caught.value)
    for text in (str(caught.value), repr(caught.value.__cause__), repr(storage), caplog.text):
        assert "not-the-password" not in text


async def test_connections_that_a_restart_of_the_server_closed_are_replaced_silently(
    server: FtpServer, connect: Connect, tmp_path: Path
) -> None:
    storage = connect(server)
    await asyncio.gather(*(storage.download(ARTIFACT, tmp_path / str(number)) for number in range(4)))

    server.stop()
    server.start()
    await storage.download(ARTIFACT, tmp_path / "again")

    assert (tmp_path / "again").read_bytes() == OLD


async def test_while_the_server_is_down_there_are_faults_and_afterwards_there_are_none(
    server: FtpServer, connect: Connect, tmp_path: Path
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
    server: FtpServer, connect: Connect, large: Path
) -> None:
    upload = asyncio.create_task(connect(server).upload(large, ARTIFACT, stage_id="m"))

    await until(lambda: list(server.root.glob("*.tmp")))
    server.stop()
    with pytest.raises(StorageFault):
        await upload

    assert (server.root / "a.zip").read_bytes() == OLD


async def test_a_cancelled_upload_leaves_the_old_artifact_and_nothing_beside_it(
    server: FtpServer, connect: Connect, large: Path, new: Path
) -> None:
    storage = connect(server)
    upload = asyncio.create_task(storage.upload(large, ARTIFACT, stage_id="m"))

    await until(lambda: list(server.root.glob("*.tmp")))
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert [(file.name, file.read_bytes()) for file in server.root.iterdir()] == [("a.zip", OLD)]
    await storage.upload(new, ARTIFACT, stage_id="m")
    assert [(file.name, file.read_bytes()) for file in server.root.iterdir()] == [("a.zip", NEW)]


async def test_a_cancelled_download_does_not_spoil_the_next_one(
    server: FtpServer, connect: Connect, large: Path, tmp_path: Path
) -> None:
    large.rename(server.root / "large.zip")
    storage = connect(server, connections=1)
    download = asyncio.create_task(storage.download("/large.zip", tmp_path / "cancelled"))

    await until((tmp_path / "cancelled").exists)
    download.cancel()
    with pytest.raises(asyncio.CancelledError):
        await download
    await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD


async def test_explicit_tls_works_with_the_private_authority_and_is_refused_without(
    server: FtpServer, connect: Connect, tmp_path: Path, new: Path, request: pytest.FixtureRequest
) -> None:
    programs = {"vsftpd_server": lab.vsftpd, "pyftpd_server": lab.pyftpd}
    program = programs[request.node.callspec.params["ftp_server"]]
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    (tmp_path / "large").write_bytes(bytes(range(256)) * 20_000)

    with program(tls=authority.issue_cert(server.host)) as guarded:
        storage = connect(guarded, tls=trusting)
        for source in (new, tmp_path / "large"):
            await storage.upload(source, ARTIFACT, stage_id="m")
            await storage.download(ARTIFACT, tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == source.read_bytes()
        with pytest.raises(StorageFault, match="certificate verify failed"):
            await connect(guarded, tls=ssl.create_default_context()).check()
        with pytest.raises(StorageFault, match="the server said 5"):
            await connect(guarded, tls=None).check()


# --- the pool


async def test_a_port_where_nobody_listens_is_a_fault_that_names_it(
    unused_tcp_port: int, connect: Connect, stub: Stub
) -> None:
    stub.port = unused_tcp_port

    with pytest.raises(
        StorageFault, match=f"check on 127.0.0.1:{unused_tcp_port} failed: .*Errno {errno.ECONNREFUSED}"
    ):
        await connect(stub).check()


async def test_twenty_downloads_at_once_share_the_connections_that_are_allowed(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    storage = connect(stub, connections=3)

    await asyncio.gather(*(storage.download(ARTIFACT, tmp_path / str(number)) for number in range(20)))

    assert (stub.most_open, stub.logins, stub.verbs.count("TYPE")) == (3, 3, 3)
    assert all((tmp_path / str(number)).read_bytes() == OLD for number in range(20))


async def test_uploads_that_fail_at_once_all_tidy_up_after_themselves(stub: Stub, connect: Connect, new: Path) -> None:
    stub.on["RNTO"] = lambda session, _: refuse(session, "550 no")
    storage = connect(stub, connections=2)

    uploads = (storage.upload(new, ARTIFACT, stage_id=str(number)) for number in range(9))
    ends = await asyncio.gather(*uploads, return_exceptions=True)

    assert [type(end) for end in ends] == [StorageFault] * 9
    assert stub.files == {ARTIFACT: OLD}


async def refuse(session: Session, reply: str) -> None:
    session.say(reply)


@pytest.mark.parametrize("farewell", ["", "421 idle for too long"])
async def test_a_connection_closed_while_idle_is_replaced_silently(
    farewell: str, stub: Stub, connect: Connect, new: Path, tmp_path: Path
) -> None:
    async def noop(session: Session, _: str) -> None:
        session.say("200 done nothing")
        if farewell:
            session.say(farewell)
        raise ConnectionError

    stub.on["NOOP"] = noop
    storage = connect(stub)

    for operation in (
        storage.check(),
        storage.check(),
        storage.download(ARTIFACT, tmp_path / "a"),
        storage.check(),
        storage.upload(new, ARTIFACT, stage_id="m"),
    ):
        await operation

    assert stub.logins == 4
    assert stub.files == {ARTIFACT: NEW}


async def test_a_server_that_closes_every_connection_is_a_fault(stub: Stub, connect: Connect) -> None:
    async def close(session: Session, _: str) -> None:
        raise ConnectionError

    storage = connect(stub)
    await storage.check()
    stub.on["NOOP"] = close

    with pytest.raises(StorageFault, match="the server closed the connection"):
        await storage.check()

    assert stub.logins == 2


async def test_a_connection_that_breaks_in_the_middle_is_not_tried_again(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    async def close(session: Session, _: str) -> None:
        raise ConnectionError

    storage = connect(stub)
    await storage.check()
    stub.on["RETR"] = close

    with pytest.raises(StorageFault, match="the server closed the connection"):
        await storage.download(ARTIFACT, tmp_path / "a")

    assert stub.logins == 1


@pytest.mark.parametrize("verb", ["USER", "NOOP", "SIZE", "EPSV", "RETR"])
async def test_a_server_that_stalls_is_a_fault_within_the_limit(
    verb: str, stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on[verb] = stub.stall
    storage = connect(stub, timeout_s=0.2)

    async with asyncio.timeout(10):
        with pytest.raises(StorageFault, match="it took too long"):
            await (storage.check() if verb in ("USER", "NOOP") else storage.download(ARTIFACT, tmp_path / "a"))

    await until(lambda: stub.open == 0)


async def test_after_a_stall_the_idle_connections_are_not_trusted_either(stub: Stub, connect: Connect) -> None:
    storage = connect(stub)
    await asyncio.gather(*(storage.check() for _ in range(4)))
    answering, stub.on["NOOP"] = stub.on["NOOP"], stub.stall

    storage.storage.timeout_s = 0.2
    with pytest.raises(StorageFault):
        await storage.check()
    storage.storage.timeout_s = 20

    await until(lambda: stub.open == 0)
    stub.on["NOOP"] = answering
    await storage.check()


async def test_a_cancelled_operation_ends_as_cancelled_and_its_connection_is_closed(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    sending, stub.on["RETR"] = stub.on["RETR"], stub.stall
    storage = connect(stub, connections=1)
    download = asyncio.create_task(storage.download(ARTIFACT, tmp_path / "a"))

    await stub.stalled.wait()
    download.cancel()
    with pytest.raises(asyncio.CancelledError):
        await download

    await until(lambda: stub.open == 0)
    stub.on["RETR"] = sending
    await storage.download(ARTIFACT, tmp_path / "a")
    assert stub.logins == 2
    assert (tmp_path / "a").read_bytes() == OLD


async def test_closing_the_storage_closes_every_connection(stub: Stub, connect: Connect) -> None:
    storage = connect(stub)
    await asyncio.gather(storage.check(), storage.check())

    await storage.aclose()

    await until(lambda: stub.open == 0)


async def test_a_connection_in_use_while_the_storage_closes_is_closed_after_use(stub: Stub, connect: Connect) -> None:
    storage = connect(stub)
    running = asyncio.create_task(storage.check())
    await until(lambda: stub.open)

    await storage.aclose()
    await running

    await until(lambda: stub.open == 0)


@pytest.mark.parametrize("verb", ["USER", "PASS", "TYPE"])
async def test_a_connection_whose_login_fails_is_closed(verb: str, stub: Stub, connect: Connect) -> None:
    stub.on[verb] = lambda session, _: refuse(session, "500 no")

    with pytest.raises(StorageFault, match="500 no"):
        await connect(stub).check()

    await until(lambda: stub.open == 0)


# --- downloads


@pytest.mark.parametrize("content", [OLD[:-1], b"", OLD + b"!"], ids=["short", "empty", "long"])
async def test_a_transfer_of_another_size_is_a_fault_although_the_server_reports_success(
    content: bytes, stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["RETR"] = lambda session, _: stub.send(session, content)

    with pytest.raises(StorageFault, match=f"{len(content)} bytes came, and {len(OLD)} were announced"):
        await connect(stub).download(ARTIFACT, tmp_path / "a")


async def test_a_server_that_announces_the_size_in_its_reply_is_asked_once_a_connection(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["RETR"] = lambda session, _: stub.send(session, OLD, opening=f"150 of (1 bytes).zip ({len(OLD)} bytes).")
    storage = connect(stub)

    for _ in range(3):
        await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD
    assert (stub.verbs.count("SIZE"), stub.verbs.count("RETR")) == (1, 3)


@pytest.mark.parametrize("opening", ["150 (17 bytes)", "150 here", "150 (16 bytes) or so"])
async def test_a_reply_that_does_not_announce_the_size_as_it_is_is_never_relied_on(
    opening: str, stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["RETR"] = lambda session, _: stub.send(session, OLD, opening=opening)
    storage = connect(stub)

    for _ in range(3):
        await storage.download(ARTIFACT, tmp_path / "a")

    assert stub.verbs.count("SIZE") == 3


@pytest.mark.parametrize(
    ("opening", "content", "reason"),
    [
        (f"150 ({len(OLD)} bytes)", OLD[:-1], f"{len(OLD) - 1} bytes came, and {len(OLD)} were announced"),
        ("150 here it comes", OLD, "does not say any more how much it sends"),
    ],
    ids=["short", "silent"],
)
async def test_a_transfer_that_is_not_as_announced_is_a_fault_and_the_next_one_is_asked_for_again(
    opening: str, content: bytes, reason: str, stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["RETR"] = lambda session, _: stub.send(session, OLD, opening=f"150 ({len(OLD)} bytes)")
    storage = connect(stub)
    await storage.download(ARTIFACT, tmp_path / "a")

    stub.on["RETR"] = lambda session, _: stub.send(session, content, opening=opening)
    with pytest.raises(StorageFault, match=reason):
        await storage.download(ARTIFACT, tmp_path / "a")
    stub.on["RETR"] = lambda session, _: stub.send(session, OLD)
    await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD
    assert stub.verbs.count("SIZE") == 2


async def test_an_artifact_that_is_announced_over_the_limit_is_rejected(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["RETR"] = lambda session, path: stub.send(
        session, stub.files[path], opening=f"150 ({len(stub.files[path])} bytes)"
    )
    storage = connect(stub, max_bytes=len(OLD))
    await storage.download(ARTIFACT, tmp_path / "a")

    stub.files[ARTIFACT] = OLD + b"!"
    with pytest.raises(ArchiveRejected, match="17 bytes, and 16 are allowed"):
        await storage.download(ARTIFACT, tmp_path / "a")


@pytest.mark.parametrize("reason", ["451 disk on fire", "550 it vanished"])
async def test_the_reason_the_server_gives_for_a_broken_transfer_is_in_the_fault(
    reason: str, stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["RETR"] = lambda session, _: stub.send(session, OLD[:3], reason)

    with pytest.raises(StorageFault, match=f"download of '/a.zip' on 127.0.0.1:{stub.port} .* {reason}"):
        await connect(stub).download(ARTIFACT, tmp_path / "a")


async def test_an_artifact_over_the_limit_is_rejected_before_it_is_transferred(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    storage = connect(stub, max_bytes=len(OLD) - 1)

    with pytest.raises(ArchiveRejected, match="16 bytes, and 15 are allowed"):
        await storage.download(ARTIFACT, tmp_path / "a")

    assert "RETR" not in stub.verbs


async def test_a_server_that_sends_without_end_is_cut_off_at_the_announced_size(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    async def flood(session: Session, path: str) -> None:
        session.say("150 here it comes")
        _, data = await session.data
        while True:
            data.write(bytes(65536))
            await data.drain()

    stub.on["RETR"] = flood

    with pytest.raises(StorageFault):
        await connect(stub).download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").stat().st_size < 1024**2


async def test_an_artifact_that_vanished_before_the_transfer_or_is_forbidden_is_missing(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["RETR"] = lambda session, _: refuse(session, "550 not for you")

    with pytest.raises(ArtifactMissing, match="550 not for you"):
        await connect(stub).download(ARTIFACT, tmp_path / "a")


@pytest.mark.parametrize("line", ["213-and then\r\n", "2"], ids=["lines", "line"])
async def test_a_reply_without_end_is_a_fault(line: str, stub: Stub, connect: Connect, tmp_path: Path) -> None:
    async def talk(session: Session, _: str) -> None:
        while True:
            session.writer.write(line.encode() * 1000)
            await session.writer.drain()

    stub.on["SIZE"] = talk

    with pytest.raises(StorageFault, match="a reply of more than 65536 bytes"):
        await connect(stub).download(ARTIFACT, tmp_path / "a")
    await until(lambda: stub.open == 0)


async def test_a_reply_of_several_lines_is_one_reply(stub: Stub, connect: Connect, tmp_path: Path) -> None:
    stub.on["MDTM"] = lambda session, _: refuse(session, "213-not yet\r\n 213 nor now\r\n213 20261124080000")

    await connect(stub).download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == OLD


@pytest.mark.parametrize("reply", ["500 what", "502 not yet"])
async def test_a_server_without_size_is_a_fault_that_says_so(
    reply: str, stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    stub.on["SIZE"] = lambda session, _: refuse(session, reply)

    with pytest.raises(StorageFault, match="does not implement SIZE"):
        await connect(stub).download(ARTIFACT, tmp_path / "a")


async def test_a_server_without_epsv_is_asked_once_a_connection_and_its_pasv_address_is_not_trusted(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    async def pasv(session: Session, _: str) -> None:
        port = await session.listen()
        session.say(f"227 go on (192,0,2,1,{port // 256},{port % 256})")

    stub.on["EPSV"] = lambda session, _: refuse(session, "502 not yet")
    stub.on["PASV"] = pasv
    storage = connect(stub)

    for _ in range(3):
        await storage.download(ARTIFACT, tmp_path / "a")

    assert (stub.verbs.count("EPSV"), stub.verbs.count("PASV")) == (1, 3)


@pytest.mark.parametrize("path", ["/a\r\nDELE /b", "/a\nb", "/\udc80"])
async def test_a_path_that_is_no_ftp_argument_is_a_fault_and_is_not_sent(
    path: str, stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    with pytest.raises(StorageFault) as caught:
        await connect(stub).download(path, tmp_path / "a")

    assert "\n" not in str(caught.value)
    assert set(stub.verbs) == {"USER", "PASS", "TYPE"}


@pytest.mark.parametrize("reply", ["229 (none)", "229", "227 (1,2)", "ÿ"])
async def test_a_reply_that_makes_no_sense_is_a_fault(reply: str, stub: Stub, connect: Connect, tmp_path: Path) -> None:
    async def babble(session: Session, _: str) -> None:
        session.writer.write(reply.encode("latin-1") + b"\r\n")

    stub.on["EPSV"] = babble

    with pytest.raises(StorageFault):
        await connect(stub, timeout_s=1).download(ARTIFACT, tmp_path / "a")


# --- uploads


async def test_the_temporary_name_carries_the_hash_of_the_message_id_and_differs_each_time(
    stub: Stub, connect: Connect, new: Path
) -> None:
    storage = connect(stub)

    await storage.upload(new, ARTIFACT, stage_id="a-message")
    await storage.upload(new, ARTIFACT, stage_id="a-message")

    first, second = (line.removeprefix("STOR ") for line in stub.told if line.startswith("STOR"))
    mark = hashlib.sha256(b"a-message").hexdigest()[:16]
    assert re.fullmatch(rf"/a\.zip\.ulos-{mark}-[0-9a-f]{{8}}\.tmp", first)
    assert first != second
    assert stub.files == {ARTIFACT: NEW}


async def test_the_size_alone_tells_versions_apart_where_the_server_knows_no_times(
    stub: Stub, connect: Connect, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp, "DATED_S", 0.01)
    asked = asyncio.Event()

    async def know_none(session: Session, _: str) -> None:
        session.say("502 not yet")
        asked.set()

    stub.on["MDTM"] = know_none
    storage = connect(stub)
    version = await storage.download(ARTIFACT, tmp_path / "a")
    await asked.wait()

    await storage.upload(new, ARTIFACT, stage_id="m", expected=version)
    with pytest.raises(ArtifactChanged):
        await storage.upload(new, ARTIFACT, stage_id="m", expected=version)

    assert version == Version(len(OLD), None)
    assert stub.files == {ARTIFACT: NEW}


@pytest.mark.parametrize(("seen_s_ago", "asked"), [(0, 1), (2, 2)])
async def test_times_of_whole_seconds_are_compared_once_a_second_is_over(
    seen_s_ago: int, asked: int, stub: Stub, connect: Connect, new: Path, tmp_path: Path
) -> None:
    storage = connect(stub)
    version = await storage.download(ARTIFACT, tmp_path / "a")
    await storage.date(ARTIFACT, version)

    version = replace(version, seen_s=version.seen_s - seen_s_ago)
    await storage.upload(new, ARTIFACT, stage_id="m", expected=version)

    assert stub.verbs.count("MDTM") == asked


async def test_the_time_is_asked_for_only_where_the_version_is_kept(
    stub: Stub, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp, "DATED_S", 0.01)
    stub.files["/b.zip"] = OLD
    asked = asyncio.Event()

    async def tell(session: Session, path: str) -> None:
        session.say("213 20261124080000")
        asked.set()

    stub.on["MDTM"] = tell
    storage = connect(stub)

    await storage.download(ARTIFACT, tmp_path / "a")
    kept = await storage.download("/b.zip", tmp_path / "b")
    await asked.wait()
    await storage.aclose()

    assert [line for line in stub.told if line.startswith("MDTM")] == ["MDTM /b.zip"]
    assert kept.modified == "20261124080000"


async def test_a_server_that_does_not_tell_the_time_now_costs_the_stage_nothing(
    stub: Stub, connect: Connect, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp, "DATED_S", 0.01)
    asked = asyncio.Event()

    async def hang_up(session: Session, _: str) -> None:
        session.hang_up()
        asked.set()

    stub.on["MDTM"] = hang_up
    storage = connect(stub)

    version = await storage.download(ARTIFACT, tmp_path / "a")
    await asked.wait()
    await storage.upload(new, ARTIFACT, stage_id="m", expected=replace(version, seen_s=version.seen_s - 2))

    assert stub.files == {ARTIFACT: NEW}


async def test_a_sweep_without_a_listing_is_a_fault(stub: Stub, connect: Connect) -> None:
    stub.on["NLST"] = lambda session, _: refuse(session, "451 not now")

    with pytest.raises(StorageFault, match=r"sweep beside '/a.zip' .* 451 not now"):
        await connect(stub).sweep(ARTIFACT, stage_id="m")


async def test_a_listing_of_whole_paths_is_understood_too(stub: Stub, connect: Connect) -> None:
    left, others = temporary_name(ARTIFACT, "m"), temporary_name(ARTIFACT, "another")
    stub.files |= {left: b"", others: b""}
    stub.on["NLST"] = lambda session, _: stub.send(session, "".join(f"{path}\r\n" for path in stub.files).encode())

    await connect(stub).sweep(ARTIFACT, stage_id="m")

    assert stub.files == {ARTIFACT: OLD, others: b""}


@pytest.mark.parametrize(
    ("verb", "misbehaviour", "reason"),
    [
        ("STOR", lambda stub, session, path: refuse(session, "553 no such folder"), "553 no such folder"),
        ("STOR", lambda stub, session, path: stub.take(session, path, 5, "452 disk full"), "452 disk full"),
        ("STOR", lambda stub, session, path: stub.take(session, path, 5), f"5 of {len(NEW)} bytes arrived"),
        ("SIZE", lambda stub, session, path: refuse(session, "213 1"), f"1 of {len(NEW)} bytes arrived"),
        ("SIZE", lambda stub, session, path: refuse(session, "550 where is it"), "550 where is it"),
        ("SIZE", lambda stub, session, path: refuse(session, "502 not yet"), "does not implement SIZE"),
        ("RNFR", lambda stub, session, path: refuse(session, "550 no"), "550 no"),
        ("RNTO", lambda stub, session, path: refuse(session, "553 no"), "553 no"),
    ],
)
async def test_an_upload_that_fails_is_a_fault_and_leaves_the_old_artifact_alone(
    verb: str,
    misbehaviour: Callable[[Stub, Session, str], Awaitable[None]],
    reason: str,
    stub: Stub,
    connect: Connect,
    new: Path,
) -> None:
    stub.on[verb] = lambda session, path: misbehaviour(stub, session, path)

    with pytest.raises(StorageFault, match=f"upload of '/a.zip' on 127.0.0.1:{stub.port} failed: .*{reason}"):
        await connect(stub).upload(new, ARTIFACT, stage_id="m")

    assert stub.files == {ARTIFACT: OLD}


async def test_the_reason_why_a_server_breaks_off_a_large_upload_is_in_the_fault(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(20 * 1024**2))
    stub.on["STOR"] = lambda session, path: stub.take(session, path, 5, "452 disk full")

    with pytest.raises(StorageFault, match="452 disk full"):
        await connect(stub).upload(tmp_path / "large", ARTIFACT, stage_id="m")

    assert stub.files == {ARTIFACT: OLD}


def test_a_data_connection_that_is_lost_before_anything_was_sent_is_a_fault(new: Path) -> None:
    async def drop(session: Session, path: str) -> None:
        _, data = await session.data
        data.transport.abort()
        await asyncio.sleep(0.05)  # so that the client has noticed when it may send
        session.say("150 let me have it")
        session.say("426 it broke")

    async def upload() -> None:
        stub = Stub()
        stub.on["STOR"] = drop
        async with stub.serving():
            await a_storage(stub).upload(new, ARTIFACT, stage_id="m")

    with pytest.raises(StorageFault, match="426 it broke"):
        uvloop.run(upload())  # whose transports, unlike asyncio's, refuse a write when they are closed


async def test_an_upload_into_a_stall_ends_within_the_limit_and_is_tidied_up(
    stub: Stub, connect: Connect, tmp_path: Path
) -> None:
    async def stall(session: Session, path: str) -> None:
        stub.files[path] = b"a part"
        session.say("150 let me have it")
        await stub.stall(session, path)

    (tmp_path / "large").write_bytes(bytes(20 * 1024**2))
    stub.on["STOR"] = stall

    with pytest.raises(StorageFault, match="it took too long"):
        await connect(stub, timeout_s=1).upload(tmp_path / "large", ARTIFACT, stage_id="m")

    assert stub.files == {ARTIFACT: OLD}


async def test_a_clean_up_that_fails_ends_soon_and_does_not_hide_why_the_upload_failed(
    stub: Stub, connect: Connect, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp, "ASIDE_S", 0.2)
    stub.on["RNTO"] = lambda session, _: refuse(session, "553 the true reason")
    stub.on["DELE"] = stub.stall

    async with asyncio.timeout(10):
        with pytest.raises(StorageFault, match="553 the true reason"):
            await connect(stub).upload(new, ARTIFACT, stage_id="m")


async def test_an_upload_cancelled_twice_is_still_tidied_up(stub: Stub, connect: Connect, new: Path) -> None:
    deleting, stub.on["DELE"], stub.on["RNTO"] = stub.on["DELE"], stub.stall, stub.stall
    upload = asyncio.create_task((storage := connect(stub)).upload(new, ARTIFACT, stage_id="m"))
    await stub.stalled.wait()
    allowed = asyncio.Event()

    async def delete(session: Session, path: str) -> None:
        stub.stalled.set()
        await allowed.wait()
        await deleting(session, path)

    stub.stalled.clear()
    stub.on["DELE"] = delete
    upload.cancel()
    await stub.stalled.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    allowed.set()
    await storage.aclose()

    assert stub.files == {ARTIFACT: OLD}


async def test_no_socket_is_left_to_the_garbage_collector(
    stub: Stub, connect: Connect, new: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    gc.collect()
    recwarn.clear()
    storage = connect(stub)
    stub.on["RETR"] = lambda session, _: refuse(session, "550 no")
    stub.on["STOR"] = lambda session, _: refuse(session, "550 no")

    with pytest.raises(ArtifactMissing):
        await storage.download(ARTIFACT, tmp_path / "a")
    with pytest.raises(StorageFault):
        await storage.upload(new, ARTIFACT, stage_id="m")
    with pytest.raises(StorageFault):
        await connect(stub, password=SecretStr("wrong")).check()
    gc.collect()

    assert [str(item.message) for item in recwarn if issubclass(item.category, ResourceWarning)] == []


async def test_a_server_that_repeats_the_password_does_not_put_it_into_the_fault(connect: Connect, stub: Stub) -> None:
    stub.on["PASS"] = lambda session, password: refuse(session, f"530 nobody has the password {password!r}")

    with pytest.raises(StorageFault, match="nobody has the password") as caught:
        await connect(stub).check()

    assert PASSWORD not in str(caught.value)


def test_the_password_is_not_in_the_representation(connect: Connect, stub: Stub) -> None:
    assert PASSWORD not in repr(connect(stub))
