"""What an entrypoint has of the judge without an image; what that does around a program is tried in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from judge import Check, conclude, empty, walk

from ulos_stream import shipped
from ulos_stream.executors.report import Report

FOLDER = shipped("executors") / "judge"


@pytest.mark.parametrize("stdout", ["pipe", "/dev/full"])
def test_an_entrypoint_that_raises_has_no_verdict_whatever_it_has_done_before(stdout: str) -> None:
    code = "import judge; print('a line'); raise OSError('no space left')"
    printed = subprocess.PIPE if stdout == "pipe" else open(stdout, "wb")  # noqa: SIM115

    ended = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=FOLDER, stdout=printed, stderr=subprocess.PIPE, check=False
    )

    assert ended.returncode == 70


def test_a_report_has_no_line_before_the_first(tmp_path: Path) -> None:
    checks = [Check(str(line), False, file="a.py", line=line) for line in (-1, 0, 1)]

    with pytest.raises(SystemExit):
        conclude("trial", tmp_path, checks)

    report = Report.model_validate_json((tmp_path / "report.json").read_bytes())
    assert [(check.file, check.line) for check in report.checks] == [("a.py", None), ("a.py", None), ("a.py", 1)]
    assert "a.py:-1" not in (tmp_path / "report.md").read_text()


def test_a_tree_deeper_than_python_can_go_is_walked(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    try:
        assert {*walk(tmp_path)} == {tmp_path / "one" / "file", tmp_path / "link"}
    finally:
        empty(tmp_path)  # pytest cannot


def test_what_cannot_be_looked_into_is_passed_over(tmp_path: Path) -> None:
    assert [*walk(tmp_path / "none")] == []
