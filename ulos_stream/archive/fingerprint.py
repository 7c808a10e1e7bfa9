"""What a stage sees of an archive, as one hash: two archives with the same one hold the same work."""

import hashlib

from ulos_stream.archive.rules import Member


class Fingerprint:
    """sha256 over a line for each file, sorted by name: sha256 of the content, `x` or `-`, name.

    Times, order, compression and directories without files make no difference, nor does what
    lies in `.ulos/`, where the hash itself is written down.
    """

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        """By name, those of the files that were taken in."""

    def take_in(self, member: Member, content_sha256: str) -> str:
        """Take in a file that was read to its end; returns its line."""
        line = self.lines[member.name] = f"{content_sha256} {'x' if member.executable else '-'} {member.name}\n"
        return line

    def hexdigest(self) -> str:
        """The hash of all files that were taken in, in 64 hex digits."""
        return hashlib.sha256("".join(self.lines[name] for name in sorted(self.lines)).encode()).hexdigest()
