"""S3: what breaks. In front of moto's server is one that answers some requests in its own way."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import obstore
import pytest
import trustme
from aiohttp import web
from by_path import ByPath
from pydantic import SecretStr
from servers import BUCKET, Answer, Front, S3Server, a_front, cut

from ulos_stream.errors import ArtifactChanged, ArtifactMissing, StorageFault
from ulos_stream.storage import temporary_name
from ulos_stream.storage.s3 import S3Storage
from ulos_stream.storage.urls import bucket

ARTIFACT = "/a.zip"
OLD = b"the old artifact"
NEW = b"the new and longer artifact"
SECRET = "a-secret-access-key"


def says(status: int, code: str, message: str = "for some reason") -> Answer:
    """An answer of S3 (Amazon S3 API Reference, "Error responses")."""

    async def answer(request: web.Request) -> web.StreamResponse:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        return web.Response(status=status, text=text, content_type="application/xml")

    return answer


@pytest.fixture
async def front(s3_server: S3Server) -> AsyncIterator[Front]:
    obstore.put(s3_server.store(), ARTIFACT[1:], OLD)
    async with a_front(s3_server) as front:
        yield front


def connect(endpoint: str, **changes: Any) -> ByPath:
    settings: dict[str, Any] = {
        "bucket": bucket(f"s3://{BUCKET}?endpoint={endpoint}"),
        "access_key": ("somebody", SecretStr(SECRET)),
        "authority": None,
        "timeout_s": 20,
        "max_bytes": 1024**3,
    }
    return ByPath(S3Storage(**settings | changes))


@pytest.fixture
def storage(front: Front) -> ByPath:
    return connect(front.endpoint)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    file = tmp_path / "new.zip"
    file.write_bytes(NEW)
    return file


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large.zip"
    file.write_bytes(os.urandom(8 * 1024**2))
    return file


def stored(front: Front) -> bytes:
    return bytes(obstore.get(front.server.store(), ARTIFACT[1:]).bytes())


# --- what the server says


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(403, "AccessDenied"), "403 Forbidden: AccessDenied: for some reason"),
        (says(403, "SignatureDoesNotMatch"), "403 Forbidden: SignatureDoesNotMatch: for some reason"),
        (says(404, "NoSuchBucket"), "404 Not Found: NoSuchBucket: for some reason"),
        (says(500, "InternalError"), "500 Internal Server Error: InternalError: for some reason"),
        (says(503, "SlowDown"), "503 Service Unavailable: SlowDown: for some reason"),
        (says(409, "ConditionalRequestConflict"), "409 Conflict: ConditionalRequestConflict: for some reason"),
        (says(501, "NotImplemented"), "501 Not Implemented: NotImplemented: for some reason"),
    ],
    ids=["denied", "wrong secret", "no bucket", "error", "slow down", "conflict", "not implemented"],
)
@pytest.mark.parametrize("operation", ["check", "download", "upload", "sweep"])
async def test_what_is_not_the_artifacts_doing_is_a_fault_in_one_line_after_one_request(
    operation: str, answer: Answer, words: str, front: Front, storage: ByPath, new: Path, tmp_path: Path
) -> None:
    version = await storage.download(ARTIFACT, tmp_path / "a")
    front.seen.clear()
    front.on = {"GET": answer, "PUT": answer}
    operations = {
        "check": storage.check,
        "download": lambda: storage.download(ARTIFACT, tmp_path / "a"),
        "upload": lambda: storage.upload(new, ARTIFACT, stage_id="m", expected=version),
        "sweep": lambda: storage.sweep(ARTIFACT, stage_id="m"),
    }

    said = set()
    for _ in range(2):
        with pytest.raises(StorageFault, match=f"failed: (GET|PUT|list): {words}$") as caught:
            await operations[operation]()
        said.add(str(caught.value))

    assert len(said) == 1  # a node tells a reason once, and again only when it changes
    assert "\n" not in said.pop()
    assert len(front.seen) == 2
    assert stored(front) == OLD


@pytest.mark.parametrize("operation", ["check", "download", "upload"])
async def test_another_server_behind_a_wrong_endpoint_is_a_fault_although_it_says_404(
    operation: str, front: Front, storage: ByPath, new: Path, tmp_path: Path
) -> None:
    async def not_found(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="<html>no such page</html>", content_type="text/html")

    version = await storage.download(ARTIFACT, tmp_path / "a")
    front.on = {"GET": not_found, "PUT": not_found}

    operations = {
        "check": storage.check,
        "download": lambda: storage.download(ARTIFACT, tmp_path / "a"),
        "upload": lambda: storage.upload(new, ARTIFACT, stage_id="m", expected=version),
    }

    with pytest.raises(StorageFault, match="404"):
        await operations[operation]()


async def test_a_server_that_ignores_the_condition_is_refused_by_the_check(front: Front, storage: ByPath) -> None:
    front.on["PUT"] = lambda request: front.forward(request, without="if-match")

    for _ in range(2):
        with pytest.raises(StorageFault, match="the server ignores If-Match"):
            await storage.check()

    assert [found["path"] for page in obstore.list(front.server.store()) for found in page] == ["a.zip"]


async def test_the_condition_is_looked_at_once_and_the_bucket_each_time(front: Front, storage: ByPath) -> None:
    for _ in range(3):
        await storage.check()

    assert front.methods == ["GET", "PUT", "GET", "GET"]
    assert stored(front) == OLD


async def test_a_server_without_etags_is_a_fault(front: Front, storage: ByPath, tmp_path: Path) -> None:
    async def without(request: web.Request) -> web.StreamResponse:
        return web.Response(body=OLD, headers={"Last-Modified": "Tue, 24 Nov 2026 08:00:00 GMT"})

    front.on["GET"] = without

    with pytest.raises(StorageFault, match="ETag"):
        await storage.download(ARTIFACT, tmp_path / "a")


@pytest.mark.parametrize("path", [f"/{'n' * 200}" * 6, "/a\nb"], ids=["too long", "line break"])
async def test_a_path_that_can_be_no_key_is_missing_and_no_request_is_sent(
    path: str, front: Front, storage: ByPath, new: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactMissing, match=r"^'/n|can be no key"):
        await storage.download(path, tmp_path / "a")
    with pytest.raises(StorageFault, match=r"upload of .* failed"):
        await storage.upload(new, path, stage_id="m")

    assert front.seen == []


async def test_a_sweep_finds_all_that_is_left_however_much_it_is(front: Front, storage: ByPath) -> None:
    store = front.server.store()
    for left in [temporary_name(ARTIFACT, "m") for _ in range(210)]:
        obstore.put(store, left[1:], b"")

    await storage.sweep(ARTIFACT, stage_id="m")

    assert [found["path"] for page in obstore.list(store) for found in page] == ["a.zip"]


# --- broken transfers


async def test_a_body_that_breaks_off_is_a_fault(front: Front, storage: ByPath, tmp_path: Path) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000", "ETag": '"x"'})
        response.last_modified = 0
        await response.prepare(request)
        await response.write(bytes(400_000))
        return await cut(request)

    front.on["GET"] = half

    with pytest.raises(StorageFault, match=r"download of '/a.zip' .*: .*IncompleteBody"):
        await storage.download(ARTIFACT, tmp_path / "a")


async def test_an_upload_that_is_cut_is_a_fault_and_leaves_the_old_artifact_whole(
    front: Front, storage: ByPath, large: Path
) -> None:
    front.on["PUT"] = cut

    with pytest.raises(StorageFault, match=r"upload of '/a.zip' .*(reset by peer|[Bb]roken pipe|closed)"):
        await storage.upload(large, ARTIFACT, stage_id="m")

    assert stored(front) == OLD
    del front.on["PUT"]
    await storage.upload(large, ARTIFACT, stage_id="m")
    assert stored(front) == large.read_bytes()


async def test_an_upload_whose_answer_is_lost_is_refused_when_it_is_repeated(
    front: Front, storage: ByPath, new: Path, tmp_path: Path
) -> None:
    version = await storage.download(ARTIFACT, tmp_path / "a")
    front.on["PUT"] = front.lose_the_answer

    with pytest.raises(StorageFault, match=r"upload of '/a.zip' .*IncompleteMessage"):
        await storage.upload(new, ARTIFACT, stage_id="m", expected=version)
    del front.on["PUT"]
    with pytest.raises(ArtifactChanged):
        await storage.upload(new, ARTIFACT, stage_id="m", expected=version)

    assert front.methods == ["GET", "PUT", "PUT"]
    assert stored(front) == NEW


@pytest.mark.parametrize("operation", ["check", "download", "upload", "sweep"])
async def test_a_server_that_stalls_is_a_fault_within_the_limit(
    operation: str, front: Front, new: Path, tmp_path: Path
) -> None:
    storage = connect(front.endpoint, timeout_s=0.3)
    front.on = {"GET": front.stall, "PUT": front.stall}
    operations = {
        "check": storage.check,
        "download": lambda: storage.download(ARTIFACT, tmp_path / "a"),
        "upload": lambda: storage.upload(new, ARTIFACT, stage_id="m"),
        "sweep": lambda: storage.sweep(ARTIFACT, stage_id="m"),
    }

    async with asyncio.timeout(5):
        with pytest.raises(StorageFault, match="it took too long"):
            await operations[operation]()

    front.on = {}
    await operations[operation]()


async def test_a_body_that_stalls_is_a_fault_within_the_limit(front: Front, tmp_path: Path) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000", "ETag": '"x"'})
        response.last_modified = 0
        await response.prepare(request)
        await response.write(bytes(400_000))
        return await front.stall(request)

    front.on["GET"] = stall

    async with asyncio.timeout(5):
        with pytest.raises(StorageFault, match="it took too long"):
            await connect(front.endpoint, timeout_s=0.3).download(ARTIFACT, tmp_path / "a")


async def test_a_cancelled_upload_ends_at_once_and_does_not_spoil_the_next_one(
    front: Front, storage: ByPath, large: Path, new: Path
) -> None:
    front.on["PUT"] = front.stall
    upload = asyncio.create_task(storage.upload(large, ARTIFACT, stage_id="m"))

    await front.stalled.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert stored(front) == OLD
    del front.on["PUT"]
    await storage.upload(new, ARTIFACT, stage_id="m")
    assert stored(front) == NEW


async def test_while_the_server_is_down_there_are_faults_and_afterwards_there_are_none(
    s3_server: S3Server, new: Path, tmp_path: Path
) -> None:
    storage = connect(s3_server.endpoint)
    await storage.upload(new, ARTIFACT, stage_id="m")

    s3_server.stop()
    for _ in range(2):
        with pytest.raises(StorageFault, match=r"failed: GET: HTTP error: .* \(Connection refused\)$"):
            await storage.download(ARTIFACT, tmp_path / "a")
    s3_server.start()
    await storage.upload(new, ARTIFACT, stage_id="m")
    await storage.download(ARTIFACT, tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == NEW


# --- who is who


async def test_the_certificate_of_the_server_is_verified(s3_server: S3Server) -> None:
    trusted, other = trustme.CA(), trustme.CA()

    async def check(issuer: trustme.CA, name: str, authority: bytes | None) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issuer.issue_cert(name).configure_cert(tls)
        async with a_front(s3_server, tls) as front:
            await connect(front.endpoint, authority=authority).check()

    await check(trusted, "127.0.0.1", trusted.cert_pem.bytes())
    for issuer, name, authority in [
        (other, "127.0.0.1", trusted.cert_pem.bytes()),
        (trusted, "another.example", trusted.cert_pem.bytes()),
        (trusted, "127.0.0.1", None),
    ]:
        with pytest.raises(StorageFault, match="InvalidCertificate"):
            await check(issuer, name, authority)


AWS = {
    "AWS_ACCESS_KEY_ID": "of-the-environment",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_ENDPOINT_URL": "http://192.0.2.1",
    "AWS_ENDPOINT_URL_S3": "http://192.0.2.1",
    "AWS_REGION": "of-the-environment",
    "AWS_SESSION_TOKEN": "of-the-environment",
    "AWS_SKIP_SIGNATURE": "true",
}


async def test_variables_of_aws_have_no_say_where_there_are_credentials(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)

    await connect(front.endpoint).check()

    assert "Credential=somebody/" in front.seen[0].headers["Authorization"]
    assert "of-the-environment" not in str(front.seen[0].headers)


async def test_without_credentials_those_of_the_environment_are_taken(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, AWS[name])

    await connect(front.endpoint, access_key=None).check()

    assert "Credential=of-the-environment/" in front.seen[0].headers["Authorization"]


async def test_the_secret_is_neither_in_a_fault_nor_in_the_representation(front: Front, storage: ByPath) -> None:
    front.on["GET"] = says(403, "SignatureDoesNotMatch", f"it is not {SECRET}")

    with pytest.raises(StorageFault, match="it is not") as caught:
        await storage.check()

    assert SECRET not in str(caught.value)
    assert SECRET not in repr(storage)
    assert SECRET not in repr(storage.storage._store)
