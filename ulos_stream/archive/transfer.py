"""Content moved block by block, with an eye on the clock."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import IO

from ulos_stream.archive.rules import Limits, Member, shown
from ulos_stream.errors import ArchiveRejected, StageTimeout

BLOCK_BYTES = 256 * 1024
SMALL_BYTES = 16 * 1024
"""A zip that is no larger is read and written in memory as a whole: `zipfile` seeks more than it moves."""
Check = Callable[[], None]
"""Raises when it is time to stop."""


def watch(doing: str, limits: Limits, stop: threading.Event | None) -> Check:
    """A check for `limits.time_s` seconds from now: it raises once they are over, or `stop` is set."""
    deadline = time.monotonic() + limits.time_s

    def check() -> None:
        if stop is not None and stop.is_set():
            raise StageTimeout(f"stopped while {doing}")
        if time.monotonic() > deadline:
            raise ArchiveRejected(f"{doing} took longer than {limits.time_s:g} s")

    return check


def copy(content: Iterable[bytes], sink: IO[bytes], member: Member, whose: str, check: Check) -> None:
    """Write the content of a member; `whose` names its archive where it is not as long as announced."""
    left = member.size
    for block in content:
        check()
        left -= len(block)
        if left < 0:
            break
        sink.write(block)
    if left:
        raise ArchiveRejected(f"{whose}: {shown(member.name)} does not have the {member.size} bytes it announced")
