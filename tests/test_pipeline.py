"""What a stage's five steps do when what is around them does not hold still."""

import uuid
from pathlib import Path
from typing import BinaryIO

import pytest
from world import a_zip

from ulos_stream import archive
from ulos_stream.errors import ArtifactChanged, Fault, FaultBudgetSpent, StorageFault, UlosError
from ulos_stream.executors.registry import build_registry
from ulos_stream.journal import Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.storage import Version
from ulos_stream.tasks import Event, Task, Verdict
from ulos_stream.workspace import NodeDirectory


class Storage:
    """Has one artifact, which somebody else replaces whenever it is to be uploaded, or another `fault` meets it, so
    many times."""

    def __init__(self, changes: int, fault: type[UlosError] = ArtifactChanged) -> None:
        self.changes = changes
        self.fault = fault
        self.downloads = 0
        self.swept: list[str] = []

    async def check(self) -> None:
        """All is well."""

    async def download(self, path: str, target: BinaryIO) -> Version:
        self.downloads += 1
        target.seek(0)
        target.truncate()
        return Version(target.write(a_zip()), None)

    async def date(self, path: str, version: Version) -> None: ...

    async def upload(self, source: BinaryIO, path: str, *, stage_id: str, expected: Version | None = None) -> None:
        if self.changes:
            self.changes -= 1
            raise self.fault(f"{path!r} is another one")

    async def sweep(self, path: str, *, stage_id: str) -> None:
        self.swept.append(path)

    async def aclose(self) -> None:
        """Nothing is open."""


class Stand:
    """A pipeline over such a storage."""

    def __init__(self, directory: Path, storage: Storage, budget_s: float) -> None:
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

    async def run(self) -> Verdict:
        body = {"taskId": "t", "taskOwnerId": "o", "filePath": "/a.zip", "timeout": 10}
        task = Task.model_validate(body | {"routingTree": {"exchange": "", "routingKey": "pass"}})
        return (await self.pipeline.run(task, Origin(str(uuid.uuid4()), b""), self._event)).verdict

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


async def test_what_may_be_left_on_the_storage_is_said_and_changes_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(path: str, *, stage_id: str) -> None:
        raise StorageFault(f"no listing of what is beside {path!r}")

    stand = Stand(tmp_path, storage := Storage(changes=1), budget_s=0)
    monkeypatch.setattr(storage, "sweep", refuse)

    assert await stand.run() is Verdict.PASS
    assert caplog.messages == ["a temporary file may be left on the storage: no listing of what is beside '/a.zip'"]


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
