"""Each crash code in plain words: what it means, and what can be done."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """For the people who run the system."""

    means: str
    do: str


ADVICE = {
    "malformed_message": Advice(
        "The body is not a task message; nothing was executed.",
        "Correct the sender; a body that is no task can only be dropped, or sent again corrected.",
    ),
    "artifact_missing": Advice(
        "The storage answered and holds no file at the task's path; nothing was executed.",
        "Upload the file, then replay from the crashed stage.",
    ),
    "archive_rejected": Advice(
        "The zip, or what the stage made of it, is broken or breaks a limit; the stored file is as it was.",
        "Replace the zip, or raise the ULOS_ARCHIVE_* limit that the detail names, then replay from the crashed stage.",
    ),
    "unknown_executor": Advice(
        "No executor of the node that took the task claims the routing key.",
        "Add the executor's folder to ULOS_EXECUTORS_PATH or bind the key to another queue, then replay from the "
        "crashed stage.",
    ),
    "executor_unavailable": Advice(
        "The executor is known, but its image or its engine was not on the node.",
        "Load the image or start the engine on every node of the queue, then replay from the crashed stage.",
    ),
    "executor_crashed": Advice(
        "The executor raised an error or ended without a verdict; the end of its output says more.",
        "Correct the executor, or the work if its output blames that, then replay from the crashed stage.",
    ),
    "timeout": Advice(
        "Unpacking, executing and packing took longer than the task's timeout; the run was ended.",
        "If the node was overloaded, replay from the crashed stage; else send the task anew with a longer timeout.",
    ),
    "unroutable": Advice(
        "The stage is done and its result is uploaded, but no queue takes the next hop.",
        "Bind a queue for the exchange and key that the detail names, then replay from the crashed stage.",
    ),
    "fault": Advice(
        "The broker, the storage, the container engine, a device or the node's disk was away for longer than the fault "
        "budget, or a device in use for longer than the node could wait.",
        "Repair what the detail names, or wait until it is free, then replay from the crashed stage; the task itself "
        "is not to blame.",
    ),
    "poison": Advice(
        "Nodes died while they executed the task, also when nothing ran beside it; or it came back nineteen times.",
        "Look at the nodes' logs for what killed them; replay from the crashed stage once that cannot happen again.",
    ),
    "internal": Advice(
        "A defect of ulos-stream met the task; the node's log has the traceback.",
        "Report the traceback, update the nodes, then replay from the crashed stage.",
    ),
    "unreported": Advice(
        "The broker put the message aside without a crash report of a node: it was delivered too often because nodes "
        "died on it, or it expired, or its report has left the stream.",
        "Look at the nodes' logs for its task id before replaying it: it may kill them again.",
    ),
}
"""By code; `unreported` stands for a dead letter without a report."""

UNKNOWN = Advice("This version does not know the code.", "Look at the detail, and at the version of the node.")


def advice(code: str) -> Advice:
    """What to say of a code."""
    return ADVICE.get(code, UNKNOWN)
