"""Every sample of every shipped executor ends as its name says, through a real node, broker, FTP server and engine.

A new sample is tested by being there: `executors/NAME/samples/pass-…`, `fail-…` or `crash-…`, a folder or a zip.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulated_arm import simulated_arm
from trial import Trial, a_trial

from ulos_stream import shipped
from ulos_stream.executors.descriptor import read_descriptor
from ulos_stream.executors.report import Report

pytestmark = pytest.mark.timeout(900)
"""Seconds: the first sample of an executor builds its image, and a large one is fetched for minutes."""
EXECUTORS = sorted(file.parent for file in shipped("executors").glob("*/executor.toml"))
SAMPLES = sorted(shipped("executors").glob("*/samples/*"))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, executors: Path) -> Iterator[Trial]:
    port = read_descriptor(executors / "robot-arm" / "executor.toml").environment["ARM_PORT"]
    arm = simulated_arm(tmp_path_factory.mktemp("arm"), port=int(port))
    with arm, a_trial(tmp_path_factory.mktemp("node"), ULOS_EXECUTORS_PATH=str(executors)) as trial:
        yield trial


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda executor: executor.name)
def test_an_executor_comes_with_good_work_bad_work_and_a_broken_archive(executor: Path) -> None:
    samples = [path for path in SAMPLES if path.parent.parent == executor]

    assert {path.stem.partition("-")[0] for path in samples} == {"pass", "fail", "crash"}
    assert [zipfile.is_zipfile(path) for path in samples if path.suffix == ".zip"] == [False]
    assert any("planted-verdict" in path.stem for path in samples)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.parent.parent.name}-{sample.stem}")
def test_a_sample_ends_as_its_name_says(sample: Path, trial: Trial, built: Callable[[str], Path]) -> None:
    executor = built(sample.parent.parent.name)

    ending = trial.ended(executor.name, sample)

    assert ending.word == sample.stem.partition("-")[0], ending.text
    if ending.word != "crash":
        report = Report.model_validate_json(ending.result["results/report.json"])
        assert report.verdict == ending.word.upper()
        assert "results/report.md" in ending.result
        assert "results/passed.log" not in ending.result
        planted = [path for path in sample.glob("results/**/*") if path.is_file()]
        assert not [path for path in planted if path.read_bytes() in ending.result.values()]
