"""The error tree.

    UlosError
    ├── ConfigurationError      the environment or a descriptor is wrong: exit code 2, one line a mistake
    ├── TopologyMismatch        a command meets a queue that is missing, of another kind, or in use: exit code 1
    ├── ServiceMissing          the demo or a test lacks a program; the text says how to install it
    ├── ArtifactChanged         somebody replaced the artifact since it was downloaded: the stage begins anew
    ├── Crash                   the stage cannot be carried out, and that is the task's own doing
    │   ├── MalformedMessage        malformed_message     the body is no task
    │   ├── ArtifactMissing         artifact_missing      nothing at the task's file path
    │   ├── ArchiveRejected         archive_rejected      the zip, or the result, breaks a rule
    │   ├── UnknownExecutor         unknown_executor      no executor claims the routing key
    │   ├── ExecutorUnavailable     executor_unavailable  its image or engine is not on this node
    │   ├── ExecutorCrashed         executor_crashed      it raised, or ended without a verdict
    │   ├── StageTimeout            timeout               unpack, execute and pack took too long
    │   ├── Unroutable              unroutable            the next hop leads to no queue
    │   ├── Poison                  poison                its runs end their nodes, alone too
    │   ├── FaultBudgetSpent        fault                 a fault outlived its retry budget
    │   └── InternalError           internal              a defect of this package
    └── Fault                   the infrastructure failed, not the task: retried
        ├── BrokerFault
        ├── ManagementFault         the broker's management API; a node never needs it
        ├── StorageFault
        ├── EngineFault
        ├── DeviceFault             the machine that a stage drives does not answer, or not as it should
        └── NodeFault               this node's own disk

A foreign error is translated into one of these once, at the adapter that met it, with `from exc`.
"""

DETAIL_CHARS = 1_000
"""The longest text of a crash: whatever the input, a report is no larger than a screen."""


class UlosError(Exception):
    """Every error this package raises on purpose."""


class ConfigurationError(UlosError):
    """The environment or a descriptor is wrong; `mistakes` holds one readable line each."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class TopologyMismatch(UlosError):
    """What a command needs of the broker is missing, of another kind, or in use; the text says what to do."""


class ServiceMissing(UlosError):
    """A program that the lab needs is not there; the text says which, and the command that installs it."""


class ArtifactChanged(UlosError):
    """The artifact is not the one that was downloaded any more, so the result made from it is worth nothing."""


class Crash(UlosError):
    """The stage could not be carried out, for a reason that lies with the task.

    `code` is stable and travels in the crash message as `error.code`; the text of the
    exception becomes `error.detail`.

    Args:
        detail: What went wrong, for people. It may quote hostile input: what is not printable is escaped,
            and what is too long is cut.
        output_tail: The end of the executor's output, where it ran.
    """

    code = "crash"

    def __init__(self, detail: str, output_tail: str = "") -> None:
        super().__init__(_one_line(detail))
        self.output_tail = output_tail


class MalformedMessage(Crash):
    """The body is not a task message."""

    code = "malformed_message"


class ArtifactMissing(Crash):
    """The storage answers, and holds nothing at the task's file path."""

    code = "artifact_missing"


class ArchiveRejected(Crash):
    """The archive, or what a stage made of it, breaks a rule: of names, counts or sizes."""

    code = "archive_rejected"


class UnknownExecutor(Crash):
    """No executor claims the routing key of the tree's root."""

    code = "unknown_executor"


class ExecutorUnavailable(Crash):
    """The executor is known, but its image or engine is not on this node."""

    code = "executor_unavailable"


class ExecutorCrashed(Crash):
    """The executor raised, or ended without a verdict."""

    code = "executor_crashed"


class StageTimeout(Crash):
    """Unpack, execute and pack took longer than the task's timeout."""

    code = "timeout"


class Unroutable(Crash):
    """The broker has no queue, or no exchange, for the next hop."""

    code = "unroutable"


class Poison(Crash):
    """Nodes died while they executed it, also when nothing ran beside it; or it came back nineteen times."""

    code = "poison"


class FaultBudgetSpent(Crash):
    """A fault did not go away within the retry budget."""

    code = "fault"


class InternalError(Crash):
    """A defect of this package met the task; the node's log has the traceback."""

    code = "internal"


class Fault(UlosError):
    """The infrastructure failed, not the task. Retried, never blamed on the task.

    `kind` says in a word which part of it, for traces and metrics.
    """

    kind = "other"


class BrokerFault(Fault):
    """The broker is away, refused or did not confirm: the outcome of a publish is unknown."""

    kind = "broker"


class ManagementFault(Fault):
    """The management API of the broker is away, refuses these credentials, or answers something else."""


class StorageFault(Fault):
    """The storage is away, refused or broke off a transfer."""

    kind = "storage"


class EngineFault(Fault):
    """The container engine is away or broke off a call."""

    kind = "engine"


class DeviceFault(Fault):
    """The machine that a stage drives is away, in a state that needs a person, or obeys somebody else."""

    kind = "device"


class NodeFault(Fault):
    """This node's own disk is full or broken."""

    kind = "node"


def _one_line(text: str) -> str:
    start = text[: DETAIL_CHARS + 1]
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in start)
    return line if len(line) <= DETAIL_CHARS else f"{line[: DETAIL_CHARS - 1]}…"
