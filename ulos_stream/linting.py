"""What is wrong with a task before it is sent: every hop of its tree against what is known. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ulos_stream.tasks import Hop, RoutingDecision, Task, Verdict, hop_of
from ulos_stream.topology.connection import Shown
from ulos_stream.topology.virtual_host import VirtualHost

ROOT = "root"

_VERDICTS = {"success": Verdict.PASS, "failure": Verdict.FAIL}


@dataclass(frozen=True, slots=True)
class Remark:
    """A mistake, something to know, or something that could not be checked."""

    kind: Literal["mistake", "note", "not checked"]
    code: str
    """Stable, for programs."""
    at: str
    """The branches that lead to where it holds first, as `success.failure`; `root`, or empty for the whole task."""
    text: str


Verdicts = Callable[[str], frozenset[Verdict] | None]
"""The verdicts with which the executor of a routing key can end; None when there is no executor."""
Nowhere = Callable[[Hop], str]
"""Why a hop leads to no queue; empty when it leads to one, or when that is not known."""


def lint(
    task: Task, verdicts: Verdicts, nowhere: Nowhere, *, fault_budget_s: float, delivery_timeout_s: float
) -> list[Remark]:
    """Everything that is remarkable about a task, from its root on.

    Args:
        task: As parsed, so the rules of the wire hold.
        verdicts: The executors.
        nowhere: The broker.
        fault_budget_s: Seconds for which a node retries a fault, with the message in hand.
        delivery_timeout_s: Seconds after which the broker takes a message from a node.
    """
    remarks: list[Remark] = []
    longest_s = task.timeout + fault_budget_s
    if longest_s >= delivery_timeout_s:
        text = f"timeout {task.timeout:g} s and a fault budget of {fault_budget_s:g} s make {longest_s:g} s, and after"
        text += f" {delivery_timeout_s:g} s the broker takes the message from the node: the stage runs twice"
        remarks.append(Remark("mistake", "timeout", "", text))
    if task.timeout == 0:
        remarks.append(
            Remark("note", "timeout-zero", "", "timeout 0: each stage times out before it executes anything")
        )
    for at, decision in walk(task.routing_tree):
        remarks += _hop(at, decision, verdicts, nowhere)
    # What holds for a key or a hop wherever it occurs is said where it occurs first.
    return list({(remark.code, remark.text): remark for remark in reversed(remarks)}.values())[::-1]


def walk(tree: RoutingDecision, at: str = ROOT) -> Iterator[tuple[str, RoutingDecision]]:
    """Each node of a tree with the branches that lead there, before those below it."""
    yield at, tree
    for name, branch in branches(tree).items():
        if branch is not None:
            yield from walk(branch, name if at == ROOT else f"{at}.{name}")


def branches(decision: RoutingDecision) -> dict[str, RoutingDecision | None]:
    """Both, by name."""
    return {"success": decision.success_routing_decision, "failure": decision.failure_routing_decision}


def nowhere(hop: Hop, host: VirtualHost | None, shown: Shown) -> str:
    """Why a hop leads to no queue, as far as the broker shows it; empty otherwise.

    Args:
        hop: Any.
        host: What the management API shows; None when it shows nothing.
        shown: What AMQP shows of all exchanges, and of the queues behind the default one.
    """
    if reason := shown.exchanges.get(hop.exchange) or (not hop.exchange and shown.queues.get(hop.routing_key)):
        return f"exchange {hop.exchange!r} {reason}" if hop.exchange else f"queue {hop.routing_key!r} {reason}"
    if host is not None and not host.reached(hop.exchange, hop.routing_key):
        return f"no queue takes routing key {hop.routing_key!r} from exchange {hop.exchange!r}"
    return ""


def _hop(at: str, decision: RoutingDecision, verdicts: Verdicts, nowhere: Nowhere) -> Iterator[Remark]:
    key = decision.routing_key
    if reason := nowhere(hop_of(decision)):
        yield Remark("mistake", "unbound", at, f"{reason}: the task crashes there as unroutable")
    is_stage = at == ROOT or any(branches(decision).values())
    possible = verdicts(key)
    if possible is None and is_stage:
        yield Remark("mistake", "unknown-executor", at, f"no executor of this machine claims {key!r}")
    elif possible is None:
        text = f"no executor of this machine claims {key!r}: right if somebody collects there what is done"
        yield Remark("note", "collected", at, text)
    else:
        for name, branch in branches(decision).items():
            if branch is not None and _VERDICTS[name] not in possible:
                ends = " or ".join(sorted(possible)) or "a crash"
                text = f"the {name} branch of {key!r} at {at} is never reached: it ends with {ends} only"
                yield Remark("note", "unreachable", name if at == ROOT else f"{at}.{name}", text)
