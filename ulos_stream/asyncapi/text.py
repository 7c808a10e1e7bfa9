"""A document as YAML: the small part of it that writes what JSON can hold, in the order given."""

import json
import re
from collections.abc import Iterator, Mapping

_PLAIN = re.compile(r"[A-Za-z$][A-Za-z0-9_$-]*")
_KEYWORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def to_yaml(document: Mapping[str, object]) -> str:
    """YAML 1.2 in block style. Strings are quoted as in JSON, which is YAML too, or literal where they have lines."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(value: Mapping[str, object] | list[object]) -> Iterator[str]:
    """The block of a dict or list that is not empty, unindented."""
    members = (
        ((f"{_key(name)}:", member) for name, member in value.items())
        if isinstance(value, Mapping)
        else (("-", member) for member in value)
    )
    for lead, member in members:
        if isinstance(member, dict | list) and member:
            inner = list(_lines(member))
            yield f"- {inner.pop(0)}" if lead == "-" else lead  # a dash stands on the first line of its member
            yield from _indented(inner)
        elif isinstance(member, str) and _reads_better_as_lines(member):
            yield f"{lead} |-"
            yield from _indented(member.split("\n"))
        else:
            yield f"{lead} {json.dumps(member, ensure_ascii=False)}"


def _reads_better_as_lines(text: str) -> bool:
    return "\n" in text and text == text.strip() and all(line.isprintable() for line in text.split("\n"))


def _indented(lines: list[str]) -> Iterator[str]:
    return (f"  {line}" if line else "" for line in lines)


def _key(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name.lower() not in _KEYWORDS else json.dumps(name, ensure_ascii=False)
