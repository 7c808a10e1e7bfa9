"""As a user meets it: the node as a process with the fifteen variables only, the samples, the demo."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from world import NodeProcess, ulos

from ulos_stream import demo, shipped
from ulos_stream.demo import EXPECTED
from ulos_stream.lab import Broker, FtpServer, Lab
from ulos_stream.tasks import parse_task

SAMPLES = shipped("samples")


async def test_a_task_sent_by_pika_passes_five_stages_with_only_the_fifteen_variables(
    broker: Broker, ftp_server: FtpServer
) -> None:
    environment = Lab(broker, ftp_server).environment("processing-queue")
    (ftp_server.root / "greeting.zip").write_bytes((SAMPLES / "artifacts" / "greeting.zip").read_bytes())
    connection = await aio_pika.connect(broker.url)
    async with connection, asyncio.timeout(60):
        channel = await connection.channel()
        exchange = await channel.declare_exchange("processing-exchange", durable=True)
        tasks = await channel.declare_queue("processing-queue", durable=True)
        for number in range(1, 6):
            await tasks.bind(exchange, f"testing-{number}")
        told = await channel.declare_queue(exclusive=True)
        for key in ("task.log", "task.crashed", "task.done", "task.failed"):
            await told.bind(exchange, key)

        async with a_node(environment):
            sent = await asyncio.to_thread(run_sample, "send.py", environment, "messages/five-stages.json")
            heard = [message async for message in until_settled(told, stages=5)]

    assert len(environment) == 15
    assert sent.returncode == 0, sent.stderr
    events = [(fields["stage"]["routingKey"], fields["event"]) for key, fields in heard if key == "task.log"]
    stage = ["received", "downloaded", "passed", "uploaded", "forwarded", "acknowledged"]
    for number in range(1, 6):
        assert [event for key, event in events if key == f"testing-{number}"] == stage
    assert [key for key, _ in heard if key in ("task.done", "task.failed", "task.crashed")] == ["task.done"]
    with zipfile.ZipFile(ftp_server.root / "greeting.zip") as archive:
        assert sum(name.startswith("output_processing-exchange_testing-") for name in archive.namelist()) == 5
        assert archive.testzip() is None


def test_every_sample_message_is_in_the_demo_and_is_what_its_name_says() -> None:
    messages = {path.stem: path.read_bytes() for path in (SAMPLES / "messages").glob("*.json")}

    assert messages.keys() == EXPECTED.keys()
    for name, body in messages.items():
        if EXPECTED[name] != "crash: malformed_message":
            assert parse_task(body).task_id == name


@pytest.mark.parametrize("path", sorted((SAMPLES / "configurations").glob("*.env")), ids=lambda path: path.stem)
def test_a_sample_configuration_exports_the_fifteen_variables(path: Path) -> None:
    shell = ["sh", "-c", f". {path} && env"]

    exported = subprocess.run(shell, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True)

    names = {line.partition("=")[0] for line in exported.stdout.splitlines()}
    assert len([name for name in names if name.startswith(("MESSAGE_BROKER_", "REMOTE_STORAGE_"))]) == 15


def test_the_demo_ends_as_expected_in_a_shell_that_leads_elsewhere_and_adds_its_traces_to_those_of_others(
    broker: Broker, docker: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "ulos_stream"]
    traces = tmp_path / "traces.jsonl"
    traces.write_text("another node's\n")
    elsewhere = {
        "ULOS_VIRTUAL_HOST": "production",
        "ULOS_BROKER_TLS": "true",
        "ULOS_STORAGE_URL": "file:///nonexistent",
    }
    environment = {**os.environ, **elsewhere, "COLUMNS": "160", "ULOS_TRACE_FILE": str(traces)}

    ended = subprocess.run([*command, "demo"], capture_output=True, text=True, timeout=110, env=environment)
    traced = subprocess.run(
        [*command, "trace", "five-stages", "--json"], capture_output=True, text=True, timeout=30, env=environment
    )

    assert ended.returncode == 0, ended.stdout
    assert traces.read_text().startswith("another node's\n")
    assert all(f"testing-{number}" in traced.stdout for number in range(1, 6)), traced.stderr
    assert "every task ended as expected" in ended.stdout
    assert all(name in ended.stdout for name in EXPECTED if not name.startswith("course"))


def test_the_demo_says_in_a_few_lines_that_rabbitmq_does_not_come_up() -> None:
    program = (
        "from ulos_stream import lab; lab._rabbitmq_script = lambda: '/bin/false'\n"
        "import sys; sys.argv = ['ulos', 'demo']\nfrom ulos_stream.cli import main; main()"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)

    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.startswith("ulos: /bin/false did not come up on port ")
    assert "Traceback" not in ended.stderr


async def test_the_demo_says_in_a_line_that_its_traces_cannot_be_written(tmp_path: Path) -> None:
    ended = await ulos("demo", ULOS_TRACE_FILE=str(tmp_path))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"ulos: ULOS_TRACE_FILE: cannot write {tmp_path}: Is a directory\n"


@pytest.mark.parametrize(
    ("artifact", "sample"),
    [
        ("course", "cypress-execution/samples/pass"),
        ("course-wrong", "cypress-execution/samples/fail"),
        ("course-mistake", "cypress-grammar/samples/fail"),
    ],
)
def test_the_artifacts_of_the_course_are_samples_of_its_executors(artifact: str, sample: str) -> None:
    folder = shipped("executors") / sample

    with zipfile.ZipFile(SAMPLES / "artifacts" / f"{artifact}.zip") as archive:
        zipped = {name: archive.read(name) for name in archive.namelist()}

    assert zipped == {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_demo_goes_without_the_arm_whose_port_is_taken() -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # or somebody else has it
            stack.enter_context(socket.create_server(("127.0.0.1", 7171)))
        with demo._arm() as is_there:
            pass

    assert not is_there


def a_node(environment: dict[str, str]) -> Any:
    return NodeProcess.running({"PATH": os.environ["PATH"], **environment})


def run_sample(program: str, environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SAMPLES / program), *(str(SAMPLES / argument) for argument in arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


async def until_settled(told: aio_pika.abc.AbstractQueue, stages: int) -> Any:
    """Routing key and content of each message until so many stages are settled."""
    settled = 0
    async with told.iterator(no_ack=True) as messages:
        async for message in messages:
            fields = json.loads(message.body)
            settled += fields.get("event") in ("acknowledged", "rejected")
            yield message.routing_key, fields
            if settled == stages:
                return
