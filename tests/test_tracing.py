"""One trace for each task over all its hops, as a collector receives it."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from receiver import Received, Receiver
from world import Heard, World, a_tree, a_world, ulos

from ulos_stream.errors import ArtifactChanged, ConfigurationError, StorageFault
from ulos_stream.lab import Broker
from ulos_stream.tasks import Hop, Verdict
from ulos_stream.telemetry import Log, configure_logging, exporting, tracing
from ulos_stream.telemetry.exporting import open_exporters
from ulos_stream.telemetry.tracing import Tracing
from ulos_stream.telemetry.watch import Arrival

STEPS = ["download", "unpack", "execute", "pack", "upload"]
SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
CONTAINER = """
kind = "container"
routing_key = "hello"
description = "Says hello."
image = "{image}"
command = ["run"]
mount = "/mnt/files"
passes = "exit-code"
"""


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path / "artifacts") as world:
        world.artifacts.mkdir()
        yield world


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as receiver:
        yield receiver


async def one_stage(
    world: World, receiver: Receiver, key: str, *, headers: dict[str, str] | None = None, **changes: str
) -> list[Heard]:
    """A task with one stage through a traced node, and all that the node published."""
    await world.listen("next")
    async with world.node(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **changes):
        await world.send(world.task(a_tree(key, success=a_tree("next"))), headers=headers)
        return await world.hear_the_end()


def only(spans: list[Received]) -> Received:
    [span] = spans
    return span


def parent_in(message: Heard) -> tuple[str, str]:
    """Trace and span in the W3C context of a message."""
    version, trace_id, span_id, flags = str(message.raw.headers["traceparent"]).split("-")
    assert version == "00"
    assert int(flags, 16) & 1, "the sampled flag"
    return trace_id, span_id


# The trace of a task


async def test_a_task_over_five_hops_is_one_trace_of_five_stages_with_five_steps_each(
    world: World, receiver: Receiver, docker: str, tmp_path: Path
) -> None:
    (tmp_path / "executors" / "hello").mkdir(parents=True)
    (tmp_path / "executors" / "hello" / "executor.toml").write_text(CONTAINER.format(image=docker))
    keys = ["testing-1", "testing-2", "hello", "testing-3", "testing-4"]
    tree = a_tree("task.done")
    for key in reversed(keys):
        await world.tasks.bind(world.exchange, key)
        tree = a_tree(key, success=tree)
    await world.listen("task.done")

    async with world.node(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        ULOS_EXECUTORS_PATH=str(tmp_path / "executors"),
        ULOS_TRACE_FILE=str(tmp_path / "traces.jsonl"),
    ):
        await world.send(world.task(tree))
        heard = await world.hear_the_end(count=5)
    drawn = await ulos("trace", "t-1", str(tmp_path / "traces.jsonl"))

    stages = receiver.in_order("CONSUMER")
    assert len({span.trace_id for span in receiver.spans}) == 1
    assert [stage.attributes["ulos.stage"] for stage in stages] == keys
    for stage in stages:
        assert [step.name for step in receiver.children(stage)] == STEPS
        assert not stage.is_error
    assert len(receiver.in_order("INTERNAL")) == 25
    hops = [only(receiver.children(stage, "PRODUCER")) for stage in stages]
    assert [stage.parent_id for stage in stages] == ["", *(hop.span_id for hop in hops[:-1])]
    assert [stage.links for stage in stages] == [[], *([hop.span_id] for hop in hops[:-1])]
    [done] = [message for message in heard if message.key == "task.done"]
    assert parent_in(done) == (hops[-1].trace_id, hops[-1].span_id)
    assert drawn.returncode == 0, drawn.stderr
    assert [line.split()[0] for line in drawn.stdout.splitlines() if " PASS " in line] == keys
    for step in (*STEPS, "send"):
        assert drawn.stdout.count(f"\n  {step} ") == 5


async def test_spans_are_named_and_described_by_the_conventions_for_rabbitmq(world: World, receiver: Receiver) -> None:
    await one_stage(world, receiver, "pass", ULOS_NODE="n-1", OTEL_RESOURCE_ATTRIBUTES="deployment.environment=lab")

    stage, hop = only(receiver.in_order("CONSUMER")), only(receiver.in_order("PRODUCER"))
    exchange, queue = world.exchange.name, world.tasks.name
    server = {"messaging.system": "rabbitmq", "server.address": world.broker.host, "server.port": world.broker.port}
    assert stage.name == f"process {queue}"
    assert stage.attributes == {
        **server,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": queue,
        "messaging.rabbitmq.destination.routing_key": queue,
        "messaging.message.id": "m-1",
        "ulos.task.id": "t-1",
        "ulos.task.owner_id": "o-1",
        "ulos.stage": "pass",
        "ulos.verdict": "PASS",
    }
    assert hop.name == f"send {exchange}:next"
    assert (
        hop.attributes.items()
        >= {
            **server,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": f"{exchange}:next",
            "messaging.rabbitmq.destination.routing_key": "next",
            "messaging.message.conversation_id": "m-1",
        }.items()
    )
    assert (
        stage.resource.items()
        >= {
            "service.name": "ulos-stream",
            "service.instance.id": "n-1",
            "deployment.environment": "lab",
        }.items()
    )


async def test_a_stage_is_the_child_of_its_senders_span_and_linked_to_it(world: World, receiver: Receiver) -> None:
    await one_stage(world, receiver, "pass", headers={"traceparent": f"{SENDER}-01"})

    stage = only(receiver.in_order("CONSUMER"))
    assert (stage.trace_id, stage.parent_id, stage.links) == (SENDER[3:35], SENDER[36:], [SENDER[36:]])


@pytest.mark.parametrize("header", ["", "nonsense", 7, "00-1-2-01", f"{SENDER}-01x", None])
async def test_a_header_that_is_no_context_starts_a_trace(world: World, receiver: Receiver, header: object) -> None:
    await one_stage(world, receiver, "pass", headers={"traceparent": header})  # type: ignore[dict-item]

    stage = only(receiver.in_order("CONSUMER"))
    assert (stage.parent_id, stage.links) == ("", [])


async def test_log_and_crash_messages_carry_the_trace_of_their_stage_to_the_last(
    world: World, receiver: Receiver
) -> None:
    heard = await one_stage(world, receiver, "crash")

    stage = only(receiver.in_order("CONSUMER"))
    assert {message.event for message in heard} >= {"received", "crashed", "rejected"}
    assert {parent_in(message) for message in heard} == {(stage.trace_id, stage.span_id)}


async def test_what_the_sender_does_not_sample_is_not_recorded_and_travels_on(world: World, receiver: Receiver) -> None:
    heard = await one_stage(world, receiver, "pass", headers={"traceparent": f"{SENDER}-00"})

    [hop] = [message for message in heard if message.key == "next"]
    assert receiver.spans == []
    assert str(hop.raw.headers["traceparent"]).startswith(SENDER[:35])
    assert str(hop.raw.headers["traceparent"]).endswith("-00")


async def test_a_node_that_does_not_trace_hands_the_context_on_as_it_came(world: World) -> None:
    await world.listen("next")
    sent = {"traceparent": f"{SENDER}-01", "tracestate": "a=b", "baggage": "mine", "x": 1}

    async with world.node():
        await world.send(world.task(a_tree("pass", success=a_tree("next"))), headers=sent)
        heard = await world.hear_the_end()

    [hop] = [message for message in heard if message.key == "next"]
    assert hop.raw.headers.items() >= {"traceparent": sent["traceparent"], "tracestate": "a=b"}.items()
    assert hop.raw.headers.keys() == {"traceparent", "tracestate", "timestamp_in_ms"}


async def test_what_is_no_trace_context_is_not_handed_on(world: World) -> None:
    await world.listen("next")

    async with world.node():
        headers = {"traceparent": 7, "tracestate": "x" * 513}
        await world.send(world.task(a_tree("pass", success=a_tree("next"))), headers=headers)
        heard = await world.hear_the_end()

    [hop] = [message for message in heard if message.key == "next"]
    assert hop.raw.headers.keys() == {"timestamp_in_ms"}


async def test_a_sampler_of_the_environment_is_obeyed(world: World, receiver: Receiver) -> None:
    await one_stage(world, receiver, "pass", OTEL_TRACES_SAMPLER="always_off")

    assert receiver.spans == []


# Ends and errors


async def test_a_failing_student_is_no_error(world: World, receiver: Receiver) -> None:
    await one_stage(world, receiver, "fail")

    stage = only(receiver.in_order("CONSUMER"))
    assert stage.attributes["ulos.verdict"] == "FAIL"
    assert not any(span.is_error for span in receiver.spans)


async def test_a_crash_is_an_error_of_its_stage_and_of_the_step_that_met_it(world: World, receiver: Receiver) -> None:
    await one_stage(world, receiver, "crash")

    stage = only(receiver.in_order("CONSUMER"))
    said = {"exception.type": "ExecutorCrashed", "exception.message": "the mock was asked to crash"}
    for span in (stage, receiver.children(stage)[-1]):
        assert span.is_error
        assert span.attributes["error.type"] == "executor_crashed"
        assert span.events == [("exception", said)]
    assert "ulos.verdict" not in stage.attributes
    assert [(step.name, step.is_error) for step in receiver.children(stage)] == [
        ("download", False),
        ("unpack", False),
        ("execute", True),
    ]


async def test_a_body_that_is_no_task_is_an_error_without_a_task(world: World, receiver: Receiver) -> None:
    async with world.node(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url):
        await world.send(b"no task")
        await world.hear(lambda heard: heard[-1].key == "crash")

    stage = only(receiver.in_order("CONSUMER"))
    assert stage.attributes["error.type"] == "malformed_message"
    assert "ulos.task.id" not in stage.attributes


async def test_a_step_that_the_timeout_cuts_short_says_so(world: World, receiver: Receiver) -> None:
    async with world.node(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, ULOS_MOCK_DELAY_S="30"):
        await world.send(world.task(a_tree("pass"), timeout=0.2))
        await world.hear_the_end()

    stage = only(receiver.in_order("CONSUMER"))
    execute = receiver.children(stage)[-1]
    assert stage.attributes["error.type"] == "timeout"
    assert (execute.name, execute.attributes["error.type"], execute.is_error) == ("execute", "cancelled", False)


async def test_an_unroutable_hop_is_an_error_of_its_send_span(world: World, receiver: Receiver) -> None:
    async with world.node(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url):
        await world.send(world.task(a_tree("pass", success=a_tree("nowhere"))))
        await world.hear_the_end()

    hop = only(receiver.in_order("PRODUCER"))
    assert (hop.is_error, hop.attributes["error.type"]) == (True, "unroutable")


async def test_a_step_that_is_tried_again_has_an_event_for_each_fault(
    world: World, receiver: Receiver, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    async with world.node_process(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url) as node:
        await node.says("ready")
        task = world.task(a_tree("pass"))
        world.artifacts.rename(away)
        await world.send(task)
        await node.says("fault")
        away.rename(world.artifacts)
        await world.hear_the_end()
        await node.stop()

    download = receiver.in_order("INTERNAL")[0]
    assert (download.name, download.is_error) == ("download", False)
    assert {name for name, _ in download.events} == {"fault"}
    assert {said["error.type"] for _, said in download.events} == {"storage"}


async def test_a_stage_that_was_done_before_says_that_it_was_skipped(world: World, receiver: Receiver) -> None:
    task = world.task(a_tree("pass"))
    for _ in range(2):  # two nodes: the second knows of the first by the artifact's journal alone
        async with world.node(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url):
            await world.send(task)
            await world.hear_the_end()

    first, second = receiver.in_order("CONSUMER")
    assert "ulos.journal.hit" not in first.attributes
    assert second.attributes["ulos.journal.hit"] is True
    assert [step.name for step in receiver.children(second)] == ["download"]


# What is never in a trace, and what it never holds up


class Kept(SpanExporter):
    """Keeps what it is given; may be held."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.free = threading.Event()
        self.free.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.free.wait(10)
        self.spans += spans
        return SpanExportResult.SUCCESS


AN_ARRIVAL = Arrival("m-1", None, "queue", "lab", "pass", {}, None)


def test_the_cause_of_an_error_is_not_told_since_it_may_quote_a_password() -> None:
    exporter = Kept()
    watch = Tracing([exporter], node="n-1", server=("broker", 5672))

    with pytest.raises(StorageFault), watch.stage(AN_ARRIVAL, None), watch.step("download"):
        raise StorageFault("login refused") from ValueError("530 no such password: hunter2")
    watch.close()

    told = "".join(span.to_json() for span in exporter.spans)
    assert "login refused" in told
    assert "hunter2" not in told


def test_an_artifact_that_changed_meanwhile_is_no_error_of_the_upload_since_the_stage_begins_anew() -> None:
    exporter = Kept()
    watch = Tracing([exporter], node="n-1", server=("broker", 5672))

    with watch.stage(AN_ARRIVAL, None) as end:
        with pytest.raises(ArtifactChanged), watch.step("upload"):
            raise ArtifactChanged("it is another one now")
        end(Verdict.PASS)
    watch.close()

    upload, stage = exporter.spans
    assert [event.attributes["exception.message"] for event in upload.events if event.attributes] == [
        "it is another one now"
    ]
    assert upload.status.is_unset
    assert stage.status.is_unset


def test_a_name_without_a_utf_8_form_does_not_cost_the_other_spans() -> None:
    exporter = Kept()
    watch = Tracing([exporter], node="n-1", server=("broker", 5672))

    with watch.stage(Arrival("m-\udcff", "\udcff", "queue", "lab", "\udcff", {}, None), None):
        pass
    watch.close()

    [span] = exporter.spans
    assert span.name == "process lab:?:queue"
    span.to_json().encode()


def test_the_state_of_a_trace_travels_on_as_far_as_a_receiver_has_to_take_it() -> None:
    state = ",".join(f"vendor-{number}={'x' * 200}" for number in range(32))
    headers = {"traceparent": f"{SENDER}-00", "tracestate": state, "priority": 7}
    arrival = replace(AN_ARRIVAL, headers=headers)
    watch = Tracing([], node="n-1", server=("broker", 5672))

    with watch.stage(arrival, None), watch.publish("crash", Hop(exchange="lab", routing_key="c"), "c-1", "m-1") as told:
        assert told["tracestate"] == state
        assert told["traceparent"].startswith(SENDER[:35])


async def test_a_collector_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FLUSH_S", 0.1)
    exporter = Kept()
    exporter.free.clear()
    watch = Tracing([exporter], node="n-1", server=("broker", 5672))

    with watch.stage(AN_ARRIVAL, None):
        pass
    async with asyncio.timeout(10):
        await asyncio.to_thread(watch.close)
    before = list(exporter.spans)
    exporter.free.set()

    assert before == []


def test_the_reason_for_lost_traces_is_the_first_that_the_exporter_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(FileSpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for said in ("connection refused", "given up"):
                logging.getLogger("opentelemetry.exporter").error(said)
            return SpanExportResult.FAILURE

    monkeypatch.setattr(exporting, "FileSpanExporter", Failing)
    configure_logging("INFO")

    [exporter] = open_exporters([], Path("/dev/null"), Log())
    exporter.export([])
    exporter.export([])
    exporter.shutdown()

    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line).items() >= {"event": "traces lost", "reason": "connection refused"}.items()


async def test_a_collector_that_is_away_costs_one_line_with_the_reason_and_one_when_it_is_back(
    world: World, receiver: Receiver
) -> None:
    receiver.refuses = True
    async with world.node_process(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="50") as node:
        await node.says("ready")
        await world.send(world.task(a_tree("pass")), "m-1")
        lost = await node.says("traces lost")
        await world.send(world.task(a_tree("pass")), "m-2")
        await receiver.asked(times=2)
        receiver.refuses = False
        await world.send(world.task(a_tree("pass")), "m-3")
        await node.says("traces back")

    assert lost["level"] == "warning"
    assert "401" in lost["reason"]
    assert [line["event"] for line in node.lines].count("traces lost") == 1
    assert not any("export" in line["event"] for line in node.lines)


# Whether there are any


def test_without_a_word_of_it_nothing_is_even_imported(world: World) -> None:
    names = ("opentelemetry.sdk", "opentelemetry.trace", "prometheus_client", "aiohttp", "google.protobuf", "requests")
    program = (
        "import sys; from ulos_stream.app import create_app; from ulos_stream.settings import read_settings;"
        f"create_app(read_settings()); print([name for name in {names} if name in sys.modules])"
    )

    told = subprocess.run(
        [sys.executable, "-c", program], env=world.environment(), capture_output=True, text=True, check=True
    )

    assert told.stdout == "[]\n"


async def test_a_trace_file_has_one_request_a_line_in_otlp_json(world: World, tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    async with world.node(ULOS_TRACE_FILE=str(file)):
        await world.send(world.task(a_tree("pass")))
        await world.hear_the_end()

    requests = [json.loads(line) for line in file.read_text().splitlines()]
    spans = [span for r in requests for each in r["resourceSpans"] for s in each["scopeSpans"] for span in s["spans"]]
    assert [len(request["resourceSpans"]) for request in requests] == [1] * len(requests)
    assert sorted(span["name"] for span in spans) == sorted([*STEPS, f"process {world.tasks.name}"])
    assert {len(span["traceId"]) for span in spans} == {32}


def test_an_exporter_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER: no exporter 'zipkin' is installed"):
        open_exporters(["zipkin"], None, Log())


def test_an_exporter_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "lame-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lame\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[opentelemetry_traces_exporter]\nlame = lame:Exporter\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER: lame does not start: No module named 'lame'"):
        open_exporters(["lame"], None, Log())


def test_a_trace_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ULOS_TRACE_FILE: cannot write .*: No such file or directory"):
        open_exporters([], tmp_path / "nowhere" / "traces.jsonl", Log())
