"""The verdict of a run that has no better way to speak: its exit code, a file that it left, or both.

The directory belongs to whoever ran in it, so the file is never reached by its path: each
component is opened relative to the one before it, and none of them may be a link.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ulos_stream.errors import ExecutorCrashed
from ulos_stream.executors.descriptor import Descriptor
from ulos_stream.tasks import Verdict

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How to open a directory that somebody else may have replaced by a link."""
BROKEN = 70
"""Exit code of an executor that failed itself, where it has a better way to say FAIL (EX_SOFTWARE of sysexits.h)."""


def discard_verdict(descriptor: Descriptor, directory: Path) -> None:
    """Before the run: remove what already has the verdict file's name, for it came with the work."""
    if descriptor.passes == "exit-code":
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), _place(descriptor, directory) as (folder, name):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def judge(descriptor: Descriptor, exit_code: int, directory: Path) -> Verdict:
    """After the run: its verdict. A verdict file is taken away, whatever it turns out to be worth.

    Raises:
        ExecutorCrashed: The executor has none, and says so.
    """
    if descriptor.passes == "both" and exit_code == BROKEN:
        raise ExecutorCrashed(f"the executor failed itself (exit code {BROKEN}), which says nothing about the work")
    left_the_file = descriptor.passes == "exit-code" or _take(descriptor, directory)
    ended_well = descriptor.passes == "verdict-file" or exit_code == 0
    return Verdict.PASS if left_the_file and ended_well else Verdict.FAIL


def _take(descriptor: Descriptor, directory: Path) -> bool:
    """Remove the verdict file; False when there is none, or something else in its place."""
    try:
        with _place(descriptor, directory) as (folder, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return False
            os.unlink(name, dir_fd=folder)
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _place(descriptor: Descriptor, directory: Path) -> Iterator[tuple[int, str]]:
    """The verdict file's folder, opened without following any link, and its name in there.

    Raises:
        OSError: There is no such folder; `NotADirectoryError` where a link or a file stands for one.
    """
    *folders, name = descriptor.verdict_file.split("/")
    with contextlib.ExitStack() as stack:
        here = os.open(directory, OPEN_DIRECTORY)
        stack.callback(os.close, here)
        for folder in folders:
            here = os.open(folder, OPEN_DIRECTORY, dir_fd=here)
            stack.callback(os.close, here)
        yield here, name
