"""How values travel between the suite and the submission: as JSON that can only be data, whoever wrote it.

Plain values travel by value. What is none travels as a link, which only the side that made it can follow:

    ["object", 7]       an object in the student's process
    ["named", "a.b"]    what the student's process finds under that name
    ["function", 7]     a function of the suite's
    ["argument", 0]     a list, dict, set or bytearray that the call in hand was given
    ["exception", […]]  an exception class, by its name and its bases
"""

import json
import math
import socket
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from fractions import Fraction
from typing import Any

MOST_BYTES = 8 * 1024 * 1024
"""Of one message: more than any test looks at, little enough to hold it decoded."""
_MICROSECOND = timedelta(microseconds=1)
_COLLECTIONS: tuple[type, ...] = (list, tuple, set, frozenset)
_TEXTS: dict[type, tuple[Callable[[Any], str], Callable[[str], object]]] = {
    int: (hex, lambda text: int(text, 16)),  # in decimal, Python gives up at 4,300 digits
    complex: (repr, complex),
    bytes: (bytes.hex, bytes.fromhex),
    bytearray: (bytearray.hex, bytearray.fromhex),
    Decimal: (str, Decimal),
    Fraction: (str, Fraction),
    datetime: (datetime.isoformat, datetime.fromisoformat),
    date: (date.isoformat, date.fromisoformat),
    time_of_day: (time_of_day.isoformat, time_of_day.fromisoformat),
    timedelta: (lambda span: str(span // _MICROSECOND), lambda text: int(text) * _MICROSECOND),
}
_TYPES = {kind.__name__: kind for kind in (*_COLLECTIONS, dict, *_TEXTS)}
PLAIN: tuple[type, ...] = (type(None), bool, float, str, *_TYPES.values())
"""What travels by value."""
MUTABLE = (list, dict, set, bytearray)
"""What a function may change in place, so that its caller is to see it."""

Link = list[Any]


class Arguments:
    """The mutable ones of a call, numbered in the order in which they are encoded, and decoded."""

    def __init__(self) -> None:
        self.mutables: list[Any] = []
        self._numbers: dict[int, int] = {}

    def keep(self, mutable: object) -> None:
        self._numbers[id(mutable)] = len(self.mutables)
        self.mutables.append(mutable)

    def link(self, value: object) -> Link | None:
        number = self._numbers.get(id(value))
        return None if number is None else ["argument", number]


def encode(value: object, link: Callable[[object], Link | None]) -> Any:
    """`value` as JSON can have it.

    Args:
        value: Plain, or something that `link` knows.
        link: Says how a value travels as a link; None where it travels by value.

    Raises:
        TypeError: It can travel neither way.
    """
    if (linked := link(value)) is not None:
        return linked
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and abs(value) < 2**64:
        return int(value)
    if isinstance(value, dict):
        return ["dict", [[encode(key, link), encode(item, link)] for key, item in value.items()]]
    for kind in _COLLECTIONS:
        if isinstance(value, kind):
            return [kind.__name__, [encode(item, link) for item in value]]  # type: ignore[attr-defined]
    for kind, (to_text, _) in _TEXTS.items():
        if isinstance(value, kind):
            return [kind.__name__, to_text(value)]
    raise TypeError(
        f"a value of type {type(value).__name__} cannot be handed to the submission; "
        "hand over plain values and functions, or make the object there"
    )


def decode(data: Any, follow: Callable[[str, Any], object], keep: Callable[[object], None] = lambda _: None) -> Any:
    """The value that `encode` made `data` of.

    Args:
        data: As it came from the other side; anything is possible.
        follow: Gives what a link leads to, by its kind and what it says.
        keep: Told of each new `MUTABLE`, in the order in which `encode` came across them.

    Raises:
        Exception: It is nothing that `encode` makes.
    """
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    name, content = data
    kind = _TYPES.get(name)
    if kind is None:
        return follow(name, content)
    if kind in _TEXTS:
        made = _TEXTS[kind][1](content)
        if kind is bytearray:
            keep(made)
        return made
    made = kind()
    if kind in MUTABLE:
        keep(made)
    if kind is dict:
        items = [[decode(part, follow, keep) for part in pair] for pair in content]
    else:
        items = [decode(item, follow, keep) for item in content]
    if kind in MUTABLE:
        fill(made, items)
        return made
    return kind(items)


def fill(mutable: Any, content: Any) -> None:
    """Make `content` the contents of a `MUTABLE`."""
    mutable.clear()
    (mutable.extend if isinstance(mutable, (list, bytearray)) else mutable.update)(content)


def send(line: socket.socket, message: object) -> None:
    """Write one message.

    Raises:
        OSError: The other side has gone, or does not read in the socket's time.
    """
    data = json.dumps(message).encode()
    line.sendall(len(data).to_bytes(8, "big") + data)


def receive(line: socket.socket, deadline: float = math.inf) -> Any:
    """Read one message.

    Args:
        line: A stream socket.
        deadline: On the clock of `time.monotonic`.

    Raises:
        TimeoutError: It was not whole by then.
        EOFError: The other side has gone.
        ValueError: It is too long, or no JSON.
        RecursionError: It is nested too deeply.
    """
    size = int.from_bytes(_read(line, 8, deadline), "big")
    if size > MOST_BYTES:
        raise ValueError(f"a message of {size} bytes")
    return json.loads(_read(line, size, deadline))


def _read(line: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        line.settimeout(None if left_s == math.inf else left_s)
        part = line.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
