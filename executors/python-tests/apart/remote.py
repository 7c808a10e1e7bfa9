"""The suite's side: what it imports from the submission stands for things in a process of the student's own.

    geometry = Student(judge, limit_s=10).named("geometry")
    geometry.area(2, 3)              # called over there; the result travels by value
    square = geometry.Square(2)      # is no plain value: stays over there, and `square` stands for it
    square.side + 1, len(square)     # attributes and operators are asked for over there

Nothing that the student's process answers is run here: it can say any value, raise any exception, and call the
functions that it was handed, but no other. A library for remote objects, RPyC for example, is symmetric: there the
student's process could walk the attributes of whatever it is handed, a list or a function's globals, into the suite.
"""

import builtins
import dataclasses
import importlib.abc
import importlib.machinery
import math
import operator
import re
import signal
import socket
import subprocess
import sys
import time
import types
import weakref
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NoReturn

from _pytest.outcomes import Failed  # pytest.fail.Exception, of which mypy knows nothing
from judge import Judge

from apart import wire

MOST_LINES = 10
"""Of what a student's exception says."""
_ASKED_FOR = ("__annotations__", "__name__", "__qualname__")
"""Names with underscores that are the student's to give; pytest looks for many others, which would be nothing."""
_UNARY = ("abs", "contains", "delitem", "getitem", "index", "invert", "neg", "pos", "setitem")
_BINARY = ("add", "and", "floordiv", "lshift", "matmul", "mod", "mul", "or", "pow", "rshift", "sub", "truediv", "xor")
_BUILTINS = (
    *("bool", "bytes", "complex", "dir", "divmod", "float", "format", "hash", "int", "iter", "len", "next"),
    *("reversed", "round", "str"),
)


class Lost(Failed):
    """The student's process did not do its part: the test fails, whatever exceptions it expects."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, pytrace=False)


class TooSlow(Lost):
    """The student's code took longer than a test may."""


class RemoteError(Exception):
    """An exception of a class that the student made; the classes made for them derive from this one too."""

    text = ""
    remote: "Remote"
    """The exception itself, over there."""

    def __str__(self) -> str:
        return self.text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "remote" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.remote, name)


class Student:
    """The process that runs the submission's code; started by the first call, and anew after it was lost.

    Args:
        judge: Starts and ends it.
        limit_s: How long one test may wait for it.
    """

    def __init__(self, judge: Judge | None, limit_s: float) -> None:
        self._judge = judge
        self.limit_s = limit_s
        self.is_open = False
        """Whether its code may run: not yet while tests are collected, so that it has no say in which there are."""
        self._deadline = math.inf
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._loaded: set[str] = set()
        self._unusable: dict[str, str] = {}
        """Why a module is not tried again."""
        self._objects: weakref.WeakValueDictionary[int, Remote] = weakref.WeakValueDictionary()
        self._functions: dict[int, Callable[..., object]] = {}
        self._classes: dict[tuple[str, tuple[type[BaseException], ...]], type[BaseException]] = {}

    @property
    def judge(self) -> Judge:
        """Whoever starts the processes."""
        assert self._judge is not None
        return self._judge

    def begin(self) -> None:
        """Give the student's code its time from now on."""
        self.is_open = True
        self._deadline = time.monotonic() + self.limit_s

    @property
    def left_s(self) -> float:
        """Seconds that are left of it."""
        return max(self._deadline - time.monotonic(), 0)

    def named(self, name: str) -> "Remote":
        """What the student's process finds under a dotted name that begins with a module's."""
        return Remote(self, name)

    def resolve(self, name: str) -> Any:
        """What is found under this name now: its value, if it is plain."""
        return self.named("apart.student:itself")(self.named(name))

    def call(self, function: object, *args: object, **kwargs: object) -> Any:
        """Call something over there, and see what became of the lists, dicts, sets and bytearrays handed to it.

        Raises:
            Exception: What the student's code raised: builtin exceptions as they are, others as classes of their name.
            Lost: It did not end in time, or the process ended.
        """
        if not self.is_open:
            raise TypeError("the submission's code does not run while tests are collected; use it in a test or fixture")
        given = wire.Arguments()
        called = self._encode(function, given)
        encoded = [self._encode(value, given) for value in args]
        answer = self._exchange(["call", called, encoded, {n: self._encode(v, given) for n, v in kwargs.items()}])
        try:
            while answer[0] == "calls":
                answer = self._exchange(self._call_back(answer, given))
            if answer[0] == "returned":
                _, result, contents = answer
                for mutable, content in zip(given.mutables, contents, strict=True):
                    wire.fill(mutable, self._decode(content, given))
                return self._decode(result, given)
            error = self._exception(answer)
        except Exception as exc:
            self.end()
            raise Lost(f"the program gave an answer that makes no sense ({type(exc).__name__})") from None
        raise error

    def end(self) -> int | None:
        """End the process; what stands for objects in it is of no use any more. Returns its exit code."""
        self.judge.end()
        exit_code = None
        if self._process is not None and self._line is not None:
            exit_code = self._process.wait()
            self._line.close()
        self._process = self._line = None
        self._loaded.clear()
        self._objects.clear()
        self._functions.clear()
        return exit_code

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        folder = str(Path(__file__).parent.parent)
        program = f"import sys; sys.path[0] = {folder!r}; from apart.student import main; main({theirs.fileno()})"
        with theirs:
            self._process = self.judge.start([sys.executable, "-B", "-u", "-c", program], pass_fds=[theirs.fileno()])
        self._line = ours
        return ours

    def _exchange(self, message: object) -> Any:
        try:
            line = self._line or self._start()
            line.settimeout(self.left_s or 0.001)
            wire.send(line, message)
            return wire.receive(line, self._deadline)
        except TimeoutError:
            self.end()
            raise TooSlow(f"the program took longer than {self.limit_s:g} s: is there an endless loop?") from None
        except (EOFError, OSError):
            raise Lost(self._ending()) from None
        except (ValueError, RecursionError):
            self.end()
            raise Lost("the program gave an answer that is too long or makes no sense") from None

    def _ending(self) -> str:
        """How the process ended, in words."""
        try:
            exit_code = self._process.wait(timeout=1) if self._process else None
        except subprocess.TimeoutExpired:
            exit_code = None
        self.end()
        if exit_code is None:
            return "the program closed its line to the tests"
        if exit_code < 0:
            ended = f"the program was ended in the middle of the test: {signal.strsignal(-exit_code)}"
            return ended + " (out of memory?)" * (exit_code == -signal.SIGKILL)
        return f"the program ended in the middle of the test, with exit code {exit_code}: nothing may call exit() here"

    def _load(self, module: str) -> None:
        """Import a module of the submission for the first time; one that hangs or exits is not tried again."""
        if module in self._loaded or module in sys.stdlib_module_names or module == "apart":
            return
        if module in self._unusable:
            raise Lost(self._unusable[module])
        try:
            self.named("importlib.import_module")(module)
        except Lost as lost:
            self._unusable[module] = f"import {module}: {lost}"
            raise type(lost)(self._unusable[module]) from None
        except ModuleNotFoundError as exc:
            if str(exc) != f"No module named {module!r}":
                raise
            raise ModuleNotFoundError(f"the submission has no {module}.py") from None
        self._loaded.add(module)

    def _encode(self, value: object, given: wire.Arguments, *, keep: bool = True) -> Any:
        def link(value: object) -> wire.Link | None:
            if isinstance(value, Remote):
                return self._link(value)
            if isinstance(value, SubmissionModule):
                return self._link(self.named(value.__name__))
            if isinstance(value, wire.MUTABLE):
                if keep and not given.link(value):
                    given.keep(value)
                    return None
                return given.link(value)
            if not callable(value):
                return None
            name = getattr(value, "__name__", "")
            if getattr(builtins, name, None) is value:
                return ["named", f"builtins.{name}"]
            if isinstance(value, type) and issubclass(value, RemoteError):
                return ["named", f"{value.__module__}.{name}"]
            self._functions[id(value)] = value
            return ["function", id(value)]

        return wire.encode(value, link)

    def _link(self, remote: "Remote") -> wire.Link:
        where = remote._where
        if isinstance(where, str):
            self._load(re.split("[.:]", where)[0])
            return ["named", where]
        if self._objects.get(where) is not remote:
            raise Lost("an object that the test wants is gone: the program ended in an earlier test")
        return ["object", where]

    def _decode(self, data: Any, given: wire.Arguments) -> Any:
        def follow(kind: str, content: Any) -> object:
            if kind == "object":
                return self._objects.setdefault(int(content), Remote(self, int(content)))
            if kind == "argument":
                return given.mutables[content]
            if kind == "function":
                return self._functions[content]
            if kind == "exception":
                return self._class(content)
            raise ValueError(kind)

        return wire.decode(data, follow)

    def _call_back(self, answer: Any, given: wire.Arguments) -> Any:
        """Call a function of the suite's for the student's code."""
        _, number, args, kwargs = answer
        function = self._functions[number]
        decoded = [self._decode(value, given) for value in args]
        named = {name: self._decode(value, given) for name, value in kwargs.items()}
        try:
            return ["returned", self._encode(function(*decoded, **named), given, keep=False)]
        except Exception as exc:
            name = type(exc).__name__
            return ["raised", f"builtins.{name if hasattr(builtins, name) else 'Exception'}", [str(exc)]]

    def _class(self, description: Sequence[Any]) -> type[BaseException]:
        """The builtin exception class that is described, or one that stands for the student's."""
        name, bases = description
        known = getattr(builtins, name.removeprefix("builtins."), None)
        if isinstance(known, type) and issubclass(known, (Exception, SystemExit)):
            return known  # the others, KeyboardInterrupt for example, would mean something to pytest
        kinds = tuple(self._class(base) for base in bases)
        if not any(issubclass(kind, RemoteError) for kind in kinds):
            kinds = (RemoteError, *kinds)
        module, _, short = name.rpartition(".")
        return self._classes.setdefault((name, kinds), type(short, kinds, {"__module__": module}))

    def _exception(self, answer: Any) -> BaseException:
        """What the student's code raised, to be raised here."""
        _, description, args, text, frames, link = answer
        try:  # it holds plain values only: what tells of it later is not to ask the student's process anything
            error = self._class(description)(*[wire.decode(value, _nowhere) for value in args])
        except Exception:
            error = RemoteError()
            text = f"{description[0]}: {text}"
        if isinstance(error, RemoteError):
            error.text, error.remote = str(text), self._decode(link, wire.Arguments())
        frames = [Frame(str(file), int(line), str(function), str(code)) for file, line, function, code in frames]
        error.student_frames = frames  # type: ignore[attr-defined]
        return error


def _nowhere(kind: str, _: object) -> NoReturn:
    raise ValueError(kind)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A line of the student's code that an exception came through."""

    file: str
    line: int
    function: str
    code: str


class Remote:
    """Stands for something in the student's process: an object, or what a name leads to."""

    __slots__ = ("__weakref__", "_student", "_where")
    _student: Student
    _where: int | str

    def __init__(self, student: Student, where: int | str) -> None:
        object.__setattr__(self, "_student", student)
        object.__setattr__(self, "_where", where)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _ASKED_FOR:
            raise AttributeError(name)
        if self._student.is_open:
            return self._student.named("builtins:getattr")(self, name)
        return self._student.named(f"{self._where}.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        self._student.named("builtins:setattr")(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._student.named("builtins:delattr")(self, name)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._student.call(self, *args, **kwargs)

    def __repr__(self) -> str:
        try:
            return str(self._student.named("builtins:repr")(self))
        except SystemExit:  # pytest catches all else where it shows a value
            raise RuntimeError("its __repr__ calls exit") from None

    def __enter__(self) -> Any:
        return self._student.named("builtins:getattr")(self, "__enter__")()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> Any:
        leave = self._student.named("builtins:getattr")(self, "__exit__")
        if error is None:
            return leave(None, None, None)
        if not isinstance(error, Exception):
            return False
        raised = (
            error.remote if isinstance(error, RemoteError) else self._student.named("builtins:Exception")(str(error))
        )
        return leave(self._student.named("builtins:type")(raised), raised, None)

    def __instancecheck__(self, instance: object) -> Any:
        return self._student.named("builtins:isinstance")(instance, self)

    def __subclasscheck__(self, subclass: object) -> Any:
        return self._student.named("builtins:issubclass")(subclass, self)

    # An object that says of itself that it equals everything would pass every test. So only objects of the student's
    # are compared over there; with a value of the suite's, the value that the object has is compared here.

    def __eq__(self, other: object) -> Any:
        return self._compared("eq", other)

    def __lt__(self, other: object) -> Any:
        return self._compared("lt", other)

    def __le__(self, other: object) -> Any:
        return self._compared("le", other)

    def __gt__(self, other: object) -> Any:
        return self._compared("gt", other)

    def __ge__(self, other: object) -> Any:
        return self._compared("ge", other)

    def _compared(self, how: str, other: object) -> Any:
        if isinstance(other, (Remote, SubmissionModule)):
            return self._student.named(f"operator:{how}")(self, other)
        value = self._student.named("apart.student:plain")(self) if isinstance(other, wire.PLAIN) else self
        return NotImplemented if isinstance(value, Remote) else getattr(operator, how)(value, other)


def _operation(name: str, *, is_reflected: bool = False) -> Callable[..., Any]:
    def method(self: Remote, *args: object) -> Any:
        return self._student.named(name)(*args, self) if is_reflected else self._student.named(name)(self, *args)

    return method


for _name in _BUILTINS:
    setattr(Remote, f"__{_name}__", _operation(f"builtins:{_name}"))
for _name in ("ceil", "floor", "trunc"):
    setattr(Remote, f"__{_name}__", _operation(f"math:{_name}"))
for _name in (*_UNARY, *_BINARY):
    setattr(Remote, f"__{_name}__", _operation(f"operator:__{_name}__"))
for _name in _BINARY:
    setattr(Remote, f"__i{_name}__", _operation(f"operator:__i{_name}__"))
    setattr(Remote, f"__r{_name}__", _operation(f"operator:__{_name}__", is_reflected=True))
Remote.__doc__ = property(lambda self: self._student.named("builtins:getattr")(self, "__doc__"))  # type: ignore[assignment]


class SubmissionModule(types.ModuleType):
    """Stands for a module of the submission where the suite imports it."""

    def __init__(self, name: str, student: Student) -> None:
        super().__init__(name)
        self.__dict__["__student__"] = student

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            raise ImportError(f"from {self.__name__} import *: name what is to be imported, it is not known yet")
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        student: Student = self.__dict__["__student__"]
        return (student.resolve if student.is_open else student.named)(f"{self.__name__}.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__") or isinstance(value, SubmissionModule):
            super().__setattr__(name, value)
        else:
            self.__dict__["__student__"].named("builtins:setattr")(self, name, value)

    def __delattr__(self, name: str) -> None:
        self.__dict__["__student__"].named("builtins:delattr")(self, name)


class SubmissionFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes `import` give a `SubmissionModule` for the modules that the suite expects of a submission.

    Args:
        student: Where they are.
        modules: Their names, those at the top only.
    """

    def __init__(self, student: Student, modules: Container[str]) -> None:
        self._student = student
        self._modules = modules

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        top, *below = name.split(".")
        if top not in self._modules or (below and self._student.is_open and not self._has(name)):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def _has(self, name: str) -> bool:
        try:
            return self._student.named("importlib.util:find_spec")(name) is not None
        except ModuleNotFoundError:
            return False

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return SubmissionModule(spec.name, self._student)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to do: its code runs elsewhere."""
