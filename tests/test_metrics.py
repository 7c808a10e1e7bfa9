"""What Prometheus gets from a node, and that the dashboard and the alert rules ask for nothing else."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from world import LIMIT_S, World, a_tree, a_world

from ulos_stream.errors import FaultBudgetSpent, StorageFault, Unroutable
from ulos_stream.lab import Broker
from ulos_stream.tasks import Hop, Verdict
from ulos_stream.telemetry.metrics import Metrics
from ulos_stream.telemetry.tracing import Tracing
from ulos_stream.telemetry.watch import Arrival, Both

CHART = Path(__file__).parent.parent / "helm" / "ulos-stream"
DASHBOARD = CHART / "dashboards" / "ulos-stream.json"
ALERTS = CHART / "alerts" / "ulos-stream.yaml"
EXPRESSIONS = [
    *(target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]),
    *re.findall(r"expr: (?:\|\n)?(.+?)\n +(?:for|labels):", ALERTS.read_text(), re.DOTALL),
]
"""All PromQL that the project ships."""

Labels = frozenset[tuple[str, str]]


class Scraped:
    """The largest value that each time series has shown so far."""

    def __init__(self, port: int) -> None:
        self.series: dict[tuple[str, Labels], float] = {}
        self.port = port
        self._url = f"http://127.0.0.1:{port}/metrics"

    async def scrape(self) -> None:
        async with aiohttp.ClientSession() as session, session.get(self._url) as response:
            text = await response.text()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                self.series[key] = max(self.series.get(key, 0), sample.value)

    async def until(self, name: str, above: float = 0, **labels: str) -> None:
        """Scrape until this series is larger than `above`."""
        async with asyncio.timeout(LIMIT_S):
            while not self.value(name, **labels) > above:
                await self.scrape()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Scrape all the time, also while nobody serves yet, or any more."""

        async def scrape() -> None:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await self.scrape()
                await asyncio.sleep(0.02)

        scraping = asyncio.create_task(scrape())
        yield
        scraping.cancel()

    def value(self, name: str, **labels: str) -> float:
        return self.series.get((name, frozenset(labels.items())), 0)

    def label_names(self) -> set[str]:
        return {name for _, labels in self.series for name, _ in labels}


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(broker, tmp_path / "artifacts") as world:
        world.artifacts.mkdir()
        yield world


@pytest.fixture
def scraped() -> Scraped:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    return Scraped(port)


@contextlib.asynccontextmanager
async def a_node(world: World, scraped: Scraped, **changes: str) -> AsyncIterator[None]:
    """A node that serves metrics; they are looked at once more before it ends."""
    async with world.node(ULOS_HTTP_PORT=str(scraped.port), **changes):
        yield
        await scraped.scrape()


async def test_stages_are_counted_by_executor_and_verdict_and_crashes_by_code(world: World, scraped: Scraped) -> None:
    keys = ["pass", "fail", "fail", "testing-anything", "nobody"]

    async with a_node(world, scraped):
        for number, key in enumerate(keys):
            await world.send(world.task(a_tree(key)), f"m-{number}")
        await world.send(b"no task", "m-0")
        await world.hear_the_end(count=len(keys))
        await scraped.until("ulos_crashes_total", executor="none", code="malformed_message")

    assert scraped.value("ulos_stages_total", executor="pass", verdict="PASS") == 1
    assert scraped.value("ulos_stages_total", executor="fail", verdict="FAIL") == 2
    assert scraped.value("ulos_stages_total", executor="testing", verdict="PASS") == 1
    assert scraped.value("ulos_crashes_total", executor="unknown", code="unknown_executor") == 1
    assert scraped.value("ulos_stage_duration_seconds_count", executor="testing") == 1


async def test_routing_keys_of_tasks_make_no_new_series(world: World, scraped: Scraped) -> None:
    async with a_node(world, scraped):
        await scraped.scrape()
        for number in range(20):
            await world.send(world.task(a_tree(f"testing-{number}")), f"m-{number}")
        await world.hear_the_end(count=20)

    values = {value for _, labels in scraped.series for name, value in labels if name == "executor"}
    assert "testing" in values
    assert not any(value.startswith("testing-") for value in values)


@pytest.mark.parametrize(
    ("ended_by", "result"),
    [(None, "confirmed"), (Unroutable("x"), "unroutable"), (FaultBudgetSpent("x"), "unconfirmed")],
)
def test_a_publish_is_counted_by_how_it_ended(ended_by: Exception | None, result: str) -> None:
    assert published(ended_by) == {result: 1}


@pytest.mark.parametrize("ended_by", [asyncio.CancelledError(), GeneratorExit()])
def test_a_publish_that_the_end_of_the_node_cut_short_is_not_counted(ended_by: BaseException) -> None:
    assert published(ended_by) == {}


def published(ended_by: BaseException | None) -> dict[str, float]:
    """What is counted of one event whose publishing ends so."""
    metrics = Metrics([], str)
    with contextlib.suppress(BaseException), metrics.publish("event", Hop(exchange="x", routing_key="log"), "e", "m"):
        if ended_by is not None:
            raise ended_by
    families = text_string_to_metric_families(metrics.render().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == "ulos_publishes_total"]
    return {s.labels["result"]: s.value for s in samples if s.labels["message"] == "event" and s.value}


@pytest.mark.parametrize("sampled", ["00", "01"])
def test_what_is_counted_is_the_same_whether_a_stage_is_traced_or_not(sampled: str) -> None:
    metrics = Metrics(["pass"], str)
    watch = Both(Tracing([], node="n-1", server=("broker", 5672)), metrics)
    headers = {"traceparent": f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{sampled}"}

    with watch.stage(Arrival("m-1", None, "queue", "lab", "pass", headers, None), None) as end:
        with watch.step("download"):
            watch.transferred("download", 7)
        with pytest.raises(StorageFault), watch.step("upload"):
            raise StorageFault("away")
        with watch.publish("hop", Hop(exchange="lab", routing_key="next"), "h-1", "m-1") as told:
            pass
        end(Verdict.PASS)

    samples = [s for f in text_string_to_metric_families(metrics.render().decode()) for s in f.samples]
    counted = {(s.name, *s.labels.values()) for s in samples if s.value and s.name.endswith(("_total", "_count"))}
    assert told["traceparent"].endswith(f"-{sampled}")
    assert counted - {("process_cpu_seconds_total",)} == {
        ("ulos_stages_total", "none", "PASS"),
        ("ulos_stage_duration_seconds_count", "none"),
        ("ulos_step_duration_seconds_count", "download"),
        ("ulos_step_duration_seconds_count", "upload"),
        ("ulos_transferred_bytes_total", "download"),
        ("ulos_publishes_total", "hop", "confirmed"),
    }


async def test_steps_transfers_and_publishes_are_measured(world: World, scraped: Scraped) -> None:
    await world.listen("next")
    task = world.task(a_tree("pass", success=a_tree("next")))
    size = (world.artifacts / task["filePath"][1:]).stat().st_size

    async with a_node(world, scraped):
        await world.send(task)
        await world.hear_the_end()

    for step in ("download", "unpack", "execute", "pack", "upload"):
        assert scraped.value("ulos_step_duration_seconds_count", step=step) == 1
    result = (world.artifacts / task["filePath"][1:]).stat().st_size
    assert scraped.value("ulos_transferred_bytes_total", step="download") == size
    assert scraped.value("ulos_transferred_bytes_total", step="upload") == result
    assert scraped.value("ulos_publishes_total", message="hop", result="confirmed") == 1


async def test_the_wait_in_the_queue_is_measured_between_our_nodes_and_where_a_sender_tells(
    world: World, scraped: Scraped
) -> None:
    await world.tasks.bind(world.exchange, "testing-2")

    async with a_node(world, scraped):
        await world.send(world.task(a_tree("testing-1", success=a_tree("testing-2"))))  # a sender that tells nothing
        await world.hear_the_end(count=2)
        await scraped.scrape()
        ours = scraped.value("ulos_queue_wait_seconds_count")
        await world.send(world.task(a_tree("testing-1")), "m-2", timestamp=time.time() - 100)
        await world.hear_the_end()

    assert ours == 1
    assert scraped.value("ulos_queue_wait_seconds_count") == 2
    assert 99 < scraped.value("ulos_queue_wait_seconds_sum") < 99 + LIMIT_S


async def test_what_came_back_from_a_node_that_was_killed_has_not_waited_in_the_queue_all_the_time(
    world: World, scraped: Scraped
) -> None:
    async with world.node_process(ULOS_MOCK_DELAY_S="30"):
        await world.send(world.task(a_tree("pass")), timestamp=time.time())
        await world.hear(lambda heard: heard[-1].event == "downloaded")

    async with a_node(world, scraped):
        await world.hear_the_end()

    assert scraped.value("ulos_stages_total", executor="pass", verdict="PASS") == 1
    assert scraped.value("ulos_queue_wait_seconds_count") == 0


async def test_what_runs_now_is_shown_while_it_runs(world: World, scraped: Scraped) -> None:
    async with a_node(world, scraped, ULOS_MOCK_DELAY_S="1", MESSAGE_BROKER_PREFETCH_COUNT="3"):
        await world.send(world.task(a_tree("pass")))
        await scraped.until("ulos_stages_in_flight")
        await world.hear_the_end()

    assert scraped.value("ulos_stages_in_flight") == 1
    assert scraped.value("ulos_stages_limit") == 3


async def test_a_fault_that_is_given_up_is_counted_as_such(world: World, scraped: Scraped, tmp_path: Path) -> None:
    async with a_node(world, scraped, ULOS_FAULT_BUDGET_S="0"):
        task = world.task(a_tree("pass"))
        world.artifacts.rename(tmp_path / "away")
        await world.send(task)
        await world.hear_the_end()

    assert scraped.value("ulos_faults_total", kind="storage", outcome="given_up") == 1
    assert scraped.value("ulos_crashes_total", executor="pass", code="fault") == 1


async def test_each_check_of_readiness_is_shown(world: World, scraped: Scraped) -> None:
    async with a_node(world, scraped):
        await scraped.scrape()

    checks = {value for name, labels in scraped.series if name == "ulos_check_passed" for _, value in labels}
    assert checks == {"consuming", "publishing", "storage", "stages", "executors", "disk"}
    assert all(scraped.value("ulos_check_passed", check=check) == 1 for check in checks)
    assert scraped.value("ulos_ready") == 1


async def test_whatever_the_dashboard_and_the_alerts_ask_for_is_there_and_not_zero_after_the_demo(
    world: World, scraped: Scraped, docker: str, tmp_path: Path
) -> None:
    async with scraped.watching():
        demo = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ulos_stream", "demo"),
            env={**os.environ, "ULOS_HTTP_PORT": str(scraped.port)},
            stdout=subprocess.DEVNULL,
        )
        assert await demo.wait() == 0
    await world.told.unbind(world.exchange, "log")  # and what does not happen in the demo
    task = world.task(a_tree("pass"))
    async with a_node(world, scraped):
        world.artifacts.rename(tmp_path / "away")
        await world.send(task)
        await scraped.until("ulos_faults_total", kind="storage", outcome="retried")
        (tmp_path / "away").rename(world.artifacts)
        await scraped.until("ulos_stages_total", executor="pass", verdict="PASS")
        await scraped.until("ulos_publishes_total", message="event", result="unroutable")
    async with a_node(world, scraped):
        await world.send(task)
        await scraped.until("ulos_journal_hits_total")

    asked = {name for expression in EXPRESSIONS for name in re.findall(r"\b(?:ulos|process)_\w+", expression)}
    told = {name for (name, _), value in scraped.series.items() if value > 0}
    assert len(asked) >= 15
    assert sorted(asked - told) == []


def test_a_queue_without_a_consumer_is_told_while_others_have_one() -> None:
    [label_of_pool] = re.findall(r"podTargetLabels: \[(.*)\]", (CHART / "templates" / "monitoring.yaml").read_text())

    told_apart_by = re.findall(r"sum by \((.*)\) \(ulos_check_passed\{check=\"consuming\"\}\) < 1", ALERTS.read_text())

    assert told_apart_by == ["job, " + re.sub(r"\W", "_", label_of_pool)]


def test_the_dashboard_and_the_alerts_use_labels_that_exist() -> None:
    known = {"job", "instance", "le", "version", "executor", "verdict", "code", "step", "kind", "outcome"}
    known |= {"message", "result", "check", "app_kubernetes_io_component"}

    used = {name for text in EXPRESSIONS for name in re.findall(r"(\w+)\s*(?:=~|!=|=)\s*\"", text)}
    grouped = {
        name for text in EXPRESSIONS for names in re.findall(r"by \(([^)]*)\)", text) for name in names.split(", ")
    }

    assert (used | grouped) - known == set()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_takes_the_alert_rules_and_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    filled = [text.replace("$__rate_interval", "5m").replace("$job", ".*") for text in EXPRESSIONS]
    rules = [{"record": f"ulos:{number}", "expr": text} for number, text in enumerate(filled)]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))

    command = ["promtool", "check", "rules", str(ALERTS), str(tmp_path / "rules.yaml")]
    checked = subprocess.run(command, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stderr
