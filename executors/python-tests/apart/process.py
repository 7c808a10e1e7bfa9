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
import math
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from judge import Judge

from apart import wire
from apart.errors import ExceptionClasses, Lost, RemoteError, TooSlow
from apart.imports import SubmissionModule
from apart.remote import Remote


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
        self._exceptions = ExceptionClasses()

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
                return self._exceptions.find(content)
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

    def _exception(self, answer: Any) -> BaseException:
        _, description, args, text, frames, link = answer
        return self._exceptions.make(description, args, text, frames, self._decode(link, wire.Arguments()))
