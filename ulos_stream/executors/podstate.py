"""What a cluster tells of a pod: whether files can be sent to it, whether its run has started, how that has ended."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ulos_stream.errors import EngineFault, ExecutorCrashed, ExecutorUnavailable

if TYPE_CHECKING:
    from lightkube.models.core_v1 import ContainerStatus
    from lightkube.resources.core_v1 import Pod

_TOO_MUCH = re.compile(r"Usage of EmptyDir|Pod ephemeral local storage usage|Container \S+ exceeded its local")
"""How the kubelet begins to say that a pod is evicted for its own disk (pkg/kubelet/eviction/eviction_manager.go)."""
_HOPELESS = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")
"""Why the kubelet keeps a container waiting for ever."""
_NO_SUCH_IMAGE = re.compile(r"not ?found|unknown|denied|unauthorized|authorization failed|forbidden", re.IGNORECASE)
"""What registries say of an image that they do not have, or not for us; all else may pass."""
_CANNOT_START = ("StartError", "ContainerCannotRun", "RunContainerError")
"""How the kubelet and the runtimes name the end of a container whose program could not be executed."""


@dataclass(frozen=True, slots=True)
class End:
    """How a run has ended."""

    exit_code: int
    out_of_memory: bool
    """Whether the kernel killed something in the container at its limit."""


def state_of(pod: "Pod", name: str) -> "ContainerStatus | None":
    """The state of one of the pod's containers, once the kubelet knows it."""
    status = pod.status
    found = [*(status.initContainerStatuses or []), *(status.containerStatuses or [])] if status else []
    return next((each for each in found if each.name == name), None)


def is_receiving(pod: "Pod") -> bool:
    """Whether files can be sent to it.

    Raises:
        Crash: It will never run.
        EngineFault: It is lost.
    """
    _see_that_it_lives(pod)
    receive = state_of(pod, "receive")
    return bool(receive and receive.state and receive.state.running)


def has_started(pod: "Pod") -> bool:
    """Whether the run has begun; the errors are those of `is_receiving`."""
    _see_that_it_lives(pod)
    run = state_of(pod, "run")
    return bool(run and run.state and (run.state.running or run.state.terminated))


def end_of(pod: "Pod") -> End | None:
    """How the run has ended, if it has; the errors are those of `is_receiving`."""
    _see_that_it_lives(pod)
    run = state_of(pod, "run")
    if not (run and run.state and (ended := run.state.terminated)):
        return None
    if ended.reason in _CANNOT_START:
        raise ExecutorUnavailable(f"the image {run.image!r} cannot be started: {ended.message}")
    return End(ended.exitCode, ended.reason == "OOMKilled")


def waiting_for(pod: "Pod") -> str:
    """What keeps a pod from starting, for people; empty when nothing does."""
    status = pod.status
    for condition in (status.conditions or []) if status else []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    for name in ("receive", "carry", "run"):
        held = state_of(pod, name)
        if held and held.state and held.state.waiting and held.state.waiting.message:
            return f"{held.state.waiting.reason}: {held.state.waiting.message}"
    return ""


def _see_that_it_lives(pod: "Pod") -> None:
    status = pod.status
    message = (status.message if status else "") or ""
    if status and status.reason == "Evicted" and _TOO_MUCH.match(message):
        raise ExecutorCrashed(f"stopped: the run left too much on the disk: {message.strip()}")
    if status and status.phase == "Failed" and status.reason:
        raise EngineFault(f"the pod was lost: {status.reason}: {message.strip()}")
    if pod.metadata and pod.metadata.deletionTimestamp:
        raise EngineFault("the pod was removed from outside")
    for name in ("receive", "carry"):
        carrier = state_of(pod, name)
        ended = carrier.state.terminated if carrier and carrier.state else None
        if ended and (name == "carry" or ended.exitCode):
            raise EngineFault(f"the pod's container {name!r} ended with {ended.exitCode}: {ended.reason}")
    for name in ("receive", "carry", "run"):
        held = state_of(pod, name)
        waiting = held.state.waiting if held and held.state else None
        if held is None or waiting is None:
            continue
        reason, text = waiting.reason or "", waiting.message or ""
        absent = reason in ("ErrImagePull", "ImagePullBackOff") and _NO_SUCH_IMAGE.search(text)
        if reason in _HOPELESS or absent:
            raise ExecutorUnavailable(f"the image {held.image!r} cannot run: {reason}: {text}")
        if reason in _CANNOT_START:
            raise ExecutorUnavailable(f"the image {held.image!r} cannot be started: {text}")
