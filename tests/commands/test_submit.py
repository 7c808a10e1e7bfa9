"""`ulos submit`: the file is uploaded, its task published and confirmed, and followed to its end."""

import io
import json
import subprocess
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import World, a_tree, a_world, a_zip, ulos

from ulos_stream.lab import Broker, FtpServer


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """With stages that pass, fail and crash."""
    (tmp_path / "artifacts").mkdir()
    async with a_world(broker, tmp_path / "artifacts") as world:
        for key in ("pass", "skip", "testing-1", "fail", "crash"):
            await world.tasks.bind(world.exchange, key)
        world.settings["MESSAGE_BROKER_CRASH_ROUTING_KEY"] = "task.crashed"  # `crash` is a stage here
        await world.told.unbind(world.exchange, "crash")
        await world.listen("task.crashed")
        yield world


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A student's folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "hello.txt").write_text("hello")
    return folder


async def submit(world: World, *arguments: object, **changes: str) -> "subprocess.CompletedProcess[str]":
    return await ulos("submit", *map(str, arguments), **world.environment(**changes))


async def test_a_submitted_zip_lies_on_the_ftp_server_and_its_confirmed_message_in_the_queue(
    world: World, ftp_server: FtpServer, tmp_path: Path
) -> None:
    file = tmp_path / "work.zip"
    file.write_bytes(a_zip())
    storage = {
        "ULOS_STORAGE_URL": "ftp://",
        "REMOTE_STORAGE_HOST": ftp_server.host,
        "REMOTE_STORAGE_PORT": str(ftp_server.port),
        "REMOTE_STORAGE_USERNAME": ftp_server.username,
        "REMOTE_STORAGE_PASSWORD": ftp_server.password,
    }

    route = ("--route", "pass,skip", "--on-failure", "task.failed", "--owner", "me", "--timeout", "5", "--json")
    ended = await submit(world, file, *route, **storage)

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    message = await world.tasks.get(no_ack=True)
    x = world.exchange.name
    failed = {"exchange": x, "routingKey": "task.failed"}
    assert json.loads(message.body) == {
        "taskId": told["task_id"],
        "taskOwnerId": "me",
        "filePath": told["file_path"],
        "timeout": 5,
        "routingTree": {
            "exchange": x,
            "routingKey": "pass",
            "successRoutingDecision": {"exchange": x, "routingKey": "skip", "failureRoutingDecision": failed},
            "failureRoutingDecision": failed,
        },
    }
    assert (message.message_id, message.delivery_mode, message.routing_key) == (told["message_id"], 2, "pass")
    assert [path.name for path in ftp_server.root.iterdir()] == [told["file_path"][1:]]
    assert (ftp_server.root / told["file_path"][1:]).read_bytes() == file.read_bytes()


async def test_its_message_tells_when_it_was_sent_so_that_its_wait_can_be_measured(world: World, work: Path) -> None:
    before_ms = time.time() * 1000 - 1

    await submit(world, work, "--route", "pass")

    message = await world.tasks.get(no_ack=True)
    sent_at_ms = message.headers["timestamp_in_ms"]
    assert isinstance(sent_at_ms, int)
    assert before_ms < sent_at_ms <= time.time() * 1000


async def test_a_folder_is_zipped(world: World, work: Path) -> None:
    ended = await submit(world, work, "--route", "pass", "--json")

    assert ended.returncode == 0, ended.stderr
    stored = (world.artifacts / json.loads(ended.stdout)["file_path"][1:]).read_bytes()
    with zipfile.ZipFile(io.BytesIO(stored)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"hello.txt": b"hello"}


async def test_a_task_file_is_sent_as_it_is_and_its_file_goes_where_it_says(
    world: World, work: Path, tmp_path: Path
) -> None:
    task = world.task(a_tree("pass", extra="kept"), filePath="/one.zip", more=[1])
    (tmp_path / "task.json").write_text(json.dumps(task))

    ended = await submit(world, work, "--task", tmp_path / "task.json")

    assert ended.returncode == 0, ended.stderr
    message = await world.tasks.get(no_ack=True)
    assert json.loads(message.body) == task
    assert ended.stdout == f"task t-1  message {message.message_id}  file /one.zip\n"
    assert (world.artifacts / "one.zip").exists()


@pytest.mark.parametrize(
    ("route", "exit_code", "last"),
    [
        (("--route", "pass,testing-1,skip"), 0, "done: the route ends at skip"),
        (("--route", "pass,fail,skip"), 1, "failed: the route ends at fail"),
        (("--route", "fail", "--on-failure", "pass"), 0, "done: the route ends at pass"),
        (("--route", "fail", "--on-failure", "task.failed"), 1, "failed: handed over to task.failed, where no"),
        (("--route", "pass,task.done"), 0, "done: handed over to task.done, where no executor is known"),
        (("--route", "pass,crash"), 1, "failed: executor_crashed: the mock was asked to crash"),
        (("--route", "pass,testing-2"), 1, "failed: unroutable: no queue takes"),
        (("--route", "pass", "--timeout", "0"), 1, "failed: timeout: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_waiting_shows_each_event_and_ends_as_the_task_does(
    world: World, work: Path, route: tuple[str, ...], exit_code: int, last: str
) -> None:
    await world.listen("task.done", "task.failed")

    async with world.node():
        ended = await submit(world, work, *route, "--wait")

    assert (ended.returncode, ended.stderr) == (exit_code, "")
    first, *events, end = ended.stdout.splitlines()
    assert first.startswith("task ")
    assert "received" in {event.split("  ")[3] for event in events}
    assert end.startswith(last)


async def test_every_event_of_every_stage_is_an_object_in_json(world: World, work: Path) -> None:
    async with world.node():
        ended = await submit(world, work, "--route", "pass,skip", "--wait", "--json")

    ids, *events, end = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {event["task"] for event in events} == {ids["task_id"]}
    first = [event["event"] for event in events if event["stage"] == "pass"]
    # The next stage may end the task before this one's message is acknowledged, and is seen to be.
    assert first[:5] == ["received", "downloaded", "passed", "uploaded", "forwarded"]
    assert first[5:] in ([], ["acknowledged"])
    assert events[0]["message_id"] == ids["message_id"]
    assert end == {"well": True, "end": "the route ends at skip"}


# refusals


async def test_a_task_that_no_queue_takes_ends_with_1_and_its_file_stays(world: World, work: Path) -> None:
    ended = await submit(world, work, "--route", "nowhere")

    [file] = world.artifacts.iterdir()
    where = f"no queue takes exchange '{world.exchange.name}' with routing key 'nowhere'"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"ulos: {where}; the file stays at /{file.name}\n"


async def test_a_missing_exchange_is_noticed_before_anything_is_uploaded(world: World, work: Path) -> None:
    ended = await submit(world, work, "--route", "pass", "--exchange", "missing")

    assert (ended.returncode, ended.stderr) == (1, "ulos: exchange 'missing' does not exist; nothing was uploaded\n")
    assert list(world.artifacts.iterdir()) == []


async def test_nobody_waits_where_logs_cannot_be_overheard(world: World, work: Path) -> None:
    ended = await submit(
        world, work, "--route", "pass", "--wait", MESSAGE_BROKER_LOGS_EXCHANGE="", MESSAGE_BROKER_LOGS_ROUTING_KEY="q"
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("ulos: messages for queue 'q' go there by the default exchange")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"MESSAGE_BROKER_PORT": "1"}, "ulos: broker 127.0.0.1:1, virtual host '/': "),
        ({"MESSAGE_BROKER_PASSWORD": "wrong"}, "ulos: broker 127.0.0.1:"),
        ({"ULOS_STORAGE_URL": "file:///nonexistent"}, "ulos: upload of "),
    ],
    ids=["no broker", "wrong password", "no storage"],
)
async def test_what_cannot_be_reached_ends_with_3_and_one_line(
    world: World, work: Path, changes: dict[str, str], reason: str
) -> None:
    ended = await submit(world, work, "--route", "pass", **changes)

    assert (ended.returncode, ended.stdout) == (3, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(reason)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.zip", "--route", "pass"), "'missing.zip' does not exist"),
        ((".",), "give either --task or --route"),
        ((".", "--route", "pass", "--task", __file__), "give either --task or --route"),
        ((".", "--task", __file__, "--owner", "me"), "are for --route"),
        ((".", "--task", __file__), "the body is not JSON"),
        ((".", "--route", "pass,,skip"), "--route: "),
        ((".", "--route", "pass," * 64 + "pass"), "--route: 65 stages, and a tree has at most 64 levels"),
        ((".", "--route", "pass," * 63 + "pass", "--on-failure", "f"), "routingTree: more than 64 levels"),
        ((".", "--route", "pass", "--timeout", "86401"), "timeout: 86401 is more than"),
    ],
)
async def test_wrong_arguments_end_with_2_before_anything_is_reached(arguments: tuple[str, ...], words: str) -> None:
    nowhere = {
        "HOST": "localhost", "PORT": "1", "USERNAME": "u", "PASSWORD": "p",
        "LOGS_EXCHANGE": "x", "LOGS_ROUTING_KEY": "log", "CRASH_EXCHANGE": "x", "CRASH_ROUTING_KEY": "crash",
        "CONSUMPTION_QUEUE": "q", "PREFETCH_COUNT": "0", "REQUEUE_ON_REJECT": "false",
    }  # fmt: skip
    environment = {f"MESSAGE_BROKER_{name}": value for name, value in nowhere.items()}

    ended = await ulos("submit", *arguments, ULOS_STORAGE_URL="file:///nonexistent", **environment)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert words in ended.stderr
