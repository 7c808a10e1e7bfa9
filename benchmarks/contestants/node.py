"""Our node, by the README's command, with the fifteen variables."""

import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.contestants import FIXED, Contestant
from benchmarks.stage import plain


def _command(at_once: int | None) -> list[str]:
    """The same whatever runs at once: that is one of the variables."""
    return [str(Path(sys.executable).with_name("faststream")), "run", "ulos_stream.app:app"]


NODE = Contestant(command=_command, encode=plain)
CONTESTANTS = {
    "ulos": NODE,
    "ulos-traced": replace(NODE, traced=True),
    "ulos-one-owner": replace(NODE, one_owner=True),
    **{
        name: replace(NODE, environment={"ULOS_ADAPTIVE": "false", "MESSAGE_BROKER_PREFETCH_COUNT": str(at_once)})
        for name, at_once in FIXED.items()
    },
}
