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
_UNARY = ("abs", "contains", "delitem", "getitem", "index", "invert", "neg", "pos", "setitem")
_BINARY = ("add", "and", "floordiv", "lshift", "matmul", "mod", "mul", "or", "pow", "rshift", "sub", "truediv", "xor")
_BUILTINS = (
    *("bool", "bytes", "complex", "dir", "divmod", "float", "format", "hash", "int", "iter", "len", "next"),
    *("reversed", "round", "str"),
)


class Remote:
    """Stands for something in the student's process: an object, or what a name leads to."""

    __slots__ = ("__weakref__", "_student", "_where")
    _student: "Student"
    _where: int | str

    def __init__(self, student: "Student", where: int | str) -> None:
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
        if isinstance(other, Remote):
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
