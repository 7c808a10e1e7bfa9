"""A container's stage as the pipeline carries it out: faults, cancellation, and what is left of its directory."""

import asyncio
import contextlib
import json
import re
import subprocess
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from workbench import IMAGE, script_image
from world import a_zip

from ulos_stream import archive
from ulos_stream.errors import EngineFault, Fault
from ulos_stream.executors.registry import build_registry
from ulos_stream.journal import Done, Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.tasks import Event, Task, Verdict, parse_task
from ulos_stream.workspace import NodeDirectory

pytestmark = pytest.mark.usefixtures("docker")


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


class Bench:
    """A pipeline with one container executor, and the task that it carries out."""

    def __init__(self, folder: Path, script: str) -> None:
        self.node = f"node-{uuid.uuid4()}"
        self.work, self.artifact = folder / "work", folder / "a.zip"
        self.faults: list[Fault] = []
        self.held_back: list[str] = []
        self.work.mkdir()
        (folder / "executors" / "check").mkdir(parents=True)
        descriptor = f'kind = "container"\nrouting_key = "check"\nimage = "{IMAGE}"\n'
        (folder / "executors" / "check" / "executor.toml").write_text(descriptor)
        self.artifact.write_bytes(a_zip(job_sh=script))
        self.registry = build_registry([folder / "executors"], mock_delay_s=0, node=self.node, docker_host=None)
        self.directory = NodeDirectory(self.work, self.node)
        self.directory.open()
        self.pipeline = Pipeline(
            storage=FolderStorage(folder, 2**20),
            executors=self.registry,
            limits=archive.Limits(),
            directory=self.directory,
            node=self.node,
            journal_key=b"a key",
            fault_budget_s=20,
            report_fault=lambda fault, _: self.faults.append(fault),
            hold_back=self._hold_back,
        )

    def start(self) -> "asyncio.Task[Done]":
        return asyncio.create_task(self.pipeline.run(self._task(), Origin(str(uuid.uuid4()), b""), self._report))

    def kill_container(self) -> None:
        listed = ["docker", "ps", "-q", "--filter", f"label=ulos.node={self.node}"]
        [container] = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
        subprocess.run(["docker", "kill", container], check=True, capture_output=True)

    async def leaves(self, name: str) -> None:
        """Wait until the run has left a file of that name."""
        while not list(self.work.glob(f"*/*/{name}")):
            await asyncio.sleep(0.05)

    @contextlib.contextmanager
    def _hold_back(self, key: str) -> Iterator[None]:
        self.held_back.append(key)
        yield
        self.held_back.append(f"end of {key}")

    @staticmethod
    def _report(event: Event, text: str, verdict: Verdict | None = None) -> None: ...

    @staticmethod
    def _task() -> Task:
        tree = {"exchange": "", "routingKey": "check"}
        fields = {"taskId": "t", "taskOwnerId": "o", "filePath": "/a.zip", "timeout": 30, "routingTree": tree}
        return parse_task(json.dumps(fields).encode())


def printed(result: zipfile.ZipFile) -> list[str]:
    """What the run itself printed."""
    lines = result.read("output__check.txt").decode().splitlines()
    return [line for line in lines if not line.startswith("# ")]


async def test_the_output_begins_with_what_ran_and_ends_with_how_it_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "echo hello; exit 3")

    await bench.start()

    await bench.registry.aclose()
    with zipfile.ZipFile(bench.artifact) as result:
        stage, image, hello, end = result.read("output__check.txt").decode().splitlines()
    assert re.fullmatch(r"# check, started 20\d\d-\d\d-\d\dT\S+, timeout 30 s", stage)
    limits = "512 MiB of memory, 512 MiB of disk, 1 core, 64 processes, no network"
    assert re.fullmatch(rf"# \S+ sha256:[0-9a-f]{{64}}: {limits}", image)
    assert hello == "hello"
    assert re.fullmatch(r"# FAIL, exit code 3, after \d+\.\d s", end)


async def test_a_stage_whose_container_is_killed_starts_again_from_the_artifact(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "ls; touch first; sleep 2; rm first; touch second")

    stage = bench.start()
    await bench.leaves("first")
    await asyncio.to_thread(bench.kill_container)
    done = await stage

    await bench.registry.aclose()
    assert done.verdict is Verdict.PASS
    assert [type(fault) for fault in bench.faults] == [EngineFault]
    assert bench.held_back == ["check", "end of check"]
    with zipfile.ZipFile(bench.artifact) as result:
        assert sorted(result.namelist()) == [".ulos/journal.json", "job.sh", "output__check.txt", "second"]
        assert printed(result) == ["job.sh"]
    assert [path.name for path in bench.work.glob("*/*")] == ["lock"]


async def test_a_cancelled_stage_leaves_neither_directory_nor_mount(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "touch first; sleep 600")

    stage = bench.start()
    await bench.leaves("first")
    stage.cancel()
    await asyncio.wait([stage])

    await bench.registry.aclose()
    assert stage.cancelled()
    assert [path.name for path in bench.work.glob("*/*")] == ["lock"]
    assert str(bench.work) not in Path("/proc/self/mountinfo").read_text()
