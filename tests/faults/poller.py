"""Looks at every artifact all the time, as any other system might, and notes what is no whole zip."""

import contextlib
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

PAUSE_S = 0.01
"""Seconds between two looks at the whole folder."""


class Poller:
    """A thread that reads each zip of a folder whenever it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._ended = threading.Event()
        self.partial: dict[str, str] = {}
        """By name: what was wrong with it."""

    @contextlib.contextmanager
    def polling(self) -> Iterator["Poller"]:
        """Look until the end of the block."""
        thread = threading.Thread(target=self._poll, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def _poll(self) -> None:
        while not self._ended.wait(PAUSE_S):
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".zip"):
                        with contextlib.suppress(FileNotFoundError):
                            self._look(entry.name)

    def _look(self, name: str) -> None:
        with open(self._folder / name, "rb") as file:
            status = os.fstat(file.fileno())
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._seen.get(name) == version:
                return
            self._seen[name] = version
            try:
                with zipfile.ZipFile(file) as archive:
                    broken = archive.testzip()
            except zipfile.BadZipFile as exc:
                broken = str(exc)
            if broken:
                self.partial[name] = f"{broken} ({status.st_size} bytes)"
