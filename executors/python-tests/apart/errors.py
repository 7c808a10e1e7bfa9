"""What goes wrong on the student's side, as the suite sees it."""

import builtins
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from _pytest.outcomes import Failed  # pytest.fail.Exception, of which mypy knows nothing

from apart import wire

if TYPE_CHECKING:
    from apart.remote import Remote


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


@dataclasses.dataclass(frozen=True)
class Frame:
    """A line of the student's code that an exception came through."""

    file: str
    line: int
    function: str
    code: str


class ExceptionClasses:
    """Those of the student's process: builtin ones are the same here, and each other one has one that stands for it."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, tuple[type[BaseException], ...]], type[BaseException]] = {}

    def find(self, description: Sequence[Any]) -> type[BaseException]:
        """The class that is described by its name and, likewise, its bases."""
        name, bases = description
        known = getattr(builtins, name.removeprefix("builtins."), None)
        if isinstance(known, type) and issubclass(known, (Exception, SystemExit)):
            return known  # the others, KeyboardInterrupt for example, would mean something to pytest
        kinds = tuple(self.find(base) for base in bases)
        if not any(issubclass(kind, RemoteError) for kind in kinds):
            kinds = (RemoteError, *kinds)
        module, _, short = name.rpartition(".")
        return self._made.setdefault((name, kinds), type(short, kinds, {"__module__": module}))

    def make(
        self, description: Sequence[Any], args: Sequence[Any], text: object, frames: Sequence[Any], remote: "Remote"
    ) -> BaseException:
        """An exception to be raised here; its `student_frames` tell where it arose."""
        kind = self.find(description)
        error: BaseException = RemoteError()
        for values in (args, [text]):  # plain ones only: what tells of it later is not to ask the student's process
            try:
                error = kind(*[wire.decode(value, _nowhere) for value in values])
                break
            except Exception:
                continue
        else:
            text = f"{description[0]}: {text}"
        if isinstance(error, RemoteError):
            error.text, error.remote = str(text), remote
        places = [Frame(str(file), int(line), str(function), str(code)) for file, line, function, code in frames]
        error.student_frames = places  # type: ignore[attr-defined]
        return error


def _nowhere(kind: str, _: object) -> NoReturn:
    raise ValueError(kind)
