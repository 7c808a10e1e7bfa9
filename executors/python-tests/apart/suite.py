"""The suite as pytest runs it: what it may use of the submission, and what is told of each test.

pytest, the suite and the verdict are in one process, in which no code of the student's ever runs.
"""

import ast
import importlib.util
import inspect
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from judge import Check

from apart.errors import Frame, Lost, TooSlow
from apart.imports import SubmissionFinder
from apart.process import Student
from apart.remote import Remote
from apart.wire import MUTABLE

MOST_SLOW = 3
"""Tests that may run into their limit of time before the rest is given up: the report is to come before the task's."""
MOST_PRINTED_BYTES = 1024 * 1024
"""Of a program: what is beyond is no answer to any test."""

MOST_TOLD, MOST_TOLD_LINE = 4000, 200
"""Characters of a failed test's message, and of each line of a student's code in it."""


def imports(suite: Path) -> frozenset[str]:
    """Names of the modules that the suite imports, and that neither it nor the image has: the submission's."""
    own = {path.stem for path in suite.rglob("*") if path.is_dir() or path.suffix == ".py"}
    trees = [ast.parse(path.read_bytes(), path.name) for path in suite.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    tops = {name.partition(".")[0] for name in names} - own
    return frozenset(top for top in tops if importlib.util.find_spec(top) is None)


class Suite:
    """A plugin of pytest's.

    Args:
        folder: The suite.
        student: Runs the submission.
        tell: Told of each test as it ends.
    """

    def __init__(self, folder: Path, student: Student, tell: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.names: list[str] = []
        """Of the tests, as they were collected before any of the student's code ran."""
        self.checks: dict[str, Check] = {}
        """By the name of the test."""
        self.troubles: list[str] = []
        """Why the suite itself cannot be run."""
        self.modules = imports(folder)
        """What it expects of a submission."""
        self._student = student
        self._tell = tell
        self._slow = 0
        self._missing: dict[tuple[str, str], BaseException] = {}
        """Why a module of the suite did not get something that it imports from the submission, and its name there."""
        sys.meta_path.append(SubmissionFinder(student, self.modules))

    @pytest.fixture
    def student_import(self) -> Callable[[str], Remote]:
        """Gives any module as the student's process has it, `student_import("builtins")` for example."""
        return self._student.named

    @pytest.fixture
    def run_program(self) -> Callable[..., "subprocess.CompletedProcess[str]"]:
        """Runs Python with the given arguments in the submission, as a process of its own."""

        def run_program(*arguments: str, input: str = "") -> "subprocess.CompletedProcess[str]":
            return self._run(["python3", "-B", *arguments], input)

        return run_program

    def _run(self, command: list[str], given: str) -> "subprocess.CompletedProcess[str]":
        judge = self._student.judge
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            stdin.write(given.encode())
            stdin.seek(0)
            with judge.start(command, stdin=stdin, stdout=stdout, stderr=stderr) as process:
                try:
                    process.wait(timeout=self._student.left_s)
                except subprocess.TimeoutExpired:
                    raise TooSlow(f"{command} took longer than {self._student.limit_s:g} s") from None
                finally:
                    judge.end(process)
            printed = []
            for file in (stdout, stderr):
                file.seek(0)
                printed.append(file.read(MOST_PRINTED_BYTES + 1).decode(errors="replace"))
        return subprocess.CompletedProcess(command, process.returncode, *printed)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.troubles.append(str(report.longrepr))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = [item.nodeid for item in session.items]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Put constants and exception classes of the submission where the suite has imported them by name."""
        if session.config.option.collectonly or self.troubles:
            return
        self._student.begin()
        own = [module for module in sys.modules.values() if str(self.folder) in str(getattr(module, "__file__", ""))]
        for namespace in map(vars, own):
            for name, remote in [(name, value) for name, value in namespace.items() if type(value) is Remote]:
                try:
                    found = self._student.resolve(str(remote._where))
                except (Exception, SystemExit, Lost) as exc:
                    self._missing[str(namespace["__name__"]), name] = exc
                    self._slow += isinstance(exc, TooSlow)
                    continue
                if not isinstance(found, (Remote, *MUTABLE)):
                    namespace[name] = found

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._slow >= MOST_SLOW:
            pytest.fail(f"not run: {MOST_SLOW} times the program took too long before", pytrace=False)
        self._student.begin()
        if isinstance(item, pytest.Function):
            for name in item.function.__code__.co_names:
                if error := self._missing.get((item.module.__name__, name)):
                    raise error.with_traceback(None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self._student.begin()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        name, error = item.nodeid, call.excinfo.value if call.excinfo else None
        known = self.checks.get(name)
        if report.failed:
            told = _told(error) if error else report.longreprtext
            report.longrepr = told  # pytest's own would quote the suite
            self._slow += isinstance(error, TooSlow)
            if known is None or known.passed:
                frames = getattr(error, "student_frames", [])
                place = {"file": frames[-1].file, "line": frames[-1].line} if frames else {}
                about = (inspect.getdoc(getattr(item, "obj", None)) or "").partition("\n")[0]
                self.checks[name] = Check(name, False, f"{about}\n{told}".strip(), **place)
        elif known is None and report.skipped:
            why = getattr(report, "wasxfail", None) or (error and str(error)) or "skipped"
            self.checks[name] = Check(name, True, f"not counted: {why}", warning=True)
        elif known is None and report.when == "call":  # a part of it, a subtest, may have failed before
            self.checks[name] = Check(name, True)
        if report.when == "teardown" and name in self.checks:
            self._tell(f"{self.checks[name].status:8} {name}")
        return report


def _told(error: BaseException) -> str:
    """What a failed test says to the student: values, never the suite's source."""
    frames: list[Frame] = getattr(error, "student_frames", [])
    if isinstance(error, (AssertionError, pytest.fail.Exception)) and not frames:
        text = str(error) or "an assertion of the test does not hold"
    else:
        text = "the program calls exit: " * isinstance(error, SystemExit) + f"{type(error).__name__}: {error}"
    lines = [f"{at.file}:{at.line}{f' in {at.function}' * bool(at.function)}: {at.code}" for at in frames]
    return "\n".join([text[:MOST_TOLD], *(line[:MOST_TOLD_LINE] for line in lines)])
