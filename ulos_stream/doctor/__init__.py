"""What `ulos doctor` looks at: the broker, the storage, and this machine. Nothing is left behind."""

from dataclasses import dataclass
from typing import Literal

State = Literal["well", "doubtful", "wrong", "not checked"]
"""`wrong` keeps nodes from working, or tasks from ending well; `doubtful` may be meant so."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at."""

    part: str
    """Stable, for programs."""
    state: State
    text: str
    remedy: str = ""
    """What to do, where it is not well."""
