"""The storage: a real round trip with a file of ours, by the same code that nodes use."""

import contextlib
import io
import re
import secrets
import time
from datetime import UTC, datetime

from ulos_stream.doctor import Diagnosis
from ulos_stream.errors import ArtifactChanged, ArtifactMissing, StorageFault, UlosError
from ulos_stream.storage import Storage, Version, temporary_name

REMEDIES = {
    "storage": "check REMOTE_STORAGE_* and ULOS_STORAGE_URL, and that the server runs",
    "upload": "let the user write and rename in {folder}, and FTP answer SIZE; --folder looks at another folder",
    "download": "let the user read in {folder}",
    "overwrite": "let the user replace a file in {folder}, by a rename where there are some: a result does so",
    "removal": "let the user list and delete in {folder}: temporary files would stay there for ever",
}
MOST_SKEW_S = 5.0


async def examine(storage: Storage, folder: str) -> list[Diagnosis]:
    """Log in, upload, download, overwrite, list and remove; and what the storage's clock says.

    Args:
        storage: The one to look at.
        folder: Where artifacts lie on it.
    """
    found: dict[str, Diagnosis] = {}
    trip = RoundTrip(storage, folder.rstrip("/"))
    steps = {
        "storage": trip.log_in,
        "upload": trip.upload,
        "download": trip.download,
        "overwrite": trip.overwrite,
        "removal": trip.remove,
    }
    failed = ""
    for part, step in steps.items():
        if failed and not (part == "removal" and trip.is_there):
            found[part] = Diagnosis(part, "not checked", f"{failed} failed")
            continue
        try:
            found[part] = Diagnosis(part, "well", await step())
        except UlosError as fault:
            found[part] = Diagnosis(part, "wrong", str(fault), REMEDIES[part].format(folder=folder))
            failed = part
    if found["download"].state == "well":
        found["clock"] = trip.clock()
    return list(found.values())


class RoundTrip:
    """The way of one file, there and back.

    Args:
        storage: Where to.
        folder: In which folder of it; empty for the uppermost.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self.is_there = False
        self._storage = storage
        self._local = io.BytesIO()
        self._stage_id = f"ulos-doctor-{secrets.token_hex(4)}"
        self._beside = f"{folder}/ulos-doctor.zip"
        # Named as a node's temporary file, so that the sweep which removes those removes this one.
        self._path = temporary_name(self._beside, self._stage_id)
        self._version: Version | None = None
        self._began_s = self._ended_s = 0.0

    async def log_in(self) -> str:
        await self._storage.check()
        return "it lets us in"

    async def upload(self) -> str:
        await self._store(b"first")
        return f"{self._path} arrived whole"

    async def download(self) -> str:
        await self._compare(b"first")
        return "the same bytes came back"

    async def overwrite(self) -> str:
        first = self._version
        await self._store(b"the second one")
        await self._compare(b"the second one")
        with contextlib.suppress(ArtifactChanged):
            await self._storage.upload(self._local, self._path, stage_id=self._stage_id, expected=first)
            raise StorageFault("a result would replace what somebody else has stored meanwhile")
        return "the file was replaced at once, and only where it was the one that was expected"

    async def remove(self) -> str:
        await self._storage.sweep(self._beside, stage_id=self._stage_id)
        with contextlib.suppress(ArtifactMissing):
            await self._storage.download(self._path, self._local)
            raise StorageFault(f"{self._path} is still there after its removal")
        return "the file was listed and removed"

    def clock(self) -> Diagnosis:
        """How far the storage's clock is from ours, by the time of the file just written."""
        assert self._version is not None  # noqa: S101 (it was downloaded)
        if self._version.modified is None:
            text = "the storage does not tell when a file was written (MDTM)"
            remedy = "use a server that does: else a result may replace an artifact that somebody changed meanwhile"
            return Diagnosis("clock", "doubtful", text, remedy)
        ahead_s = skew_s(self._version.modified, self._began_s, self._ended_s)
        if ahead_s is None:
            return Diagnosis("clock", "not checked", "it tells no time that could be compared with this machine's")
        if abs(ahead_s) > MOST_SKEW_S:
            text = (
                f"the storage's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
            )
            return Diagnosis("clock", "doubtful", text, "let NTP keep both: times in logs and journals mislead")
        return Diagnosis("clock", "well", "the storage's clock agrees with this machine's")

    async def _store(self, content: bytes) -> None:
        self._began_s = time.time()
        self._local = io.BytesIO(content)
        await self._storage.upload(self._local, self._path, stage_id=self._stage_id, expected=self._version)
        self._ended_s, self.is_there = time.time(), True

    async def _compare(self, content: bytes) -> None:
        self._version = await self._storage.download(self._path, self._local)
        await self._storage.date(self._path, self._version)
        if self._local.getvalue() != content:
            raise StorageFault(f"{self._path} came back with another content")


def skew_s(modified: str, began_s: float, ended_s: float) -> float | None:
    """Seconds by which a storage's clock is at least ahead of ours; 0 where it may agree, None where it has none.

    Args:
        modified: When the storage says that the file was written: FTP tells whole seconds in UTC (RFC 3659), SFTP since
            the epoch (draft-ietf-secsh-filexfer-02, section 5).
        began_s: When we began to write it, in seconds since the epoch.
        ended_s: When we had written it.
    """
    if re.fullmatch(r"\d{10}", modified):
        told_s = float(modified)
    elif re.fullmatch(r"\d{14}(\.\d+)?", modified):
        told_s = datetime.strptime(modified[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    else:
        return None
    if told_s > ended_s:
        return told_s - ended_s
    return min(told_s + 1 - began_s, 0.0)
