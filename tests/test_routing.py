"""Routing is pure: (task, verdict) → branch, deterministic ids, and when a crash is requeued."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulos_stream import routing
from ulos_stream.tasks import RoutingDecision, Task, Verdict
from ulos_stream.topology.places import DELIVERY_LIMIT


def a_decision(key: str, success: RoutingDecision | None = None, failure: RoutingDecision | None = None) -> object:
    return {
        "exchange": "lab",
        "routingKey": key,
        "successRoutingDecision": success,
        "failureRoutingDecision": failure,
    }


def a_task(**tree: object) -> Task:
    return Task.model_validate(
        {
            "taskId": "t-1",
            "taskOwnerId": "o-1",
            "filePath": "/a.zip",
            "timeout": 10,
            "routingTree": {"exchange": "lab", "routingKey": "check", **tree},
            "course": {"code": "ISIS-3510"},
        }
    )


def test_each_verdict_takes_its_own_branch() -> None:
    task = a_task(successRoutingDecision=a_decision("run"), failureRoutingDecision=a_decision("task.failed"))

    taken = {verdict: routing.branch(task, verdict) for verdict in Verdict}

    assert {verdict: branch and branch.routing_key for verdict, branch in taken.items()} == {
        Verdict.PASS: "run",
        Verdict.FAIL: "task.failed",
    }


@pytest.mark.parametrize("tree", [{}, {"successRoutingDecision": None, "failureRoutingDecision": None}])
def test_a_missing_branch_and_a_null_one_both_end_the_route(tree: dict[str, object]) -> None:
    task = a_task(**tree)

    assert routing.branch(task, Verdict.PASS) is None
    assert routing.branch(task, Verdict.FAIL) is None


def test_the_branch_taken_becomes_the_root_and_everything_else_travels_on() -> None:
    task = a_task(successRoutingDecision=a_decision("run"))
    branch = routing.branch(task, Verdict.PASS)
    assert branch is not None

    travelled = routing.next_task(task, branch)

    assert travelled.routing_tree.routing_key == "run"
    assert travelled.model_dump(by_alias=True, exclude={"routing_tree"}) == task.model_dump(
        by_alias=True, exclude={"routing_tree"}
    )


@given(st.text(min_size=1))
def test_ids_are_the_same_every_time_and_different_for_every_purpose(message_id: str) -> None:
    def ids() -> list[str]:
        return [
            routing.hop_id(message_id, Verdict.PASS),
            routing.hop_id(message_id, Verdict.FAIL),
            routing.crash_id(message_id),
            routing.event_id(message_id, "received"),
            routing.event_id(message_id, "acknowledged"),
        ]

    assert ids() == ids()
    assert len(set(ids())) == 5


def test_an_id_is_what_other_nodes_compute_for_it() -> None:
    assert routing.hop_id("m-1", Verdict.PASS) == "ffee3e6e-86b6-5966-acc3-f115343e848f"


@pytest.mark.parametrize(
    ("redelivered", "deliveries", "suspect"),
    [(False, 0, False), (True, 0, False), (True, 1, False), (True, 2, True), (False, 19, False)],
)
def test_a_message_is_suspect_after_two_deliveries_that_the_broker_counted(
    redelivered: bool, deliveries: int, suspect: bool
) -> None:
    assert routing.is_suspect(redelivered=redelivered, deliveries=deliveries) is suspect


@pytest.mark.parametrize(
    ("redelivered", "deliveries", "deaths", "poison"),
    [(True, 18, 2, False), (True, 5, 3, True), (True, 19, 0, True), (False, 19, 0, False)],
)
def test_a_message_is_poison_after_three_deaths_or_just_before_its_queue_would_put_it_aside(
    redelivered: bool, deliveries: int, deaths: int, poison: bool
) -> None:
    assert routing.is_poison(redelivered=redelivered, deliveries=deliveries, deaths=deaths) is poison
    assert routing.LAST_DELIVERIES < DELIVERY_LIMIT


@pytest.mark.parametrize(
    ("wanted", "redelivered", "deliveries", "requeues"),
    [
        (False, False, 0, False),
        (False, True, 1, False),
        (True, False, 0, True),
        (True, True, 0, False),  # a classic queue does not count: it could loop
        (True, False, 1, False),  # made up by the sender
        (True, True, 3, True),
        (True, True, 4, False),  # the fifth delivery
        (True, True, 19, False),
    ],
)
def test_a_crash_is_requeued_when_wanted_and_never_in_a_loop(
    wanted: bool, redelivered: bool, deliveries: int, requeues: bool
) -> None:
    assert routing.requeues(wanted=wanted, redelivered=redelivered, deliveries=deliveries) is requeues
