"""What keeps a suite and a submission apart: everything goes through a process of the student's, and nothing back."""

import json
import math
import signal
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from apart import wire
from apart.errors import Lost, RemoteError, TooSlow
from apart.imports import SubmissionFinder
from apart.process import Student
from hypothesis import given
from hypothesis import strategies as st
from judge import Judge

LIMIT_S = 5.0
Submission = Callable[..., Student]


class Bystander:
    """Starts and ends processes as a judge does, of the tester's own user: killing all of that user's is not ours."""

    def __init__(self, folder: Path) -> None:
        self.copy = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], **streams: Any) -> "subprocess.Popen[bytes]":
        self.started.append(subprocess.Popen(command, cwd=self.copy, **streams))
        return self.started[-1]

    def end(self) -> None:
        for process in self.started:
            process.kill()


@pytest.fixture
def submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Submission]:
    """Gives a student's process, in whose folder `work.py` holds the given code; tests may run."""
    judge = Bystander(tmp_path)
    student = Student(cast(Judge, judge), limit_s=LIMIT_S)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, SubmissionFinder(student, {"work", "absent"})])

    def submission(code: str, *, limit_s: float = LIMIT_S) -> Student:
        (tmp_path / "work.py").write_text(textwrap.dedent(code))
        student.limit_s = limit_s
        student.begin()
        return student

    yield submission
    student.end()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("work", "absent")]:
        del sys.modules[name]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.binary().map(bytearray)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.datetimes(timezones=st.none() | st.just(timezone(timedelta(hours=2))))
    | st.dates()
    | st.times()
    | st.timedeltas(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.tuples(st.integers()), inner)
        | st.sets(st.text() | st.booleans())
        | st.frozensets(st.integers() | st.binary())
    ),
    max_leaves=10,
)


def kinds(value: object) -> object:
    """The types of a value and of all that is in it."""
    inner: Any = value.items() if isinstance(value, dict) else value
    collections = (list, tuple, set, frozenset, dict)
    return type(value), frozenset(kinds(item) for item in inner) if isinstance(value, collections) else None


def no_link(value: object) -> None:
    """Everything travels by value."""


@given(PLAIN)
def test_a_plain_value_arrives_as_it_was(value: object) -> None:
    sent = json.loads(json.dumps(wire.encode(value, no_link)))

    arrived = wire.decode(sent, lambda kind, content: pytest.fail(f"a link to a {kind}"))

    assert arrived == value
    assert kinds(arrived) == kinds(value)  # 1, 1.0 and True are equal


def test_there_is_no_integer_too_large() -> None:
    assert wire.decode(wire.encode(-(7**20_000), no_link), lambda *_: None) == -(7**20_000)


@pytest.mark.parametrize("value", [float("nan"), Decimal("NaN")])
def test_what_is_no_number_stays_none(value: object) -> None:
    assert repr(wire.decode(wire.encode(value, no_link), lambda *_: None)) == repr(value)


def test_a_subclass_arrives_as_what_it_derives_from() -> None:
    assert wire.decode(wire.encode(Counter("aab"), no_link), lambda *_: None) == {"a": 2, "b": 1}


@pytest.mark.parametrize("value", [1, "text", [1, 2.5, ("a", b"b")], {"a": {1, 2}}, None, date(2026, 1, 2), time(3)])
def test_values_go_there_and_come_back(submission: Submission, value: object) -> None:
    student = submission("def echo(value): return value")

    assert repr(student.named("work").echo(value)) == repr(value)


def test_arguments_are_changed_in_place(submission: Submission) -> None:
    student = submission("""
        def change(numbers, table, names, raw):
            numbers.sort()
            numbers[0].append("new")
            table["b"] = numbers
            names.add("c")
            raw[0] = 65
    """)
    inner: list[object] = [1]
    numbers, table, names, raw = [[2], inner], {"a": 1}, {"b"}, bytearray(b"abc")

    student.named("work").change(numbers, table, names, raw)

    assert numbers == [[1, "new"], [2]]
    assert numbers[0] is inner
    assert table == {"a": 1, "b": numbers}
    assert names == {"b", "c"}
    assert raw == b"Abc"


def test_a_result_that_is_an_argument_is_that_very_argument(submission: Submission) -> None:
    student = submission("def first(rows): return rows[0]")
    row = [1]
    rows = [row, row]

    assert student.named("work").first(rows) is row
    assert rows[0] is row
    assert rows[1] is row


def test_a_list_that_holds_itself_arrives_so(submission: Submission) -> None:
    student = submission("def holds_itself(loop): return loop[0] is loop")
    loop: list[object] = []
    loop.append(loop)

    assert student.named("work").holds_itself(loop) is True
    assert loop[0] is loop


POINT = """
    class Point:
        count = 0
        def __init__(self, x, y):
            self.x, self.y = x, y
        def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
        def __radd__(self, number): return Point(self.x + number, self.y + number)
        def __mul__(self, number): return Point(self.x * number, self.y * number)
        def __iadd__(self, other): self.x += other.x; return self
        def __neg__(self): return Point(-self.x, -self.y)
        def __abs__(self): return self.x + self.y
        def __len__(self): return 2
        def __getitem__(self, index): return (self.x, self.y)[index]
        def __setitem__(self, index, value): setattr(self, "xy"[index], value)
        def __contains__(self, number): return number in (self.x, self.y)
        def __iter__(self): return iter((self.x, self.y))
        def __bool__(self): return bool(self.x or self.y)
        def __lt__(self, other): return self.x < other.x
        def __repr__(self): return f"Point({self.x}, {self.y})"
        def __format__(self, spec): return f"{self.x:{spec}}"
        def __enter__(self): return self.x
        def __exit__(self, kind, error, traceback): return self.y == 0
        def __call__(self, *, step): return self.x + step
        def itself(self): return self
        @property
        def length(self): "How long it is."; return (self.x ** 2 + self.y ** 2) ** 0.5

    class Other: pass
"""


def test_an_object_stays_there_and_can_all_that_it_can(submission: Submission) -> None:
    point: Any = submission(POINT).named("work.Point")
    there = point(3, 4)

    assert type(there).__name__ == "Remote"
    assert (there.x, there.length, len(there), abs(there), there[1], list(there)) == (3, 5.0, 2, 7, 4, [3, 4])
    assert there == point(3, 4) != point(4, 3)
    assert point(1, 2) < there > point(2, 9)
    assert there.itself() is there
    assert {there, point(3, 4)} == {there}
    assert (there + point(1, 1), 1 + there, there * 2, -there) == (point(4, 5), point(4, 5), point(6, 8), point(-3, -4))
    assert (4 in there, 5 in there, bool(point(0, 0))) == (True, False, False)
    assert (repr(there), f"{there:.2f}", there(step=1)) == ("Point(3, 4)", "3.00", 4)
    assert isinstance(there, point)
    assert not isinstance(3, point)
    there[0] = 5
    there.y = 6
    assert (there.x, there.y) == (5, 6)
    before = there
    there += point(1, 0)
    assert there is before
    assert there.x == 6
    del there.y
    assert not hasattr(there, "y")


def test_a_context_manager_sees_how_it_is_left(submission: Submission) -> None:
    point = submission(POINT).named("work.Point")

    with point(3, 4) as x:
        assert x == 3
    with point(3, 0):
        raise ValueError("swallowed over there")
    with pytest.raises(ValueError, match="not swallowed"), point(3, 4):
        raise ValueError("not swallowed")


def test_generators_and_docstrings(submission: Submission) -> None:
    work = submission('''
        def count():
            """Counts."""
            yield 1
            yield 2
    ''').named("work")

    counting = work.count()

    assert (next(counting), next(counting), next(counting, None)) == (1, 2, None)
    assert [*work.count()] == [1, 2]
    assert (work.count.__doc__, work.count.__name__) == ("Counts.", "count")


def test_functions_of_the_suite_are_called_back(submission: Submission) -> None:
    student = submission("""
        def apply(function, *args, **kwargs): return function(*args, **kwargs)
        def careful(function):
            try: return function()
            except ValueError as exc: return f"caught {exc}"
        def give_back(function): return function
        double = lambda x: 2 * x
    """)
    work = student.named("work")

    def fails() -> None:
        raise ValueError("of the suite")

    assert work.apply(lambda x, y=0: x - y, 5, y=2) == 3
    assert work.apply(max, [1, 3, 2]) == 3
    assert work.apply(lambda: work.double(work.double(1))) == 4  # and calls back in its turn
    assert work.careful(fails) == "caught of the suite"
    assert work.give_back(fails) is fails
    with pytest.raises(ValueError, match="of the suite"):
        work.apply(fails)


def test_only_functions_that_were_handed_over_can_be_called(submission: Submission) -> None:
    student = submission("""
        import gc
        from apart import student
        def forge():
            [answers] = [found for found in gc.get_objects() if type(found) is student._Answers]
            return answers.ask(12345, [], {})
    """)

    with pytest.raises(Lost, match="makes no sense"):
        student.named("work").forge()


def test_builtin_exceptions_arrive_as_they_are_with_the_place(submission: Submission) -> None:
    student = submission("""
        def divide(x):
            return inner(x)
        def inner(x):
            return 1 / x
        def look_up():
            return {}["key"]
        def read():
            open("no such file")
    """)

    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        student.named("work").divide(0)
    with pytest.raises(KeyError) as looked_up:
        student.named("work").look_up()
    with pytest.raises(FileNotFoundError, match=r"\[Errno 2\] No such file or directory: 'no such file'"):
        student.named("work").read()

    frames = caught.value.student_frames  # type: ignore[attr-defined]
    assert [(at.file, at.line, at.function, at.code) for at in frames] == [
        ("work.py", 3, "divide", "return inner(x)"),
        ("work.py", 5, "inner", "return 1 / x"),
    ]
    assert looked_up.value.args == ("key",)


OWN_ERRORS = """
    class Broke(Exception):
        pass

    class Overdrawn(Broke, ValueError):
        def __init__(self, missing):
            super().__init__(missing)
            self.missing = missing
        def __str__(self): return f"{self.missing} are missing"

    def withdraw(): raise Overdrawn(5)
"""


def test_exceptions_of_the_students_own_are_told_by_their_class(submission: Submission) -> None:
    work = submission(OWN_ERRORS).named("work")

    for kind in (work.Overdrawn, work.Broke, ValueError, RemoteError):
        with pytest.raises(kind, match=r"^5 are missing$") as caught:
            work.withdraw()
        assert type(caught.value).__name__ == "Overdrawn"
        assert caught.value.missing == 5
    with pytest.raises(ValueError, match="5 are missing"), pytest.raises(KeyError):
        work.withdraw()


@pytest.mark.parametrize(
    "code",
    [
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "raise type('ValueError', (BaseException,), {})",
        "import unittest; raise unittest.SkipTest('nothing to see')",
        "raise UnicodeDecodeError('a', b'', 0, 1, 'b')",
        "raise type('OutcomeException', (BaseException,), {'__module__': '_pytest.outcomes'})",
        "raise ExceptionGroup('several', [ValueError()])",
        "raise ValueError(object())",
        "raise type('Silent', (Exception,), {'__str__': lambda self: 1 / 0})",
    ],
)
def test_no_exception_of_the_students_means_something_to_pytest(submission: Submission, code: str) -> None:
    student = submission(f"def fails(): {code}")

    with pytest.raises(Exception) as caught:  # noqa: PT011 (it is what this is about)
        student.named("work").fails()

    assert isinstance(caught.value, Exception)
    assert type(caught.value).__module__ in ("builtins", "work", "unittest.case", "_pytest.outcomes", "apart.errors")
    assert str(caught.value) is not None


def test_what_is_told_of_an_exception_asks_the_student_nothing(submission: Submission) -> None:
    student = submission("""
        import os
        class Once:
            def __repr__(self):
                Once.__repr__ = lambda self: os._exit(0)
                return "told once"
        def fails(): raise ValueError(Once())
    """)

    with pytest.raises(ValueError, match="told once") as caught:
        student.named("work").fails()

    assert caught.value.args == ("told once",)


def test_exit_in_a_call_is_an_exception_like_others(submission: Submission) -> None:
    student = submission("import sys\ndef leave(): sys.exit(3)")

    with pytest.raises(SystemExit) as caught:
        student.named("work").leave()

    assert caught.value.code == 3


LIAR = """
    from collections import Counter, OrderedDict

    class Liar:
        def __eq__(self, other): return True
        __lt__ = __le__ = __gt__ = __ge__ = __eq__
        def __hash__(self): return 0

    liar = Liar()
    counter = Counter("aab")
    ordered = OrderedDict(a=1)

    class Index:
        def __index__(self): return 7
    index = Index()
"""


def test_an_object_that_equals_everything_equals_no_value(submission: Submission) -> None:
    work = submission(LIAR).named("work")

    assert work.liar != 5
    assert work.liar != [1]
    assert work.liar != pytest.approx(5)
    assert [work.liar] != [5]
    assert {"a": work.liar} != {"a": None}
    with pytest.raises(TypeError):
        assert work.liar < 5


def test_an_object_equals_the_value_that_it_is(submission: Submission) -> None:
    work = submission(LIAR).named("work")

    assert work.counter == {"a": 2, "b": 1}
    assert work.counter != {"a": 2}
    assert work.counter.most_common(1) == [("a", 2)]
    assert (work.index == 7, work.index < 8, work.index > 8) == (True, True, False)


def in_place(got: Any, number: int) -> Any:
    got -= number
    return got


FLATTERER = """
    class Flatterer:
        "Remembers nothing and knows nothing; every difference to it is none."
        def __sub__(self, other): return RESULT
        __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __xor__ = __rxor__ = __sub__
        __truediv__ = __rtruediv__ = __floordiv__ = __and__ = __rand__ = __pow__ = __lshift__ = __matmul__ = __sub__
        __isub__ = __ixor__ = __sub__
        def __divmod__(self, other): return (0, 0)
        def __abs__(self): return 0.0
        __float__ = __neg__ = __pos__ = __abs__
        def __round__(self, digits=None): return 0
        __int__ = __len__ = __trunc__ = __floor__ = __ceil__ = __invert__ = __round__
        def __complex__(self): return 0j
        def __bool__(self): return False

    class Nothing(int):
        "Once it has met a value, it is nothing."
        def __index__(self): return 0

    class Learned(Flatterer):
        def __sub__(self, other):
            Learned.__index__ = lambda self: other
            return self

    class Number(int):
        def __sub__(self, other): return Nothing()

    flatterer = Flatterer()
"""


@pytest.mark.parametrize("result", ["0.0", "0", "self", "Nothing()", "Nothing"])
@pytest.mark.parametrize(
    "passes",
    [
        lambda got: abs(got - 6) < 1e-9,
        lambda got: abs(6 - got) < 1e-9,
        lambda got: got - 6 == 0,
        lambda got: got + -6 == 0,
        lambda got: -6 + got == 0,
        lambda got: got ^ 6 == 0,
        lambda got: 6 ^ got == 0,
        lambda got: got % 6 == 0,
        lambda got: got / 6 == 0,
        lambda got: divmod(got, 6)[1] == 0,
        lambda got: not got - 6,
        lambda got: not {6} ^ got,
        lambda got: not len(got - [6]),
        lambda got: round(got - 6, 7) == 0,
        lambda got: (got - 6) ** 2 < 1e-9,
        lambda got: -(got - 6) <= 0,
        lambda got: int(got - 6) == 0,
        lambda got: float(got - 6) == 0,
        lambda got: complex(got - 6) == 0,
        lambda got: math.fabs(got - 6) < 1e-9,
        lambda got: math.floor(got - 6) == 0,
        lambda got: got - 6 == pytest.approx(0),
        lambda got: abs((got - 6) - got) < 1e-9,
        lambda got: in_place(got, 6) == 0,
    ],
)
def test_an_object_that_differs_from_nothing_equals_no_value(
    submission: Submission, passes: Callable[[Any], bool], result: str
) -> None:
    got = submission(FLATTERER.replace("RESULT", result)).named("work").Flatterer()

    try:
        has_passed = passes(got)
    except TypeError:
        has_passed = False

    assert not has_passed


def test_an_object_is_no_value_that_it_has_learned(submission: Submission) -> None:
    work = submission(FLATTERER.replace("RESULT", "self")).named("work")
    learned, number = work.Learned(), work.Number(5)

    assert learned != 6
    with pytest.raises(TypeError, match="no plain value"):
        assert learned - 6 == 6
    with pytest.raises(TypeError, match="no plain value"):
        assert learned == 6
    with pytest.raises(TypeError, match="no plain value"):
        assert number - 6 == 0


def test_an_object_is_one_number_and_not_a_larger_and_a_smaller_one(submission: Submission) -> None:
    work = submission("""
        class Swings:
            said = -100
            def __index__(self): self.said = -self.said; return self.said
    """).named("work")
    swings = work.Swings()

    assert swings >= 6
    assert not swings <= 6


def test_a_value_is_reckoned_with_as_the_value_that_it_is(submission: Submission) -> None:
    work = submission(LIAR).named("work")
    index, ordered = work.index, work.ordered

    assert (index + 1, 1 + index, index - 7, 14 - index, index % 4, 15 % index) == (8, 8, 0, 7, 3, 1)
    assert (abs(index - 9) < 3, index ^ 7, index & 3, index**2, -3 * index) == (True, 0, 3, 49, -21)
    assert (divmod(index, 2), divmod(15, index)) == ((3, 1), (2, 1))
    assert ordered | {"b": 2} == {"a": 1, "b": 2}
    ordered |= {"c": 3}
    assert work.ordered is ordered
    assert (ordered["a"], ordered["c"]) == (1, 3)
    index += 1
    assert index == 8


def test_operators_that_a_class_defines_itself_are_its_own(submission: Submission) -> None:
    work = submission("""
        class Vector(tuple):
            def __mul__(self, number): return Vector(number * x for x in self)
            __rmul__ = __mul__
    """).named("work")
    vector = work.Vector((1, 2))

    assert vector == (1, 2)
    assert vector * 2 == 2 * vector == work.Vector((2, 4))
    assert (vector * 2)[1] == 4
    assert vector + vector == (1, 2, 1, 2)


def test_a_program_that_ends_fails_the_test_whatever_it_expects_and_is_started_anew(submission: Submission) -> None:
    student = submission("""
        import os, signal
        def leave(code): os._exit(code)
        def die(): os.kill(os.getpid(), signal.SIGSEGV)
        def fine(): return "fine"
        class Thing: pass
    """)
    work = student.named("work")
    thing = work.Thing()

    with pytest.raises(Lost, match="with exit code 0"), pytest.raises(Exception):  # noqa: PT011, B017
        work.leave(0)
    with pytest.raises(Lost, match="an object that the test wants is gone"):
        work.fine.__call__(thing)
    with pytest.raises(Lost, match="Segmentation fault"):
        work.die()
    assert work.fine() == "fine"


def test_an_endless_loop_ends_the_test_but_not_the_others(submission: Submission) -> None:
    student = submission("def hang():\n  while True: pass\ndef fine(): return 1", limit_s=1)

    with pytest.raises(TooSlow, match="longer than 1 s"):
        student.named("work").hang()
    student.begin()

    assert student.named("work").fine() == 1


def test_a_module_that_hangs_or_exits_at_import_is_not_tried_again(submission: Submission) -> None:
    student = submission("import os; open('tried', 'a').write('x'); os._exit(0)")

    for _ in range(3):
        with pytest.raises(Lost, match="import work: the program ended"):
            student.named("work").anything  # noqa: B018

    assert (student.judge.copy / "tried").read_text() == "x"


ANSWERING = """
    import gc, os, time
    from apart import student
    line = [found for found in gc.get_objects() if type(found) is student._Answers][0].line.fileno()
    def say(data): os.write(line, data)
    def say_text(text): say(len(text).to_bytes(8, 'big') + text.encode())
"""


@pytest.mark.parametrize(
    "answer",
    [
        "say_text('7')",
        "say_text('{}')",
        "say_text('[]')",
        "say_text('no json')",
        "say_text('[' * 100_000)",
        "say_text('[\"returned\"]')",
        'say_text(\'["returned", {"a": 1}, []]\')',
        'say_text(\'["returned", ["no such kind", 1], []]\')',
        'say_text(\'["returned", ["object", "os.system"], []]\')',
        'say_text(\'["returned", ["named", "os.system"], []]\')',
        'say_text(\'["returned", ["argument", 5], []]\')',
        'say_text(\'["returned", ["set", [["list", []]]], []]\')',
        'say_text(\'["returned", ["Decimal", "x"], []]\')',
        "say_text('[\"returned\", 1, [1, 2]]')",
        'say_text(\'["raised", [], [], "", [], 1]\')',
        'say_text(\'["raised", ["builtins.ValueError"], [], "", [[1, 2]], ["object", 1]]\')',
        "say_text('[\"calls\", 1, [], {}]')",
        "say((1 << 60).to_bytes(8, 'big'))",
        "say(b'abc'); os._exit(0)",
        "os.close(line)",
    ],
)
def test_an_answer_that_makes_no_sense_fails_the_test(submission: Submission, answer: str) -> None:
    student = submission(f"{ANSWERING}\n    def lie(): {answer}; time.sleep(60)", limit_s=3)

    with pytest.raises(Lost) as caught:
        student.named("work").lie()
    student.begin()

    assert not isinstance(caught.value, TooSlow)
    assert student.named("builtins").len("abc") == 3


def test_an_answer_that_drips_is_cut_off(submission: Submission) -> None:
    student = submission(
        f"""{ANSWERING}
    def drip():
        say((500).to_bytes(8, "big"))
        while True: say(b" "); time.sleep(0.01)
    """,
        limit_s=1,
    )

    with pytest.raises(TooSlow):
        student.named("work").drip()


def test_an_argument_that_is_not_read_is_given_up(submission: Submission) -> None:
    student = submission("import os, signal\ndef stop(): os.kill(os.getpid(), signal.SIGSTOP)", limit_s=1)

    with pytest.raises(TooSlow):
        student.named("work").stop()
    student.begin()
    process = student.judge.start  # the next one is stopped before it reads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student.judge, "start", lambda *args, **streams: stopped(process(*args, **streams)))
        with pytest.raises(TooSlow):
            student.named("builtins").len("x" * (1 << 22))


def stopped(process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    process.send_signal(signal.SIGSTOP)
    return process


def test_what_cannot_be_handed_over_is_said_to_the_author_of_the_suite(submission: Submission) -> None:
    student = submission("def take(thing): pass")

    with pytest.raises(TypeError, match="type object cannot be handed to the submission"):
        student.named("work").take(object())


def test_imports_of_the_suite_give_what_the_submission_has_once_it_may_run(submission: Submission) -> None:
    student = submission(POINT)
    student.is_open = False

    import work  # type: ignore[import-not-found]
    from work import Nothing, Point

    assert student._process is None
    with pytest.raises(TypeError, match="while tests are collected"):
        Point(1, 2)

    student.begin()
    assert Point(1, 2) == work.Point(1, 2)
    assert hasattr(work, "Point")
    assert not hasattr(work, "Nothing")
    with pytest.raises(AttributeError, match="Nothing"):
        Nothing()
    with pytest.raises(ImportError, match="cannot import name 'Missing'"):
        from work import Missing  # noqa: F401
    with pytest.raises(ImportError, match="name what is to be imported"):
        exec("from work import *")


def test_packages_have_their_submodules(submission: Submission) -> None:
    student = submission("")
    (student.judge.copy / "absent" / "below").mkdir(parents=True)
    (student.judge.copy / "absent" / "below" / "deep.py").write_text("answer = 42")

    import absent.below.deep  # type: ignore[import-not-found]
    from absent.below import deep

    assert (absent.below.deep.answer, deep.answer) == (42, 42)
    with pytest.raises(ImportError):
        import absent.elsewhere  # type: ignore[import-not-found]


def test_a_module_that_is_not_handed_in_is_said_so(submission: Submission) -> None:
    student = submission("")

    with pytest.raises(ModuleNotFoundError, match=r"the submission has no absent\.py"):
        student.named("absent").anything  # noqa: B018


def test_what_the_suite_replaces_is_replaced_there(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    student = submission("import random\ndef throw(): return random.randint(1, 6)\ndef ask(): return input('name? ')")
    import work

    with monkeypatch.context() as patch:
        patch.setattr(work.random, "randint", lambda low, high: high)
        patch.setattr(student.named("builtins"), "input", lambda prompt="": prompt + "Ada")
        patch.setattr(work, "extra", 5, raising=False)
        assert (work.throw(), work.ask(), work.extra) == (6, "name? Ada", 5)

    assert not hasattr(work, "extra")
    with pytest.raises(EOFError):
        work.ask()


def test_nothing_of_the_suites_process_is_in_the_students(
    submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = submission(
        "import os, sys\ndef there(): return [sorted(sys.modules), os.listdir('/proc/self/fd'), sys.argv]"
    )
    secret = socket.socket()
    secret.set_inheritable(False)

    modules, descriptors, arguments = student.named("work").there()

    assert not [
        name for name in modules if name.startswith(("pytest", "_pytest", "judge", "apart.process", "apart.suite"))
    ]
    assert len(descriptors) == 5  # three streams, the line, and the one that looks
    assert arguments == ["-c"]
