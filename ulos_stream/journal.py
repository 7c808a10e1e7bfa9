"""The signed record, inside an artifact, of the stages that it has been through.

    .ulos/journal.json   {"version": 1, "entries": [{"messageId": …, …, "mac": …}, …]}   oldest first

A stage writes its entry into the zip that it uploads, so that result and entry appear in one
rename or not at all. Whoever gets the same message again reads there that the stage is done,
and only hands over. Each entry is authenticated together with the file path and the entry
before it. One that does not verify is kept for people to see, and never trusted: a student can
write whatever they like into a zip.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ulos_stream import routing
from ulos_stream.tasks import Verdict

VERSION = 1
MOST_BYTES = 256 * 1024
"""Largest journal that is read or written; the oldest entries go. One takes about 700 bytes, a route has 64 at most."""

Text = Annotated[str, Field(max_length=1024)]


class Entry(BaseModel):
    """One stage that ended with a verdict."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    message_id: Text
    body_sha256: Text
    """Of the task message, as received."""
    executor: Text
    """Routing key of the stage."""
    image: Text | None = None
    """Digest of the container image that ran."""
    verdict: Verdict
    input: Text
    """`archive.Fingerprint` of what the stage was given."""
    output: Text
    """`archive.Fingerprint` of what it left."""
    node: Text
    at: Text
    """When it was packed, ISO 8601 in UTC."""
    mac: Text = ""
    """HMAC-SHA256 over file path, `mac` of the entry before, and everything above; 64 hex digits."""
    verified: bool = False
    """What the node that wrote the file last made of the `mac`. For people: nobody relies on it."""


@dataclass(frozen=True)
class Origin:
    """The message that asks for a stage."""

    message_id: str
    """Its own id, or one drawn for it."""
    body: bytes
    has_id: bool = True
    redelivered: bool = False
    deliveries: int = 0
    """How often it was delivered before, as far as the broker counts; the sender may have made it up."""
    deaths: int = 0
    """Of nodes while they carried the stage out, as far as it was watched; see `Pipeline.count_deaths`."""

    @cached_property
    def body_sha256(self) -> str:
        """In 64 hex digits."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def stage_id(self) -> str:
        """The same for every delivery: the message id, or what is left without one."""
        return self.message_id if self.has_id else self.body_sha256

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what ends its nodes; see `routing.is_suspect`."""
        return routing.is_suspect(redelivered=self.redelivered, deliveries=self.deliveries)

    @property
    def is_to_be_alone(self) -> bool:
        """Whether nothing may run beside its stage."""
        return self.deaths >= routing.ALONE_AFTER_DEATHS and not self.is_poison

    @property
    def is_poison(self) -> bool:
        """Whether it is given up; see `routing.is_poison`."""
        return routing.is_poison(redelivered=self.redelivered, deliveries=self.deliveries, deaths=self.deaths)


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that the stored artifact has been through."""

    message_id: str
    """What the ids of all that follows are derived from: that of the delivery which carried it out."""
    verdict: Verdict
    received: bool = False
    """A later entry shows that the next hop got the task, so there is nothing left to hand over."""


def derived_key(*passwords: str) -> bytes:
    """The key for the entries of all nodes that know the same passwords; takes about 50 ms.

    scrypt with the parameters that RFC 7914 and its author give for interactive use.
    """
    secret = json.dumps(passwords).encode()
    return hashlib.scrypt(secret, salt=b"ulos-stream journal", n=2**14, r=8, p=1, dklen=32)


@dataclass(frozen=True, slots=True)
class Journal:
    """Reads and continues the journal of one artifact.

    Args:
        key: Shared by all nodes.
        file_path: The task's; an entry that was made for another artifact does not verify.
        entries: Oldest first.
    """

    key: bytes
    file_path: str
    entries: tuple[Entry, ...] = ()

    @classmethod
    def parse(cls, key: bytes, file_path: str, content: bytes | None) -> "Journal":
        """Read the file's content; whatever is no journal of this version has no entries."""
        if content is None:
            return cls(key, file_path)
        try:
            journal = json.loads(content)
            found = journal["entries"] if journal["version"] == VERSION else []
            entries = [Entry.model_validate(entry) for entry in found]
        except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
            entries = []
        return cls(key, file_path, _verified(key, file_path, entries))

    def find_done(self, origin: Origin, content: Callable[[], str]) -> Done | None:
        """Whether the stage that a message asks for is done, and the artifact is what the last stage left.

        A message with an id is found by id and body: a producer may repeat an id for another task. One
        without is only found by its own redelivery, if nobody was at the artifact since: a fresh copy of
        it is a legitimate new run.

        Args:
            origin: The message.
            content: Tells the `archive.Fingerprint` of the artifact; asked only when the journal knows the message.
        """
        if not self.entries or not self.entries[-1].verified:
            return None
        known = [entry for entry in self.entries if entry.verified and entry.body_sha256 == origin.body_sha256]
        if origin.has_id:
            known = [entry for entry in known if entry.message_id == origin.message_id]
        elif not origin.redelivered or known[-1:] != [self.entries[-1]]:
            return None
        if not known or self.entries[-1].output != content():
            return None
        message_id, verdict = known[-1].message_id, known[-1].verdict
        hop_id = routing.hop_id(message_id, verdict)
        received = any(entry.verified and entry.message_id == hop_id for entry in self.entries)
        return Done(message_id, verdict, received)

    def continued(self, entry: Entry) -> bytes:
        """The content of the file with one more entry, which is signed."""
        before = self.entries[-1].mac if self.entries else ""
        fields = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in (*self.entries, entry)]
        fields[-1] |= {"mac": _mac(self.key, self.file_path, before, entry), "verified": True}
        while len(content := json.dumps({"version": VERSION, "entries": fields}).encode()) > MOST_BYTES:
            del fields[0]
        return content


def _verified(key: bytes, file_path: str, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries, each marked as its own authentication code deserves."""
    before = ["", *(entry.mac for entry in entries)]
    macs = (_mac(key, file_path, mac, entry) for mac, entry in zip(before, entries, strict=False))
    return tuple(
        entry.model_copy(update={"verified": hmac.compare_digest(mac.encode(), entry.mac.encode())})
        for mac, entry in zip(macs, entries, strict=True)
    )


def _mac(key: bytes, file_path: str, before: str, entry: Entry) -> str:
    fields = {name: value for name, value in vars(entry).items() if name not in ("mac", "verified")}
    return hmac.digest(key, _sorted([file_path, before, fields]).encode(), "sha256").hex()


_sorted = json.JSONEncoder(sort_keys=True).encode
