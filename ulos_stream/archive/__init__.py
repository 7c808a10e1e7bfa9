"""Unpack and pack artifacts: blocking code, on its guard on both sides.

What comes in was made by anybody, and what goes out was left behind by untrusted code. The
same rules on names, counts and sizes hold for both, and they are checked before a byte is
moved: what `pack` writes, `unpack` accepts on every node with the same limits.

    rules.py        what an artifact may be, and what a stage sees of it; pure
    unpacking.py    a zip becomes a directory
    packing.py      a directory becomes a zip
    carrying.py     what nobody has touched goes from zip to zip as it is
    fingerprint.py  what a stage sees of an artifact, as one hash
    transfer.py     content moved block by block
    tree.py         directories entered without following a link
"""

from ulos_stream.archive.packing import output_name, pack
from ulos_stream.archive.rules import Limits
from ulos_stream.archive.tree import is_light, remove_tree
from ulos_stream.archive.unpacking import Artifact, opened, opens_at_once

__all__ = ["Artifact", "Limits", "is_light", "opened", "opens_at_once", "output_name", "pack", "remove_tree"]
