"""Sending crashed tasks back: what may be sent is decided purely; a dead letter goes only after the confirmation.

Killed between the confirmation and the removal of the dead letter, a replay leaves both the sent
task and the dead letter. Run again it sends the same message with the same id, which the next
node absorbs if it knows the id; nothing is lost in any case.
"""

from dataclasses import dataclass

from ulos_stream import routing
from ulos_stream.crashes import Case
from ulos_stream.errors import MalformedMessage, Unroutable
from ulos_stream.tasks import Hop, hop_of, parse_task
from ulos_stream.topology import APP_ID
from ulos_stream.topology.connection import Channel
from ulos_stream.topology.reading import Letter
from ulos_stream.topology.sending import send

NO_ID = "the message has no id and no report, so a repeated replay could send it twice: move it with a shovel"
NOT_FIRST = (
    "a node sent it here, so this was not its first stage, and what was before is not kept: "
    "give the whole task by --task FILE, or replay --from crashed"
)
PERHAPS_NOT_FIRST = (
    "it came without a message id, as from a Scala node too, so this need not be its first stage: "
    "give the whole task by --task FILE, or replay --from crashed"
)


@dataclass(frozen=True, slots=True)
class Send:
    """A message to publish for a case."""

    hop: Hop
    body: bytes
    message_id: str
    like: Letter | None
    """The dead letter that it repeats; None for a task from a file."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing can be published for a case."""

    reason: str


def from_crashed(case: Case, queue: str, max_timeout_s: float) -> Send | Refusal:
    """The message as it was, to the queue in which it died, under its old id.

    Args:
        case: With a dead letter.
        queue: Where it goes if the broker did not note where it died.
        max_timeout_s: The longest timeout that a node accepts.
    """
    letter = case.letters[-1]
    try:
        parse_task(letter.body, max_timeout_s)
    except MalformedMessage as malformed:
        return Refusal(f"it would crash again, it is still no task: {malformed}")
    if case.message_id is None:
        return Refusal(NO_ID)
    return Send(Hop(exchange="", routing_key=_died_in(case, queue)), letter.body, case.message_id, letter)


def from_first(case: Case, queue: str, max_timeout_s: float, whole: bytes | None = None) -> Send | Refusal:
    """The task with its whole tree, under a new id.

    A report and a dead letter hold what remained of the tree. That is all of it only in the first
    stage: for a message that has an id and does not come from a node.

    Args:
        case: With a dead letter.
        queue: As in `from_crashed`.
        max_timeout_s: As in `from_crashed`.
        whole: The task as it was first sent, where the user still has it; goes to the root of its tree.
    """
    old = from_crashed(case, queue, max_timeout_s)
    if isinstance(old, Refusal):
        return old
    new_id = routing.replay_id(old.message_id, case.offset)
    if whole is not None:
        try:
            task = parse_task(whole, max_timeout_s)
        except MalformedMessage as malformed:
            return Refusal(f"the file is no task: {malformed}")
        if task.task_id != case.task:
            return Refusal(f"the file is task {task.task_id!r}, and {case.task!r} crashed")
        return Send(hop_of(task.routing_tree), whole, new_id, None)
    letter = case.letters[-1]
    if letter.app_id == APP_ID:
        return Refusal(NOT_FIRST)
    if letter.message_id is None:
        return Refusal(PERHAPS_NOT_FIRST)
    return Send(old.hop, letter.body, new_id, letter)


async def carry_out(channel: Channel, case: Case, plan: Send, timeout_s: float) -> Refusal | None:
    """Publish on a channel of `sending`, and take the dead letters of the case off once the broker has confirmed.

    Returns:
        Why it was not sent, the dead letter staying where it is; None when it was.

    Raises:
        BrokerFault: No confirmation came; the dead letter stays where it is.
    """
    try:
        await send(channel, plan.hop, plan.body, message_id=plan.message_id, like=plan.like, timeout_s=timeout_s)
    except Unroutable as nowhere:
        return Refusal(str(nowhere))
    for letter in case.letters:
        await letter.take_off()
    return None


def _died_in(case: Case, queue: str) -> str:
    return str(case.letters[-1].died.get("queue") or queue)
