"""A node on a real broker: every row of the event and crash contract, and what it survives."""

import asyncio
import gc
import hashlib
import io
import json
import ssl
import uuid
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import trustme
from aio_pika.abc import AbstractIncomingMessage
from world import Heard, Proxy, World, a_tree, a_world, a_zip

from ulos_stream import routing
from ulos_stream.events import StageEvents
from ulos_stream.lab import Broker, pyftpd
from ulos_stream.tasks import Verdict


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path) as world:
        yield world


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    async with Proxy(broker.host, broker.port).listening() as proxy:
        yield proxy


def events(heard: list[Heard]) -> list[str]:
    return [message.event for message in heard if message.key == "log" and message.event]


def only(heard: list[Heard], key: str) -> Heard:
    [found] = [message for message in heard if message.key == key]
    return found


async def settled(world: World) -> tuple[int, int]:
    """How many messages are left to consume, and how many were rejected for good."""
    return await world.count(world.tasks), await world.count(world.dead)


# The event contract


async def test_a_passing_stage_is_told_event_by_event_and_handed_over_before_it_is_acknowledged(world: World) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next", label="kept")), timeout=10, course={"code": "ISIS"})

    async with world.node():
        await world.send(task)
        heard = await world.hear_the_end()

    assert events(heard) == ["received", "downloaded", "passed", "uploaded", "forwarded", "acknowledged"]
    keys = [message.key for message in heard]
    assert keys.index("next") < [message.event for message in heard].index("forwarded")
    hop = only(heard, "next")
    assert hop.fields == {**task, "routingTree": task["routingTree"]["successRoutingDecision"]}
    assert hop.raw.message_id == routing.hop_id("m-1", Verdict.PASS)
    assert await settled(world) == (0, 0)


async def test_every_published_message_is_persistent_json_with_an_id_of_its_own(world: World) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next")))

    async with world.node():
        await world.send(task)
        heard = await world.hear_the_end()

    assert {message.raw.delivery_mode for message in heard} == {aio_pika.DeliveryMode.PERSISTENT}
    assert {message.raw.content_type for message in heard} == {"application/json"}
    assert {message.raw.correlation_id for message in heard} == {"m-1"}
    assert len({message.raw.message_id for message in heard}) == len(heard)


async def test_events_show_the_tree_as_received_until_the_verdict_and_then_the_branch_taken(world: World) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next"), failure=a_tree("other")))
    stage = {"exchange": world.exchange.name, "routingKey": "pass"}

    async with world.node(ULOS_NODE="n-1"):
        await world.send(task)
        heard = [message for message in await world.hear_the_end() if message.key == "log"]

    branch = task["routingTree"]["successRoutingDecision"]
    assert [message.fields["routingTree"] for message in heard] == [task["routingTree"]] * 2 + [branch] * 4
    assert [message.fields["verdict"] for message in heard] == [None] * 2 + ["PASS"] * 4
    assert [message.fields["stage"] for message in heard] == [stage] * 6
    assert [message.fields["node"] for message in heard] == ["n-1"] * 6
    assert [message.fields["at"] for message in heard] == sorted(message.fields["at"] for message in heard)


async def test_a_failing_stage_takes_the_failure_branch(world: World) -> None:
    await world.listen("task.failed")
    task = world.task(a_tree("fail", success=a_tree("next"), failure=a_tree("task.failed")))

    async with world.node():
        await world.send(task)
        heard = await world.hear_the_end()

    assert events(heard) == ["received", "downloaded", "failed", "uploaded", "forwarded", "acknowledged"]
    assert only(heard, "task.failed").raw.message_id == routing.hop_id("m-1", Verdict.FAIL)


@pytest.mark.parametrize(("key", "verdict"), [("pass", "passed"), ("fail", "failed")])
async def test_a_route_without_a_branch_ends_with_the_upload(world: World, key: str, verdict: str) -> None:
    task = world.task(a_tree(key))

    async with world.node():
        await world.send(task)
        heard = await world.hear_the_end()

    assert events(heard) == ["received", "downloaded", verdict, "uploaded", "acknowledged"]
    assert [message.fields["routingTree"] for message in heard][2:] == [None] * 3
    assert await settled(world) == (0, 0)


@pytest.mark.parametrize("timeout", ["10", "10.5", "86400"])
async def test_the_timeout_travels_on_exactly_as_it_came(world: World, timeout: str) -> None:
    await world.listen("next")
    body = json.dumps(world.task(a_tree("pass", success=a_tree("next")), timeout="@")).replace('"@"', timeout)

    async with world.node():
        await world.send(body.encode())
        heard = await world.hear_the_end()

    assert all(f'"timeout":{timeout},' in message.raw.body.decode() for message in heard)


async def test_what_a_scala_hop_added_for_itself_is_not_handed_over(world: World) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next")))

    async with world.node():
        await world.send({**task, "logMessage": "forwarded", "mqId": 4})
        hop = only(await world.hear_the_end(), "next")

    assert "logMessage" not in hop.fields
    assert "mqId" not in hop.fields


async def test_a_message_without_an_id_gets_one(world: World) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next")))

    async with world.node():
        await world.send(task, message_id=None)
        heard = await world.hear_the_end()

    [drawn] = {message.raw.correlation_id for message in heard}
    assert uuid.UUID(drawn).version == 4
    assert only(heard, "next").raw.message_id == routing.hop_id(str(drawn), Verdict.PASS)


# The artifact


async def test_each_stage_leaves_its_output_in_the_archive_and_those_of_earlier_stages_stay(world: World) -> None:
    await world.tasks.bind(world.exchange, "testing-2")
    task = world.task(a_tree("testing-1", success=a_tree("testing-2")))

    async with world.node():
        await world.send(task)
        await world.hear_the_end(count=2)

    with zipfile.ZipFile(world.artifacts / task["filePath"][1:]) as archive:
        assert sorted(archive.namelist()) == [
            ".ulos/journal.json",
            "hello.txt",
            f"output_{world.exchange.name}_testing-1.txt",
            f"output_{world.exchange.name}_testing-2.txt",
        ]


async def test_nothing_of_a_stage_stays_on_the_node(world: World, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()

    async with world.node(ULOS_WORK_DIR=str(work)):
        await world.send(world.task(a_tree("pass")), "m-1")
        await world.send(world.task(a_tree("crash")), "m-2")
        await world.hear_the_end(count=2)

    assert list(work.iterdir()) == []


# The crash contract

CRASHES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "the executor raises": (a_tree("crash"), {}, "executor_crashed", "crash"),
    "no executor has this key": (a_tree("nobody"), {}, "unknown_executor", "'nobody'"),
    "an image that is not on the node": (a_tree("no-image"), {}, "executor_unavailable", ""),
    "no artifact": (a_tree("pass"), {"filePath": "/missing.zip"}, "artifact_missing", "/missing.zip"),
    "an artifact that is no zip": (a_tree("pass"), {"filePath": "/broken.zip"}, "archive_rejected", "zip"),
    "an artifact with ..": (a_tree("pass"), {"filePath": "/evil.zip"}, "archive_rejected", ".."),
    "a timeout of 0": (a_tree("pass"), {"timeout": 0}, "timeout", "0 s"),
    "a timeout in the middle": (a_tree("testing"), {"timeout": 0.2}, "timeout", "0.2 s"),
    "a hop that no queue takes": (a_tree("pass", success=a_tree("nowhere")), {}, "unroutable", "'nowhere'"),
    "a hop to no exchange": (a_tree("pass", success=a_tree("x", exchange="gone")), {}, "unroutable", "'gone'"),
    "a hop to no queue of the default exchange": (
        a_tree("pass", success=a_tree("no-such-queue", exchange="")),
        {},
        "unroutable",
        "'no-such-queue'",
    ),
}


@pytest.mark.parametrize(("tree", "fields", "code", "detail"), CRASHES.values(), ids=CRASHES.keys())
async def test_a_stage_that_cannot_be_carried_out_is_reported_and_rejected(
    world: World, tree: dict[str, Any], fields: dict[str, Any], code: str, detail: str, no_image: Path
) -> None:
    (world.artifacts / "broken.zip").write_bytes(a_zip()[:-10])
    (world.artifacts / "evil.zip").write_bytes(a_zip(hello_txt="hi").replace(b"hello.txt", b"../lo.txt"))
    task = world.task(tree, note="kept", **fields)
    delay = "5" if tree["routingKey"] == "testing" else "0"

    async with world.node(ULOS_MOCK_DELAY_S=delay, ULOS_EXECUTORS_PATH=str(no_image)):
        await world.send(task)
        heard = await world.hear_the_end()

    crash = only(heard, "crash")
    assert {name: crash.fields[name] for name in task} == task
    assert crash.fields["error"]["code"] == code
    assert detail in crash.fields["error"]["detail"]
    assert crash.fields["logMessage"] == crash.fields["error"]["detail"]
    assert crash.raw.correlation_id == "m-1"
    assert crash.raw.message_id == routing.crash_id("m-1")
    assert events(heard)[-2:] == ["crashed", "rejected"]
    assert await settled(world) == (0, 1)


async def test_a_crash_before_the_upload_leaves_the_artifact_as_it_was(world: World) -> None:
    task = world.task(a_tree("crash"))
    before = (world.artifacts / task["filePath"][1:]).read_bytes()

    async with world.node():
        await world.send(task)
        await world.hear_the_end()

    assert (world.artifacts / task["filePath"][1:]).read_bytes() == before


async def test_an_unroutable_hop_leaves_the_uploaded_result(world: World) -> None:
    task = world.task(a_tree("pass", success=a_tree("nowhere")))

    async with world.node():
        await world.send(task)
        heard = await world.hear_the_end()

    assert events(heard) == ["received", "downloaded", "passed", "uploaded", "crashed", "rejected"]
    with zipfile.ZipFile(world.artifacts / task["filePath"][1:]) as archive:
        assert f"output_{world.exchange.name}_pass.txt" in archive.namelist()


async def test_a_crash_report_ends_with_what_the_executor_printed(world: World) -> None:
    async with world.node():
        await world.send(world.task(a_tree("crash")))
        crash = only(await world.hear_the_end(), "crash")

    assert "crash" in crash.fields["error"]["output_tail"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"\xff\x00 not JSON", "not JSON"),
        (b'{"taskId": "1", "taskOwnerId": "2", "filePath": "/a.zip"}', "timeout: Field required"),
        (b"[]", "not an object"),
    ],
)
async def test_a_body_that_is_no_task_is_reported_and_rejected(world: World, body: bytes, detail: str) -> None:
    async with world.node():
        await world.send(body)
        [crash] = await world.hear(len)

    assert crash.key == "crash"
    assert crash.fields["error"]["code"] == "malformed_message"
    assert detail in crash.fields["error"]["detail"]
    assert crash.fields["raw"] == {
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "text": body[:512].decode("utf-8", "replace"),
    }
    assert crash.raw.correlation_id == "m-1"
    assert await settled(world) == (0, 1)


async def test_bystanders_pass_while_others_name_exchanges_that_do_not_exist(world: World) -> None:
    await world.listen("next")

    async with world.node(MESSAGE_BROKER_PREFETCH_COUNT="32"):
        for number in range(10):
            await world.send(world.task(a_tree("pass", success=a_tree("next"))), f"good-{number}")
            gone = a_tree("pass", success=a_tree("x", exchange=f"gone-{number}"))
            await world.send(world.task(gone), f"bad-{number}")
        heard = await world.hear_the_end(count=20)

    ends = {message.raw.correlation_id: message.event for message in heard if message.key == "log"}
    assert ends == {f"good-{n}": "acknowledged" for n in range(10)} | {f"bad-{n}": "rejected" for n in range(10)}
    assert sum(message.key == "next" for message in heard) == 10


# Requeue


async def test_a_crash_on_a_classic_queue_is_requeued_once(world: World) -> None:
    async with world.node(MESSAGE_BROKER_REQUEUE_ON_REJECT="true"):
        await world.send(world.task(a_tree("crash")))
        heard = await world.hear_the_end(count=2)

    assert events(heard).count("received") == 2
    assert {message.raw.message_id for message in heard if message.key == "crash"} == {routing.crash_id("m-1")}
    assert await settled(world) == (0, 1)


async def test_a_crash_on_a_quorum_queue_is_requeued_until_its_fifth_delivery(broker: Broker, tmp_path: Path) -> None:
    quorum = {"x-queue-type": "quorum", "x-delivery-limit": 20}

    async with a_world(broker, tmp_path, **quorum) as world, world.node(MESSAGE_BROKER_REQUEUE_ON_REJECT="true"):
        await world.send(world.task(a_tree("crash")))
        heard = await world.hear_the_end(count=5)
        left, dead = await settled(world)

    assert events(heard).count("received") == 5
    assert (left, dead) == (0, 1)


# What the node survives


KILLED_BEFORE_THE_ACK = """
import os, signal
from faststream.rabbit import RabbitMessage
async def die(self): os.kill(os.getpid(), signal.SIGKILL)
RabbitMessage.ack = die
from faststream.__main__ import cli
cli()
"""


async def test_a_kill_between_publish_and_ack_loses_nothing_and_repeats_the_same_id(world: World) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next")))

    async with world.node_process(KILLED_BEFORE_THE_ACK) as killed:
        await world.send(task)
        async with asyncio.timeout(30):
            exit_code = await killed.process.wait()
    async with world.node():
        heard = await world.hear_the_end()

    assert exit_code == -9
    hops = [message for message in heard if message.key == "next"]
    assert len(hops) == 2
    assert {hop.raw.message_id for hop in hops} == {routing.hop_id("m-1", Verdict.PASS)}
    assert await settled(world) == (0, 0)
    with zipfile.ZipFile(world.artifacts / task["filePath"][1:]) as archive:
        assert archive.testzip() is None


async def test_a_hop_that_was_published_twice_is_absorbed(world: World) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next")))

    async with world.node():
        await world.send(task)
        first = await world.hear_the_end()
        await world.send(task)
        again = await world.hear_the_end()

    assert sum(message.key == "next" for message in first) == 1
    assert [message.event for message in again] == ["acknowledged"]
    assert again[-1].fields | {"at": ""} == first[-1].fields | {"at": ""}
    assert again[-1].raw.message_id == first[-1].raw.message_id


async def test_what_is_remembered_of_a_stage_that_is_done_holds_neither_its_message_nor_its_events(
    world: World,
) -> None:
    def held() -> list[object]:
        gc.collect()
        return [it for it in gc.get_objects() if isinstance(it, AbstractIncomingMessage | StageEvents)]

    async with world.node():
        await world.send(world.task(a_tree("pass")))
        await world.hear_the_end()

        async with asyncio.timeout(10):
            while held():
                await asyncio.sleep(0.01)


async def test_the_same_id_with_another_body_is_another_task(world: World) -> None:
    async with world.node():
        await world.send(world.task(a_tree("pass"), taskId="t-1"))
        await world.send(world.task(a_tree("pass"), taskId="t-2"))
        heard = await world.hear_the_end(count=2)

    assert {message.fields["taskId"] for message in heard if message.event == "passed"} == {"t-1", "t-2"}


async def test_a_dropped_connection_leaves_the_stage_running_and_its_redelivery_joins_it(
    world: World, proxy: Proxy
) -> None:
    await world.listen("next")
    task = world.task(a_tree("testing", success=a_tree("next")))

    async with world.node(MESSAGE_BROKER_PORT=str(proxy.port), ULOS_MOCK_DELAY_S="2"):
        await world.send(task)
        await world.hear(lambda heard: heard[-1].event == "downloaded")
        proxy.drop()
        heard = await world.hear_the_end()

    assert events(heard) == ["passed", "uploaded", "forwarded", "acknowledged"]
    assert sum(message.key == "next" for message in heard) == 1
    assert await settled(world) == (0, 0)


async def test_a_dropped_connection_leaves_a_stage_without_an_id_running_too(world: World, proxy: Proxy) -> None:
    async with world.node(MESSAGE_BROKER_PORT=str(proxy.port), ULOS_MOCK_DELAY_S="2"):
        await world.send(world.task(a_tree("testing")), message_id=None)
        await world.hear(lambda heard: heard[-1].event == "downloaded")
        proxy.drop()
        heard = await world.hear_the_end()

    assert events(heard) == ["passed", "uploaded", "acknowledged"]
    assert await settled(world) == (0, 0)


async def redelivered(world: World, task: object, message_id: str | None) -> None:
    """Send a task that another node takes first and dies with."""
    taken = asyncio.Event()

    async def take(_: object) -> None:
        taken.set()

    async with await aio_pika.connect(world.broker.url) as other, other.channel() as channel:
        queue = await channel.get_queue(world.tasks.name, ensure=False)
        await queue.consume(take, arguments={"x-priority": 10})
        await world.send(task, message_id)
        await taken.wait()


async def test_a_fresh_copy_without_an_id_whose_node_dies_is_not_taken_for_one_that_ended_here(world: World) -> None:
    task = world.task(a_tree("pass"))

    async with world.node():
        await world.send(task, message_id=None)
        await world.hear_the_end()
        (world.artifacts / task["filePath"][1:]).write_bytes(a_zip(handed_in_anew="x"))
        await redelivered(world, task, None)
        heard = await world.hear_the_end()

    assert "passed" in events(heard)
    assert await settled(world) == (0, 0)


async def test_a_crashed_task_that_is_sent_again_and_whose_line_drops_is_not_taken_for_the_crash(
    world: World, proxy: Proxy
) -> None:
    task = world.task(a_tree("testing"))
    artifact = world.artifacts / task["filePath"][1:]
    artifact.write_bytes(b"no zip")

    async with world.node(MESSAGE_BROKER_PORT=str(proxy.port), ULOS_MOCK_DELAY_S="2"):
        await world.send(task)
        crashed = await world.hear_the_end()
        artifact.write_bytes(a_zip())
        await world.send(task)
        await world.hear(lambda heard: heard[-1].event == "downloaded")
        proxy.drop()
        heard = await world.hear_the_end()

    assert "crashed" in events(crashed)
    assert events(heard) == ["passed", "uploaded", "acknowledged"]
    assert await settled(world) == (0, 1)


async def test_a_crashed_task_that_is_sent_again_and_whose_node_dies_is_not_taken_for_the_crash(world: World) -> None:
    task = world.task(a_tree("pass"))
    artifact = world.artifacts / task["filePath"][1:]
    artifact.write_bytes(b"no zip")

    async with world.node():
        await world.send(task)
        await world.hear_the_end()
        artifact.write_bytes(a_zip())
        await redelivered(world, task, "m-1")
        heard = await world.hear_the_end()

    assert "passed" in events(heard)
    assert await settled(world) == (0, 1)


async def test_a_stage_that_has_lost_its_delivery_is_given_the_grace_period_too(world: World, proxy: Proxy) -> None:
    task = world.task(a_tree("testing"))

    async with world.node(MESSAGE_BROKER_PORT=str(proxy.port), ULOS_MOCK_DELAY_S="1"):
        await world.send(task)
        await world.hear(lambda heard: heard[-1].event == "downloaded")
        proxy.refuses = True
        proxy.drop()

    with zipfile.ZipFile(world.artifacts / task["filePath"][1:]) as archive:
        assert any(name.startswith("output_") for name in archive.namelist())


async def test_a_storage_that_goes_away_is_waited_for_and_the_task_pays_nothing(world: World) -> None:
    task = world.task(a_tree("pass"))
    away = world.artifacts.with_name("away")

    async with world.node():
        world.artifacts.rename(away)
        await world.send(task)
        await world.hear(lambda heard: heard[-1].event == "received")
        away.rename(world.artifacts)
        heard = await world.hear_the_end()

    assert events(heard) == ["downloaded", "passed", "uploaded", "acknowledged"]


async def test_a_storage_that_stays_away_crashes_the_task_as_a_fault(world: World) -> None:
    task = world.task(a_tree("pass"))

    async with world.node(ULOS_FAULT_BUDGET_S="0.3"):
        world.artifacts.rename(world.artifacts.with_name("away"))
        await world.send(task)
        crash = only(await world.hear_the_end(), "crash")

    assert crash.fields["error"]["code"] == "fault"


async def test_an_event_that_no_queue_takes_costs_the_task_nothing(world: World) -> None:
    await world.told.unbind(world.exchange, "log")
    await world.listen("next")

    async with world.node():
        await world.send(world.task(a_tree("pass", success=a_tree("next"))))
        [hop] = await world.hear(len)

    assert hop.key == "next"
    assert await settled(world) == (0, 0)


async def test_a_crash_report_that_no_queue_takes_holds_its_message(world: World) -> None:
    await world.told.unbind(world.exchange, "crash")

    async with world.node_process(ULOS_LOG_LEVEL="INFO") as node:
        await world.send(world.task(a_tree("crash")))
        await node.says("crash report held")
        held = await settled(world)
        await world.listen("crash")
        heard = await world.hear_the_end()
        exit_code = await node.stop()

    assert held == (0, 0)
    assert only(heard, "crash").fields["error"]["code"] == "executor_crashed"
    assert await settled(world) == (0, 1)
    assert exit_code == 0


# Start and end


async def test_sigterm_lets_running_stages_end_and_takes_no_more(world: World) -> None:
    async with world.node_process(ULOS_MOCK_DELAY_S="1", MESSAGE_BROKER_PREFETCH_COUNT="1") as node:
        await node.says("ready")
        for number in range(3):
            await world.send(world.task(a_tree("testing")), f"m-{number}")
        await world.hear(lambda heard: heard[-1].event == "received")
        exit_code = await node.stop()

    heard = await world.hear_the_end()
    left = await world.tasks.get(no_ack=True)
    assert exit_code == 0
    assert events(heard)[-1] == "acknowledged"
    assert not left.redelivered  # never delivered: on a quorum queue a delivery in vain costs a count
    assert await settled(world) == (1, 0)


async def test_what_outlives_the_grace_period_goes_back_to_the_queue(world: World, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    settings = {"ULOS_MOCK_DELAY_S": "60", "ULOS_GRACE_S": "0.2", "ULOS_WORK_DIR": str(work)}

    async with world.node_process(**settings) as node:
        await world.send(world.task(a_tree("testing"), timeout=100))
        await world.hear(lambda heard: heard[-1].event == "downloaded")
        exit_code = await node.stop()

    assert exit_code == 0
    assert await settled(world) == (1, 0)
    assert list(work.iterdir()) == []


async def test_a_node_waits_for_its_queue_and_then_consumes_it(world: World) -> None:
    task = world.task(a_tree("pass"))
    await world.tasks.delete()

    async with world.node_process() as node:
        await node.says("waiting", f"no queue '{world.tasks.name}'")
        world.tasks = await world.channel.declare_queue(world.tasks.name, durable=True)
        await node.says("ready")
        await world.send(task)
        heard = await world.hear_the_end()

    assert events(heard)[-1] == "acknowledged"


async def test_a_node_waits_for_the_exchanges_it_publishes_to(world: World) -> None:
    async with world.node_process(MESSAGE_BROKER_CRASH_EXCHANGE=f"{world.exchange.name}-late") as node:
        await node.says("waiting", f"no exchange '{world.exchange.name}-late'")
        await world.send(world.task(a_tree("pass")))
        not_consumed = await settled(world)
        await world.channel.declare_exchange(f"{world.exchange.name}-late", durable=True)
        heard = await world.hear_the_end()

    assert not_consumed == (1, 0)
    assert events(heard)[-1] == "acknowledged"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"MESSAGE_BROKER_PASSWORD": "wrong-s3cret"}, "ACCESS_REFUSED"),
        ({"ULOS_VIRTUAL_HOST": "nowhere"}, "nowhere"),
        ({"MESSAGE_BROKER_HOST": "127.0.0.1", "MESSAGE_BROKER_PORT": "1"}, "127.0.0.1:1"),
        ({"ULOS_STORAGE_URL": "file:///nowhere"}, "/nowhere"),
        (
            {
                "ULOS_STORAGE_URL": "ftp://",
                "REMOTE_STORAGE_HOST": "127.0.0.1",
                "REMOTE_STORAGE_PORT": "1",
                "REMOTE_STORAGE_USERNAME": "one",
                "REMOTE_STORAGE_PASSWORD": "123-s3cret",
            },
            "127.0.0.1:1",
        ),
    ],
    ids=["a wrong password", "no such virtual host", "no broker", "no folder", "no FTP server"],
)
async def test_a_node_waits_for_a_world_that_is_not_there_and_consumes_nothing(
    world: World, changes: dict[str, str], reason: str
) -> None:
    async with world.node_process(**changes) as node:
        await world.send(world.task(a_tree("pass")))
        line = await node.says("waiting", reason)
        exit_code = await node.stop()

    assert "s3cret" not in str(line)
    assert exit_code == 0
    assert await settled(world) == (1, 0)


async def test_a_node_that_is_stopped_while_it_waits_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()

    async with world.node_process(ULOS_STORAGE_URL="file:///nowhere", ULOS_WORK_DIR=str(work)) as node:
        await node.says("waiting", "/nowhere")
        held = list(work.iterdir())
        await node.stop()

    assert len(held) == 1
    assert list(work.iterdir()) == []


async def test_amqps_works_with_a_private_authority_and_is_waited_for_without(world: World, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    await world.send(world.task(a_tree("pass")))

    async with Proxy(world.broker.host, world.broker.port, tls).listening() as proxy:
        over_tls = {"MESSAGE_BROKER_PORT": str(proxy.port), "ULOS_BROKER_TLS": "true"}
        async with world.node_process(**over_tls) as node:
            await node.says("waiting", "CERTIFICATE_VERIFY_FAILED")
        not_consumed = await settled(world)
        async with world.node(**over_tls, ULOS_BROKER_CA_FILE=str(tmp_path / "ca.pem")):
            heard = await world.hear_the_end()

    assert not_consumed == (1, 0)
    assert events(heard)[-1] == "acknowledged"


async def test_ftps_works_with_a_private_authority_and_is_waited_for_without(world: World, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    task = world.task(a_tree("pass"), filePath="/a.zip")
    await world.send(task)

    with pyftpd(tls=authority.issue_cert("127.0.0.1")) as server:
        (server.root / "a.zip").write_bytes(a_zip())
        over_tls = {
            "ULOS_STORAGE_URL": "ftps://",
            "REMOTE_STORAGE_HOST": server.host,
            "REMOTE_STORAGE_PORT": str(server.port),
            "REMOTE_STORAGE_USERNAME": server.username,
            "REMOTE_STORAGE_PASSWORD": server.password,
        }
        async with world.node_process(**over_tls) as node:
            await node.says("waiting", "CERTIFICATE_VERIFY_FAILED")
        not_consumed = await settled(world)
        async with world.node(**over_tls, ULOS_STORAGE_CA_FILE=str(tmp_path / "ca.pem")):
            heard = await world.hear_the_end()

    assert not_consumed == (1, 0)
    assert events(heard)[-1] == "acknowledged"


async def test_a_node_binds_no_port(world: World) -> None:
    async with world.node_process() as node:
        await node.says("ready")
        mine = {fd.readlink() for fd in Path(f"/proc/{node.process.pid}/fd").iterdir()}
        tables = [Path(f"/proc/{node.process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]

    sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
    listening = {
        Path(f"socket:[{inode}]") for _, _, _, state, *_, inode in (row[:10] for row in sockets) if state == "0A"
    }
    assert any("socket" in str(fd) for fd in mine)
    assert mine & listening == set()


async def test_a_queue_is_consumed_as_it_is_and_never_altered(broker: Broker, tmp_path: Path) -> None:
    odd = {"x-max-priority": 3, "x-message-ttl": 600_000}

    async with a_world(broker, tmp_path, **odd) as world, world.node():
        await world.send(world.task(a_tree("pass")))
        heard = await world.hear_the_end()

    assert events(heard)[-1] == "acknowledged"


async def test_two_nodes_share_a_queue(world: World) -> None:
    settings = {"MESSAGE_BROKER_PREFETCH_COUNT": "1", "ULOS_MOCK_DELAY_S": "0.1"}

    async with world.node(ULOS_NODE="n-1", **settings), world.node(ULOS_NODE="n-2", **settings):
        for number in range(10):
            await world.send(world.task(a_tree("testing")), f"m-{number}")
        heard = await world.hear_the_end(count=10)

    assert {message.fields["node"] for message in heard} == {"n-1", "n-2"}
    assert sum(message.event == "passed" for message in heard) == 10


async def test_as_many_stages_run_at_once_as_the_prefetch_count_says(world: World) -> None:
    async with world.node(MESSAGE_BROKER_PREFETCH_COUNT="3", ULOS_MOCK_DELAY_S="0.5"):
        for number in range(6):
            await world.send(world.task(a_tree("testing")), f"m-{number}")
        heard = await world.hear_the_end(count=6)

    running = peak = 0
    for message in heard:
        running += {"received": 1, "passed": -1}.get(message.event or "", 0)
        peak = max(peak, running)
    assert peak == 3


async def test_an_owner_waits_for_a_turn_and_not_for_all_that_another_one_has_sent(world: World) -> None:
    settings = {"MESSAGE_BROKER_PREFETCH_COUNT": "6", "ULOS_OWNER_LIMIT": "1", "ULOS_MOCK_DELAY_S": "0.3"}
    async with world.node(**settings):
        for number, owner in enumerate(["many", "many", "many", "few"]):
            task = world.task(a_tree("testing"), taskOwnerId=owner)
            await world.send(task, message_id=f"m-{number}")
        heard = await world.hear_the_end(count=4)

    begun = [message.fields["taskOwnerId"] for message in heard if message.event == "downloaded"]
    assert begun == ["many", "few", "many", "many"]
    texts = [message.fields["logMessage"] for message in heard if message.event == "received"]
    assert sum("wait for their turn" in text for text in texts) >= 1


def test_a_zip_for_a_test_is_a_zip() -> None:
    with zipfile.ZipFile(io.BytesIO(a_zip(results__passed_log="ok"))) as archive:
        assert archive.namelist() == ["results/passed.log"]
