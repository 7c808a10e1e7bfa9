"""What is wrong with a task before it is sent."""

from typing import Any

import pytest

from ulos_stream.linting import Remark, lint, nowhere
from ulos_stream.tasks import Hop, RoutingDecision, Task, Verdict
from ulos_stream.topology.connection import Shown
from ulos_stream.topology.virtual_host import Binding, Exchange, Queue, VirtualHost

ENDS = {
    "check": frozenset(Verdict),
    "pass": frozenset({Verdict.PASS}),
    "fail": frozenset({Verdict.FAIL}),
    "crash": frozenset[Verdict](),
}
HOST = VirtualHost(
    {"q": Queue("q")}, {"x": Exchange("x"), "y": Exchange("y")}, (Binding("x", "q", "check"),), broker_version="3.10.8"
)


def a_tree(key: str, success: RoutingDecision | None = None, failure: RoutingDecision | None = None) -> RoutingDecision:
    return RoutingDecision(
        exchange="x", routing_key=key, success_routing_decision=success, failure_routing_decision=failure
    )


def a_task(tree: RoutingDecision, timeout: float = 10) -> Task:
    return Task(task_id="t", task_owner_id="o", file_path="/t.zip", timeout=timeout, routing_tree=tree)


def remarks(tree: RoutingDecision, *, timeout: float = 10, unbound: str = "", **seconds: float) -> list[Remark]:
    limits = {"fault_budget_s": 300.0, "delivery_timeout_s": 1_800.0, **seconds}
    leads: Any = lambda hop: "no queue" if hop.routing_key in unbound.split() else ""  # noqa: E731
    return lint(a_task(tree, timeout), ENDS.get, leads, **limits)


def found(*arguments: Any, **changes: Any) -> list[tuple[str, str, str]]:
    return [(remark.kind, remark.code, remark.at) for remark in remarks(*arguments, **changes)]


def test_a_sound_task_is_not_remarkable() -> None:
    assert remarks(a_tree("check", a_tree("check"), a_tree("pass"))) == []


def test_an_unknown_executor_is_a_mistake_where_a_stage_must_be_and_else_perhaps_a_collector() -> None:
    tree = a_tree("check", a_tree("chekc", a_tree("done")), a_tree("done"))

    assert found(tree) == [("mistake", "unknown-executor", "success"), ("note", "collected", "success.success")]
    assert found(a_tree("chekc")) == [("mistake", "unknown-executor", "root")]


@pytest.mark.parametrize(
    ("key", "never"),
    [("check", []), ("pass", ["failure"]), ("fail", ["success"]), ("crash", ["success", "failure"])],
)
def test_a_branch_that_the_executor_cannot_take_is_never_reached(key: str, never: list[str]) -> None:
    tree = a_tree("check", a_tree(key, a_tree("check"), a_tree("check")))

    assert found(tree) == [("note", "unreachable", f"success.{branch}") for branch in never]


def test_a_hop_to_no_queue_is_a_mistake_that_is_said_once() -> None:
    tree = a_tree("check", a_tree("check", a_tree("pass"), a_tree("pass")), a_tree("pass"))

    assert found(tree, unbound="pass") == [("mistake", "unbound", "success.success")]


@pytest.mark.parametrize(("timeout", "mistaken"), [(1_499, False), (1_500, True)])
def test_a_stage_and_its_faults_must_end_before_the_broker_takes_the_message_back(timeout: int, mistaken: bool) -> None:
    assert found(a_tree("check"), timeout=timeout) == [("mistake", "timeout", "")] * mistaken


def test_a_timeout_of_0_is_noted() -> None:
    assert found(a_tree("check"), timeout=0) == [("note", "timeout-zero", "")]


def test_a_tree_as_deep_as_they_may_be_is_walked() -> None:
    tree = a_tree("nobody")
    for _ in range(63):
        tree = a_tree("check", tree)

    assert found(tree) == [("note", "collected", ".".join(["success"] * 63))]


@pytest.mark.parametrize(
    ("hop", "reason"),
    [
        (("x", "check"), ""),
        (("x", "chekc"), "no queue takes routing key 'chekc' from exchange 'x'"),
        (("y", "check"), "no queue takes routing key 'check' from exchange 'y'"),
        (("z", "check"), "exchange 'z' does not exist"),
        (("", "q"), ""),
        (("", "r"), "queue 'r' does not exist"),
    ],
)
def test_where_the_broker_shows_all_a_hop_to_nowhere_is_found(hop: tuple[str, str], reason: str) -> None:
    shown = Shown({"x": "", "y": "", "z": "does not exist"}, {"q": "", "r": "does not exist"})

    assert nowhere(Hop(exchange=hop[0], routing_key=hop[1]), HOST, shown) == reason


def test_without_the_management_api_only_what_is_missing_is_found() -> None:
    shown = Shown({"x": "", "z": "does not exist"}, {})

    assert nowhere(Hop(exchange="x", routing_key="chekc"), None, shown) == ""
    assert nowhere(Hop(exchange="z", routing_key="check"), None, shown) == "exchange 'z' does not exist"
