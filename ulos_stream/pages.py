"""Large pages for what a node has imported, where Linux has them.

The objects of a node's libraries fill some 40 MiB, and a stage touches so many of them that the processor spends a
tenth of its time on where their pages of 4 KiB lie. In pages of 2 MiB it remembers that for most of them.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 2 * 1024 * 1024
"""A large page of the processors that nodes run on."""
MAPS = Path("/proc/self/maps")
_COLLAPSE = 25
"""`MADV_COLLAPSE` of madvise(2), since Linux 6.1: make a large page of this memory now."""


def use_large_pages() -> int:
    """Move the memory that Python's objects are in to large pages; return to how many.

    Takes some 10 ms. What the system refuses stays as it is, and other systems than Linux refuse all.
    """
    try:
        maps = MAPS.read_text()
    except OSError:
        return 0
    return sum(map(_collapse, _places(maps)))


def _places(maps: str) -> Iterator[int]:
    """Where a large page fits into private memory that belongs to no file (proc(5), `/proc/pid/maps`)."""
    for line in maps.splitlines():
        place, access, _, _, _, *name = line.split()
        if access == "rw-p" and name in ([], ["[heap]"]):
            first, end = (int(address, 16) for address in place.split("-"))
            yield from range(-(-first // PAGE_BYTES) * PAGE_BYTES, end - PAGE_BYTES + 1, PAGE_BYTES)


def _collapse(start: int) -> bool:
    return bool(ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(PAGE_BYTES), _COLLAPSE) == 0)
