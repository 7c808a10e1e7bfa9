"""The tutorial of executors/README.md: its commands do what it says, one after the other, in one shell."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ulos_stream
from ulos_stream import shipped

README = shipped("executors") / "README.md"
TEN_MINUTES_S = 600


@pytest.mark.timeout(TEN_MINUTES_S + 60)
def test_the_tutorial_makes_tests_and_ships_an_executor(tmp_path: Path, local_base: str) -> None:
    steps = re.findall(r"```sh\n(.*?)```", README.read_text(), flags=re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    begun, before = time.monotonic(), package()

    shell = subprocess.Popen(
        ["bash", "-eu", "-c", "\n".join(steps)],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": path, "ULOS_BASE_IMAGE": local_base},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = shell.communicate(timeout=TEN_MINUTES_S)
    finally:  # what it keeps in the background too, if it ended early
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)

    took_s = time.monotonic() - begun
    assert shell.returncode == 0, printed
    assert len(steps) == 5
    assert "3 of 3 as expected" in printed
    assert "    failed   report.txt has 5 words (report.txt): It has 2: write more.\n" in printed
    assert re.search(r"^done: ", printed, flags=re.MULTILINE)
    assert re.search(rf"word-count .* yes .* long enough.*{tmp_path}/executors/word-count/executor.toml", printed)
    assert took_s < TEN_MINUTES_S
    assert package() == before, "a new executor is a folder"


def package() -> dict[Path, str]:
    """What is in `ulos_stream/`, but for what Python makes of it."""
    files = (path for path in Path(ulos_stream.__file__).parent.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.suffix != ".pyc"}
