"""The zips that tasks are about: made before anything is measured, and looked at when all is done."""

import hashlib
import random
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

DISTINCT = 10
"""So many different artifacts; tasks take turns with them."""
MEMBER = "data.bin"
JOURNAL = ".ulos/"
"""What our node alone keeps in an artifact."""


class Wrong(Exception):
    """A contestant did not do its work, so its figures do not count."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Artifacts of one size, below the root of the storage.

    Args:
        directory: Where the originals are kept.
        size_bytes: Of the one file in each.
        seed: Of its content.
    """

    directory: Path
    size_bytes: int
    seed: int
    _hashes: list[str] = field(default_factory=list)

    def make(self, count: int) -> None:
        """Write the originals of so many."""
        for number in range(min(DISTINCT, count)):
            content = random.Random(f"{self.seed} {self.size_bytes} {number}").randbytes(self.size_bytes)
            self._hashes.append(hashlib.sha256(content).hexdigest())
            with zipfile.ZipFile(self._original(number), "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(MEMBER, content)

    def place(self, folder: Path, count: int) -> None:
        """Put so many into a folder, each by its number."""
        folder.mkdir(exist_ok=True)
        for number in range(count):
            shutil.copyfile(self._original(number), folder / f"{number}.zip")

    def check(self, folder: Path, count: int, outputs: set[str]) -> None:
        """See that each is whole, with what these stages have written, and that nothing else is there.

        Raises:
            Wrong: It is not so.
        """
        there, right = {path.name for path in folder.iterdir()}, {f"{number}.zip" for number in range(count)}
        if there != right:
            raise Wrong(
                f"results missing: {sorted(right - there)[:5]}; left on the storage: {sorted(there - right)[:5]}"
            )
        for number in range(count):
            with zipfile.ZipFile(folder / f"{number}.zip") as archive:
                names = {name for name in archive.namelist() if not name.startswith(JOURNAL)}
                if names != {MEMBER} | outputs:
                    raise Wrong(f"result {number} holds {sorted(names)}")
                if hashlib.sha256(archive.read(MEMBER)).hexdigest() != self._hashes[number % DISTINCT]:
                    raise Wrong(f"the content of result {number} is not what was sent")
                if empty := [name for name in outputs if not archive.getinfo(name).file_size]:
                    raise Wrong(f"result {number}: empty {empty}")

    def _original(self, number: int) -> Path:
        return self.directory / f"{self.size_bytes}-{number % DISTINCT}.zip"
