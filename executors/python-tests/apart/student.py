"""The submission's side: a process that does as the suite asks, one call at a time.

It shares its process with the student's code, which may do with it what it likes: nothing here is trusted.
"""

import contextlib
import operator
import os
import pkgutil
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from apart import wire

_BY_VALUE = frozenset(wire.PLAIN)
_BUILTINS: tuple[Any, ...] = (bool, int, float, complex, str, bytes, bytearray, tuple, list, set, frozenset, dict)
MOST_FRAMES = 10
"""Of a traceback: the innermost ones tell where it went wrong."""


def main(descriptor: int) -> None:
    """Answer the suite on the socket `descriptor` until it hangs up."""
    sys.path[0] = os.getcwd()
    answers = _Answers(socket.socket(fileno=descriptor))
    with contextlib.suppress(EOFError):
        while True:
            answers.give(wire.receive(answers.line))


def itself(value: object) -> object:
    """`value`: what the suite asks for by its name comes as a value, if it is one."""
    return value


def plain(value: Any) -> Any:
    """`value` as the builtin type that it derives from, a Counter as a dict for example; itself if there is none."""
    for kind in _BUILTINS:
        if isinstance(value, kind):
            return kind(value)
    return operator.index(value) if hasattr(type(value), "__index__") else value


def has_own(value: object, *methods: str) -> bool:
    """Whether a class in Python, and no builtin one, defines one of these methods of `value`."""
    return any(isinstance(getattr(type(value), name, None), FunctionType) for name in methods)


class _Function:
    """A function of the suite's."""

    def __init__(self, answers: "_Answers", number: int) -> None:
        self._answers = answers
        self.number = number

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._answers.ask(self.number, args, kwargs)


class _Answers:
    """What the suite may ask for, and what has been handed to it."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self._objects: dict[int, object] = {}
        self._calls: list[wire.Arguments] = []
        """Of each call in hand, the innermost last."""

    def give(self, request: Sequence[Any]) -> None:
        """Carry out one call and send what came of it."""
        _, function, args, kwargs = request
        arguments = wire.Arguments()
        self._calls.append(arguments)
        try:
            called = self._decode(function)
            given = [self._decode(value, arguments.keep) for value in args]
            named = {name: self._decode(value, arguments.keep) for name, value in kwargs.items()}
            result = self._encode(called(*given, **named))
            answer = ["returned", result, [self._encode(type(mutable)(mutable)) for mutable in arguments.mutables]]
        except BaseException as exc:
            answer = self._raised(exc)
        finally:
            self._calls.pop()
        wire.send(self.line, answer)

    def ask(self, number: int, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Have the suite call a function of its own."""
        encoded = {name: self._encode(value) for name, value in kwargs.items()}
        wire.send(self.line, ["calls", number, [self._encode(value) for value in args], encoded])
        while (answer := wire.receive(self.line))[0] == "call":
            self.give(answer)
        if answer[0] == "raised":
            raise self._follow("named", answer[1])(*answer[2])
        return self._decode(answer[1])

    def _encode(self, value: object) -> Any:
        return wire.encode(value, self._link)

    def _link(self, value: object) -> wire.Link | None:
        if linked := self._calls[-1].link(value):
            return linked
        if isinstance(value, _Function):
            return ["function", value.number]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", _described(value)]
        if type(value) in _BY_VALUE or isinstance(value, float):  # numpy's floats are floats
            return None
        self._objects[id(value)] = value
        return ["object", id(value)]

    def _decode(self, data: Any, keep: Callable[[object], None] = lambda _: None) -> Any:
        return wire.decode(data, self._follow, keep)

    def _follow(self, kind: str, content: Any) -> Any:
        if kind == "argument":
            return self._calls[-1].mutables[content]
        if kind == "object":
            return self._objects[content]
        if kind == "function":
            return _Function(self, content)
        return pkgutil.resolve_name(content)

    def _raised(self, exc: BaseException) -> list[Any]:
        """An exception in words, and as it is where it can travel."""
        try:
            text = str(exc)
        except Exception:
            text = "(its __str__ raises an exception)"
        given = exc.args
        if isinstance(exc, OSError) and exc.filename is not None:
            given = (exc.errno, exc.strerror, exc.filename)
        try:
            args = [self._encode(value) for value in given]
        except Exception:
            args = [text]
        self._objects[id(exc)] = exc
        return ["raised", _described(type(exc)), args, text, _frames(exc), ["object", id(exc)]]


def _described(kind: type[BaseException]) -> list[Any]:
    """An exception class by its name, and its bases likewise."""
    bases = [_described(base) for base in kind.__bases__ if issubclass(base, BaseException)]
    return [f"{kind.__module__}.{kind.__qualname__}", bases]


def _frames(exc: BaseException) -> list[list[Any]]:
    """File, line, function and source of each frame of the student's own code, the innermost last."""
    here = os.getcwd() + "/"
    frames: list[list[Any]] = [
        [frame.filename.removeprefix(here), frame.lineno, frame.name, frame.line]
        for frame in traceback.extract_tb(exc.__traceback__)
        if frame.filename.startswith(here)
    ]
    if isinstance(exc, SyntaxError) and (exc.filename or "").startswith(here):
        frames.append([str(exc.filename).removeprefix(here), exc.lineno, "", (exc.text or "").strip()])
    return frames[-MOST_FRAMES:]
