"""The benchmarks count only work that was done, and say rightly whether a goal is met. Timing decides nothing here."""

import json
import math
import xml.etree.ElementTree as ElementTree
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import report, trial
from benchmarks.artifacts import MEMBER, Artifacts, Wrong
from benchmarks.contestants import Contestant, find
from benchmarks.goals import GOALS, Result, Results, rows
from benchmarks.loads import LOADS
from benchmarks.plot import LENGTH, plot
from benchmarks.processes import WorkerFailed
from benchmarks.report import filled, table
from benchmarks.stage import EVENTS
from benchmarks.trial import measure
from ulos_stream.lab import Broker, FtpServer

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Small ones."""
    made = Artifacts(tmp_path, size_bytes=22, seed=1)
    made.make(10)
    return made


@pytest.mark.parametrize(
    ("name", "load"),
    [("ulos", "chain"), ("ulos-traced", "small"), ("aiormq", "chain"), ("ulos-4", "mixed"), ("ulos", "owners")],
)
async def test_a_contestant_is_measured(
    broker: Broker, vsftpd_server: FtpServer, artifacts: Artifacts, name: str, load: str
) -> None:
    quick = LOADS[load].quick

    figures = await measure(find(name), quick, broker, vsftpd_server, artifacts)

    expected = {"stages_per_s", "peak_rss_mb", "first_task_s"} | ({"p50_ms", "p99_ms"} if quick.alone else set())
    expected |= {"guests_p95_ms"} if quick.guests else set()
    assert {key for key, figure in figures.items() if figure} - {"cpu_s_per_1000"} == expected
    assert list(vsftpd_server.root.iterdir()) == []


async def test_a_stage_that_failed_since_it_came_too_late_does_not_count(
    broker: Broker,
    vsftpd_server: FtpServer,
    artifacts: Artifacts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    descriptor = tmp_path / "executors" / "late" / "executor.toml"
    descriptor.parent.mkdir(parents=True)
    descriptor.write_text(
        'kind = "process"\nrouting_key_prefix = "late"\ncommand = ["sh", "-c", "echo late; exit 1"]\n'
    )
    monkeypatch.setattr(trial, "EXECUTORS", descriptor.parent.parent)
    load = replace(LOADS["heavy"].quick, executors=("late",))

    figures = await measure(find("ulos"), load, broker, vsftpd_server, artifacts)

    assert (figures["stages_per_s"], figures["late_percent"]) == (0, 100)


@pytest.mark.parametrize(
    ("contestant", "reason"),
    [
        (replace(find("aiormq"), events=EVENTS[1:]), "too many: .*'received'"),
        (replace(find("aiormq"), events=(*EVENTS[:-1], "other")), "missing: .*'other'"),
        (replace(find("ulos"), encode=lambda task: find("ulos").encode({**task, "timeout": -1})), "crashes"),
    ],
    ids=["an event too many", "another event", "crashes"],
)
async def test_what_was_not_done_as_it_should_be_is_not_measured(
    broker: Broker, vsftpd_server: FtpServer, artifacts: Artifacts, contestant: Contestant, reason: str
) -> None:
    with pytest.raises(Wrong, match=reason):
        await measure(contestant, LOADS["1-mib"].quick, broker, vsftpd_server, artifacts)


async def test_a_worker_that_ends_is_told_with_its_last_words(
    broker: Broker, vsftpd_server: FtpServer, artifacts: Artifacts
) -> None:
    contestant = replace(find("aiormq"), command=lambda at_once: ["sh", "-c", "echo no luck; exit 1"])

    with pytest.raises(WorkerFailed, match=r"a worker has ended; 0 tasks are done; it said:\nno luck"):
        await measure(contestant, LOADS["small"].quick, broker, vsftpd_server, artifacts)


def test_results_that_are_all_there_are_right(artifacts: Artifacts, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    artifacts.place(folder, 3)
    for result in folder.iterdir():
        rewrite(result, {MEMBER: content(result), "output.txt": b"PASS", ".ulos/journal.json": b"{}"})

    artifacts.check(folder, 3, {"output.txt"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda result: result.unlink(), "missing: .*1.zip"),
        (lambda result: result.with_suffix(".part").touch(), "left on the storage: .*1.part"),
        (lambda result: rewrite(result, {MEMBER: content(result)}), "holds .'data.bin'."),
        (lambda result: rewrite(result, {MEMBER: b"other", "output.txt": b"PASS"}), "not what was sent"),
        (lambda result: rewrite(result, {MEMBER: content(result), "output.txt": b""}), "empty .'output.txt'."),
    ],
    ids=["none", "temporary file", "no output", "other content", "empty output"],
)
def test_a_result_that_is_not_right_is_found(artifacts: Artifacts, tmp_path: Path, change: object, reason: str) -> None:
    folder = tmp_path / "results"
    artifacts.place(folder, 2)
    for result in sorted(folder.iterdir()):
        rewrite(result, {MEMBER: content(result), "output.txt": b"PASS"})
    assert callable(change)
    change(folder / "1.zip")

    with pytest.raises(Wrong, match=reason):
        artifacts.check(folder, 2, {"output.txt"})


def test_a_ratio_is_that_of_the_same_round_with_the_better_of_the_others() -> None:
    results = Results(
        [
            *trials("small", "ulos", 100, 300, 400),
            *trials("small", "celery-prefork", 100, 100, 100),
            *trials("small", "celery-threads", 100, 400, 200),
        ]
    )

    assert results.ratio("small", "ulos", ["celery-prefork"]) == 3
    assert results.ratio("small", "ulos", ["celery-prefork", "celery-threads"]) == 1
    assert results.ratio("small", "ulos", ["aiormq"]) is None


def test_beside_one_that_did_nothing_in_time_every_speed_is_infinite() -> None:
    results = Results([*trials("heavy", "ulos", 5), *trials("heavy", "ulos-32", 0)])

    assert results.ratio("heavy", "ulos", ["ulos-32"]) == math.inf
    assert table(results, LOADS["heavy"])[2:] == ["| ulos-stream | 5.00 |", "| ulos-stream, always 32 at once | 0.00 |"]


def test_each_row_of_the_goals_says_what_it_is_and_how_it_ended() -> None:
    met_and_missed = [
        *trials("small", "ulos", 200, cpu_s_per_1000=2.0, p50_ms=11.0),
        *trials("small", "celery-threads", 100),
    ]

    _, _, *written = rows(Results(met_and_missed))

    assert len(written) == 2 * len(GOALS)
    assert [row.startswith(f"| {kind} | ") for row, kind in zip(written, ["must", "goal"] * len(GOALS), strict=True)]
    ends = {tuple(cell.strip() for cell in row.split("|")[1:3]): row.split("|")[-2].strip() for row in written}
    ratio, cpu, p50 = GOALS[0].measure, "CPU of the worker for 1,000 stages", "one at a time, p50"
    assert [ends[kind, ratio] for kind in ("must", "goal")] == ["met", "missed"]
    assert [ends[kind, cpu] for kind in ("must", "goal")] == ["met", "missed"]
    assert [ends[kind, p50] for kind in ("must", "goal")] == ["missed", "missed"]
    assert ends["must", "one at a time, p99"] == "not measured"


def test_the_limit_that_moves_is_judged_by_the_load_on_which_it_stays_behind_most() -> None:
    ours, best, others = 95, 100, 50
    trials_of = {
        load: [*trials(load, "ulos", ours), *trials(load, "ulos-4", best), *trials(load, "ulos-32", others)]
        for load in ("light", "heavy")
    }
    mixed = [*trials("mixed", "ulos", 90), *trials("mixed", "ulos-32", 120)]

    behind = next(goal for goal in GOALS if "adaptive" in goal.measure)

    assert behind.figure(Results([*trials_of["light"], *trials_of["heavy"], *mixed])) == pytest.approx(25)
    assert behind.figure(Results([*trials_of["light"], *mixed])) is None


def test_the_limit_that_moves_is_compared_with_the_fixed_one_that_does_best_over_all_loads() -> None:
    speeds = {"ulos": (90, 30, 60), "ulos-1": (10, 30, 20), "ulos-4": (80, 30, 60), "ulos-32": (120, 10, 60)}
    trials_of_all = [
        trial
        for name, of_each in speeds.items()
        for load, speed in zip(("light", "heavy", "mixed"), of_each, strict=True)
        for trial in trials(load, name, speed)
    ]

    over_all = next(goal for goal in GOALS if "over light, heavy and mixed" in goal.measure)

    assert over_all.figure(Results(trials_of_all)) == pytest.approx((90 / 80) ** (1 / 3))
    assert over_all.figure(Results(trials_of_all[1:])) is None


def test_a_table_has_the_fastest_first_and_no_column_that_nobody_filled() -> None:
    results = Results([*trials("1-mib", "taskiq", 20, 30), *trials("1-mib", "ulos", 120, 121, 500)])

    lines = table(results, LOADS["1-mib"])

    assert lines == ["| 1 MiB | stages/s |", "|---|---:|", "| ulos-stream | 121 |", "| taskiq | 25.0 |"]


def test_a_block_of_the_page_is_filled_anew_and_a_missing_one_is_an_error() -> None:
    page = "words\n<!-- figures -->\nold\n<!-- end of figures -->\nmore words\n"

    assert filled(page, "figures", ["new"]) == (
        "words\n<!-- figures -->\n\nnew\n\n<!-- end of figures -->\nmore words\n"
    )
    with pytest.raises(LookupError, match="goals"):
        filled(page, "goals", [])


def test_the_page_has_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(report.PAGE.read_text())
    monkeypatch.setattr(report, "PAGE", page)
    results = tmp_path / "results.jsonl"
    lines = [{"machine": {"processor": "2 × abacus"}}, *trials("small", "ulos", 77)]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))

    report.write(results)

    assert "| processor | 2 × abacus |" in page.read_text()
    assert "| ulos-stream | 77.0 |" in page.read_text()
    assert "](benchmarks.svg)" in page.read_text()
    assert (tmp_path / "benchmarks.svg").exists()


def test_the_plot_has_a_bar_of_the_median_and_a_dot_for_each_round_the_fastest_first() -> None:
    results = Results([*trials("small", "aiormq", 50, 30, 20), *trials("small", "ulos", 100, 100, 100)])

    drawn = ElementTree.fromstring(plot(results))

    panel = drawn[1]
    assert [text.text for text in panel.iter(f"{SVG}text")] == [
        "Stages per second, 22 bytes", "ulos-stream", "100", "bare aiormq", "30"
    ]  # fmt: skip
    assert [float(bar.attrib["width"]) for bar in panel.iter(f"{SVG}rect")] == [LENGTH, 0.3 * LENGTH]
    assert len(list(panel.iter(f"{SVG}circle"))) == 6


def trials(load: str, contestant: str, *speeds: float, **figures: float) -> list[Result]:
    """A trial in every round, by their stages per second."""
    return [
        {"load": load, "contestant": contestant, "round": number, "stages_per_s": speed, **figures}
        for number, speed in enumerate(speeds)
    ]


def content(result: Path) -> bytes:
    with zipfile.ZipFile(result) as archive:
        return archive.read(MEMBER)


def rewrite(result: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(result, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
