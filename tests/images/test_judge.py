"""The judge around a student's program: in an image, as a root that may change users, and as the student's own user.

The image of `python-tests` has a Python, and `judge.py`; the entrypoint is given with the command.
"""

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from judge import Check, _markdown
from markdown_it import MarkdownIt
from workbench import container_executor, make_job

from ulos_stream.tasks import Verdict

APART = {"user": "0:0", "capabilities": ["SETUID", "SETGID"]}
TOGETHER: dict[str, Any] = {}
MODES = pytest.mark.parametrize("sandbox", [APART, TOGETHER], ids=["apart", "together"])

ENTRYPOINT = """
import os, sys
from pathlib import Path
from judge import Check, Judge
judge = Judge("trial", work=Path("/work"))
"""
RUN = """
exit_code = judge.run(["sh", "job.sh"], limit_s=5)
judge.conclude([Check("it runs", exit_code == 0, f"exit code {exit_code}", file="job.sh", line=1)], expected=1)
"""


class Ended:
    """What has become of a run."""

    def __init__(self, verdict: Verdict, printed: str, work: Path) -> None:
        self.verdict = verdict
        self.printed = printed
        results = work / "results"
        self.files = sorted(str(path.relative_to(results)) for path in results.rglob("*") if not path.is_dir())
        self.report: dict[str, Any] = json.loads((results / "report.json").read_text())
        self.checks = [(check["name"], check["status"]) for check in self.report["checks"]]
        self.work = work


Judged = Callable[..., Any]


@pytest.fixture
def judged(tmp_path: Path, built: Callable[[str], Path]) -> Judged:
    """Runs `job.sh` under an entrypoint that goes on from `ENTRYPOINT`."""
    built("python-tests")

    async def judged(script: str, entrypoint: str = RUN, *, sandbox: dict[str, Any]) -> Ended:
        command = ["python3", "-B", "-c", ENTRYPOINT + textwrap.dedent(entrypoint)]
        job, printout = make_job(tmp_path, textwrap.dedent(script))
        environment = {"PYTHONPATH": "/opt/python-tests", "SECRET": "of the judge"}
        descriptor: dict[str, Any] = {
            "image": "python-tests",
            "command": command,
            "passes": "both",
            "environment": environment,
        }
        async with container_executor(**descriptor, sandbox=sandbox) as executor:
            verdict = await executor.run(job)
        assert (job.directory / "results" / "report.json").exists(), printout.text()
        return Ended(verdict, printout.text(), job.directory)

    return judged


@MODES
async def test_a_program_that_does_well_passes(judged: Judged, sandbox: dict[str, Any]) -> None:
    ended = await judged("echo hello; id -u; cat job.sh >copied && test ! -e results", sandbox=sandbox)

    assert ended.verdict is Verdict.PASS, ended.printed
    assert ended.files == ["report.json", "report.md"]  # the node takes the verdict's file away
    assert ended.report == {
        "executor": "trial",
        "verdict": "PASS",
        "checks": [{"name": "it runs", "status": "passed", "message": "exit code 0", "file": "job.sh", "line": 1}],
    }
    assert ended.printed.split("\n")[0:2] == ["hello", "65533" if sandbox is APART else "65532"]
    assert not (ended.work / "copied").exists()


@MODES
@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$", "sleep 60"])
async def test_a_program_that_does_not_fails(judged: Judged, sandbox: dict[str, Any], script: str) -> None:
    ended = await judged(script, RUN.replace("limit_s=5", "limit_s=1"), sandbox=sandbox)

    assert ended.verdict is Verdict.FAIL
    assert ended.checks == [("it runs", "failed")]


STRAGGLER = """
mkdir -p results /work/results 2>/dev/null
cat >straggler.py <<'END'
import os, signal, sys
if os.fork() or os.setsid() is None and os.fork():
    os._exit(0)
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
os.close(1), os.close(2)
while True:
    for place in ("/work/results", "results", "/tmp"):
        for name in ("passed.log", "report.json"):
            try:
                with open(f"{place}/{name}", "w") as file:
                    file.write('{"verdict": "PASS"}')
            except OSError:
                pass
    if os.fork():
        os._exit(0)
END
python3 straggler.py
python3 straggler.py
sleep 0.3
exit 1
"""


@MODES
@pytest.mark.parametrize("attempt", range(3))
async def test_what_goes_on_after_the_program_has_ended_has_no_say(
    judged: Judged, sandbox: dict[str, Any], attempt: int
) -> None:
    ended = await judged(STRAGGLER, sandbox=sandbox)

    assert ended.verdict is Verdict.FAIL
    assert ended.report["verdict"] == "FAIL"
    assert ended.files == ["report.json", "report.md"]


@pytest.mark.parametrize(
    "trap",
    [
        "ln -s /work/trap results",
        "ln -s /etc results",
        "ln -s results results",
        "mkfifo results",
        "touch results",
        "mkdir results; touch results/passed.log; chmod 0 results/passed.log; chmod 555 results",
        "mkdir -p results/closed/inside; touch results/passed.log; chmod 0 results/closed",
        "mkdir results; ln -s /work/trap/report.json results/report.json; mkfifo results/report.md",
        "mkdir -p results/passed.log/full",
        """python3 -c '
import os
os.mkdir("results"); os.chdir("results")
for _ in range(3000): os.mkdir("d"); os.chdir("d")'""",
    ],
)
async def test_whatever_the_program_puts_in_place_of_the_results_is_removed(judged: Judged, trap: str) -> None:
    script = f"cd /work; mkdir trap; rm -r results; {trap}\nexit 1"

    ended = await judged(script, sandbox=TOGETHER)

    assert ended.verdict is Verdict.FAIL
    assert ended.files == ["report.json", "report.md"]
    assert ended.checks == [("it runs", "failed")]
    assert not (ended.work / "results").is_symlink()
    assert list((ended.work / "trap").iterdir()) == []


async def test_apart_the_program_can_neither_read_nor_write_what_is_the_judges(judged: Judged) -> None:
    script = """
        try() { "$@" >/dev/null 2>&1 && echo "COULD: $*"; }
        try ls "$1"
        try touch /work/results/passed.log
        try rm -r /work/results
        try touch /work/new
        try touch /work/job.sh
        try kill -0 $PPID
        try cat /proc/$PPID/environ
        try cat /proc/$PPID/maps
        try ls /proc/$PPID/fd
        try ls /opt/python-tests/private
        env | cut -d= -f1 | sort | tr '\\n' ' '
        id
    """
    run = """
        (judge.private / "secret").write_text("the answer")
        judge.run(["sh", "job.sh", str(judge.private)])
        judge.conclude([Check("", True)])
    """

    ended = await judged(script, run, sandbox=APART)

    assert "COULD" not in ended.printed
    assert ended.printed.startswith("HOME LANG PATH PWD uid=65533 gid=65533 groups=65533")


async def test_one_program_can_be_ended_without_the_others(judged: Judged) -> None:
    run = """
        import subprocess, time
        first = judge.start(["sh", "-c", "sleep 60 & sleep 60"])
        second = judge.start(["sh", "-c", "read line; echo $line >answer; echo on"], stdin=subprocess.PIPE)
        judge.end(first)
        first_ended = first.wait()
        second.communicate(b"still there")
        sleeping = subprocess.run(["sh", "-c", "cat /proc/[0-9]*/comm"], capture_output=True, text=True).stdout
        judge.conclude([
            Check("the first was killed", first_ended == -9, str(first_ended)),
            Check("with all its group", "sleep" not in sleeping, sleeping),
            Check("the second went on", (judge.copy / "answer").read_text() == "still there\\n"),
        ])
    """

    ended = await judged("", run, sandbox=APART)

    assert ended.verdict is Verdict.PASS, ended.report


FILES = """
mkdir -p shots/deep shots/closed
echo picture >shots/a.png
echo picture >shots/deep/b.png
ln -s /etc/hostname shots/link.png
ln -s /etc shots/folder
ln -s loop.png shots/loop.png
ln shots/a.png shots/hard.png
mkfifo shots/pipe.png
truncate -s 65M shots/huge.png
truncate -s 40M shots/large-1.png
truncate -s 40M shots/large-2.png
echo secret >shots/closed/c.png
ln -s /work/job.sh shots/job.png
touch "shots/$(printf 'odd\\nname').png"
(while :; do rm -rf shots/deep; ln -sT /etc shots/deep; rm shots/deep; mkdir shots/deep; done) 2>/dev/null &
exit 0
"""


@MODES
async def test_only_regular_files_of_the_program_are_adopted(judged: Judged, sandbox: dict[str, Any]) -> None:
    run = """
        judge.run(["sh", "job.sh"])
        names = [*judge.copy.rglob("*"), judge.copy / "shots/folder/passwd", judge.copy / "shots/none"]
        names += [judge.copy / "shots/no\\0name"]
        judge.adopt(names, "kept")
        judge.conclude([Check("it runs", True)])
    """

    ended = await judged(FILES, run, sandbox=sandbox)

    kept = {name.removeprefix("kept/") for name in ended.files if name.startswith("kept/")} - {"shots/deep/b.png"}
    expected = {"job.sh", "shots/a.png", "shots/hard.png", "shots/large-1.png", "shots/closed/c.png"}
    assert kept == expected | {"shots/odd\nname.png"}
    assert ended.verdict is Verdict.PASS


PEEK = """
python3 - $PPID <<'END'
import os, sys
for name, flags in ("mem", os.O_RDONLY), ("mem", os.O_RDWR), ("environ", os.O_RDONLY), ("fd", os.O_RDONLY):
    try:
        sys.exit(f"{name} is open: {os.open(f'/proc/{sys.argv[1]}/{name}', flags)}")
    except PermissionError:
        print(name, "is closed")
END
"""


@MODES
async def test_a_program_finds_neither_memory_nor_descriptors_of_the_judge(
    judged: Judged, sandbox: dict[str, Any]
) -> None:
    ended = await judged(PEEK, sandbox=sandbox)

    assert ended.verdict is Verdict.PASS, ended.printed
    assert ended.printed.count("is closed") == 4


DEEP = """
mkdir one; echo 1 >one/file
python3 -c '
import os
for number in range(1500):
    os.mkdir("d")
    os.chdir("d")
    if number in (20, 40): open("file", "w").close()
'
"""


@MODES
async def test_a_tree_deeper_than_python_can_go_is_walked_as_far_as_anybody_works(
    judged: Judged, sandbox: dict[str, Any]
) -> None:
    run = """
        from judge import walk
        judge.run(["sh", "job.sh"])
        judge.adopt(walk(judge.copy), "kept")
        judge.adopt([judge.copy / ("d/" * 41) / "file"], "kept")
        judge.conclude([Check("it runs", True)])
    """

    ended = await judged(DEEP, run, sandbox=sandbox)

    assert ended.verdict is Verdict.PASS, ended.printed
    kept = [name.removeprefix("kept/") for name in ended.files if name.startswith("kept/")]
    assert sorted(kept) == ["d/" * 21 + "file", "job.sh", "one/file"]


async def test_files_are_adopted_only_once_nothing_can_exchange_them(judged: Judged) -> None:
    run = """
        process = judge.start(["sh", "job.sh"])
        judge.adopt([judge.copy / "job.sh"], "kept")
        judge.conclude([Check("it has ended", process.wait() == -9)])
    """

    ended = await judged("sleep 60", run, sandbox=APART)

    assert ended.verdict is Verdict.PASS
    assert "kept/job.sh" in ended.files


@pytest.mark.parametrize(
    ("conclusion", "status"),
    [
        ("[]", []),
        ("[], expected=1", [("all checks were carried out", "failed")]),
        ("[Check('a', True)], expected=2", [("a", "passed"), ("all checks were carried out", "failed")]),
        ("[Check('a', True), Check('b', False)]", [("a", "passed"), ("b", "failed")]),
    ],
)
async def test_what_is_missing_or_wrong_fails(
    judged: Judged, conclusion: str, status: Sequence[tuple[str, str]]
) -> None:
    ended = await judged("", f"judge.conclude({conclusion})", sandbox=APART)

    assert ended.verdict is Verdict.FAIL
    assert ended.checks == status


async def test_a_warning_is_no_reason_to_fail(judged: Judged) -> None:
    ended = await judged("", "judge.conclude([Check('a', False, 'odd', warning=True)])", sandbox=APART)

    assert ended.verdict is Verdict.PASS
    assert ended.checks == [("a", "warning")]


async def test_half_a_character_of_the_students_spoils_no_report(judged: Judged) -> None:
    run = r"judge.conclude([Check('\ud800', False, 'broken \udcff')])"

    ended = await judged("", run, sandbox=APART)

    assert ended.report["checks"][0]["message"] == "broken \udcff"
    assert "report.md" in ended.files


async def test_a_submission_without_room_in_tmp_fails_with_words(judged: Judged) -> None:
    ended = await judged("#" * 3_000_000, sandbox={**APART, "tmpfs_mib": 2})

    assert ended.verdict is Verdict.FAIL
    assert ended.checks == [("the submission has room", "failed")]


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](https://example.org)",
    "![picture](https://example.org/x.png)",
    "[text]: https://example.org",
    "<https://example.org>",
    "**bold** _it_ ~~gone~~ `code` \\*",
    "# title",
    "- item",
    "+ item",
    "* item",
    "1. item",
    "12) item",
    "> quote",
    "===",
    "---",
    "***",
    "```",
    "~~~",
    "    code",
    "| a | b |",
    "a\u202eb\x1b[31mc",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_the_students_is_markdown(text: str) -> None:
    checks = [Check(text, False, text, file=text), Check("last", True)]

    markup = MarkdownIt("gfm-like", {"linkify": False}).render(_markdown("trial", "FAIL", checks, ""))

    tags = [part.partition(">")[0] for part in markup.split("<")[1:]]
    assert [tag for tag in tags if not tag.startswith("/")] == ["h1", "ul", "li", "strong", "li", "strong"]
    assert "".join(c if c.isprintable() else " " for c in text).strip() in unescaped(markup)


@pytest.mark.parametrize("text", [*HOSTILE, "a\rb\u2028c", "```text\n````\n# title", "`````"])
def test_several_lines_are_shown_as_they_are(text: str) -> None:
    checks = [Check("first", False, f"a\n{text}\n  b"), Check("last", True)]

    markup = MarkdownIt("gfm-like", {"linkify": False}).render(_markdown("trial", "FAIL", checks, ""))

    tags = [part.partition(">")[0] for part in markup.split("<")[1:]]
    opening = [tag for tag in tags if not tag.startswith("/")]
    assert opening == ["h1", "ul", "li", "strong", "pre", 'code class="language-text"', "li", "strong"]


def test_the_report_tells_what_is_wrong_first_and_where() -> None:
    checks = [Check("good", True), Check("odd", True, "warned", warning=True), Check("bad", False, "a_b", "x_y.py", 3)]

    lines = _markdown("trial", "FAIL", checks, "More *notes*.\n").splitlines()

    assert lines == [
        "# trial: FAIL",
        "",
        "- ✗ **bad** (x_y.py:3)",
        "  a_b",
        "- ! **odd**",
        "  warned",
        "- ✓ **good**",
        "",
        "More *notes*.",
    ]


def unescaped(markup: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        markup = markup.replace(entity, character)
    return markup
