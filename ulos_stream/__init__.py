"""ulos-stream: the processing node of a multistage task system, on FastStream."""

from pathlib import Path

__version__ = "0.1.0"


def shipped(folder: str) -> Path:
    """A top-level folder that comes with the package: `executors` or `samples`."""
    package = Path(__file__).parent
    inside = package / "_shipped" / folder
    return inside if inside.is_dir() else package.parent / folder
