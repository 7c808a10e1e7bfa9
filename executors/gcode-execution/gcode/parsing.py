"""From a line of a file to a command and its words."""

import functools
import operator
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MOST_CHARACTERS = 256
"""In a line, comments left out: printers have room for 96, and nobody types more."""
MOST = 1e9
"""Above it a number is a mistake, and sums of it would lose the millimetres."""

WORDS = {
    "G0": "XYZEF",
    "G1": "XYZEF",
    "G2": "XYZEFIJR",
    "G3": "XYZEFIJR",
    "G4": "SP",
    "G20": "",
    "G21": "",
    "G28": "XYZ",
    "G90": "",
    "G91": "",
    "G92": "XYZE",
    "M82": "",
    "M83": "",
    "M84": "XYZES",
    "M104": "ST",
    "M106": "SP",
    "M107": "P",
    "M109": "SRT",
    "M140": "S",
    "M190": "SR",
}
"""The commands, and the letters of the words that each of them takes."""
FLAGS = ("G28", "M84")
"""Commands whose words name axes: a number there means nothing."""

_READ_BYTES = 4096
_COMMENT = re.compile(rb"\([^()]*\)|;.*", re.DOTALL)
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBERED = re.compile(r"N\s*\d+\s*")
_COMMAND = re.compile(r"([A-Z])\s*0*(\d+(?:\.\d+)?)\s*")
_ALL_WORDS = re.compile(rf"(?:[A-Z]\s*(?:{_NUMBER}\s*)?)*+")
_WORD = re.compile(rf"([A-Z])\s*({_NUMBER})?")


class Malformed(Exception):
    """A line that is no G-code; what is wrong with it, for the student."""


class Unknown(Exception):
    """A command that this printer does not have; its name."""


class Command(NamedTuple):
    """One line that does something."""

    name: str
    """Letter and number, like `G1`; `G01` is the same."""
    words: dict[str, float]
    """By letter, in the units of the file. Those of `FLAGS` may have come without a number, which is 0 then."""


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file without their ends, each cut off after 4 KiB: one of 10 MiB is never held."""
    while line := file.readline(_READ_BYTES):
        ended = line
        while len(ended) == _READ_BYTES and not ended.endswith(b"\n"):
            ended = file.readline(_READ_BYTES)
        yield line.rstrip(b"\r\n")


def parse(line: bytes) -> Command | None:
    """The command of a line, or None where there is none.

    Raises:
        Malformed: It cannot be read.
        Unknown: It can, perhaps, but not by this printer.
    """
    code = _COMMENT.sub(b" ", line) if b"(" in line else line.partition(b";")[0]
    text = code.decode(errors="replace").upper().strip()
    if len(text) > MOST_CHARACTERS:
        raise Malformed(f"the line is longer than {MOST_CHARACTERS} characters")
    if text.startswith("N") and (numbered := _NUMBERED.match(text)):
        text = text[numbered.end() :]
    if text in ("", "%"):  # the latter begins and ends files for milling machines
        return None
    command = _COMMAND.match(text)
    if command is not None and (name := command[1] + command[2]) not in WORDS and command[1] in "GMT":
        raise Unknown(name)  # what follows may be any text: M117 50*2 :)
    for mark in "()":
        if mark in text:
            raise Malformed(f"a {mark} of a comment without its other half")
    if command is None:
        raise Malformed(f"{shown(text)} is no command; a line begins with one, like G1 or M104")
    if name not in WORDS:
        raise Malformed(f"{shown(text)} has no command in front; G1 is not remembered from the line before")
    if "*" in text:
        text = _checked(text, line)
    return Command(name, _words(text, command.end(), name, WORDS[name]))


def shown(text: str, most: int = 40) -> str:
    """`text` for people: short, and without what a terminal or a file would not take."""
    plain = "".join(c if c.isprintable() else "?" for c in text[:most])
    return plain + ("…" if len(text) > most else "")


def _words(text: str, start: int, name: str, known: str) -> dict[str, float]:
    found = _ALL_WORDS.match(text, start)
    assert found is not None  # it matches nothing, too
    if found.end() < len(text):
        raise Malformed(f"{shown(text[found.end() :])} cannot be read: a word is a letter and a number, like X12.5")
    words: dict[str, float] = {}
    for letter, number in _WORD.findall(text, start):
        if letter not in known:
            takes = "one line has one command" if letter in "GM" else f"it takes {', '.join(known) or 'nothing'}"
            raise Malformed(f"{name} takes no {letter}: {takes}")
        if letter in words:
            raise Malformed(f"{letter} is given twice")
        if not number and name not in FLAGS:
            raise Malformed(f"{letter} has no number")
        words[letter] = value = float(number or 0)
        if not -MOST <= value <= MOST:
            raise Malformed(f"{letter} has a number beyond {MOST:.0f}")
        if value < 0 and (letter in "FSP" or (letter == "R" and name[0] == "M")):
            raise Malformed(f"{letter} must not be negative")
    if words.get("F") == 0:
        raise Malformed("F must be above 0: at F0 nothing ever moves")
    return words


def _checked(text: str, line: bytes) -> str:
    """What stands before the checksum, if that is right: the exclusive or of the bytes before it, comments and all."""
    text, _, told = text.partition("*")
    summed = line[: _COMMENT.sub(lambda comment: bytes(len(comment[0])), line).index(b"*")]
    computed = functools.reduce(operator.xor, summed, 0)
    if told.strip() != str(computed):
        given = shown(told.strip(), 10)
        raise Malformed(f"the checksum is *{given}, but the line's is *{computed}: it was changed afterwards")
    return text
