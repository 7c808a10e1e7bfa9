"""What a stage sees of an archive, as one hash: two archives with the same one hold the same work."""

import hashlib
from collections.abc import Iterable, Iterator

from ulos_stream.archive.rules import Member


class Fingerprint:
    """sha256 over a line for each file, sorted by name: sha256 of the content, `x` or `-`, name.

    Times, order, compression and directories without files make no difference, nor does what
    lies in `.ulos/`, where the hash itself is written down.
    """

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        """By name, those of the files that were read to their end."""

    def reading(self, member: Member, content: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the content of a file on, block by block, and take it in."""
        digest = hashlib.sha256()
        for block in content:
            digest.update(block)
            yield block
        self.lines[member.name] = f"{digest.hexdigest()} {'x' if member.executable else '-'} {member.name}\n"

    def hexdigest(self) -> str:
        """The hash of all files that were read to their end, in 64 hex digits."""
        return hashlib.sha256("".join(self.lines[name] for name in sorted(self.lines)).encode()).hexdigest()
