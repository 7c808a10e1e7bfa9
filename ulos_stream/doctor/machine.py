"""This machine: its disk, its container engine, and what can run on it."""

import asyncio
import os
from collections.abc import Collection
from dataclasses import replace

from ulos_stream.doctor import Diagnosis
from ulos_stream.errors import EngineFault, ExecutorUnavailable, NodeFault
from ulos_stream.executors.cluster import Cluster
from ulos_stream.executors.disk import MIB, Unlimited, enclose
from ulos_stream.executors.engine import Engine, Unfit
from ulos_stream.executors.registry import Registry
from ulos_stream.settings import Settings
from ulos_stream.workspace import NodeDirectory, Workspace

ANSWER_S = 5.0
"""Seconds that the container engine has to answer."""


async def examine(settings: Settings, executors: Registry) -> list[Diagnosis]:
    """Disk, mounts, engine, executors."""
    found = await asyncio.to_thread(_disk, settings)
    required = settings.node.require_executors
    engine = await _engine(settings, executors, required)
    found.append(engine)
    return found + await _executors(executors, required, skip_containers=engine.state != "well")


def _disk(settings: Settings) -> list[Diagnosis]:
    """Whether the work directory can be written, has room, and can be given file systems of a run's own."""
    node = settings.node
    directory = NodeDirectory(node.work_dir, f"{node.node}-doctor")
    try:
        directory.open()
        stage = directory.new_stage()
        stage.files.mkdir()
        (stage.files / "probe").write_bytes(bytes(MIB))
    except (NodeFault, OSError) as broken:
        reason = (
            str(broken) if isinstance(broken, NodeFault) else f"the work directory {node.work_dir}: {broken.strerror}"
        )
        directory.close()
        remedy = "let ULOS_WORK_DIR name a directory that the node may write to and that has room"
        return [
            Diagnosis("disk", "wrong", reason, remedy),
            Diagnosis("mounts", "not checked", "nothing can be written"),
        ]
    try:
        if settings.node.engine == "kubernetes":
            return [_room(settings), Diagnosis("mounts", "not checked", "containers run on the cluster")]
        return [_room(settings), _mounts(stage)]
    finally:
        directory.close()


def _room(settings: Settings) -> Diagnosis:
    node = settings.node
    status = os.statvfs(node.work_dir)
    free_mib = status.f_bavail * status.f_frsize // MIB
    stage_mib = 2 * node.archive.zip_mib + node.archive.total_mib
    text = f"{node.work_dir} can be written and has {free_mib} MiB free"
    if free_mib < stage_mib:
        remedy = f"a stage may take {stage_mib} MiB: make room, or lower ULOS_ARCHIVE_*"
        return Diagnosis("disk", "doubtful", text, remedy)
    return Diagnosis("disk", "well", text)


def _mounts(stage: Workspace) -> Diagnosis:
    try:
        enclose(stage.files, 1)
    except Unlimited as refused:
        text = f"no run has a disk of its own, so a container's is only looked at every half second: {refused}"
        return Diagnosis("mounts", "doubtful", text, "run the node as root, with mkfs.ext4 and loop devices")
    except OSError as broken:
        return Diagnosis("mounts", "wrong", f"a disk for a run: {broken.strerror}", "make room in ULOS_WORK_DIR")
    return Diagnosis("mounts", "well", "each run of a container has a disk of its own")


async def _engine(settings: Settings, executors: Registry, required: Collection[str]) -> Diagnosis:
    """Whether what runs containers answers and holds its limits; without it only their executors are missing."""
    looked_at = await (_cluster(settings) if settings.node.engine == "kubernetes" else _docker(settings))
    if looked_at.state == "wrong" and not any(
        entry.kind == "container" for key in required if (entry := executors.claim(key))
    ):
        return replace(looked_at, state="doubtful")
    return looked_at


async def _docker(settings: Settings) -> Diagnosis:
    node = settings.node
    engine = Engine(node.docker_host, node.node, certificates=node.docker_cert_path, call_s=ANSWER_S)
    try:
        told = await engine.ask(lambda docker: docker.version())
    except Unfit as unfit:
        return Diagnosis("engine", "wrong", str(unfit), "repair that, or let DOCKER_HOST name another engine")
    except (ExecutorUnavailable, EngineFault) as away:
        remedy = "start Docker, or check DOCKER_HOST and that this user may use its socket"
        if not engine.is_local:
            remedy = "start Docker there, or check DOCKER_HOST, and ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH"
        return Diagnosis("engine", "wrong", str(away), remedy)
    finally:
        await engine.aclose()
    text = f"version {told.get('Version')} at {engine.host} answers and holds its limits"
    if engine.is_local:
        return Diagnosis("engine", "well", text)
    text += "; work is copied there and back, and what it takes of the disk is looked at every half second"
    if node.docker_cert_path is None and not engine.host.startswith("ssh://"):
        remedy = "whoever reaches it is root there: let it ask for certificates, and set DOCKER_TLS_VERIFY=1"
        return Diagnosis("engine", "doubtful", f"{text}; without TLS", remedy)
    return Diagnosis("engine", "well", text)


async def _cluster(settings: Settings) -> Diagnosis:
    cluster = Cluster(settings.node.kubernetes, settings.node.node, call_s=ANSWER_S)
    try:
        if reason := await cluster.shortcoming("none"):
            raise ExecutorUnavailable(reason)
    except (ExecutorUnavailable, EngineFault) as away:
        remedy = "docs/kubernetes.md has the Role and the NetworkPolicy that a node needs; the chart makes both"
        return Diagnosis("engine", "wrong", str(away), remedy)
    finally:
        await cluster.aclose()
    text = "the cluster answers, lets this node make Jobs, and has a policy that keeps them from the network"
    return Diagnosis("engine", "well", text)


async def _executors(executors: Registry, required: Collection[str], *, skip_containers: bool) -> list[Diagnosis]:
    reasons = await executors.check()
    unclaimed = [key for key in required if executors.claim(key) is None]
    remedy = "repair ULOS_REQUIRE_EXECUTORS, or let ULOS_EXECUTORS_PATH name the folder that has it"
    found = [Diagnosis("executor", "wrong", f"{key}: is required, and nobody claims it", remedy) for key in unclaimed]
    needed = {entry.key for key in required if (entry := executors.claim(key))}
    for entry in executors:
        if entry.key not in reasons or (skip_containers and entry.kind == "container"):
            continue
        text, _, remedy = reasons[entry.key].partition("; ")
        found.append(
            Diagnosis("executor", "wrong" if entry.key in needed else "doubtful", f"{entry.key}: {text}", remedy)
        )
    able = len(executors) - len(reasons)
    return [*found, Diagnosis("executors", "well", f"{able} of {len(executors)} can run")]
