"""What the image makes of submissions: the report, the figures and the pictures."""

import json
import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_gcode import FILES

Files = Mapping[str, str | bytes]
SQUARE = "G28\nM83\nG1 Z0.2 F3000\nG1 X10 E1\nG1 Y10 E1\nG1 X0 E1\nG1 Y0 E1\n"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Judged:
    """What a run of the image left."""

    exit_code: int
    printed: str
    results: Path

    @property
    def checks(self) -> list[dict[str, Any]]:
        checks: list[dict[str, Any]] = json.loads((self.results / "report.json").read_text())["checks"]
        return checks

    @property
    def failed(self) -> dict[str, tuple[str | None, int | None, str]]:
        """File, line and message of what is wrong or warned of, by name."""
        return {c["name"]: (c["file"], c["line"], c["message"]) for c in self.checks if c["status"] != "passed"}

    @property
    def page(self) -> str:
        return (self.results / "report.md").read_text()


@pytest.fixture
def judged(built: Callable[[str], Path], tmp_path: Path) -> Callable[..., Judged]:
    """Runs the image on files as a node does: read-only, without network, as the user whom the files belong to."""
    built("gcode-execution")

    def judged(files: Files, environment: Mapping[str, str] = {}) -> Judged:
        work = Path(tempfile.mkdtemp(dir=tmp_path))
        for name, content in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content.encode() if isinstance(content, str) else content)
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        held = f"--user {os.getuid()}:{os.getgid()} --cap-drop ALL --pids-limit 64 --memory 2g"
        held += " --network none --read-only --tmpfs /tmp:size=64m,noexec"
        command = ["docker", "run", "--rm", "--volume", f"{work}:/app/tests", *held.split(), *variables]
        done = subprocess.run([*command, "gcode-visualizer", "run"], capture_output=True, text=True, check=False)
        return Judged(done.returncode, done.stdout + done.stderr, work / "results")

    return judged


def test_a_part_is_measured_and_drawn(judged: Callable[..., Judged]) -> None:
    run = judged({"square.gcode": SQUARE, "printer.properties": "[PRINTER]\nFILAMENT_DIAMETER = 1.75\n"})

    assert run.exit_code == 0, run.printed
    assert (run.results / "passed.log").exists()
    assert run.failed == {}
    for row in (
        "layers | 1",
        "filament | 4 mm = 0.01 cm³",
        "printed | 40 mm",
        "X | 0.00 to 10.00 mm",
        "time | 0 min 1 s",
    ):
        assert f"| {row} |" in run.page
    assert "square.gcode: time 0 min 1 s, moves 5, layers 1" in run.printed
    pictures = re.findall(r"!\[(.+)\]\((.+)\)", run.page)
    assert pictures == [("top view", "square.gcode-top.png"), ("3D view", "square.gcode-3d.png")]
    for _, name in pictures:
        content = (run.results / name).read_bytes()
        assert content.startswith(PNG)
        assert _colours(content) > 3, "there is something on it"
        assert ElementTree.parse((run.results / name).with_suffix(".svg")).getroot().tag.endswith("svg")


def _colours(png: bytes) -> int:
    """A bound below the number of the picture's colours: bytes that its rows consist of."""
    data, at = b"", len(PNG)
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4]), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    return len(set(zlib.decompress(data)))


@pytest.mark.parametrize(
    ("files", "name", "place", "told"),
    [
        ({}, "there is G-code", (None, None), "no file ends in .gcode, .gco, .g, .nc"),
        (
            {"part.txt": SQUARE, "results/old.gcode": SQUARE, "results/passed.log": ""},
            "there is G-code",
            (None, None),
            "no file ends in",
        ),
        (
            {f"{number}.g": SQUARE for number in range(11)},
            "there is not too much G-code",
            (None, None),
            "there are 11 files, and 10 may be handed in at once",
        ),
        (
            {"a.gcode": SQUARE, "printer.properties": "[PRINTER]\nMAX_X = wide\n"},
            "the printer's properties make sense",
            ("printer.properties", 2),
            "MAX_X must be a number above 0 and up to 10000, not wide",
        ),
        (
            {"a.gcode": SQUARE, "printer.properties": b"[PRINTER]\n" + b"; long\n" * 10_000},
            "the printer's properties make sense",
            ("printer.properties", None),
            "the file is larger than 64 KiB",
        ),
        ({"empty.nc": ""}, "something moves", ("empty.nc", None), "no line moves X, Y or Z"),
        (
            {"good.gcode": SQUARE, "deep/er/BAD.GCODE": SQUARE + "G1 X10\nG1 X201\nG5\n"},
            "every move stays inside the printer",
            ("deep/er/BAD.GCODE", 9),
            "line 9: X gets to 201, beyond MAX_X = 200",
        ),
        (
            {"a.gcode": "G28\nG1 X1 F3000\n" + "G5\n" * 50},
            "every command is known",
            ("a.gcode", 3),
            "and 20 more",
        ),
    ],
    ids=["nothing", "other files", "too many", "wrong value", "huge properties", "empty", "outside", "many problems"],
)
def test_what_is_wrong_is_told_at_its_place(
    judged: Callable[..., Judged], files: Files, name: str, place: tuple[str | None, int | None], told: str
) -> None:
    run = judged(files)

    assert run.exit_code == 1, run.printed
    assert not (run.results / "passed.log").exists()
    file, line, message = run.failed[name]
    assert (file, line) == place
    assert told in message.splitlines()[0 if "more" not in told else -1]


@settings(max_examples=3, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.lists(FILES, min_size=10, max_size=10))
@example([["G28", "M83", "G1 Z10 E5"], ["G28", "G1 Z-1"], ["G1 E5", "G3 X5"], ["G3 X5 Y1", "G1 Z5"]])
@example([["G28"] * 600_000 + ["G1 X10"]])
def test_no_file_breaks_the_drawing(judged: Callable[..., Judged], files: list[list[str]]) -> None:
    run = judged({f"{number}.gcode": "\n".join(code) for number, code in enumerate(files)})

    assert run.exit_code in (0, 1), run.printed


def test_odd_properties_are_warned_of(judged: Callable[..., Judged]) -> None:
    run = judged({"a.gcode": SQUARE, "printer.properties": "[PRINTER]\nMAXX = 100\n"})

    assert run.exit_code == 0, run.printed
    assert run.failed == {
        "every property of the printer is known": ("printer.properties", 2, "MAXX means nothing; MAX_X?")
    }


def test_properties_that_are_not_at_the_top_are_warned_of(judged: Callable[..., Judged]) -> None:
    run = judged({"a.gcode": SQUARE, "b/printer.properties": "[PRINTER]\nMAX_X = 5\n"})

    assert run.exit_code == 0, run.printed
    assert run.failed == {
        "the printer's properties are found": ("b/printer.properties", None, "it is not read there; put it at the top")
    }


def test_names_are_neither_markdown_nor_formulas_nor_paths(judged: Callable[..., Judged]) -> None:
    names = ["a/b.gcode", "a_b.gcode", "$x_1$`![](x).gcode", "größe <b>.gcode", "x" * 200 + ".gcode"]

    run = judged(dict.fromkeys(names, SQUARE))

    assert run.exit_code == 0, run.printed
    linked = re.findall(r"!\[top view\]\((.+)\)", run.page)
    assert len(set(linked)) == len(names)
    assert all((run.results / name).read_bytes().startswith(PNG) for name in linked)
    assert "## `$x_1$?![](x).gcode`" in run.page
    assert "## `größe <b>.gcode`" in run.page


def test_the_course_may_fix_the_printer(judged: Callable[..., Judged]) -> None:
    files = {"a.gcode": SQUARE, "printer.properties": "[PRINTER]\nMAX_X = 1000\n"}

    run = judged(files, {"PRINTER_MAX_X": "9"})
    broken = judged(files, {"PRINTER_MAX_X": "nine"})

    assert run.failed["every move stays inside the printer"][2] == "line 4: X gets to 10, beyond MAX_X = 9"
    assert "The printer: `9 x 200 x 200 mm`" in run.page
    assert broken.exit_code == 70, "a mistake of the course is no verdict"
    assert "MAX_X must be a number" in broken.printed
    assert not (broken.results / "report.json").exists()


def test_half_a_million_lines_are_judged_and_drawn(judged: Callable[..., Judged]) -> None:
    lines = ["G28", "M83", "G1 Z0.2 F3000"]
    for number in range(500_000):
        row, column = divmod(number, 100)
        if not row % 25 and not column:
            lines.append(f"G1 Z{0.2 + row / 25 * 0.2:.2f}")
        lines.append(f"G1 X{column % 100 + 50} Y{row % 25 * 4 + 50 + column % 2 * 3} E0.1")

    run = judged({"large.gcode": "\n".join(lines)})

    assert run.exit_code == 0, run.printed
    assert "layers 200" in run.printed
    assert max(path.stat().st_size for path in run.results.iterdir()) < 2_000_000


@pytest.mark.parametrize(
    "content",
    [
        b"G28\nG1 X10 F3000\n;" + b"x" * 10_000_000,
        b"G28\nG1 X10 F3000\nG1 X" + b"9" * 10_000_000,
        b"G28\nG1 X1e308 Y1e-308 F3000\nG1 X999999999\nG1 X-999999999 Y999999999 Z999999999\n",
        b"G28\nG20\nG91\n" + b"G1 X999999999 Y-999999999 F1\nG2 I999999999\n" * 1000,
        b"G28\nG1 X100 Y100 F3000\n" + b"G2 I50\n" * 100_000,
        bytes(range(256)) * 1000,
    ],
    ids=["long comment", "long number", "large numbers", "far away", "turns", "binary"],
)
def test_hostile_content_is_judged_all_the_same(judged: Callable[..., Judged], content: bytes) -> None:
    run = judged({"hostile.gcode": content})

    assert run.exit_code in (0, 1), run.printed
    assert {check["file"] for check in run.checks} == {"hostile.gcode"}
    assert "Warning" not in run.printed
    assert all(len(line) < 500 for line in run.page.splitlines())
