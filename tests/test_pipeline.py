"""What a stage's five steps do when what is around them does not hold still."""

import asyncio
from pathlib import Path
from typing import BinaryIO

import pytest
from world import a_zip

from ulos_stream import archive
from ulos_stream.errors import (
    ArtifactChanged,
    ArtifactMissing,
    Crash,
    ExecutorCrashed,
    Fault,
    FaultBudgetSpent,
    Poison,
    StorageFault,
    UlosError,
    UnknownExecutor,
)
from ulos_stream.executors.registry import build_registry
from ulos_stream.journal import Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.storage import Version, mark_name
from ulos_stream.tasks import Event, Task, Verdict
from ulos_stream.workspace import NodeDirectory

ARTIFACT = "/a.zip"
STAGE = "m-1"


class Storage:
    """Has one artifact, which somebody else replaces whenever it is to be uploaded, or another `fault` meets it, so
    many times."""

    def __init__(self, changes: int, fault: type[UlosError] = ArtifactChanged) -> None:
        self.changes = changes
        self.fault = fault
        self.downloads = 0
        self.swept: list[str] = []
        self.marks: set[str] = set()
        """Files beside the artifact."""
        self.marked: list[str] = []

    async def check(self) -> None:
        """All is well."""

    async def download(self, path: str, target: BinaryIO) -> Version:
        if path in self.marks:
            return Version(0, None)
        if path != ARTIFACT:
            raise ArtifactMissing(f"there is no {path!r}")
        self.downloads += 1
        target.seek(0)
        target.truncate()
        return Version(target.write(a_zip()), None)

    async def date(self, path: str, version: Version) -> None: ...

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        if path != ARTIFACT:
            self.marks.add(path)
            self.marked.append(path)
        elif self.changes:
            self.changes -= 1
            raise self.fault(f"{path!r} is another one")

    async def sweep(self, path: str, *, stage_id: str) -> None:
        self.swept.append(path)
        self.marks.clear()

    async def aclose(self) -> None:
        """Nothing is open."""


class Stand:
    """A pipeline over such a storage."""

    def __init__(self, directory: Path, storage: Storage, budget_s: float, key: str = "pass") -> None:
        self.key = key
        self.told: list[tuple[str, float]] = []
        self.directory = NodeDirectory(directory, "n")
        self.directory.open()
        self.pipeline = Pipeline(
            storage=storage,
            executors=build_registry((), mock_delay_s=0, node="n", docker_host=None),
            limits=archive.Limits(),
            directory=self.directory,
            node="n",
            journal_key=b"key",
            fault_budget_s=budget_s,
            report_fault=self._report,
        )

    def _report(self, fault: Fault, wait_s: float) -> None:
        self.told.append((str(fault), wait_s))

    @property
    def task(self) -> Task:
        body = {"taskId": "t", "taskOwnerId": "o", "filePath": ARTIFACT, "timeout": 10}
        return Task.model_validate(body | {"routingTree": {"exchange": "", "routingKey": self.key}})

    def origin(self, deliveries: int, deaths: int = 0) -> Origin:
        return Origin(STAGE, b"", redelivered=deliveries > 0, deliveries=deliveries, deaths=deaths)

    async def run(self, deliveries: int = 0, deaths: int = 0) -> Verdict:
        return (await self.pipeline.run(self.task, self.origin(deliveries, deaths), self._event)).verdict

    def _event(self, event: Event, text: str, verdict: Verdict | None = None) -> None:
        """Nobody listens."""


async def test_a_stage_whose_artifact_changes_under_it_begins_anew_after_a_pause_that_is_told(tmp_path: Path) -> None:
    storage = Storage(changes=3)
    stand = Stand(tmp_path, storage, budget_s=60)

    verdict = await stand.run()

    assert verdict is Verdict.PASS
    assert storage.downloads == 4
    assert [reason for reason, _ in stand.told] == ["the stage begins anew: '/a.zip' is another one"] * 2
    assert all(wait_s > 0 for _, wait_s in stand.told)


async def test_a_stage_looks_at_a_changed_artifact_once_whatever_the_budget(tmp_path: Path) -> None:
    stand = Stand(tmp_path, Storage(changes=1), budget_s=0)

    assert await stand.run() is Verdict.PASS
    assert stand.told == []


async def test_an_artifact_that_never_holds_still_is_a_crash_when_the_budget_is_spent(tmp_path: Path) -> None:
    storage = Storage(changes=1_000)

    with pytest.raises(FaultBudgetSpent, match="is another one"):
        await Stand(tmp_path, storage, budget_s=0.2).run()

    assert storage.downloads < 10


@pytest.mark.parametrize(("changes", "swept"), [(0, []), (1, ["/a.zip"])])
@pytest.mark.parametrize("fault", [ArtifactChanged, StorageFault])
async def test_what_an_upload_may_have_left_that_met_a_fault_is_swept_when_another_one_is_done(
    fault: type[UlosError], changes: int, swept: list[str], tmp_path: Path
) -> None:
    storage = Storage(changes, fault)

    assert await Stand(tmp_path, storage, budget_s=60).run() is Verdict.PASS
    assert storage.swept == swept


@pytest.mark.parametrize(
    ("refusal", "given_up"),
    [(StorageFault, "given up after 0.05 s: "), (ArtifactMissing, "")],
    ids=["fault", "missing"],
)
async def test_what_may_be_left_on_the_storage_is_said_and_changes_no_verdict(
    refusal: type[UlosError],
    given_up: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("ulos_stream.pipeline.SWEEP_S", 0.05)

    async def refuse(path: str, *, stage_id: str) -> None:
        raise refusal(f"no listing of what is beside {path!r}")

    stand = Stand(tmp_path, storage := Storage(changes=1), budget_s=0)
    monkeypatch.setattr(storage, "sweep", refuse)

    assert await stand.run() is Verdict.PASS
    assert caplog.messages == [
        f"a temporary file may be left beside /a.zip: {given_up}no listing of what is beside '/a.zip'"
    ]


async def test_a_sweep_is_tried_again_where_the_storage_is_away_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(tmp_path, storage := Storage(changes=0), budget_s=0)
    sweep = storage.sweep

    async def be_away(path: str, *, stage_id: str) -> None:
        monkeypatch.setattr(storage, "sweep", sweep)
        raise StorageFault("the server closed the connection")

    monkeypatch.setattr(storage, "sweep", be_away)
    await stand.pipeline.sweep(stand.task, stand.origin(1))

    assert storage.swept == [ARTIFACT]
    assert [reason for reason, _ in stand.told] == ["the server closed the connection"]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("deliveries", "deaths", "mark"),
    [(1, 0, None), (2, 0, 0), (18, 2, 2)],
    ids=["too few deliveries", "suspect", "after deaths"],
)
async def test_a_suspect_has_a_mark_while_it_runs(
    deliveries: int, deaths: int, mark: int | None, tmp_path: Path
) -> None:
    stand = Stand(tmp_path, storage := Storage(changes=0), budget_s=0)

    assert await stand.run(deliveries, deaths) is Verdict.PASS
    assert storage.marked == ([] if mark is None else [mark_name(ARTIFACT, STAGE, mark)])
    assert storage.marks == set()


@pytest.mark.parametrize("left", [0, 1, 2, 3])
async def test_the_deaths_of_a_stage_are_told_by_the_marks_that_are_left(left: int, tmp_path: Path) -> None:
    stand = Stand(tmp_path, storage := Storage(changes=0), budget_s=0)
    storage.marks = {mark_name(ARTIFACT, STAGE, number) for number in range(left)}

    assert await stand.pipeline.count_deaths(stand.task, stand.origin(2)) == left


async def test_a_stage_of_which_enough_nodes_died_is_poison_and_keeps_its_marks(tmp_path: Path) -> None:
    stand = Stand(tmp_path, storage := Storage(changes=0), budget_s=0)

    with pytest.raises(Poison, match="delivered 7 times; 3 of its nodes died while it ran"):
        await stand.run(7, deaths=3)

    assert storage.swept == []


@pytest.mark.parametrize(("key", "marks", "crash"), [("crash", 1, ExecutorCrashed), ("nobody", 0, UnknownExecutor)])
async def test_a_suspect_that_crashes_leaves_no_mark(key: str, marks: int, crash: type[Crash], tmp_path: Path) -> None:
    stand = Stand(tmp_path, storage := Storage(changes=0), budget_s=0, key=key)

    with pytest.raises(crash):
        await stand.run(3)

    assert len(storage.marked) == marks
    assert storage.marks == set()


async def test_a_suspect_that_begins_anew_has_one_mark(tmp_path: Path) -> None:
    stand = Stand(tmp_path, storage := Storage(changes=3), budget_s=60)

    assert await stand.run(3) is Verdict.PASS
    assert set(storage.marked) == {mark_name(ARTIFACT, STAGE, 0)}
    assert storage.marks == set()


async def test_a_suspect_whose_node_ends_as_it_should_leaves_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = Stand(tmp_path, storage := Storage(changes=0), budget_s=60)
    begun = asyncio.Event()

    async def hold(*_: object, **__: object) -> Verdict:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("ulos_stream.executors.inline.InlineExecutor.run", hold)
    running = asyncio.create_task(stand.run(3))
    await begun.wait()
    meanwhile = len(storage.marks)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert (meanwhile, len(storage.marks)) == (1, 0)


async def test_a_storage_that_hangs_is_not_waited_for_when_it_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(path: str, *, stage_id: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("ulos_stream.pipeline.SWEEP_S", 0.01)
    stand = Stand(tmp_path, storage := Storage(changes=0), budget_s=0)
    monkeypatch.setattr(storage, "sweep", hang)

    async with asyncio.timeout(10):
        await stand.pipeline.sweep(stand.task, stand.origin(1))

    assert caplog.messages == ["a temporary file may be left beside /a.zip: no answer within 0 s"]


@pytest.mark.parametrize(("trouble_s", "expected"), [(10.0, 1), (-10.0, 0)])
async def test_a_pipeline_is_not_well_as_long_as_a_stage_stands_still(
    trouble_s: float, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulos_stream.pipeline.TROUBLE_S", trouble_s)
    stand = Stand(tmp_path, Storage(changes=2), budget_s=60)
    meanwhile: list[str] = []

    async def look() -> None:
        try:
            await stand.pipeline.check()
        except Fault as fault:
            meanwhile.append(str(fault))

    download = stand.pipeline.storage.download

    async def looked_at(path: str, target: BinaryIO) -> Version:
        await look()
        return await download(path, target)

    stand.pipeline.storage.download = looked_at  # type: ignore[method-assign]
    await stand.run()
    await stand.pipeline.check()

    assert meanwhile == ["the stage begins anew: '/a.zip' is another one"] * expected
