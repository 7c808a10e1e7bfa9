"""Which report belongs to which dead letter, what may be sent back, and what is said of each code."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from ulos_stream import routing
from ulos_stream.crashes import Case, condition, join
from ulos_stream.crashes.advice import ADVICE, UNKNOWN, advice
from ulos_stream.crashes.replaying import Refusal, Send, from_crashed, from_first
from ulos_stream.errors import Crash, ExecutorCrashed, MalformedMessage
from ulos_stream.tasks import Hop, crash_message, malformed_message, parse_task
from ulos_stream.topology import APP_ID
from ulos_stream.topology.reading import Letter

DEATH = {"queue": "tasks", "reason": "rejected", "time": datetime(2026, 1, 2, tzinfo=UTC)}


def a_task(task_id: str = "t-1", **fields: Any) -> bytes:
    tree = {"exchange": "x", "routingKey": "grammar", "successRoutingDecision": {"exchange": "x", "routingKey": "next"}}
    task = {"taskId": task_id, "taskOwnerId": "o-1", "filePath": "/a.zip", "timeout": 10, "routingTree": tree}
    return json.dumps(task | fields).encode()


def a_report(body: bytes, message_id: str, offset: int = 0, detail: str = "boom") -> Letter:
    report = crash_message(parse_task(body), ExecutorCrashed(detail))
    return Letter(report.encode(), correlation_id=message_id, headers={"x-stream-offset": offset})


def a_letter(body: bytes, message_id: str | None = "m-1", **marks: Any) -> Letter:
    return Letter(body, message_id, headers={"x-death": [DEATH]}, **marks)


def a_case(body: bytes | None = None, message_id: str | None = "m-1", **marks: Any) -> Case:
    body = body or a_task()
    [case] = join([a_report(body, message_id or "drawn", offset=7)], [a_letter(body, message_id, **marks)])
    return case


# join


def test_a_report_and_a_dead_letter_of_one_message_are_one_case() -> None:
    letter = a_letter(a_task())

    [case] = join([a_report(a_task(), "m-1", offset=3)], [letter])

    assert (case.task, case.owner, case.stage, case.code, case.detail) == (
        "t-1", "o-1", "grammar", "executor_crashed", "boom"
    )  # fmt: skip
    assert (case.message_id, case.reports, case.offset, case.letters) == ("m-1", 1, 3, (letter,))


def test_the_time_of_a_case_is_that_of_its_report_else_that_of_its_death() -> None:
    reported = datetime(2026, 1, 1, tzinfo=UTC)
    report = a_report(a_task(), "m-1")
    dated = Letter(report.body, correlation_id="m-1", timestamp=reported)

    assert join([dated], [a_letter(a_task())])[0].at == reported
    assert join([report], [a_letter(a_task())])[0].at == DEATH["time"]
    assert join([report], [])[0].at is None


def test_the_same_id_on_another_task_is_another_message() -> None:
    reported, unreported = join([a_report(a_task("t-1"), "m-1")], [a_letter(a_task("t-2"))])

    assert (reported.task, reported.letters) == ("t-1", ())
    assert (unreported.task, unreported.code) == ("t-2", "unreported")


def test_a_message_that_crashed_again_is_one_case_with_its_last_report() -> None:
    reports = [a_report(a_task(), "m-1", 0, "first"), a_report(a_task(), "m-1", 5, "second")]

    [case] = join(reports, [a_letter(a_task())])

    assert (case.detail, case.reports, case.offset) == ("second", 2, 5)


def test_a_message_that_the_broker_has_twice_is_one_case() -> None:
    [case] = join([a_report(a_task(), "m-1")], [a_letter(a_task()), a_letter(a_task())])

    assert len(case.letters) == 2


def test_a_message_without_an_id_is_found_by_its_content_whatever_a_scala_node_added() -> None:
    letter = a_letter(a_task(logMessage="added", mqId=1), message_id=None)

    [case] = join([a_report(a_task(), "drawn")], [letter])

    assert (case.message_id, case.letters) == ("drawn", (letter,))


def test_equal_messages_without_an_id_are_paired_one_by_one_newest_first() -> None:
    letters = [a_letter(a_task(), None), a_letter(a_task(), None)]
    reports = [a_report(a_task(), f"drawn-{n}", offset=n) for n in range(3)]

    cases = join(reports, letters)

    assert [case.letters for case in cases] == [(), (letters[0],), (letters[1],)]


def test_a_body_that_is_no_task_is_found_by_its_hash() -> None:
    body = b"{"
    report = Letter(malformed_message(body, MalformedMessage("no JSON")).encode(), correlation_id="drawn")

    [case] = join([report], [a_letter(body, None)])

    assert (case.code, case.task, case.stage, len(case.letters)) == ("malformed_message", "", "", 1)
    assert hashlib.sha256(body).hexdigest() == case.raw["sha256"]


def test_a_dead_letter_without_a_report_says_why_the_broker_put_it_aside() -> None:
    letter = Letter(a_task(), "m-1", headers={"x-death": [DEATH | {"reason": "delivery_limit"}]})

    [case] = join([], [letter])

    assert (case.code, case.detail) == ("unreported", "the broker put it aside: delivery_limit")
    assert (case.task, case.offset) == ("t-1", None)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"error": "words"}', b"[" * 100_000])
def test_what_is_no_crash_report_is_passed_over(body: bytes) -> None:
    assert join([Letter(body, correlation_id="m-1")], []) == []


def test_cases_come_in_the_order_of_their_reports() -> None:
    reports = [a_report(a_task(f"t-{n}"), f"m-{n}", offset=n) for n in range(4)]

    assert [case.task for case in join(reports, [])] == ["t-0", "t-1", "t-2", "t-3"]


# choosing


def test_every_condition_must_hold() -> None:
    case = a_case()

    assert case.matches([])
    assert case.matches([condition("code=executor_crashed"), condition("task=t-1")])
    assert not case.matches([condition("code=executor_crashed"), condition("owner=other")])
    assert condition("task=a=b") == ("task", "a=b")


@pytest.mark.parametrize("text", ["code", "colour=red", "=x", ""])
def test_a_condition_that_is_none_is_refused_with_the_keys(text: str) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE with a KEY of code, task, owner, stage"):
        condition(text)


# replaying


def test_from_crashed_repeats_the_message_as_it_was_where_it_died() -> None:
    case = a_case(a_task(logMessage="added"))

    plan = from_crashed(case, "other", 86_400)

    assert plan == Send(Hop(exchange="", routing_key="tasks"), a_task(logMessage="added"), "m-1", case.letters[0])


def test_from_crashed_gives_a_message_without_an_id_the_one_that_its_node_drew() -> None:
    plan = from_crashed(a_case(message_id=None), "other", 86_400)

    assert isinstance(plan, Send)
    assert plan.message_id == "drawn"


def test_from_first_gives_the_first_stage_a_new_id_that_is_the_same_each_time() -> None:
    plans = [from_first(a_case(app_id="producer"), "other", 86_400) for _ in range(2)]

    assert isinstance(plans[0], Send)
    assert isinstance(plans[1], Send)
    assert (plans[0].body, plans[0].hop.routing_key) == (a_task(), "tasks")
    assert plans[0].message_id == plans[1].message_id == routing.replay_id("m-1", 7)
    assert routing.replay_id("m-1", 7) != routing.replay_id("m-1", 8)


def test_from_first_refuses_what_need_not_be_the_first_stage() -> None:
    hop = from_first(a_case(app_id=APP_ID), "other", 86_400)
    unmarked = from_first(a_case(message_id=None), "other", 86_400)

    assert isinstance(hop, Refusal)
    assert "a node sent it here" in hop.reason
    assert isinstance(unmarked, Refusal)
    assert "as from a Scala node too" in unmarked.reason


def test_from_first_sends_the_whole_task_of_a_file_to_its_own_root_as_a_new_message() -> None:
    whole = a_task(routingTree={"exchange": "x", "routingKey": "root"})

    plan = from_first(a_case(app_id=APP_ID), "other", 86_400, whole)

    assert plan == Send(Hop(exchange="x", routing_key="root"), whole, routing.replay_id("m-1", 7), None)


@pytest.mark.parametrize(
    ("whole", "reason"), [(b"{", "the file is no task"), (a_task("t-9"), "the file is task 't-9', and 't-1' crashed")]
)
def test_a_file_that_is_not_the_crashed_task_is_refused(whole: bytes, reason: str) -> None:
    refusal = from_first(a_case(), "other", 86_400, whole)

    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def test_a_body_that_is_still_no_task_is_refused_until_the_settings_allow_it() -> None:
    case = a_case(a_task(timeout=100))

    refusal = from_crashed(case, "other", max_timeout_s=50)

    assert isinstance(refusal, Refusal)
    assert "timeout: 100 is more than the 50 s allowed" in refusal.reason
    assert isinstance(from_crashed(case, "other", max_timeout_s=100), Send)


def test_a_message_with_neither_id_nor_report_is_refused() -> None:
    [case] = join([], [a_letter(a_task(), None)])

    refusal = from_crashed(case, "other", 86_400)

    assert isinstance(refusal, Refusal)
    assert "no id and no report" in refusal.reason


def test_a_dead_letter_that_does_not_say_where_it_died_goes_to_the_queue_of_the_settings() -> None:
    [case] = join([a_report(a_task(), "m-1")], [Letter(a_task(), "m-1")])

    plan = from_crashed(case, "other", 86_400)

    assert isinstance(plan, Send)
    assert plan.hop == Hop(exchange="", routing_key="other")


# advice


def codes(error: type[Crash]) -> Iterator[str]:
    for kind in error.__subclasses__():
        yield kind.code
        yield from codes(kind)


def test_every_crash_code_says_what_it_means_and_what_can_be_done() -> None:
    known = set(codes(Crash))

    assert ADVICE.keys() == known | {"unreported"}
    for advised in ADVICE.values():
        assert advised.means.endswith(".")
        assert advised.do.endswith(".")
    assert advice("from_the_future") is UNKNOWN
