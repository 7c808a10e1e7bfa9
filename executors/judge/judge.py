"""What the entrypoint of an image does around a student's program: run it apart, then judge by evidence.

    judge = Judge("python-tests", work=Path("/work"))
    exit_code = judge.run(["python3", "main.py"])         # as another user, in a copy; nothing of it lives on
    judge.conclude([Check("it runs", exit_code == 0)], expected=1)

An entrypoint that has imported this and raises ends with exit code 70: the judge failed, and that is no verdict on the
work.

The student's program never touches the mounted directory: it gets a copy below /tmp. Where the container may change
users (a root entrypoint with SETUID and SETGID) it runs as a user of its own, who can neither read `judge.private`
nor write `results/`. Elsewhere both are one user, who can do all that with files: then the verdict rests on the order
(everything that user runs is killed first, then `results/` is emptied, then judged), and on what the judge has in its
memory: no `/proc` shows that, or its descriptors, to anybody but a root.

Python 3.11 or newer and nothing else: it is copied into images.
"""

import ctypes
import dataclasses
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

STUDENT = 65533
"""User and group id of the student's program, where it has one of its own; nobody else's in the image."""
CAP_SETGID, CAP_SETUID = 6, 7
"""Numbers of the capabilities (linux/capability.h)."""
PR_SET_DUMPABLE = 4
"""Number of that option (linux/prctl.h)."""
PASSED = "passed.log"
BROKEN = 70
"""Exit code that a node takes for a crash of the executor, not for FAIL (EX_SOFTWARE of sysexits.h)."""
MOST_ADOPTED_BYTES = 64 * 1024 * 1024
MOST_LEVELS = 28
"""Of directories below one: deeper than anybody's work, and less than a result may be (`ULOS_ARCHIVE_DEPTH`)."""
MOST_LINES = 40
"""Of a message in `report.md`; `report.json` has all of it."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    message: str = ""
    """For the student: what is wrong and, if possible, what to do."""
    file: str | None = None
    """Where, relative to the submission."""
    line: int | None = None
    """From 1; what is below, a student's program may have told it, is left out of the report."""
    warning: bool = False
    """Worth telling, but no reason to fail."""

    @property
    def status(self) -> str:
        """`passed`, `failed` or `warning`, as the report has it."""
        return "warning" if self.warning else "passed" if self.passed else "failed"


class Judge:
    """One run.

    Args:
        name: The executor, for the report.
        work: Where the submission is mounted; `results/` in there is emptied at once.
        copied: Whether to make `copy`; a judge that runs nothing of the student's needs none.
    """

    def __init__(self, name: str, work: Path, *, copied: bool = True) -> None:
        ctypes.CDLL(None).prctl(
            PR_SET_DUMPABLE, 0, 0, 0, 0
        )  # of this process alone: a program that is started has its own
        self.name = name
        self.work = work
        self.results = work / "results"
        self.private = Path(tempfile.mkdtemp(prefix="judge-"))
        """Of the judge alone, if the student's program has a user of its own."""
        self.is_apart = os.geteuid() == 0 and {CAP_SETGID, CAP_SETUID} <= _capabilities()
        """Whether the student's program has a user of its own."""
        self._is_running = False
        self.copy = Path(tempfile.gettempdir()) / "submission"
        """The student's copy of the submission; its program starts in there."""
        empty(self.results)
        if copied:
            self._copy()

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] = {},
        limit_s: float | None = None,
        **streams: Any,
    ) -> int | None:
        """Run a program of the student's to its end, and kill all that it has started.

        Args:
            command: Program and arguments; it starts in `copy`.
            environment: Its variables, beside PATH, HOME and LANG; nothing else is handed on.
            limit_s: Seconds that it may take.
            streams: `stdin`, `stdout`, `stderr` and `pass_fds`, as `subprocess.Popen` takes them; output goes to ours
                and there is no input by default.

        Returns:
            Its exit code, negative for a signal; None when it took too long.
        """
        with self.start(command, environment=environment, **streams) as process:
            try:
                return process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                self.end()

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str] = {}, **streams: object
    ) -> "subprocess.Popen[bytes]":
        """Start a program of the student's, for those who talk to it; `end` is theirs to call."""
        sys.stdout.flush()
        given = {"PATH": os.environ["PATH"], "HOME": str(self.copy.parent), "LANG": "C.UTF-8", **environment}
        self._is_running = True
        user = {"user": STUDENT, "group": STUDENT, "extra_groups": []} if self.is_apart else {}
        arguments = {"stdin": subprocess.DEVNULL, "cwd": self.copy, "env": given, "start_new_session": True}
        return subprocess.Popen(command, **{**arguments, **user, **streams})  # type: ignore[call-overload,no-any-return]

    def end(self, process: "subprocess.Popen[bytes] | None" = None) -> None:
        """Kill all that the student's program runs, in whatever session it hides; only the judge's results stay.

        Args:
            process: Kill only this one and what it has started in its own session; others still run.
        """
        if not self._is_running:
            return
        # `kill -1` reaches all that this user may signal, but itself and the container's init: no process can fork
        # its way out of it, and none of ours is needed, for which there may be no room left.
        if self.is_apart:
            os.seteuid(STUDENT)
        try:
            os.kill(-process.pid if process else -1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            if self.is_apart:
                os.seteuid(0)
        if process:
            return
        self._is_running = False
        if not self.is_apart:
            empty(self.results)

    def adopt(self, paths: Iterable[Path], folder: str) -> None:
        """Copy files that the student's program left, screenshots for example, to `results/FOLDER/`.

        Only regular files, reached through no link below the copy, not too deep, and no more than 64 MiB; the rest is
        left out. The program is ended first: what it has left cannot change while it is looked at.
        """
        self.end()
        left_bytes = MOST_ADOPTED_BYTES
        for path in sorted(paths):
            place = path.relative_to(self.copy)
            target = self.results / folder / place
            try:
                if len(place.parts) > MOST_LEVELS or path.resolve(strict=True) != self.copy.resolve() / place:
                    continue
                with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                    status = os.fstat(file.fileno())
                    if not stat.S_ISREG(status.st_mode) or status.st_size > left_bytes:
                        continue
                    content = file.read(left_bytes)
            except (OSError, RuntimeError, ValueError):  # links in a circle; a name that is none
                continue
            left_bytes -= len(content)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def conclude(self, checks: Sequence[Check], *, expected: int | None = None, notes: str = "") -> NoReturn:
        """Kill what the student's program runs, and conclude as `conclude` does.

        Args:
            checks: What was looked at, in the order in which a person is to read it. None at all is a FAIL.
            expected: How many checks there must be; a program that ends early leaves fewer.
            notes: Markdown that follows the checks in `report.md`.
        """
        self.end()
        if expected is not None and len(checks) != expected:
            told = f"{len(checks)} of {expected} checks were reported; the program ended early, or told its own story"
            checks = [*checks, Check("all checks were carried out", False, told)]
        conclude(self.name, self.results, checks, notes=notes)

    def _copy(self) -> None:
        """Give the student's program a submission of its own: read by us, written by its user."""
        # A root without DAC_OVERRIDE enters only what it may: not a directory of the student's with mode 0700.
        modes = "--mode=u+rwX,go=rX"
        packing = subprocess.Popen(
            ["tar", "-C", self.work, "--anchored", "--exclude=./results", modes, "-cf", "-", "."],
            stdout=subprocess.PIPE,
        )
        assert packing.stdout is not None
        user = {"user": STUDENT, "group": STUDENT, "extra_groups": []} if self.is_apart else {}
        script = 'mkdir "$0" && tar -C "$0" --no-same-owner --no-same-permissions -xf - && chmod 755 "$0"'
        unpacked = subprocess.run(["sh", "-c", script, self.copy], stdin=packing.stdout, **user)  # type: ignore[call-overload]
        if packing.wait() or unpacked.returncode:
            told = "it cannot be copied to /tmp: is it larger than the sandbox's tmpfs_mib?"
            self.conclude([Check("the submission has room", False, told)])


def conclude(name: str, results: Path, checks: Sequence[Check], *, notes: str = "") -> NoReturn:
    """Write the reports and, if everything passed, the verdict file; end with the exit code to match.

    All that an executor needs which runs nothing of the student's.

    Args:
        name: The executor.
        results: The folder, which is there.
        checks: What was looked at, in the order in which a person is to read it. None at all is a FAIL.
        notes: Markdown that follows the checks in `report.md`.
    """
    checks = [dataclasses.replace(check, line=max(check.line or 0, 0) or None) for check in checks]
    passed = bool(checks) and all(check.passed or check.warning for check in checks)
    verdict = "PASS" if passed else "FAIL"
    report = {
        "executor": name,
        "verdict": verdict,
        "checks": [
            {"name": c.name, "status": c.status, "message": c.message, "file": c.file, "line": c.line} for c in checks
        ],
    }
    as_json = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    for file, text in (("report.json", as_json), ("report.md", _markdown(name, verdict, checks, notes))):
        (results / file).write_text(text, encoding="utf-8", errors="backslashreplace")
    failed = sum(check.status == "failed" for check in checks)
    print(f"{verdict}: {len(checks) - failed} of {len(checks)} checks passed", flush=True)
    if passed:
        (results / PASSED).write_text("")
    sys.exit(0 if passed else 1)


def walk(top: Path) -> Iterator[Path]:
    """What is below `top` and no directory; without what cannot be looked into, or lies deeper than `MOST_LEVELS`."""
    # Path.rglob and os.walk call themselves for each level: a program can make more of them than Python bears.
    left = [(top, 1)]
    while left:
        folder, level = left.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield folder / entry.name
                    elif level < MOST_LEVELS:
                        left.append((folder / entry.name, level + 1))
        except OSError:
            continue


def empty(results: Path) -> None:
    """Make `results` an empty folder, whatever the submission has in its place."""
    # By commands: a tree may be deeper than Python's recursion, and closed to its owner.
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        subprocess.run([*command, results], stderr=subprocess.DEVNULL)
    results.mkdir()  # or there is no verdict


def _broken(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    """End after an exception that nobody caught."""
    try:
        sys.stdout.flush()
        sys.__excepthook__(kind, error, trace)
        print("the executor itself failed; that says nothing about the work", file=sys.stderr, flush=True)
    finally:
        os._exit(BROKEN)


sys.excepthook = _broken


def _capabilities() -> set[int]:
    """Numbers of the capabilities that this process has."""
    status = Path("/proc/self/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    return {number for number in range(64) if mask >> number & 1}


def _markdown(name: str, verdict: str, checks: Sequence[Check], notes: str) -> str:
    """The report for people: what is wrong first."""
    order = {"failed": 0, "warning": 1, "passed": 2}
    marks = {"failed": "✗", "warning": "!", "passed": "✓"}
    lines = [f"# {name}: {verdict}", ""]
    for check in sorted(checks, key=lambda check: order[check.status]):
        place = f"({check.file}{f':{check.line}' if check.line else ''})" if check.file else ""
        lines.append(f"- {marks[check.status]} **{_plain(check.name)}** {_plain(place)}".rstrip())
        lines += [f"  {line}".rstrip() for line in _message(check.message)]
    return "\n".join([*lines, *(["", notes.rstrip()] if notes else []), ""])


def _message(text: str) -> list[str]:
    """One line as text, several as they are: a comparison or a traceback has its columns."""
    lines = [_printable(line) for line in text.splitlines()[:MOST_LINES]]
    if len(lines) < 2:
        return [_plain(line) for line in lines]
    fence = "`" * max(3, *(len(run) + 1 for line in lines for run in re.findall("`+", line)), 3)
    return [f"{fence}text", *lines, fence]


def _plain(text: str) -> str:
    """`text` with nothing in it that Markdown or HTML would act on."""
    text = re.sub(r"[\\`*<>\[\]~|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", _printable(text).strip())
    return re.sub(r"^(\s*\d*)([-+=#.)])", r"\1\\\2", text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
