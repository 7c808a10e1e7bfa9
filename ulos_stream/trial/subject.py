"""Which executor is tried, and on what."""

import contextlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ulos_stream.errors import ConfigurationError
from ulos_stream.executors.registry import ENTRY_POINTS, Entry, Registry
from ulos_stream.parts import find_executors
from ulos_stream.settings import Node

Ending = Literal["pass", "fail", "crash"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)


@dataclass(frozen=True, slots=True)
class Subject:
    """An executor that is to be tried."""

    entry: Entry
    key: str
    """The routing key of the trial's stage."""
    folder: Path | None
    """Where it lies, with its samples in `samples/`; None if nobody can tell."""
    executors: Registry


def find(name: str, node: Node) -> Subject:
    """The executor of a folder, or the one that claims a routing key on this machine.

    Args:
        name: The folder holds an `executor.toml`, or the package of an inline executor.
        node: Settings of the node that it is tried for.

    Raises:
        ConfigurationError: There is none, or a descriptor is wrong.
    """
    folder = Path(name)
    if (folder / "executor.toml").exists():
        executors = find_executors(node.model_copy(update={"executors_path": (folder,)}))
        own = next(entry for entry in executors if entry.folder)
        return Subject(own, own.key + "1" * own.is_prefix, folder, executors)
    function = _function(folder)
    executors = find_executors(node)
    if entry := executors.claim(function or name):
        return Subject(entry, function or name, folder if function else entry.folder, executors)
    if function:
        raise ConfigurationError(f"{name}: its function is not installed: pip install --editable {name}")
    raise ConfigurationError(
        f"{name}: there is no {folder / 'executor.toml'}, and no executor of this machine claims that routing key;"
        " `ulos executor new` makes one, `ulos executor list` shows all"
    )


def _function(folder: Path) -> str | None:
    """The routing key of the function in a package's folder; None if it is no such folder."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"][ENTRY_POINTS]
        return str(next(iter(points), "")) or None
    return None


def samples(folder: Path) -> list[Path]:
    """The samples of an executor, by name.

    Raises:
        ConfigurationError: There are none.
    """
    found = [path for path in sorted((folder / "samples").glob("*")) if not path.name.startswith(".")]
    if not found:
        raise ConfigurationError(f"{folder / 'samples'}: holds no sample; add one, or give an archive")
    return found


def expected(sample: Path) -> Ending | None:
    """How a sample is to end: the first word of its name. None for what is no sample.

    Raises:
        ConfigurationError: It is one, and its name does not say.
    """
    if sample.absolute().parent.name != "samples":
        return None
    for ending in ENDINGS:
        if sample.stem.split("-")[0] == ending:
            return ending
    raise ConfigurationError(f"{sample}: begin the name with how it is to end: pass, fail or crash")
