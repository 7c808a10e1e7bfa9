"""Artifacts in a bucket of an S3 server, over obstore.

There is no rename, and none is needed: a PUT takes effect as a whole or not at all. That it replaces only what the
stage was given is the server's own work: `If-Match` with the ETag that the download told. So there is nothing that
a broken upload leaves, and no moment between the look at the old version and the new one.

A PUT whose answer was lost is repeated, and refused, for it has replaced the version that it expects. That is
`ArtifactChanged` like any other: whoever reads the artifact anew finds the stage's entry in its journal.
"""

import asyncio
import mmap
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import S3Store
from pydantic import SecretStr

from ulos_stream.errors import ArchiveRejected, ArtifactChanged, ArtifactMissing, StorageFault
from ulos_stream.storage import Version, temporary_prefix
from ulos_stream.storage.urls import Bucket

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential  # types alone, which are not there at run time

BLOCK_BYTES = 256 * 1024
IN_MEMORY_BYTES = 1024 * 1024
"""An upload up to this is read into memory; a larger one is mapped, which takes no memory of the process."""
KEY_BYTES = 1024
"""The longest key that S3 takes (Amazon S3 User Guide, "Naming Amazon S3 objects")."""
CAUSE = r'(?:message|error): "(.*?)"|(InvalidCertificate\(\s*\w+)|(Incomplete\w+)'
"""In what obstore prints of an error's source: of the system, of TLS, of HTTP."""
T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class S3Storage:
    """Keeps the artifact `/a/b.zip` under the key `a/b.zip`, or `folder/a/b.zip`."""

    bucket: Bucket
    access_key: tuple[str, SecretStr] | None
    """Id and secret; None for what obstore finds by itself: AWS's variables, a service account, a machine's role."""
    authority: bytes | None
    """A private certificate authority in PEM, trusted beside the system's ones."""
    timeout_s: float
    """Limit of an operation as a whole, in seconds."""
    max_bytes: int
    """The largest artifact that is downloaded."""

    def __post_init__(self) -> None:
        config: S3Config = {
            "bucket": self.bucket.name,
            "endpoint": self.bucket.endpoint,
            "aws_endpoint_url_s3": self.bucket.endpoint,  # which a variable of AWS would otherwise set
            "region": self.bucket.region,
            "virtual_hosted_style_request": self.bucket.virtual,
        }
        if self.access_key is not None:
            config["skip_signature"] = False
        client: ClientConfig = {
            "allow_http": self.bucket.endpoint.startswith("http:"),
            "timeout": timedelta(seconds=self.timeout_s),
        }
        if self.authority is not None:
            client["root_certificate"] = self.authority
        # A fault is retried by whoever uses the storage, within one budget and with a line for each.
        self._store = S3Store(
            config=config,
            client_options=client,
            retry_config={"max_retries": 0},
            credential_provider=None if self.access_key is None else _provider(*self.access_key),
        )
        self._compares = False

    async def check(self) -> None:
        """Ask for a key that is hardly there; the first time, see that the server honours `If-Match`.

        Without the right to list the bucket, S3 refuses to say that a key is missing, and so the check fails.
        """
        probe = self._key("/.ulos-check")

        async def look() -> None:
            try:
                await obstore.get_async(self._store, probe)
            except FileNotFoundError as exc:
                if not _is_about_the_key(exc):
                    raise
            if self._compares:
                return
            try:
                await obstore.put_async(self._store, probe, b"", mode={"e_tag": '"of no version"'})
            except PreconditionError as exc:
                if not _is_about_the_key(exc):
                    raise
                self._compares = True
            else:
                await obstore.delete_async(self._store, probe)
                raise _Unusable("the server ignores If-Match, without which a result may replace another's")

        await self._run("check", look)

    async def download(self, path: str, target: BinaryIO) -> Version:
        async def fetch() -> Version:
            try:
                key = self._key(path)
                found = await obstore.get_async(self._store, key)
            except ValueError as exc:
                raise ArtifactMissing(f"{path!r} can be no key: {exc}") from exc
            except FileNotFoundError as exc:
                if not _is_about_the_key(exc):
                    raise
                raise ArtifactMissing(f"there is no {path!r} in {self._place}") from exc
            version = Version(found.meta["size"], found.meta["e_tag"])
            if (size := version.size) > self.max_bytes:
                raise ArchiveRejected(f"{path!r} has {size} bytes, and {self.max_bytes} are allowed")
            if version.modified is None:
                raise _Unusable("the server tells no ETag, without which a result may replace another's")
            count = target.seek(0)
            target.truncate()
            async for block in found.stream(min_chunk_size=BLOCK_BYTES):
                count += target.write(block)
            if count != size:
                raise _Unusable(f"{count} bytes came, and {size} were announced")
            return version

        return await self._run(f"download of {path!r}", fetch)

    async def date(self, path: str, version: Version) -> None:
        """A version has been told its time."""

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        async def put() -> None:
            # Signed with a hash of the content, so that what is stored is what was sent.
            try:
                await obstore.put_async(
                    self._store,
                    self._key(path),
                    _content(source),
                    mode="overwrite" if expected is None else {"e_tag": expected.modified},
                    use_multipart=False,  # whose end takes no condition in obstore
                )
            except PreconditionError as exc:
                if not _is_about_the_key(exc):
                    raise
                raise ArtifactChanged(f"{path!r} in {self._place} is not what was downloaded any more") from exc

        await self._run(f"upload of {path!r}", put)

    async def sweep(self, path: str, *, stage_id: str) -> None:
        """An upload leaves nothing here; what bears such a name is a mark, or the doctor's."""
        folder, prefix = temporary_prefix(path, stage_id)

        async def remove() -> None:
            begin = self._key(f"{folder}/{prefix}")
            left = []
            # In order, and from there on: however many others there are, one request finds ours.
            async for page in obstore.list(self._store, offset=begin, chunk_size=100):
                ours = [found["path"] for found in page if found["path"].startswith(begin)]
                left += ours
                if len(ours) < len(page):
                    break
            for key in left:
                await obstore.delete_async(self._store, key)

        await self._run(f"sweep beside {path!r}", remove)

    async def aclose(self) -> None:
        """Between calls there are idle connections alone, which end with this object."""

    @property
    def _place(self) -> str:
        return f"bucket {self.bucket.name!r} on {self.bucket.endpoint}"

    def _key(self, path: str) -> str:
        """The key of a path.

        Raises:
            ValueError: It is too long.
        """
        key = f"{self.bucket.folder}{path}".removeprefix("/")
        if len(key.encode()) > KEY_BYTES:
            raise ValueError(f"a key of S3 has at most {KEY_BYTES} bytes")
        return key

    async def _run(self, doing: str, operation: Callable[[], Awaitable[T]]) -> T:
        """Await `operation` within the time limit; translate what goes wrong."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await operation()
        except (OSError, ValueError, BaseError, _Unusable) as exc:
            reason = _reason(exc)
            if self.access_key is not None:  # whose secret a server may repeat where it refuses it
                reason = reason.replace(self.access_key[1].get_secret_value(), "******")
            raise StorageFault(f"{doing} in {self._place} failed: {reason}") from exc


class _Unusable(Exception):
    """The server kept to the protocol, and still its answer is worth nothing."""


def _provider(key_id: str, secret: SecretStr) -> "Callable[[], S3Credential]":
    """This access key alone: beside one that is a setting, obstore sends the session token of AWS's variables."""
    return lambda: {"access_key_id": key_id, "secret_access_key": secret.get_secret_value(), "expires_at": None}


def _content(source: BinaryIO) -> bytes | mmap.mmap:
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return source.read() if size <= IN_MEMORY_BYTES else mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)


def _is_about_the_key(exc: Exception) -> bool:
    """Whether the key is missing or its version another, not the bucket, nor the whole server behind a wrong URL."""
    text = str(exc)
    return "<Code>NoSuchKey</Code>" in text or "<Code>PreconditionFailed</Code>" in text


def _reason(exc: Exception) -> str:
    """One line of what obstore says, which is the same one for the same reason.

    What the server answered is cut down to its code and message; where it did not, the cause is deep in what follows.
    """
    if isinstance(exc, TimeoutError):
        return "it took too long"
    text, _, source = str(exc).partition("\n\nDebug source:")
    text = re.sub(r"<\?xml.*?<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?.*", r"\1: \2", text, flags=re.DOTALL)
    text = re.sub(r"^.*?Error performing (\w+) .*? - (Server returned non-2xx status code: )?", r"\1: ", text)
    causes = [" ".join("".join(found).replace("(", " ").split()) for found in re.findall(CAUSE, source)]
    return " ".join([*text.split(), *(f"({cause})" for cause in causes[-1:])])
