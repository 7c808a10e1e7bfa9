"""Large pages for what a node has imported, where Linux has them.

The objects of a node's libraries fill some 40 MiB, and a stage touches so many of them that the processor spends a
tenth of its time on where their pages of 4 KiB lie. In pages of 2 MiB it remembers that for all of them.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 2 * 1024 * 1024
"""A large page of the processors that nodes run on."""
_MADV_COLLAPSE = 25
"""madvise(2), since Linux 6.1: make large pages of these, now, whoever else may have them only when asked for."""
_MAPS = Path("/proc/self/maps")


def use_large_pages() -> int:
    """Move the memory of this process that Python's objects are in to large pages; return how many there are now.

    Takes some 10 ms. What the system refuses stays as it is; other systems have none.
    """
    try:
        maps = _MAPS.read_text()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(madvise(start, PAGE_BYTES, _MADV_COLLAPSE) == 0 for start in _large(maps))


def _large(maps: str) -> Iterator[int]:
    """Where large pages fit into private memory that belongs to no file (proc(5), `/proc/pid/maps`)."""
    for line in maps.splitlines():
        place, access, _, _, _, *name = line.split()
        if access == "rw-p" and name in ([], ["[heap]"]):
            first, end = (int(address, 16) for address in place.split("-"))
            yield from range(-(-first // PAGE_BYTES) * PAGE_BYTES, end - PAGE_BYTES + 1, PAGE_BYTES)
