"""What stands, in the suite, for an object or a name in the student's process."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apart import wire
from apart.errors import RemoteError

if TYPE_CHECKING:
    from apart.process import Student

_ASKED_FOR = ("__annotations__", "__name__", "__qualname__")
"""Names with underscores that are the student's to give; pytest looks for many others, which would be nothing."""
_BINARY = ("add", "and", "floordiv", "lshift", "matmul", "mod", "mul", "or", "pow", "rshift", "sub", "truediv", "xor")
_MEASURES = {
    "builtins": ("bool", "complex", "float", "int", "len", "round"),
    "math": ("ceil", "floor", "trunc"),
    "operator": ("abs", "index", "invert", "neg", "pos"),
}
"""What takes an object for a number, a length or a truth, by the module that has it."""
_LOOKS = {
    "builtins": ("bytes", "dir", "format", "hash", "iter", "next", "reversed", "str"),
    "operator": ("contains", "delitem", "getitem", "setitem"),
}
_UNKNOWN, _NONE = object(), object()


class Remote:
    """Stands for something in the student's process: an object, or what a name leads to."""

    __slots__ = ("__weakref__", "_has_met", "_student", "_value", "_where")
    _has_met: bool
    """Whether the student's code made it by an operator and a value of the suite's: it may be whatever fits that."""
    _student: "Student"
    _value: object
    """What it is as a plain value, or that it is none, once it has been asked: it cannot tell another story later."""
    _where: int | str

    def __init__(self, student: "Student", where: int | str) -> None:
        for name, value in (("has_met", False), ("student", student), ("value", _UNKNOWN), ("where", where)):
            object.__setattr__(self, f"_{name}", value)

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

    # An object that says of itself that it equals everything would pass every test, and so would one that says of its
    # difference to anything that it is nothing. So only objects of the student's are compared, and reckoned with, over
    # there; with a value of the suite's, the value that the object has is taken here.

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
        if isinstance(other, Remote):
            return self._student.named(f"operator:{how}")(self, other)
        if self._has_met:
            raise _NoValue
        value = self._plain() if isinstance(other, wire.PLAIN) else self
        return NotImplemented if isinstance(value, Remote) else getattr(operator, how)(value, other)

    def _plain(self) -> Any:
        """The plain value that it is; something that is remote, if it is none."""
        if self._value is not _UNKNOWN:
            return self if self._value is _NONE else self._value
        value = self._student.named("apart.student:plain")(self)
        if isinstance(self._where, int) and not isinstance(value, wire.MUTABLE):
            object.__setattr__(self, "_value", _NONE if isinstance(value, Remote) else value)
        return value

    def _operand(self, *methods: str) -> Any:
        """The plain value that it is, unless its class has one of these methods of its own."""
        value = self if self._has_met else self._plain()
        if isinstance(value, Remote) or self._student.named("apart.student:has_own")(self, *methods):
            return self
        return value

    def _made(self, name: str, *given: object) -> Any:
        """What comes of it over there: no plain value, where the student's code has met one of the suite's."""
        answer = self._student.named(name)(*given)
        if any(not isinstance(value, Remote) or value._has_met for value in given):
            if not isinstance(answer, Remote):
                raise _NoValue
            object.__setattr__(answer, "_has_met", True)
        return answer


class _NoValue(TypeError):
    """The student's code could answer whatever passes the test."""

    def __init__(self) -> None:
        super().__init__("it is no plain value, and says itself what comes of it; take float(x) or list(x) for example")


def _operation(name: str) -> Callable[..., Any]:
    return lambda self, *args: self._student.named(name)(self, *args)


def _measure(name: str) -> Callable[..., Any]:
    def method(self: Remote, *args: object) -> Any:
        return self._made(name, self, *args) if self._has_met else self._student.named(name)(self, *args)

    return method


def _binary(
    name: str, plainly: Callable[[Any, Any], Any], there: str, *, is_reflected: bool = False, is_in_place: bool = False
) -> Callable[..., Any]:
    methods = [f"__{kind}{name}__" for kind in ("i" * is_in_place, "", "r")]

    def method(self: Remote, other: object) -> Any:
        value = self._operand(*methods) if isinstance(other, wire.PLAIN) else self
        if isinstance(value, Remote) or (is_in_place and isinstance(value, wire.MUTABLE)):
            return self._made(there, *((other, self) if is_reflected else (self, other)))
        return plainly(other, value) if is_reflected else plainly(value, other)

    return method


for _module, _names in _LOOKS.items():
    for _name in _names:
        setattr(Remote, f"__{_name}__", _operation(f"{_module}:{_name}"))
for _module, _names in _MEASURES.items():
    for _name in _names:
        setattr(Remote, f"__{_name}__", _measure(f"{_module}:{_name}"))
for _name in _BINARY:
    _plainly, _there = getattr(operator, f"__{_name}__"), f"operator:__{_name}__"
    setattr(Remote, f"__{_name}__", _binary(_name, _plainly, _there))
    setattr(Remote, f"__r{_name}__", _binary(_name, _plainly, _there, is_reflected=True))
    setattr(Remote, f"__i{_name}__", _binary(_name, _plainly, f"operator:__i{_name}__", is_in_place=True))
for _pair in ("divmod", "rdivmod"):
    setattr(Remote, f"__{_pair}__", _binary("divmod", divmod, "builtins:divmod", is_reflected=_pair[0] == "r"))
Remote.__doc__ = property(lambda self: self._student.named("builtins:getattr")(self, "__doc__"))  # type: ignore[assignment]
