"""The course pipeline of the demo, once its images are built: grammar, then execution, then done or failed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ulos_stream.demo import COURSE_IMAGES


def test_the_demo_runs_the_course_pipeline(built: Callable[[str], Path], tmp_path: Path) -> None:
    for executor in COURSE_IMAGES:
        built(executor)
    environment = {**os.environ, "COLUMNS": "160", "ULOS_TRACE_FILE": str(tmp_path / "traces.jsonl")}

    demo = [sys.executable, "-m", "ulos_stream", "demo"]
    ended = subprocess.run(demo, capture_output=True, text=True, env=environment, check=False)

    rows = {words[1]: line for line in ended.stdout.splitlines() if len(words := line.split()) > 1}
    assert ended.returncode == 0, ended.stdout
    assert "cypress-execution" in rows["course"]
    assert "cypress-execution" in rows["course-wrong"]
    assert "cypress-execution" not in rows["course-mistake"]
