"""A stage that needs a device: what it waits for, whose time that is, and what happens when it loses it."""

import asyncio
import contextlib
import json
import uuid
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import a_zip

from ulos_stream import archive
from ulos_stream.errors import BrokerFault, Fault, FaultBudgetSpent, StageTimeout
from ulos_stream.executors.leases import Leases, LocalLeases
from ulos_stream.executors.registry import build_registry
from ulos_stream.journal import Done, Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.tasks import Event, Task, Verdict, parse_task
from ulos_stream.workspace import NodeDirectory

DESCRIPTOR = 'kind = "process"\nrouting_key = "drive"\ncommand = ["sh", "job.sh"]\ndevice = "arm-1"\nstop_s = 5\n'


class Bench:
    """A pipeline with one executor that drives the device arm-1."""

    def __init__(self, folder: Path, leases: Leases, delivery_timeout_s: float = 1_800) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        (folder / "work").mkdir()
        (folder / "executors" / "drive").mkdir(parents=True)
        (folder / "executors" / "drive" / "executor.toml").write_text(DESCRIPTOR)
        directory = NodeDirectory(folder / "work", "node-1")
        directory.open()
        self.pipeline = Pipeline(
            storage=FolderStorage(folder, 2**20),
            executors=build_registry([folder / "executors"], mock_delay_s=0, node="node-1", docker_host=None),
            limits=archive.Limits(),
            directory=directory,
            node="node-1",
            journal_key=b"a key",
            fault_budget_s=20,
            report_fault=lambda fault, _: self.faults.append(fault),
            leases=leases,
            delivery_timeout_s=delivery_timeout_s,
        )

    async def run(self, script: str, timeout_s: float = 10) -> Done:
        name = f"{uuid.uuid4()}.zip"
        (self.folder / name).write_bytes(a_zip(job_sh=script))
        return await self.pipeline.run(a_task(f"/{name}", timeout_s), Origin(str(uuid.uuid4()), b""), _unheard)

    def printed(self) -> str:
        """What the only stage printed, the node's remarks included."""
        [artifact] = self.folder.glob("*.zip")
        with zipfile.ZipFile(artifact) as result:
            return result.read("output__drive.txt").decode()


def a_task(path: str, timeout_s: float) -> Task:
    tree = {"exchange": "", "routingKey": "drive"}
    fields = {"taskId": "t", "taskOwnerId": "o", "filePath": path, "timeout": timeout_s, "routingTree": tree}
    return parse_task(json.dumps(fields).encode())


def _unheard(event: Event, text: str, verdict: Verdict | None = None) -> None: ...


class LostOnce:
    """Leases whose first is lost as soon as the machine moves."""

    def __init__(self, moves: Path) -> None:
        self._moves = moves
        self.held = 0

    @contextlib.asynccontextmanager
    async def hold(self, device: str) -> AsyncIterator[None]:
        self.held += 1
        if self.held > 1:
            yield
            return
        try:
            async with asyncio.timeout(None) as lease:
                losing = asyncio.create_task(self._lose(lease))
                yield
        except TimeoutError as exc:
            raise BrokerFault("the lease is lost") from exc
        finally:
            losing.cancel()

    async def _lose(self, lease: asyncio.Timeout) -> None:
        while not self._moves.exists():
            await asyncio.sleep(0.01)
        lease.reschedule(0)


class Brokered:
    """Leases that take a moment to get, as those of a broker do."""

    @contextlib.asynccontextmanager
    async def hold(self, device: str) -> AsyncIterator[None]:
        await asyncio.sleep(0.05)
        yield


async def test_waiting_for_the_device_is_not_the_tasks_time(tmp_path: Path) -> None:
    leases = LocalLeases()
    bench = Bench(tmp_path, leases)

    async with leases.hold("arm-1"):
        stage = asyncio.create_task(bench.run("echo moving", timeout_s=0.5))
        await asyncio.sleep(1)
    done = await stage

    assert done.verdict is Verdict.PASS
    assert bench.printed().startswith("# drive on arm-1, started ")


async def test_stages_of_one_node_take_turns(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalLeases())
    script = f"mkdir {tmp_path}/busy && sleep 0.1 && rmdir {tmp_path}/busy"

    done = await asyncio.gather(*(bench.run(script) for _ in range(5)))

    assert [one.verdict for one in done] == [Verdict.PASS] * 5


async def test_a_wait_that_would_cost_the_message_is_a_fault_of_nobodys_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulos_stream.pipeline.LEAST_LEASE_WAIT_S", 0.1)
    leases = LocalLeases()
    bench = Bench(tmp_path, leases, delivery_timeout_s=31)

    async with leases.hold("arm-1"):
        with pytest.raises(FaultBudgetSpent, match="arm-1 was in use by other stages for 1 s") as crash:
            await asyncio.wait_for(bench.run("echo moving", timeout_s=10), timeout=5)

    assert crash.value.code == "fault"
    assert (await bench.run("echo moving")).verdict is Verdict.PASS


async def test_a_timeout_of_nothing_waits_for_nothing(tmp_path: Path) -> None:
    leases = LocalLeases()
    bench = Bench(tmp_path, leases)

    async with leases.hold("arm-1"):
        with pytest.raises(StageTimeout):
            await asyncio.wait_for(bench.run("echo moving", timeout_s=0), timeout=5)


async def test_a_stage_that_has_used_its_waiting_time_still_gets_an_idle_device_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Brokered(), delivery_timeout_s=31)  # one second

    done = await bench.run(f"mkdir {tmp_path}/tried && sleep 1.2 && exit 75; exit 0")

    assert done.verdict is Verdict.PASS


async def test_a_stage_that_loses_the_device_brings_it_to_rest_and_begins_anew(tmp_path: Path) -> None:
    leases = LostOnce(tmp_path / "moves")
    bench = Bench(tmp_path, leases)
    script = f"""
        trap 'sleep 0.2; touch {tmp_path}/rests; exit 0' TERM
        [ -e {tmp_path}/moves ] && exit 0
        touch {tmp_path}/moves
        while :; do sleep 0.05; done
    """

    done = await bench.run(script)

    assert done.verdict is Verdict.PASS
    assert [str(fault) for fault in bench.faults] == ["the lease is lost"]
    assert (tmp_path / "rests").exists()
    assert leases.held == 2


async def test_a_stage_that_takes_too_long_brings_the_device_to_rest_before_it_is_free(tmp_path: Path) -> None:
    leases = LocalLeases()
    bench = Bench(tmp_path, leases)
    script = f"trap 'sleep 0.3; touch {tmp_path}/rests; exit 0' TERM; while :; do sleep 0.05; done"

    stage = asyncio.create_task(bench.run(script, timeout_s=0.5))
    while not leases.hold("arm-1").locked():
        await asyncio.sleep(0.01)
    async with leases.hold("arm-1"):
        at_rest = (tmp_path / "rests").exists()

    assert at_rest
    with pytest.raises(StageTimeout):
        await stage


async def test_a_machine_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalLeases())

    done = await bench.run(f"mkdir {tmp_path}/tried && echo no answer && exit 75; exit 0")

    assert done.verdict is Verdict.PASS
    assert [str(fault) for fault in bench.faults] == ["arm-1: no answer"]
