"""What `python-tests` says of submissions, with suites of a course's own."""

import json
import re
import subprocess
import textwrap
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workbench import Printout, open_engine

from ulos_stream import shipped
from ulos_stream.errors import ExecutorCrashed, ServiceMissing
from ulos_stream.executors import Job, Output
from ulos_stream.executors.container import ContainerExecutor
from ulos_stream.executors.descriptor import ContainerDescriptor, Sandbox, read_descriptor
from ulos_stream.images import build
from ulos_stream.tasks import Verdict

FOLDER = shipped("executors") / "python-tests"
CANARY = "c4n4ry"
"""In the suites, where no student may see it."""


def blocks(language: str) -> list[str]:
    """The examples in the README."""
    return re.findall(rf"```{language}\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)


class Course:
    """Images of suites, made as the README says."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.images: list[str] = []

    def image(self, **suite: str) -> str:
        """An image with these files as its suite, their names without `.py`."""
        folder = self._directory / uuid.uuid4().hex
        (folder / "suite").mkdir(parents=True)
        [dockerfile] = blocks("dockerfile")
        (folder / "Dockerfile").write_text(dockerfile)
        for name, code in suite.items():
            (folder / "suite" / f"{name}.py").write_text(textwrap.dedent(code))
        self.images.append(f"ulos-test/course-{folder.name}")
        build(folder, self.images[-1])
        return self.images[-1]


@pytest.fixture(scope="module")
def course(built: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    built("python-tests")
    course = Course(tmp_path_factory.mktemp("course"))
    yield course
    subprocess.run(["docker", "rmi", *course.images], capture_output=True, check=False)


class Ended:
    """What has become of a submission."""

    def __init__(self, verdict: Verdict, printed: str, work: Path) -> None:
        self.verdict = verdict
        self.printed = printed
        results = work / "results"
        self.files = {path.name: path.read_bytes() for path in results.iterdir()}
        self.report: dict[str, Any] = json.loads(self.files["report.json"])
        self.checks = {check["name"].partition("::")[2]: check for check in self.report["checks"]}
        self.statuses = {name: check["status"] for name, check in self.checks.items()}
        shown = printed.encode() + b"".join(self.files.values())
        assert CANARY.encode() not in shown, shown.decode()


async def tried(image: str, directory: Path, *, limit_s: int = 10, sandbox: Any = None, **submission: str) -> Ended:
    """Run a submission of these files, their names without `.py`."""
    work = directory / uuid.uuid4().hex
    work.mkdir()
    for name, code in submission.items():
        (work / f"{name}.py").write_text(textwrap.dedent(code))
    descriptor = read_descriptor(FOLDER / "executor.toml")
    assert isinstance(descriptor, ContainerDescriptor)
    changes = {"image": image, "environment": {"TEST_LIMIT_S": str(limit_s)}}
    descriptor = descriptor.model_copy(update={**changes, "sandbox": sandbox or descriptor.sandbox})
    printout = Printout()
    async with open_engine() as engine:
        executor = ContainerExecutor(descriptor, FOLDER, engine)
        verdict = await executor.run(Job(work, Output(printout, 1 << 20), str(uuid.uuid4()), "task-1"))
    return Ended(verdict, printout.text(), work)


@pytest.fixture(scope="module")
def readme(course: Course) -> str:
    """The image of the README's suite."""
    [suite] = [block for block in blocks("python") if "import sorting" in block]
    [printing] = [block for block in blocks("python") if "redirect_stdout" in block]
    return course.image(test_sorting=suite, test_printing=printing)


SORTING = """
    class StackIsEmpty(Exception): pass

    class Stack:
        def pop(self): raise StackIsEmpty

    def sort(numbers): numbers.sort()
    def sorted_by(words, key): return sorted(words, key=key)
"""
MAIN = """
    import sys

    def greet(name): print(f"Hello, {name}!")
    def ask_name(): return input()
    if __name__ == "__main__":
        print(*sorted(sys.stdin.read().split(), reverse="--reverse" in sys.argv))
"""


async def test_the_suite_of_the_readme_passes_what_does_as_it_wants(readme: str, tmp_path: Path) -> None:
    ended = await tried(readme, tmp_path, sorting=SORTING, main=MAIN)

    assert ended.verdict is Verdict.PASS, ended.report
    assert set(ended.statuses.values()) == {"passed"}
    assert set(ended.files) == {"report.json", "report.md", "junit.xml"}


async def test_the_report_says_what_came_and_where_an_exception_arose(readme: str, tmp_path: Path) -> None:
    wrong = SORTING.replace("numbers.sort()", "numbers.reverse()").replace("raise StackIsEmpty", "return [][0]")

    ended = await tried(readme, tmp_path, sorting=wrong, main=MAIN)

    assert ended.verdict is Verdict.FAIL
    assert ended.statuses["test_sort_in_place[numbers0]"] == "passed"
    unsorted = ended.checks["test_sort_in_place[numbers2]"]
    assert unsorted["message"].startswith("Sorts the list that it is given.\nassert [2, 1, 3] == [1, 2, 3]")
    raised = ended.checks["test_an_empty_stack_refuses"]
    told = "IndexError: list index out of range\nsorting.py:5 in pop: def pop(self): return [][0]"
    assert (raised["message"], raised["file"], raised["line"]) == (told, "sorting.py", 5)
    junit = ET.fromstring(ended.files["junit.xml"])
    failures = {case.get("name"): case.find("failure") for case in junit.iter("testcase")}
    assert failures["test_an_empty_stack_refuses"].text == told  # type: ignore[union-attr]
    assert failures["test_the_key_is_used"] is None
    assert "failed   test_sorting.py::test_an_empty_stack_refuses" in ended.printed


async def test_a_submission_without_its_module_is_told_so(readme: str, tmp_path: Path) -> None:
    ended = await tried(readme, tmp_path, main=MAIN)

    assert ended.verdict is Verdict.FAIL
    assert ended.checks["test_an_empty_stack_refuses"]["message"] == (
        "ModuleNotFoundError: the submission has no sorting.py"
    )
    assert ended.statuses["test_the_program"] == "passed"


@pytest.fixture(scope="module")
def odd(course: Course) -> str:
    """A suite with all that pytest has to say of a test, and a canary."""
    return course.image(
        conftest=f"""
            # {CANARY}
            import pytest

            @pytest.fixture(scope="module")
            def counter():
                import work
                return work.Counter()

            @pytest.fixture
            def careful():
                yield
                import work
                work.tidy()
        """,
        helper="""
            import random
            from work import double

            def expected():
                value = random.randrange(1000)
                return value, double(value)
        """,
        test_odd=f"""
            import unittest
            import pytest
            import helper
            import work
            from work import LIMIT

            def test_counts(counter):
                counter.count()
                assert counter.total == 1  # {CANARY}

            def test_goes_on_counting(counter):
                counter.count()
                assert counter.total == 2

            def test_constant():
                assert isinstance(LIMIT, int)  # {CANARY}
                assert LIMIT > 1

            def test_helper():
                value, doubled = helper.expected()
                {CANARY} = value + value
                assert doubled == {CANARY[0]}{CANARY[1:]}, "wrong"

            @pytest.mark.skip(reason="not today")
            def test_skipped():
                assert False, "{CANARY}"

            @pytest.mark.xfail(reason="known")
            def test_expected_to_fail():
                assert work.double(1) == 3

            class TestOld(unittest.TestCase):
                def test_case(self):
                    "{CANARY}" and self.assertEqual(work.double(2), 4)
                def test_parts(self):
                    for number in (1, 2):
                        with self.subTest(number=number):
                            self.assertEqual(work.double(number), 2 * number)  # {CANARY}

            def test_subtests(subtests):
                for number in (1, 2):
                    with subtests.test(number=number):
                        assert work.double(number) == 2 * number  # {CANARY}

            def test_tidied(careful):
                pass

            def test_coroutine(student_import):
                assert student_import("asyncio").run(work.later()) == 7

            def test_swallows_what_it_can():
                with pytest.raises(Exception):
                    work.refuse()

            def test_prints():
                print("{CANARY}")
                work.double(1)
        """.replace(f"{CANARY} = value", "answer = value").replace(f"doubled == {CANARY}", "doubled == answer"),
    )


WORK = """
    LIMIT = 5

    class Counter:
        def __init__(self): self.total = 0
        def count(self): self.total += 1

    def double(number): return 2 * number
    def tidy(): pass
    def refuse(): raise ValueError
    async def later(): return 7
"""


async def test_all_kinds_of_tests_can_pass(odd: str, tmp_path: Path) -> None:
    ended = await tried(odd, tmp_path, work=WORK)

    assert ended.verdict is Verdict.PASS, ended.report
    warned = {"test_skipped": "not today", "test_expected_to_fail": "known"}
    assert {name for name, status in ended.statuses.items() if status == "warning"} == set(warned)
    for name, reason in warned.items():
        assert reason in ended.checks[name]["message"]


@pytest.mark.parametrize(
    ("good", "bad", "failed"),
    [
        ("2 * number", "4", {"test_helper", "TestOld::test_parts", "test_subtests"}),
        ("def tidy(): pass", "def tidy(): 1 / 0", {"test_tidied"}),
        ("LIMIT = 5", "LIMIT = '5'", {"test_constant"}),
        ("raise ValueError", "import os; os._exit(0)", {"test_swallows_what_it_can"}),
        ("raise ValueError", "any(iter(int, 1))", {"test_swallows_what_it_can"}),
        ("self.total += 1", "import os; os._exit(0)", {"test_counts", "test_goes_on_counting"}),
        ("return 7", "raise KeyboardInterrupt", {"test_coroutine"}),
        ("raise ValueError", "raise KeyboardInterrupt('x' * 20_000_000)", {"test_swallows_what_it_can"}),
    ],
)  # fmt: skip
async def test_one_mistake_fails_the_tests_that_meet_it(
    odd: str, tmp_path: Path, good: str, bad: str, failed: set[str]
) -> None:
    ended = await tried(odd, tmp_path, limit_s=2, work=WORK.replace(good, bad))

    assert {name for name, status in ended.statuses.items() if status == "failed"} == failed
    assert ended.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "raise KeyboardInterrupt",
        "import os; os.closerange(3, 100)",
        "import os; os.chmod('.', 0)",
        "import builtins; builtins.getattr = None",
        "raise ImportError",
    ],
)
async def test_no_import_passes_or_hides_a_test(odd: str, tmp_path: Path, code: str) -> None:
    ended = await tried(odd, tmp_path, limit_s=2, work=code)

    assert ended.verdict is Verdict.FAIL
    assert len(ended.checks) == 13


async def test_what_takes_too_long_too_often_is_given_up(odd: str, tmp_path: Path) -> None:
    ended = await tried(odd, tmp_path, limit_s=1, work=WORK.replace("2 * number", "any(iter(int, 1))"))

    slow = [name for name, check in ended.checks.items() if "longer than 1 s" in check["message"]]
    given_up = [name for name, check in ended.checks.items() if "not run" in check["message"]]
    assert len(slow) == 3
    assert given_up[-1] == "test_prints"


@pytest.mark.parametrize("nonsense", ["assert", "import pytest\n\ndef test_x(:"])
def test_a_suite_that_cannot_be_collected_makes_no_image(course: Course, nonsense: str) -> None:
    with pytest.raises(ServiceMissing, match="SyntaxError"):
        course.image(test_broken=nonsense)


def test_a_suite_that_uses_the_submission_too_early_makes_no_image(course: Course) -> None:
    with pytest.raises(ServiceMissing, match="does not run while tests are collected"):
        course.image(test_early="import work\nANSWER = work.double(2)\ndef test_answer(): assert ANSWER == 4")


@pytest.mark.parametrize("place", ["conftest", "test_breaks"])
async def test_a_suite_that_breaks_at_run_time_is_not_put_down_to_the_student(
    course: Course, tmp_path: Path, place: str
) -> None:
    breaking = f"""
        import os
        if os.path.exists("/work"):
            raise RuntimeError("{CANARY} no such server")
    """
    image = course.image(test_fine="def test_fine(): pass", **{place: breaking})

    with pytest.raises(ExecutorCrashed, match="the executor failed itself"):
        await tried(image, tmp_path)


async def test_a_submission_that_looks_everywhere_finds_nothing(built: Callable[[str], Path], tmp_path: Path) -> None:
    built("python-tests")
    sample = FOLDER / "samples" / "fail-peek"
    files: dict[str, Any] = {path.stem: path.read_text() for path in sample.glob("*.py")}

    ended = await tried("python-tests", tmp_path, **files)

    found = {line for line in ended.printed.splitlines() if line.startswith("FOUND:")}
    assert found == {"FOUND: [('pytest turned off', 'in this process, which nobody asks')]"}
    assert ended.printed.count("PermissionError") > 20
    assert ended.verdict is Verdict.FAIL
    assert not [name for name, status in ended.statuses.items() if name.startswith("test_area") and status == "passed"]


async def test_without_a_user_of_its_own_nothing_is_tested(odd: str, tmp_path: Path) -> None:
    with pytest.raises(ExecutorCrashed, match="the executor failed itself"):
        await tried(odd, tmp_path, sandbox=Sandbox(), work=WORK)
