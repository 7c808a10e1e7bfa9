"""What a node has imported moves to large pages, where there are some, and stays what it is."""

import platform
import secrets
from pathlib import Path

import pytest

from ulos_stream import pages

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("maps", "places"),
    [
        ("200000-600000 rw-p 00000000 00:00 0 \n", [0x200000, 0x400000]),
        ("1ff000-7ff000 rw-p 00000000 00:00 0 [heap]\n", [0x200000, 0x400000]),
        ("200000-3ff000 rw-p 00000000 00:00 0 \n", []),
        ("200000-600000 r-xp 00000000 00:00 0 \n", []),
        ("200000-600000 rw-s 00000000 00:00 0 \n", []),
        ("200000-600000 rw-p 00001000 08:01 12 /usr/lib/a library.so\n", []),
        ("200000-600000 rw-p 00000000 00:00 0 [stack]\n", []),
        ("", []),
    ],
    ids=["two", "heap, not aligned", "too small", "code", "shared", "of a file", "stack", "nothing"],
)
def test_large_pages_go_where_they_fit_into_private_memory_of_no_file(
    maps: str, places: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "maps"
    file.write_text(maps)
    asked: list[int] = []
    monkeypatch.setattr(pages, "MAPS", file)

    def collapse(start: int) -> bool:
        asked.append(start)
        return True

    monkeypatch.setattr(pages, "_collapse", collapse)

    assert pages.use_large_pages() == len(places)
    assert asked == places


@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (6, 1) if platform.system() == "Linux" else True,
    reason="only Linux from 6.1 on makes large pages at once",
)
def test_what_is_in_memory_is_the_same_in_large_pages() -> None:
    content = secrets.token_bytes(MIB)
    held = bytearray(content * 8)

    moved = pages.use_large_pages()

    assert moved > 0
    assert held == content * 8


def test_a_system_that_tells_nothing_of_memory_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAPS", tmp_path / "none")

    assert pages.use_large_pages() == 0
