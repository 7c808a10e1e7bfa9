"""A task that comes back, after a kill or from a producer in doubt, has its effect once."""

import asyncio
import contextlib
import json
import os
import subprocess
import uuid
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import Heard, World, a_tree, a_world, a_zip

from ulos_stream import routing
from ulos_stream.images import local_image
from ulos_stream.lab import Broker
from ulos_stream.storage import temporary_name
from ulos_stream.tasks import Verdict

KILLED = """
import os, signal
from {module} import {owner}
def die(*args, **options): os.kill(os.getpid(), signal.SIGKILL)
{owner}.{method} = die
from faststream.__main__ import cli
cli()
"""
"""A node that is killed as soon as it calls a method."""
BEFORE_THE_HOP = KILLED.format(module="ulos_stream.publishing", owner="Outbox", method="hand_over")
BEFORE_THE_ACK = KILLED.format(module="faststream.rabbit", owner="RabbitMessage", method="ack")
BEFORE_THE_UPLOAD = KILLED.format(module="ulos_stream", owner="archive", method="pack")
BY_A_TASK = """
import os, signal
from ulos_stream import archive
pack = archive.pack
def kill_or_pack(files, *args, **options):
    if (files / "it.txt").exists(): os.kill(os.getpid(), signal.SIGKILL)
    return pack(files, *args, **options)
archive.pack = kill_or_pack
from faststream.__main__ import cli
cli()
"""
"""A node that is killed by one task alone."""


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """With an executor `counted`, whose runs leave a line in a file outside the artifact, and one in it."""
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "work").mkdir()
    folder = tmp_path / "executors" / "counted"
    folder.mkdir(parents=True)
    script = f"echo run >> {tmp_path}/runs; echo stage >> work.txt; while [ -e {tmp_path}/hold ]; do sleep 0.01; done"
    (folder / "executor.toml").write_text(
        f'kind = "process"\nrouting_key_prefix = "counted"\ncommand = ["sh", "-c", "{script}"]\n'
    )
    async with a_world(broker, tmp_path / "artifacts", **{"x-queue-type": "quorum"}) as world:
        world.settings["ULOS_EXECUTORS_PATH"] = str(folder.parent)
        world.settings["ULOS_WORK_DIR"] = str(tmp_path / "work")
        await world.listen("next")
        yield world


def runs(world: World) -> int:
    file = world.artifacts.with_name("runs")
    return len(file.read_text().splitlines()) if file.exists() else 0


def content(world: World, task: dict[str, object], name: str) -> str:
    with zipfile.ZipFile(world.artifacts / str(task["filePath"])[1:]) as archive:
        return archive.read(name).decode()


def hops(heard: list[Heard]) -> list[str | None]:
    return [message.raw.message_id for message in heard if message.key == "next"]


async def killed(world: World, program: str, **changes: str) -> None:
    async with world.node_process(program, **changes) as node, asyncio.timeout(30):
        assert await node.process.wait() == -9


@pytest.mark.parametrize("program", [BEFORE_THE_HOP, BEFORE_THE_ACK], ids=["before the hop", "before the ack"])
@pytest.mark.parametrize("message_id", ["m-1", None], ids=["an id", "no id"])
async def test_a_stage_whose_result_is_stored_is_not_executed_again_but_handed_over(
    world: World, program: str, message_id: str | None
) -> None:
    task = world.task(a_tree("counted", success=a_tree("next")))

    await world.send(task, message_id)
    await killed(world, program)
    async with world.node():
        heard = await world.hear_the_end()

    assert runs(world) == 1
    assert content(world, task, "work.txt") == "stage\n"
    assert len(hops(heard)) == (2 if program == BEFORE_THE_ACK else 1)
    assert len(set(hops(heard))) == 1
    assert [message.event for message in heard if message.event][-5:] == [
        "downloaded",
        "passed",
        "uploaded",
        "forwarded",
        "acknowledged",
    ]


async def test_a_stage_whose_result_is_not_stored_is_executed_again_on_the_old_artifact(world: World) -> None:
    task = world.task(a_tree("counted", success=a_tree("next")))
    left = world.artifacts / temporary_name(str(task["filePath"]), "m-1")[1:]
    others = world.artifacts / temporary_name(str(task["filePath"]), "m-2")[1:]
    left.write_bytes(b"half")
    others.write_bytes(b"half")

    await world.send(task)
    await killed(world, BEFORE_THE_UPLOAD)
    async with world.node():
        await world.hear_the_end()

    assert runs(world) == 2
    assert content(world, task, "work.txt") == "stage\n"
    assert not left.exists()
    assert others.exists()


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "running"])
async def test_what_a_killed_copy_has_left_is_removed_by_the_node_that_carries_the_stage_out(
    world: World, is_done: bool
) -> None:
    task = world.task(a_tree("counted", success=a_tree("next")))
    left = world.artifacts / temporary_name(str(task["filePath"]), "m-1")[1:]
    hold = world.artifacts.with_name("hold")
    hold.touch()
    for _ in range(2):
        await world.send(task)
    copy = await world.tasks.get()  # as another node would

    async with world.node(MESSAGE_BROKER_PREFETCH_COUNT="2"):
        while runs(world) == 0:
            await asyncio.sleep(0.01)
        if is_done:
            hold.unlink()
            await world.hear_the_end()
        left.write_bytes(b"half")
        await copy.nack(requeue=True)
        if not is_done:
            while await world.count(world.tasks):
                await asyncio.sleep(0.01)
            hold.unlink()
        await world.hear_the_end(count=1 if is_done else 2)

    assert runs(world) == 1
    assert not left.exists()


async def test_a_message_that_comes_late_is_not_handed_over_again_once_the_next_stage_is_done(world: World) -> None:
    await world.tasks.bind(world.exchange, "counted.2")
    task = world.task(a_tree("counted.1", success=a_tree("counted.2", success=a_tree("next"))))
    async with world.node():
        await world.send(task)
        first = await world.hear_the_end(count=2)

    async with world.node():
        await world.send(task)
        again = await world.hear_the_end()

    assert len(hops(first)) == 1
    assert [message.event for message in again] == [
        *("received", "downloaded", "passed", "uploaded", "forwarded", "acknowledged")
    ]
    assert runs(world) == 2


async def test_a_journal_that_a_student_wrote_is_not_believed(world: World) -> None:
    task = world.task(a_tree("counted", success=a_tree("next")))
    body = json.dumps(task).encode()
    async with world.node(ULOS_JOURNAL_KEY="a key that the student does not know"):
        await world.send(body)
        await world.hear_the_end()

    async with world.node(ULOS_JOURNAL_KEY="the key of the nodes of this world"):
        await world.send(body)
        await world.hear_the_end()

    journal = json.loads(content(world, task, ".ulos/journal.json"))
    assert runs(world) == 2
    assert [entry["verified"] for entry in journal["entries"]] == [False, True]


async def test_an_artifact_that_was_replaced_meanwhile_is_processed_instead_of_overwritten(world: World) -> None:
    task = world.task(a_tree("counted", success=a_tree("next")))
    hold = world.artifacts.with_name("hold")
    hold.touch()

    async with world.node():
        await world.send(task)
        while runs(world) == 0:
            await asyncio.sleep(0.01)
        (world.artifacts / str(task["filePath"])[1:]).write_bytes(a_zip(new_txt="new"))
        hold.unlink()
        heard = await world.hear_the_end()

    assert runs(world) == 2
    assert content(world, task, "new.txt") == "new"
    assert len(hops(heard)) == 1


async def test_stages_on_one_artifact_run_one_after_the_other_on_a_node(world: World) -> None:
    task = world.task(a_tree("counted"))

    async with world.node(MESSAGE_BROKER_PREFETCH_COUNT="5"):
        for number in range(5):
            await world.send(task, f"m-{number}")
        await world.hear_the_end(count=5)

    assert runs(world) == 5
    assert content(world, task, "work.txt") == "stage\n" * 5


async def test_stages_on_one_artifact_on_two_nodes_do_not_lose_each_others_work(world: World) -> None:
    task = world.task(a_tree("counted"))

    async with world.node(MESSAGE_BROKER_PREFETCH_COUNT="1"), world.node(MESSAGE_BROKER_PREFETCH_COUNT="1"):
        for number in range(6):
            await world.send(task, f"m-{number}")
        await world.hear_the_end(count=6)

    assert content(world, task, "work.txt") == "stage\n" * 6


async def test_a_message_that_ends_its_nodes_is_reported_as_poison(world: World) -> None:
    task = world.task(a_tree("counted", success=a_tree("next")))
    left = world.artifacts / temporary_name(str(task["filePath"]), "m-1")[1:]
    await world.send(task)
    for _ in range(routing.POISON_DELIVERIES):
        await killed(world, BEFORE_THE_UPLOAD)
    left.write_bytes(b"half")

    async with world.node(MESSAGE_BROKER_REQUEUE_ON_REJECT="true"):
        heard = await world.hear_the_end()

    [crash] = [message for message in heard if message.key == "crash"]
    assert crash.fields["error"]["code"] == "poison"
    assert (await world.count(world.tasks), await world.count(world.dead)) == (0, 1)
    assert runs(world) == routing.POISON_DELIVERIES
    assert not left.exists()


async def test_a_message_that_was_beside_one_that_ends_its_nodes_is_not_taken_for_it(world: World) -> None:
    started = world.artifacts.with_name("started")
    scripts = {
        "lasting": f"touch {started}; sleep 0.5",
        "poison": f"for i in $(seq 50); do [ -e {started} ] && break; sleep 0.02; done; rm -f {started}; touch it.txt",
    }
    for key, script in scripts.items():
        folder = world.artifacts.with_name("executors") / key
        folder.mkdir()
        (folder / "executor.toml").write_text(
            f'kind = "process"\nrouting_key = "{key}"\ncommand = ["sh", "-c", "{script}"]\n'
        )
    await world.send(world.task(a_tree("poison")), "m-1")
    await world.send(world.task(a_tree("lasting", success=a_tree("next"))), "m-2")
    for _ in range(routing.POISON_DELIVERIES):
        await killed(world, BY_A_TASK, MESSAGE_BROKER_PREFETCH_COUNT="2")

    async with world.node_process(BY_A_TASK) as node:
        heard = await world.hear_the_end(count=2)
        await node.stop()

    [crash] = [message for message in heard if message.key == "crash"]
    assert crash.fields["error"]["code"] == "poison"
    assert hops(heard) == [routing.hop_id("m-2", Verdict.PASS)]
    assert [name for name in os.listdir(world.artifacts) if name.endswith(".tmp")] == []


async def test_a_stage_that_is_done_is_handed_over_however_often_its_node_was_killed(world: World) -> None:
    await world.send(world.task(a_tree("counted", success=a_tree("next"))))
    for _ in range(routing.POISON_DELIVERIES):
        await killed(world, BEFORE_THE_HOP)

    async with world.node():
        heard = await world.hear_the_end()

    assert hops(heard) == [routing.hop_id("m-1", Verdict.PASS)]
    assert runs(world) == 1


async def test_what_a_killed_node_has_left_is_removed_when_the_next_one_starts(world: World) -> None:
    await world.send(world.task(a_tree("counted")))
    await killed(world, BEFORE_THE_UPLOAD)
    left = os.listdir(world.artifacts.with_name("work"))

    async with world.node_process() as node:
        await node.says("swept")
        await world.hear_the_end()
        await node.stop()

    assert len(left) == 1
    assert os.listdir(world.artifacts.with_name("work")) == []


async def test_the_container_and_the_mounts_of_a_killed_node_are_removed_when_the_next_one_starts(
    world: World, docker: str, tmp_path: Path
) -> None:
    image = local_image("ulos-test/waits", "echo started; sleep 600\n")
    folder = tmp_path / "executors" / "waits"
    folder.mkdir()
    (folder / "executor.toml").write_text(f'kind = "container"\nrouting_key = "waits"\nimage = "{image}"\n')
    label = f"killed-{uuid.uuid4()}"
    await world.send(world.task(a_tree("waits")))
    async with world.node_process(ULOS_NODE=label) as node:
        while not containers(label):
            await asyncio.sleep(0.05)
        node.process.kill()
        await node.process.wait()
    while await world.count(world.tasks) == 0:
        await asyncio.sleep(0.01)
    await world.tasks.purge()

    async with world.node_process() as node:
        await node.says("swept")
        left = containers(label)
        await node.says("ready")  # there may be another's to sweep in memory, which all nodes of a machine share
        await node.stop()

    assert left == []
    assert os.listdir(world.artifacts.with_name("work")) == []


def containers(node: str) -> list[str]:
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label=ulos.node={node}"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
async def test_a_verdict_that_came_of_a_full_disk_is_not_believed(world: World, tmp_path: Path) -> None:
    disk = tmp_path / "work"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], check=True)
    try:
        hold = world.artifacts.with_name("hold")
        hold.touch()
        async with world.node():
            await world.send(world.task(a_tree("counted", success=a_tree("next"))))
            while runs(world) == 0:
                await asyncio.sleep(0.01)
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(65536)):
                    pass
            hold.unlink()
            await asyncio.sleep(0.2)
            (disk / "filler").unlink()
            heard = await world.hear_the_end()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)

    assert len(hops(heard)) == 1
    assert runs(world) >= 2


async def test_a_node_says_when_its_storage_is_away_and_when_it_is_back(world: World) -> None:
    away = world.artifacts.with_name("away")

    async with world.node_process() as node:
        await node.says("ready")
        world.artifacts.rename(away)
        await node.says("not ready", "storage: ")
        away.rename(world.artifacts)
        await node.says("ready")


async def test_a_defect_of_the_node_itself_is_told_and_its_message_comes_back(world: World) -> None:
    program = """
from ulos_stream.publishing import Outbox
async def fail(*args): raise LookupError("a defect")
Outbox.report_crash = fail
from faststream.__main__ import cli
cli()
"""
    await world.send(world.task(a_tree("crash")))

    async with world.node_process(program) as node:
        line = await node.says("stage broken", "a defect")
        await node.stop()
    async with world.node():
        heard = await world.hear_the_end()

    assert "LookupError" in line["exception"]
    assert [message.fields["error"]["code"] for message in heard if message.key == "crash"] == ["executor_crashed"]
