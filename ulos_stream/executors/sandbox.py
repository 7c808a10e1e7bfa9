"""What holds untrusted code: what the engine must be able to, and what it is told about a container."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ulos_stream.executors import Job
from ulos_stream.executors.descriptor import ContainerDescriptor, Sandbox

UNPRIVILEGED = 65532
"""User and group of a run when the node is root: `nonroot` in distroless images, and nobody else's."""
MAX_OPEN_FILES = 4096
"""A browser needs more than the usual 1,024."""
TMPFS_INODES = 16_384
NEEDLESS_CAPABILITIES = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP"]
"""Those of Docker's default ones that no job needs: with the host's network, raw sockets overhear it."""
LOCALHOST = "127.0.0.1 localhost\n::1 localhost\n"
"""`/etc/hosts` of a container without a network; the engine leaves it empty."""
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
"""What engines make read-only in every container, unless they are told what instead."""
SYSTEM = ["/bin", "/boot", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media"]
SYSTEM += ["/mnt", "/opt", "/root", "/run", "/sbin", "/srv", "/usr", "/var"]
"""The directories of a root (Filesystem Hierarchy Standard 3.0) that no run needs to write to."""
MIB = 1024 * 1024


def shortcoming(info: Mapping[str, Any]) -> str | None:
    """Why untrusted code must not run on an engine that says this of itself (`GET /info`); None when it may."""
    options = [dict(part.partition("=")[::2] for part in text.split(",")) for text in info.get("SecurityOptions") or ()]
    names = {option.get("name"): option for option in options}
    if "rootless" in names and str(info.get("CgroupVersion")) == "1":
        return "it runs rootless on cgroup v1, where it ignores every limit; boot with cgroup v2, or run it as root"
    limits = {
        "MemoryLimit": "memory",
        "SwapLimit": "swap (the kernel may need swapaccount=1)",
        "PidsLimit": "processes",
        "CpuCfsQuota": "processor time",
    }
    if missing := [name for key, name in limits.items() if not info.get(key, False)]:
        return f"it cannot limit {' and '.join(missing)}"
    if names.get("seccomp", {}).get("profile", "unconfined") == "unconfined":
        return "it filters no system calls (seccomp)"
    return None


def owner(sandbox: Sandbox) -> tuple[int, int] | None:
    """User and group id that a run has, and its directory must have; None: whatever the image says."""
    if sandbox.user == "image":
        return None
    if sandbox.user == "node":
        return (os.getuid(), os.getgid()) if os.getuid() else (UNPRIVILEGED, UNPRIVILEGED)
    uid, _, gid = sandbox.user.partition(":")
    return int(uid), int(gid)


def limits(sandbox: Sandbox) -> str:
    """What holds a run, in words."""
    cores = f"{sandbox.cpus:g} core" + "s" * (sandbox.cpus != 1)
    network = "no network" if sandbox.network == "none" else f"{sandbox.network} network"
    room = f"{sandbox.memory_mib} MiB of memory, {sandbox.disk_mib} MiB of disk"
    return f"{room}, {cores}, {sandbox.pids} processes, {network}"


def hosts_file(job: Job) -> Path:
    """What is mounted as `/etc/hosts` where there is no network: beside the directory, so the engine sees it too."""
    return job.directory.with_name(f"{job.directory.name}.hosts")


def configuration(
    descriptor: ContainerDescriptor, job: Job, work: Path | None, *, node: str, cpus: float
) -> dict[str, Any]:
    """The body of the engine's `POST /containers/create` (Docker Engine API 1.41).

    Args:
        descriptor: What runs and within which limits.
        job: What the container is labelled with.
        work: The job's directory, as the engine is to find it: all of the node that the container sees. None: it
            sees nothing, and is given a copy.
        node: Name of the node, for the label.
        cpus: Cores that the engine has; it refuses to promise more.
    """
    sandbox = descriptor.sandbox
    environment = descriptor.environment
    config: dict[str, Any] = {
        "Image": descriptor.image,
        "Cmd": descriptor.command,
        "Labels": {"ulos.node": node, "ulos.task": job.task_id, "ulos.message": job.message_id},
        "Healthcheck": {"Test": ["NONE"]},
        # With nothing but a loopback of its own, the container is none of the engine's network's business:
        # it starts 0.1 s sooner, and Docker 20.10 cannot lock up over it (moby/moby#46661).
        "NetworkDisabled": sandbox.network == "none",
        "HostConfig": _host_config(sandbox) | (_mounted(descriptor, job, work) if work else _written(descriptor)),
    }
    config["HostConfig"]["NanoCpus"] = int(min(sandbox.cpus, cpus) * 1e9)
    if owns := owner(sandbox):
        config["User"] = "{}:{}".format(*owns)
        environment = {"HOME": "/tmp", **environment}  # noqa: S108 (the ids have no home in the image)
    if sandbox.runtime:
        config["HostConfig"]["Runtime"] = sandbox.runtime
    if descriptor.working_dir:
        config["WorkingDir"] = descriptor.working_dir
    config["Env"] = [f"{name}={value}" for name, value in environment.items()]
    return config


def _mounted(descriptor: ContainerDescriptor, job: Job, work: Path) -> dict[str, Any]:
    """Bind mounts that fail if their source is missing; `Binds` would make it, as root."""
    mounts: list[dict[str, Any]] = [{"Type": "bind", "Source": str(work.absolute()), "Target": descriptor.mount}]
    if descriptor.sandbox.network == "none":
        hosts = str(hosts_file(job).absolute())
        mounts.append({"Type": "bind", "Source": hosts, "Target": "/etc/hosts", "ReadOnly": True})
    return {"Mounts": mounts}


def _written(descriptor: ContainerDescriptor) -> dict[str, Any]:
    """A root that the engine can write the work to; what a root has beside it is read-only for the run."""
    if not descriptor.sandbox.read_only:
        return {}
    kept = [path for path in SYSTEM if not PurePosixPath(descriptor.mount).is_relative_to(path)]
    return {"ReadonlyRootfs": False, "ReadonlyPaths": [*READ_ONLY, *kept]}


def _host_config(sandbox: Sandbox) -> dict[str, Any]:
    fixed = {"nofile": MAX_OPEN_FILES, "core": 0, "fsize": sandbox.disk_mib * MIB}
    size = sandbox.tmpfs_mib * MIB
    tmpfs = f"rw,noexec,nosuid,nodev,size={size},nr_inodes={TMPFS_INODES},mode=1777"
    if owns := owner(sandbox):
        tmpfs += ",uid={},gid={}".format(*owns)  # the mode is the image's own where it has a /tmp
    return {
        "AutoRemove": False,  # with it, a wait that comes late finds no exit code
        "CapDrop": NEEDLESS_CAPABILITIES if sandbox.user == "image" else ["ALL"],
        "CapAdd": list(sandbox.capabilities) or None,
        # The engine's own filter of system calls stays: it takes another one only in its place, and all that programs
        # may call is a list of hundreds that grows with every kernel. See the README for what that one lets through.
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": sandbox.read_only,
        "Tmpfs": {"/tmp": tmpfs} if sandbox.read_only else {},  # noqa: S108 (in the container)
        "NetworkMode": sandbox.network,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "PidsLimit": sandbox.pids,
        "Memory": sandbox.memory_mib * MIB,
        "MemorySwap": sandbox.memory_mib * MIB,  # memory and swap together: no swap
        "ShmSize": size,
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in fixed.items()],
        "Init": True,
        "LogConfig": {"Type": "json-file", "Config": {"max-file": "1", "max-size": f"{4 * sandbox.output_mib}m"}},
        "RestartPolicy": {"Name": "no"},
    }
