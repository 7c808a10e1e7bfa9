"""Pure routing: where a task goes after its verdict, and the ids of what is published.

The ids are deterministic, so that a message published twice after a kill carries the same
id twice and is absorbed downstream.
"""

import hashlib
import uuid
from collections.abc import Sequence

from ulos_stream.tasks import Event, RoutingDecision, Task, Verdict

NAMESPACE = uuid.UUID("5d0b5d7c-6a4c-5c8e-9c62-6f1d3a0f7b11")
"""Namespace of every id below. Part of the wire: changing it breaks deduplication in a mixed cluster."""

_NAMESPACE_BYTES = NAMESPACE.bytes
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""Of each hexadecimal digit that with its upper two bits set to 10."""

SUSPECT_DELIVERIES = 2
"""Deliveries without an end, as a quorum queue counts, after which a message may be what ends its nodes. Or it was only
beside it, or its nodes were restarted; so from then on it is watched how its runs end."""
ALONE_AFTER_DEATHS = 1
"""Runs of a suspect that ended with their node, after which it runs alone, so that nothing else is to blame."""
POISON_DEATHS = ALONE_AFTER_DEATHS + 2
"""Such runs after which the message is given up as poison."""
POISON_DELIVERIES = SUSPECT_DELIVERIES + POISON_DEATHS
"""Deliveries that poison takes at least, and after which a crash is not put back."""
LAST_DELIVERIES = 19
"""Deliveries after which a message is given up in any case: at its limit of 20 the queue puts it aside unreported."""


def branch(task: Task, verdict: Verdict) -> RoutingDecision | None:
    """The branch of the current stage that `verdict` takes; None where the route ends."""
    tree = task.routing_tree
    return tree.success_routing_decision if verdict is Verdict.PASS else tree.failure_routing_decision


def next_task(task: Task, branch: RoutingDecision) -> Task:
    """The task as it travels on: the branch taken has become the root."""
    return task.model_copy(update={"routing_tree": branch})


def chain(exchange: str, routing_keys: Sequence[str], on_failure: str | None = None) -> RoutingDecision:
    """A tree of one stage after the other, each the success branch of the one before; at least one.

    Args:
        exchange: Of every hop.
        routing_keys: Of the stages, in order.
        on_failure: Key of every stage's failure branch; None for none.

    Raises:
        ValidationError: A name is none for an exchange or a key.
    """
    tree: RoutingDecision | None = None
    failure = None if on_failure is None else RoutingDecision(exchange=exchange, routing_key=on_failure)
    for key in reversed(routing_keys):
        branches = {"success_routing_decision": tree, "failure_routing_decision": failure}
        there = {name: branch for name, branch in branches.items() if branch is not None}
        tree = RoutingDecision(exchange=exchange, routing_key=key, **there)
    assert tree is not None  # noqa: S101
    return tree


def hop_id(message_id: str, verdict: Verdict) -> str:
    """Message id of the next hop of a stage."""
    return _derive(message_id, "success" if verdict is Verdict.PASS else "failure")


def crash_id(message_id: str) -> str:
    """Message id of the crash report of a message."""
    return _derive(message_id, "crash")


def event_id(message_id: str, event: Event) -> str:
    """Message id of a log event of a stage."""
    return _derive(message_id, f"event:{event}")


def replay_id(message_id: str, report: int | None) -> str:
    """Message id of a task that is sent anew after a crash.

    The same crash gives the same id, so a replay that was killed and is repeated sends no second task.

    Args:
        message_id: Of the message that crashed.
        report: Place of its last crash report in the stream, so that a later crash gives another id.
    """
    return _derive(message_id, f"replay:{report}")


def requeues(*, wanted: bool, redelivered: bool, deliveries: int) -> bool:
    """Whether the rejection of a crashed message puts it back into its queue.

    Args:
        wanted: `MESSAGE_BROKER_REQUEUE_ON_REJECT`.
        redelivered: The broker's flag: this is not the first delivery.
        deliveries: How often the message was delivered before, as a quorum queue counts
            (`x-delivery-count`); 0 on a classic queue, which does not count.

    Returns:
        False where it could loop: a message that came back without a count, or came too often. A count
        at the first delivery was made up by the sender, which a classic queue lets through.
    """
    if not wanted:
        return False
    if not deliveries:
        return not redelivered
    return redelivered and deliveries + 1 < POISON_DELIVERIES


def is_suspect(*, redelivered: bool, deliveries: int) -> bool:
    """Whether a message, by the same signs, came back so often that it may be what ends its nodes."""
    return redelivered and deliveries >= SUSPECT_DELIVERIES


def is_poison(*, redelivered: bool, deliveries: int, deaths: int) -> bool:
    """Whether a message is given up.

    Args:
        redelivered: See `requeues`.
        deliveries: See `requeues`.
        deaths: Runs of a suspect that ended with their node.
    """
    return deaths >= POISON_DEATHS or (redelivered and deliveries >= LAST_DELIVERIES)


def _derive(message_id: str, suffix: str) -> str:
    """A UUID of version 5 (RFC 9562, section 5.5); a stage needs eight, and `uuid.uuid5` makes an object of each."""
    digits = hashlib.sha1(_NAMESPACE_BYTES + f"{message_id}:{suffix}".encode()).hexdigest()  # noqa: S324
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:32]}"
