"""Files in the repository that are made from the code."""

from pathlib import Path


def refresh(file: Path, fresh: str) -> None:
    """Fail if a generated file is old, and write it anew.

    One that is as it should be is not touched: other tests may be reading it, and would find it cut short.
    """
    if file.exists() and file.read_text() == fresh:
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text(fresh)
    raise AssertionError(f"{file.name} was old; it is written anew, commit it")
