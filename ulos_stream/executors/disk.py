"""A run's disk: the job's directory as a file system of its own, so that size and inodes are the kernel's to hold.

    <stage>.disk         ext4 in a sparse file whose name is gone; of no use but to hold
    <stage>.disk/work    the copy of the job's directory: what the container is given
    <stage>              the same, bound over the original, for the node to judge and to pack

Every byte and every inode counts, those of files that are deleted and still open too; a run that wants
more is told "no space left on device", and makes of it what it will.

Measured on two cores, beside the 0.15 s that a container takes: mkfs 4 ms, mount 3 ms, copying and binding 6 ms,
unmounting 7 ms; a sparse file of 512 MiB takes 0.1 MiB until something is written. A tmpfs would take 6 ms in all,
but is charged to the container's memory: a run with 64 MiB of it is killed at the 64th MiB written. Project quotas
would take nothing, but need a work directory mounted for them.

An engine that lives in another mount namespace, or elsewhere, sees the work directory without this mount. It then finds
no `<stage>.disk/work` and refuses the container, where an empty directory would have passed for the work.
"""

import errno
import os
import re
import subprocess
from pathlib import Path

from ulos_stream.errors import ExecutorCrashed

MIB = 1024 * 1024
_MAKE = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-i", "4096", "-m", "0"]
_MAKE += ["-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard"]
"""No journal, for nothing outlives the stage; an inode for each block, so that small files fill both at once."""
_MOUNT = ["mount", "-t", "ext4", "-o", "loop,nosuid,nodev,noatime,noinit_itable"]


class Unlimited(OSError):
    """This node's system refuses; the text says why. A run can do without."""


def enclose(directory: Path, limit_mib: int) -> Path:
    """Copy a freshly unpacked directory to a file system of at least `limit_mib`, and bind that copy over it.

    Returns:
        The same directory by the path that the container is to be given. `withdraw` takes that path away, and
        `release` everything; the original is then as it was.

    Raises:
        Unlimited: The node is not root, or has no mkfs, no loop device, or a kernel that refuses.
        ExecutorCrashed: What is in the directory takes more.
        OSError: The node's own disk is full or broken.
    """
    if os.getuid() != 0:
        raise Unlimited("the node is not root")
    disk = _disk(directory)
    image = disk.with_suffix(".ext4")
    disk.mkdir(exist_ok=True)
    try:
        with image.open("wb") as file:
            # Inodes take a sixteenth, what ext4 reserves for itself a fiftieth, its own tables the rest.
            file.truncate(limit_mib * MIB * 9 // 8 + MIB)
        _run(*_MAKE, str(image))
        _run(*_MOUNT, str(image), str(disk))
    finally:
        image.unlink(missing_ok=True)
    work = disk / "work"
    try:
        _run("cp", "--archive", str(directory), str(work))
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        raise ExecutorCrashed(f"the work takes more than the {limit_mib} MiB of disk that a run has") from exc
    _run("mount", "--bind", str(work), str(directory))
    return work


def is_enclosed(directory: Path) -> bool:
    """Whether `enclose` has left anything that `release` is to unmount."""
    try:
        return os.lstat(directory).st_dev != os.lstat(directory.parent).st_dev or _disk(directory).exists()
    except FileNotFoundError:
        return _disk(directory).exists()


def withdraw(directory: Path) -> None:
    """Once its container is gone: take away the path that it was given. The node's own stays."""
    disk = _disk(directory)
    release(disk)
    if disk.exists():
        disk.rmdir()


def settle(directory: Path) -> None:
    """Make sure that what a run wrote is there to be read.

    A file system in a sparse file promises more than the disk beneath may have, and what it could not write
    it forgets. Only a disk that is nearly full is asked, for the answer costs writing everything out.

    Raises:
        OSError: Some of it is lost.
    """
    if directory.is_mount():
        inside, beneath = os.statvfs(directory), os.statvfs(directory.parent)
        if beneath.f_bavail * beneath.f_frsize < inside.f_blocks * inside.f_frsize:
            _run("sync", "--file-system", str(directory))


def release(directory: Path) -> None:
    """Unmount all that is mounted in `directory` or over it, whoever mounted it and whoever uses it still.

    The kernel takes a file system apart, and frees its space, once nobody uses it any more. Nothing is done
    if nothing is mounted there.

    Raises:
        OSError: It cannot be unmounted.
    """
    top = os.path.realpath(directory)
    with open("/proc/self/mountinfo", "rb") as file:
        points = [os.fsdecode(_unescaped(line.split()[4])) for line in file]
    if below := [point for point in points if os.path.commonpath((point, top)) == top]:
        _run("umount", "--lazy", *reversed(below))


def _disk(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.disk")


def _unescaped(path: bytes) -> bytes:
    """As proc(5) writes paths, white space and backslashes are three octal digits each."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path)


def _run(program: str, *arguments: str) -> None:
    """Run a program of the system.

    Raises:
        Unlimited: It is not there, or ended with an error.
        OSError: That error is `ENOSPC` or `EIO`.
    """
    try:
        subprocess.run([program, *arguments], check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError as exc:
        raise Unlimited(f"there is no {program} on its PATH") from exc
    except subprocess.CalledProcessError as exc:
        said = os.fsdecode(exc.stderr).strip().rpartition("\n")[2]
        for number in (errno.ENOSPC, errno.EIO):
            if os.strerror(number) in said:
                raise OSError(number, said) from exc
        raise Unlimited(said or f"{program} ended with {exc.returncode}") from exc
