"""A container executor as a pod: what the cluster is told of it, a Job of batch/v1.

    receive   an init container: waits for the job's files, which the node sends by `exec`; then it ends
    run       the executor's image, under the descriptor's sandbox; starts when `receive` has ended
    carry     waits beside it, so that the node can fetch by `exec` what the run has left

All three see one emptyDir, and nothing else of each other: namespaces of processes are their own. The pod has no
token, no name server, and, by a NetworkPolicy, no network. Nothing here talks to anybody.
"""

import hashlib
import math
import os
import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ulos_stream.executors import Job
from ulos_stream.executors.descriptor import ContainerDescriptor, Sandbox
from ulos_stream.executors.sandbox import NEEDLESS_CAPABILITIES, UNPRIVILEGED

if TYPE_CHECKING:
    pass

WORK = "/work"
"""Where the carriers see the job's files, wherever the run does."""
RECEIVE = ["sh", "-c", "until [ -e /carrier/received ]; do sleep 0.1; done"]
CARRY = ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]
GIVE = [
    "sh",
    "-c",
    f"cd {WORK} && find . -mindepth 1 -type d ! -perm -700 -exec chmod u+rwx {{}} ';' -o -type f ! -perm -400"
    " -exec chmod u+r {} + ; exec tar -cf - .",
]
"""Run in `carry`: a tar on its output, of closed files too. No process of the run is left, and no link is followed."""
CARRIER = {"cpu": "500m", "memory": "128Mi", "ephemeral-storage": "16Mi"}
"""Limits of each carrier: tar takes a few MiB, and the rest is the page cache's."""
SPARE_S = 60
"""Seconds that a Job outlives the time of its task: by then its node has removed it, or is dead."""
KEEP_S = 60
"""Seconds for which the cluster keeps a Job that has ended."""

_REGISTRY = re.compile(r"^[^/]*[.:][^/]*/|^localhost/")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Values of labels: Kubernetes' documentation, "Labels and Selectors", syntax and character set."""


class Kubernetes(BaseModel):
    """How container executors run as Jobs of a Kubernetes cluster. *Experimental*: no real cluster has seen it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    namespace: str | None = Field(default=None, min_length=1)
    """Namespace of the Jobs; the node's own by default, or that of the kubeconfig."""
    carrier_image: str | None = Field(default=None, min_length=1)
    """Image that carries files in and out of a Job, with `sh` and `tar`: the node's own. Needed for `kubernetes`."""
    registry: str | None = Field(default=None, min_length=1)
    """What stands before the names of images that name no registry, like `registry.example.org/course`. Without it such
    an image is never pulled: under its bare name a public registry may have somebody else's."""
    pod_security: Literal["restricted", "baseline"] = "restricted"
    """Pod Security standard of the namespace. `restricted` refuses executors that need root in their container (`user =
    "0:0"` or `"image"`); `baseline` runs them, without privileges on the cluster's node."""
    user_namespaces: bool = False
    """Run pods in a user namespace (`hostUsers: false`): root inside is nobody outside. Needs Kubernetes 1.33,
    containerd 2.0 and Linux 6.3."""
    start_s: float = Field(default=120, gt=0)
    """Seconds for a pod to find a place, pull its image and start: what a large image takes. Not the task's time."""
    pod_name: str | None = Field(default=None, min_length=1)
    """Name of the node's own pod. With `ULOS_KUBERNETES_POD_UID` its Jobs belong to it, and go when it goes."""
    pod_uid: str | None = Field(default=None, min_length=1)
    """The uid of that pod (`metadata.uid` by the downward API)."""


def refusal(sandbox: Sandbox, options: Kubernetes) -> str | None:
    """Why a pod cannot be what this sandbox asks for; None when it can."""
    if sandbox.network == "host":
        return "sandbox.network = 'host' is nothing that a cluster gives to untrusted code; run it on Docker"
    if options.pod_security == "restricted" and user_of(sandbox)[0] == 0:
        return (
            f"sandbox.user = {sandbox.user!r} is root in its container, which Pod Security 'restricted' forbids; "
            "use another user, or a namespace of its own with ULOS_KUBERNETES_POD_SECURITY=baseline"
        )
    return None


def user_of(sandbox: Sandbox) -> tuple[int, int]:
    """User and group of the carriers, and of the run unless the image says it: what `image` says is taken for root."""
    if sandbox.user == "image":
        return 0, 0
    if sandbox.user == "node":
        return (os.getuid(), os.getgid()) if os.getuid() else (UNPRIVILEGED, UNPRIVILEGED)
    uid, _, gid = sandbox.user.partition(":")
    return int(uid), int(gid)


def name_of(job: Job, node: str) -> str:
    """Name of a job's Job: the same for each attempt of this node, and another one for any other node's.

    A node that lost its broker may be at work on what another one was given since: then both finish, and the storage
    takes the first result. With one name for both they would remove each other's Jobs.
    """
    return f"ulos-{hashlib.sha256(f'{node}/{job.message_id}'.encode()).hexdigest()[:40]}"


def taking(last: str) -> list[str]:
    """The command that is run in `receive` with a tar on its input, whose last member is the empty file `last`.

    A tar that was cut off between two members is whole for some programs.
    """
    return ["sh", "-c", f"cd {WORK} && tar -xof - && rm {last} && touch /carrier/received"]


def label_of(text: str) -> str:
    """Any text as the value of a label: itself if that is possible."""
    return text if _LABEL.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:40]


def image_of(descriptor: ContainerDescriptor, options: Kubernetes) -> tuple[str, str]:
    """Name of the image for the cluster, and its pull policy."""
    if _REGISTRY.match(descriptor.image):
        return descriptor.image, "IfNotPresent"
    if options.registry is None:
        return descriptor.image, "Never"
    return f"{options.registry.rstrip('/')}/{descriptor.image}", "IfNotPresent"


def limits(sandbox: Sandbox) -> str:
    """What holds a run, in words. How many processes it may have is the kubelet's to say (`podPidsLimit`)."""
    network = "no network" if sandbox.network == "none" else f"{sandbox.network} network"
    return f"{sandbox.memory_mib} MiB of memory, {sandbox.disk_mib} MiB of disk, {sandbox.cpus:g} cores, {network}"


def manifest(
    descriptor: ContainerDescriptor, job: Job, options: Kubernetes, *, node: str, owner: dict[str, str] | None = None
) -> dict[str, Any]:
    """The Job (batch/v1) of one run.

    Args:
        descriptor: What runs and within which limits.
        job: What it is named after.
        options: What the cluster needs to be told beside that.
        node: Name of the node.
        owner: What it goes with, as an owner reference.
    """
    sandbox = descriptor.sandbox
    labels = {
        "app.kubernetes.io/managed-by": "ulos-stream",
        "ulos.node": label_of(node),
        "ulos.stage": label_of(descriptor.routing_key or descriptor.routing_key_prefix or ""),
        "ulos.network": sandbox.network,
    }
    about = {"ulos.node": node, "ulos.task": job.task_id, "ulos.message": job.message_id}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,  # with 0 the cluster forgets a pod before its processes are gone
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(sandbox),
        "initContainers": [_carrier("receive", RECEIVE, sandbox, options)],
        "containers": [_carrier("carry", CARRY, sandbox, options), _run(descriptor, options)],
        "volumes": [
            {"name": "work", "emptyDir": {"sizeLimit": f"{sandbox.disk_mib}Mi"}},
            {"name": "carrier", "emptyDir": {"sizeLimit": "1Mi"}},
            *(
                {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": f"{sandbox.tmpfs_mib}Mi"}}
                for name in _in_memory(sandbox)
            ),
        ],
    }
    if sandbox.network == "none":
        spec |= {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}}
    if sandbox.runtime:
        spec["runtimeClassName"] = sandbox.runtime
    if options.user_namespaces:
        spec["hostUsers"] = False
    metadata: dict[str, Any] = {"name": name_of(job, node), "labels": labels, "annotations": about}
    if owner:
        metadata["ownerReferences"] = [owner]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,  # the node tries again, from a fresh copy of the files
            "activeDeadlineSeconds": math.ceil(job.left_s() + 2 * options.start_s) + SPARE_S,
            "ttlSecondsAfterFinished": KEEP_S,
            "template": {"metadata": {"labels": labels, "annotations": about}, "spec": spec},
        },
    }


def _pod_security(sandbox: Sandbox) -> dict[str, Any]:
    context: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": user_of(sandbox)[0] != 0}
    return context


def _carrier(name: str, command: list[str], sandbox: Sandbox, options: Kubernetes) -> dict[str, Any]:
    uid, gid = user_of(sandbox)
    # A judge that is root runs the work as somebody else, whose files the carrier has to read too.
    capabilities = {"drop": ["ALL"]} | ({"add": ["DAC_OVERRIDE"]} if uid == 0 else {})
    return {
        "name": name,
        "image": options.carrier_image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "securityContext": {
            "runAsUser": uid,
            "runAsGroup": gid,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": capabilities,
        },
        "resources": {"limits": CARRIER, "requests": {"cpu": "10m", "memory": "16Mi"}},
        "volumeMounts": [{"name": "work", "mountPath": WORK}, {"name": "carrier", "mountPath": "/carrier"}],
    }


def _run(descriptor: ContainerDescriptor, options: Kubernetes) -> dict[str, Any]:
    sandbox = descriptor.sandbox
    image, pull = image_of(descriptor, options)
    environment = descriptor.environment
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": sandbox.read_only,
        "capabilities": {"drop": ["ALL"]},
    }
    if sandbox.user == "image":
        security["capabilities"] = {"drop": NEEDLESS_CAPABILITIES}
    else:
        security["runAsUser"], security["runAsGroup"] = user_of(sandbox)
        environment = {"HOME": "/tmp", **environment}  # noqa: S108 (in the container)
    if sandbox.capabilities:
        security["capabilities"]["add"] = sandbox.capabilities
    container: dict[str, Any] = {
        "name": "run",
        "image": image,
        "imagePullPolicy": pull,
        "args": [_literal(word) for word in descriptor.command],  # after the image's entry point, as on Docker
        "env": [{"name": name, "value": _literal(value)} for name, value in environment.items()],
        "securityContext": security,
        "resources": {
            # The requests are the same: how fast a run is must not depend on its neighbours.
            "limits": {
                "cpu": f"{math.ceil(sandbox.cpus * 1000)}m",
                "memory": f"{sandbox.memory_mib}Mi",
                "ephemeral-storage": f"{sandbox.disk_mib + 4 * sandbox.output_mib}Mi",
            },
        },
        "volumeMounts": [
            {"name": "work", "mountPath": descriptor.mount},
            *({"name": name, "mountPath": path} for name, path in _in_memory(sandbox).items()),
        ],
    }
    if descriptor.working_dir:
        container["workingDir"] = descriptor.working_dir
    return container


def _literal(text: str) -> str:
    """A text in which Kubernetes finds no variable to put in."""
    return text.replace("$", "$$")


def _in_memory(sandbox: Sandbox) -> dict[str, str]:
    """The volumes in memory, which count as the run's, and where they are mounted."""
    return {"shm": "/dev/shm"} | ({"tmp": "/tmp"} if sandbox.read_only else {})  # noqa: S108 (in the container)
