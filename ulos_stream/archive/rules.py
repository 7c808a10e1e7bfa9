"""What an artifact may be, on its way in as on its way out: names, counts, sizes; and what a stage sees of it.

Pure: nothing here touches a file.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple
from zipfile import ZipInfo

from pydantic import BaseModel, ConfigDict, Field

from ulos_stream.errors import ArchiveRejected

MIB = 1024 * 1024
JOURNAL = ".ulos/journal.json"
"""The member that the node itself writes, and no stage sees."""
_NAME_RULES = (
    (re.compile(r"[\x00-\x1f\x7f-\x9f]"), "has a control character in its name"),
    (re.compile(r"[\ud800-\udfff]"), "has a name that is not UTF-8"),
    (re.compile(r"\\"), "has a backslash in its name"),
    (re.compile(r"^/"), "is an absolute path"),
    (re.compile(r"^[A-Za-z]:"), "starts with the name of a drive"),
    (re.compile(r"(^|/)\.\.(/|$)"), "climbs out by '..'"),
    (re.compile(r"(^|/)\.?(/|$)"), "has an empty part in its name"),
)
_PLAIN_NAME = re.compile(r"\.?[\w -][\w. -]*(/\.?[\w -][\w. -]*)*")
"""Most names: they break none of these rules, and one look tells it sooner than seven."""


class Limits(BaseModel):
    """How large an artifact may be, on its way in as on its way out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    zip_mib: int = Field(default=100, gt=0)
    """Largest zip, in MiB. Student projects have a few, build outputs some tens."""
    entries: int = Field(default=10_000, gt=0)
    """Most files and directories. They cost inodes and system calls, which no limit in MiB sees."""
    total_mib: int = Field(default=512, gt=0)
    """Largest sum of all unpacked files, in MiB: what one running stage may take of the disk, or of a tmpfs."""
    file_mib: int = Field(default=256, gt=0)
    """Largest unpacked file, in MiB: half of the total, so that no single file is the whole artifact."""
    ratio: int = Field(default=200, gt=0)
    """How many times a file over 1 MiB may shrink. Text shrinks about 10 times; deflate ends at 1,032."""
    depth: int = Field(default=32, gt=0, le=255)
    """Most parts in a name. Tools that recurse break on deep trees; Java packages need about 15."""
    name_bytes: int = Field(default=255, gt=0, le=255)
    """Longest part of a name, in bytes of UTF-8: what Linux file systems take."""
    time_s: float = Field(default=60, gt=0, allow_inf_nan=False)
    """Longest unpack or pack, in seconds: a few times what 512 MiB take on a slow machine."""


class Member(NamedTuple):
    """A regular file or a directory, in an archive or in a tree."""

    name: str
    """Its parts with `/` between them, and at neither end."""
    directory: bool = False
    size: int = 0
    executable: bool = False
    modified: float | None = None
    """Seconds since 1970. A zip holds a wall clock without a zone: read and written as UTC on every node."""
    source: ZipInfo | BinaryIO | None = None
    """Where its content is; None for what lies in the tree itself."""
    stamp: tuple[int, ...] = ()
    """Of a file in a tree: tells whether it was touched."""


def admitted(members: Iterable[Member], limits: Limits, whose: str) -> list[Member]:
    """The same members, taken one by one, if names, counts and sizes keep the rules."""
    admitted: list[Member] = []
    known: dict[str, tuple[str, bool]] = {}
    total_bytes = 0
    for member in members:
        admitted.append(member)
        total_bytes += member.size
        if rule := _broken(member, limits) or _conflict(member, known):
            raise ArchiveRejected(f"{whose}: {shown(member.name)} {rule}")
        if max(len(admitted), len(known)) > limits.entries:
            raise ArchiveRejected(f"{whose}: more than {limits.entries} files and directories")
        if total_bytes > limits.total_mib * MIB:
            raise ArchiveRejected(f"{whose}: more than {limits.total_mib} MiB in all")
    return admitted


def _broken(member: Member, limits: Limits) -> str | None:
    """The first rule that a member breaks by itself, if any."""
    if not _PLAIN_NAME.fullmatch(member.name):
        for pattern, rule in _NAME_RULES:
            if pattern.search(member.name):
                return rule
    parts = member.name.encode().split(b"/")
    if len(parts) > limits.depth:
        return f"is {len(parts)} levels deep, more than {limits.depth}"
    if max(map(len, parts)) > limits.name_bytes:
        return f"has a part of more than {limits.name_bytes} bytes in its name"
    if member.size > limits.file_mib * MIB:
        return f"is larger than {limits.file_mib} MiB"
    return None


def _conflict(member: Member, known: dict[str, tuple[str, bool]]) -> str | None:
    """What a member has against those before it, if anything.

    `known` maps folded paths to what has them, named or implied.
    """
    parts, path = member.name.split("/"), ""
    for end, part in enumerate(parts, 1):
        path = f"{path}/{part}" if path else part
        directory = end < len(parts) or member.directory
        same = folded(path)
        if same not in known:
            known[same] = path, directory
            continue
        other, was_directory = known[same]
        if path != other:
            return f"differs from {shown(other)} in upper and lower case only"
        if directory != was_directory:
            return f"makes {shown(path)} both a file and a directory"
        if not directory:
            return "is there twice"
    return None


def contents(members: Iterable[Member]) -> list[Member]:
    """What a stage sees of an archive: not what `skipped` names, and no single directory around all the rest."""
    kept = [member for member in members if not skipped(member)]
    tops = {_top(member.name) for member in kept}
    if len(tops) != 1 or any(member.name in tops and not member.directory for member in kept):
        return kept
    around = len(tops.pop()) + 1
    return [member._replace(name=member.name[around:]) for member in kept if member.name[around:]]


def skipped(member: Member) -> bool:
    """Whether a member is litter of macOS, or lies in `.ulos/`, which belongs to the node."""
    *folders, base = member.name.split("/")
    if member.directory:
        folders.append(base)
    return (
        "__MACOSX" in folders or (base == ".DS_Store" and not member.directory) or folded(_top(member.name)) == ".ulos"
    )


def shown(name: str) -> str:
    """A name as one line that is not too long."""
    return repr(name if len(name) <= 80 else f"{name[:40]}…{name[-39:]}")


def folded(name: str) -> str:
    """The same for names that some file systems take for one: in upper and lower case, composed or not."""
    return unicodedata.normalize("NFC", name.casefold())


def _top(name: str) -> str:
    return name.partition("/")[0]
