"""The record of done stages: what verifies, what is found, and what nobody can forge."""

import io
import json
from pathlib import Path

import pytest
from world import a_zip

from ulos_stream import archive, routing
from ulos_stream.archive import Limits
from ulos_stream.journal import MOST_BYTES, Done, Entry, Journal, Origin, derived_key
from ulos_stream.tasks import Verdict

KEY = b"a key of some length"
PATH = "/a.zip"
BODY = b'{"taskId": "t"}'


def an_entry(message_id: str = "m-1", *, body: bytes = BODY, output: str = "left", **fields: object) -> Entry:
    known = {
        "message_id": message_id,
        "body_sha256": Origin(message_id, body).body_sha256,
        "executor": "pass",
        "verdict": Verdict.PASS,
        "input": "given",
        "output": output,
        "node": "n",
        "at": "2026-11-24T08:00:00.000+00:00",
    }
    return Entry.model_validate(known | fields)


def a_file(*entries: Entry, key: bytes = KEY, path: str = PATH) -> bytes:
    content = b""
    for entry in entries:
        content = Journal.parse(key, path, content or None).continued(entry)
    return content


def find(content: bytes | None, origin: Origin, artifact: str = "left", path: str = PATH) -> Done | None:
    return Journal.parse(KEY, path, content).find_done(origin, lambda: artifact)


def altered(content: bytes, index: int, **fields: object) -> bytes:
    journal = json.loads(content)
    journal["entries"][index] |= fields
    return json.dumps(journal).encode()


def test_a_code_is_what_other_nodes_compute_for_it() -> None:
    entries = json.loads(a_file(an_entry(), an_entry("m-2", image="sha256:1")))["entries"]

    assert [entry["mac"] for entry in entries] == [
        "6b322dcef50668f744afb2633f11c003e98a72a9f6bd53fa6e727fa149b16ed8",
        "33699857aae7203d5d7a21ec61eaacb2d07d73326d543daae74a37d9468ba686",
    ]


def test_a_signed_entry_tells_that_its_message_is_done() -> None:
    content = a_file(an_entry("m-0", output="between"), an_entry("m-1", verdict=Verdict.FAIL))

    assert find(content, Origin("m-1", BODY)) == Done("m-1", Verdict.FAIL)


@pytest.mark.parametrize(
    "content",
    [
        a_file(an_entry(), key=b"another key"),
        a_file(an_entry(), path="/another.zip"),
        altered(a_file(an_entry()), 0, verdict="FAIL"),
        altered(a_file(an_entry()), 0, output="left", mac="é"),
        altered(a_file(an_entry("m-0"), an_entry()), 0, mac="0" * 64),
        json.dumps({"version": 1, "entries": json.loads(a_file(an_entry("m-0"), an_entry()))["entries"][1:]}).encode(),
        altered(a_file(an_entry(), key=b"another key"), 0, verified=True),
    ],
    ids=[
        "another key",
        "another artifact",
        "altered",
        "no mac at all",
        "after an altered one",
        "taken out",
        "said to be",
    ],
)
def test_an_entry_that_does_not_verify_is_kept_and_marked_and_never_trusted(content: bytes) -> None:
    journal = Journal.parse(KEY, PATH, content)

    assert journal.find_done(Origin("m-1", BODY), lambda: "left") is None
    written = json.loads(journal.continued(an_entry("m-2")))["entries"]
    assert [entry["verified"] for entry in written][-2:] == [False, True]
    assert written[-2]["messageId"] == "m-1"


@pytest.mark.parametrize(
    ("origin", "artifact"),
    [
        (Origin("m-2", BODY), "left"),
        (Origin("m-1", b"another body"), "left"),
        (Origin("m-1", BODY), "replaced by somebody"),
        (Origin("drawn", BODY, has_id=False), "left"),
        (Origin("drawn", b"another body", has_id=False, redelivered=True), "left"),
        (Origin("drawn", BODY, has_id=False, redelivered=True), "replaced by somebody"),
    ],
    ids=["another id", "another body", "another artifact", "a fresh copy", "no id, another body", "no id, replaced"],
)
def test_a_stage_that_is_not_surely_done_is_carried_out(origin: Origin, artifact: str) -> None:
    assert find(a_file(an_entry()), origin, artifact) is None


def test_a_redelivered_message_without_an_id_takes_that_of_the_last_entry() -> None:
    content = a_file(an_entry("drawn before"))

    assert find(content, Origin("drawn now", BODY, has_id=False, redelivered=True)) == Done(
        "drawn before", Verdict.PASS
    )


def test_a_redelivered_message_without_an_id_is_not_found_once_others_were_at_the_artifact() -> None:
    content = a_file(an_entry("drawn before", output="between"), an_entry("m-2", body=b"another"))

    assert find(content, Origin("drawn now", BODY, has_id=False, redelivered=True)) is None


def test_a_later_entry_of_the_next_hop_shows_that_it_was_received() -> None:
    hop_id = routing.hop_id("m-1", Verdict.PASS)
    content = a_file(an_entry("m-1", output="between"), an_entry(hop_id, body=b"the next"))

    assert find(content, Origin("m-1", BODY)) == Done("m-1", Verdict.PASS, received=True)
    assert find(content, Origin(hop_id, b"the next")) == Done(hop_id, Verdict.PASS, received=False)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"version": 2, "entries": []}',
        b'{"version": 1, "entries": {}}',
        b'{"version": 1, "entries": 5}',
        b'{"version": 1, "entries": [5]}',
        b'{"version": 1, "entries": [{}]}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_journal_has_no_entries_and_is_begun_anew(content: bytes | None) -> None:
    journal = Journal.parse(KEY, PATH, content)

    assert journal.entries == ()
    assert find(journal.continued(an_entry()), Origin("m-1", BODY)) == Done("m-1", Verdict.PASS)


def test_a_journal_that_grows_too_large_loses_its_oldest_entries() -> None:
    journal = Journal(KEY, PATH, tuple(an_entry(f"m-{number}", node="n" * 1000) for number in range(300)))

    content = journal.continued(an_entry("the last"))

    assert MOST_BYTES - 4_000 < len(content) <= MOST_BYTES
    assert find(content, Origin("the last", BODY)) == Done("the last", Verdict.PASS)


def test_every_node_with_the_same_passwords_derives_the_same_key() -> None:
    assert derived_key("a", "b") == derived_key("a", "b")
    assert len({derived_key("a", "b"), derived_key("ab", ""), derived_key("a"), derived_key("b", "a")}) == 4


def test_packing_unpacking_and_reading_agree_on_the_fingerprint_and_the_journal_is_no_part_of_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "files").mkdir()
    told: list[str] = []

    def journal(fingerprint: str) -> bytes:
        told.append(fingerprint)
        return b"a journal"

    result = io.BytesIO()
    with archive.opened(io.BytesIO(a_zip(top__b_txt="b", top__a_txt="a")), Limits()) as before:
        given = before.unpack(tmp_path / "files")
        archive.pack(tmp_path / "files", result, {}, Limits(), journal=journal)

        with archive.opened(result, Limits()) as after:
            assert told == [given] == [before.fingerprint()] == [after.fingerprint()]
            assert after.journal(100) == b"a journal"
            assert after.journal(5) is None
            assert before.journal(100) is None


@pytest.mark.parametrize("change", [{"a_txt": "A"}, {"b_txt": "a"}, {"a_txt": "a", "b_txt": ""}, {}])
def test_other_files_have_another_fingerprint(change: dict[str, str]) -> None:
    with (
        archive.opened(io.BytesIO(a_zip(a_txt="a")), Limits()) as one,
        archive.opened(io.BytesIO(a_zip(**change)), Limits()) as other,
    ):
        assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(("deaths", "alone"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_stage_runs_alone_from_the_death_of_its_node_until_it_is_only_to_be_reported(
    deaths: int, alone: bool
) -> None:
    assert Origin("m-1", b"", redelivered=True, deliveries=5, deaths=deaths).is_to_be_alone is alone
