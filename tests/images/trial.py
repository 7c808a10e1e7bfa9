"""A sample of an executor, tried as its author would: `ulos dev` in one terminal, `ulos submit` in another."""

import contextlib
import ftplib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ULOS = [sys.executable, "-m", "ulos_stream"]
ENDLESS_S, TIMEOUT_S = 20, 90
"""Timeouts of the task: for a sample with `endless` in its name the longer one would only be waited for."""


@dataclass(frozen=True)
class Ending:
    """How a task ended."""

    word: str
    """`pass`, `fail` or `crash`, as the names of samples begin."""
    text: str
    """All that was printed of it."""
    result: dict[str, bytes]
    """The files of the artifact; none after a crash."""


@dataclass(frozen=True)
class Trial:
    """A node with all shipped executors, on a broker and an FTP server, and the images that it is given."""

    environment: dict[str, str]

    def ended(self, key: str, sample: Path) -> Ending:
        """Send a folder or a zip through the executor that claims `key`, and wait for the task's end."""
        timeout_s = ENDLESS_S if "endless" in sample.name else TIMEOUT_S
        command = [*ULOS, "submit", str(sample), "--route", key, "--timeout", str(timeout_s), "--wait", "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        ids, *_, end = (json.loads(line) for line in done.stdout.splitlines())
        word = "pass" if end["well"] else "fail" if end["end"].startswith("the route ends") else "crash"
        return Ending(word, done.stdout + done.stderr, {} if word == "crash" else self._files(ids["file_path"]))

    def _files(self, path: str) -> dict[str, bytes]:
        content = io.BytesIO()
        with ftplib.FTP() as ftp:
            ftp.connect(self.environment["REMOTE_STORAGE_HOST"], int(self.environment["REMOTE_STORAGE_PORT"]))
            ftp.login(self.environment["REMOTE_STORAGE_USERNAME"], self.environment["REMOTE_STORAGE_PASSWORD"])
            ftp.retrbinary(f"RETR {path}", content.write)
        with zipfile.ZipFile(content) as zipped:
            return {name: zipped.read(name) for name in zipped.namelist()}


@contextlib.contextmanager
def a_trial(directory: Path, **settings: str) -> Iterator[Trial]:
    """`ulos dev`, from its variables to Ctrl-C; what it says is in `directory`."""
    with (directory / "dev.log").open("wb") as log:
        dev = subprocess.Popen(
            [*ULOS, "dev"],
            env={**os.environ, "ULOS_TRACE_FILE": str(directory / "traces.jsonl"), **settings},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield Trial({**os.environ, **dict(_variables(dev))})
        finally:
            dev.send_signal(signal.SIGINT)
            dev.wait(timeout=60)


def _variables(dev: "subprocess.Popen[str]") -> Iterator[tuple[str, str]]:
    """The `export NAME=value` lines, up to the last one that a node needs."""
    assert dev.stdout is not None
    for line in dev.stdout:
        name, _, value = shlex.split(line)[1].partition("=")
        yield name, value
        if name == "ULOS_MANAGEMENT_URL":
            return
    raise AssertionError("ulos dev ended")
