"""What an entrypoint has of the judge without an image; what that does around a program is tried in one."""

import subprocess
import sys

import pytest

from ulos_stream import shipped

FOLDER = shipped("executors") / "judge"


@pytest.mark.parametrize("stdout", ["pipe", "/dev/full"])
def test_an_entrypoint_that_raises_has_no_verdict_whatever_it_has_done_before(stdout: str) -> None:
    code = "import judge; print('a line'); raise OSError('no space left')"
    printed = subprocess.PIPE if stdout == "pipe" else open(stdout, "wb")  # noqa: SIM115

    ended = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=FOLDER, stdout=printed, stderr=subprocess.PIPE, check=False
    )

    assert ended.returncode == 70
