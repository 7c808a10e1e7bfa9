"""The AsyncAPI document is generated from the app: a test rewrites it, and fails when it was old.

What it says is held against the official parser and against a node at work; its page is looked at
in Chromium.
"""

import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import required
from generated import refresh
from world import World, a_world, a_zip

from ulos_stream.asyncapi.examples import MALFORMED_BODY, MESSAGE_ID, NODE, TASK
from ulos_stream.asyncapi.page import page
from ulos_stream.asyncapi.text import to_yaml
from ulos_stream.docs import build_document, build_site
from ulos_stream.errors import ServiceMissing
from ulos_stream.lab import Broker
from ulos_stream.tasks import MalformedCrash, Task, TaskCrash, TaskLog, Wire, parse_task

FOLDER = Path(__file__).parent.parent / "asyncapi"
EXCHANGE = "processing-exchange"
MODELS: dict[str, type[Wire]] = {
    "task": Task,
    "hop": Task,
    "log": TaskLog,
    "crash": TaskCrash,
    "malformed": MalformedCrash,
}


def test_the_document_is_what_the_app_says() -> None:
    refresh(FOLDER / "asyncapi.yaml", to_yaml(build_document()))


def test_the_document_is_the_same_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_document()
    monkeypatch.setenv("MESSAGE_BROKER_CONSUMPTION_QUEUE", "elsewhere")
    monkeypatch.setenv("MESSAGE_BROKER_PASSWORD", "secret-of-this-machine")
    monkeypatch.setenv("ULOS_VIRTUAL_HOST", "elsewhere")
    monkeypatch.setenv("ULOS_BROKER_TLS", "true")
    monkeypatch.setenv("ULOS_STORAGE_URL", "nonsense")

    after = build_document()

    assert after == before


def test_the_official_parser_reads_the_document_as_it_was_written_and_has_nothing_against_it() -> None:
    told = run_node("validate.mjs", FOLDER / "asyncapi.yaml")

    assert [found["code"] for found in told["diagnostics"]] == ["asyncapi-latest-version"]
    assert told["document"] == build_document()


def test_yaml_keeps_texts_that_mean_something_else_without_quotes(tmp_path: Path) -> None:
    document = {
        "no": ["yes", "1", "1e3", "~", "", " a", "- a", "a: b", "#", "'", '"', "ü", "\t"],
        "a b": {"empty": {}, "none": [], "lines": ["a\n\n  b: c", " a\nb", "a\n", "\n", "a\r\nb", "a\n\tb"]},
        "1": [{"a": [[1, 2.5], [None]]}, True],
    }
    file = tmp_path / "document.yaml"
    file.write_text(to_yaml(document))

    told = run_node("validate.mjs", file)

    assert told["document"] == document
    assert '"no":' in file.read_text()  # which a reader of YAML 1.1 takes for false


def test_every_channel_says_where_it_is_and_on_which_connection() -> None:
    document = build_document()

    told = {
        name: (
            document["operations"][name]["action"],
            channel["address"],
            channel["bindings"]["amqp"].get("exchange", {}).get("name"),
            [server["$ref"] for server in channel["servers"]],
        )
        for name, channel in document["channels"].items()
    }

    assert told == {
        "tasks": ("receive", "processing-queue", None, ["#/servers/consuming"]),
        "hops": ("send", "{exchange}/{routingKey}", "{exchange}", ["#/servers/publishing"]),
        "logs": ("send", "task.log", EXCHANGE, ["#/servers/publishing"]),
        "crashes": ("send", "task.crashed", EXCHANGE, ["#/servers/publishing"]),
    }


def test_every_schema_and_every_field_says_what_it_is() -> None:
    schemas = build_document()["components"]["schemas"]

    silent = [name for name, schema in schemas.items() if not schema.get("description")] + [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, said in schema.get("properties", {}).items()
        if not said.get("description")
    ]

    assert silent == []


@pytest.mark.parametrize("name", MODELS)
def test_the_examples_are_messages(name: str) -> None:
    examples = build_document()["components"]["messages"][name]["examples"]

    messages = [MODELS[name].model_validate(example["payload"], by_name=False) for example in examples]

    assert messages
    assert [json.loads(message.encode()) for message in messages] == [example["payload"] for example in examples]
    if MODELS[name] is Task:
        assert [parse_task(json.dumps(example["payload"]).encode()) for example in examples] == messages


def a_climbing_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../grades.csv", "67,10")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "artifact", "ends", "names"),
    [
        pytest.param(TASK.encode(), a_zip(), "acknowledged", {"hop", "log"}, id="a task that passes"),
        pytest.param(TASK.encode(), a_climbing_zip(), "rejected", {"crash"}, id="a task that crashes"),
        pytest.param(MALFORMED_BODY, a_zip(), None, {"malformed"}, id="a body that is no task"),
    ],
)
async def test_a_node_publishes_the_messages_of_the_document(
    broker: Broker, tmp_path: Path, body: bytes, artifact: bytes, ends: str | None, names: set[str]
) -> None:
    messages = build_document()["components"]["messages"]
    executor = tmp_path / "executors" / "grammar"
    executor.mkdir(parents=True)
    (executor / "executor.toml").write_text(
        'kind = "process"\nrouting_key = "cypress-grammar"\ndescription = "Passes."\ncommand = ["true"]\n'
        'passes = "exit-code"\n'
    )
    (tmp_path / "artifacts" / "course").mkdir(parents=True)
    (tmp_path / "artifacts" / "course" / "12345.zip").write_bytes(artifact)
    async with a_world(broker, tmp_path / "artifacts") as world:
        await hear_the_samples(world)
        async with world.node(
            ULOS_NODE=NODE,
            ULOS_EXECUTORS_PATH=str(tmp_path / "executors"),
            MESSAGE_BROKER_LOGS_EXCHANGE=EXCHANGE,
            MESSAGE_BROKER_LOGS_ROUTING_KEY="task.log",
            MESSAGE_BROKER_CRASH_EXCHANGE=EXCHANGE,
            MESSAGE_BROKER_CRASH_ROUTING_KEY="task.crashed",
        ):
            await world.send(body, message_id=MESSAGE_ID)
            heard = await world.hear(lambda heard: heard[-1].event == ends)

    told = [timeless(message.fields) for message in heard]
    assert [payload for name in names for payload in payloads(messages[name]) if payload not in told] == []
    ids = {message.raw.message_id for message in heard}
    assert {properties(messages[name])["message_id"]["examples"][0] for name in names} <= ids
    described = properties(messages[min(names)])
    for message in heard:
        assert message.raw.correlation_id == described["correlation_id"]["examples"][0]
        assert message.raw.delivery_mode == described["delivery_mode"]["const"]
        assert message.raw.content_type == described["content_type"]["const"]
        assert message.raw.app_id == described["app_id"]["const"]


async def hear_the_samples(world: World) -> None:
    exchange = await world.channel.declare_exchange(EXCHANGE, durable=True)
    for key in ("task.log", "task.crashed", "task.done"):
        await world.told.bind(exchange, key)


def payloads(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [timeless(example["payload"]) for example in message["examples"]]


def timeless(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "at"}


def properties(message: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = message["x-amqp-properties"]["properties"]
    return described


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's file."""
    directory = tmp_path_factory.mktemp("asyncapi") / "site"
    build_site(directory)
    return directory / "index.html"


@pytest.fixture(scope="module")
def seen(site: Path) -> dict[str, Any]:
    """What a headless Chromium without a network saw of the page."""
    with required():
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            raise ServiceMissing("there is no Chromium to look at the page with: .ci/services.sh docs")
    return run_node("look.mjs", site, CHROMIUM=browser)


def test_a_channel_and_a_schema_open_by_a_click_and_by_a_link(seen: dict[str, Any]) -> None:
    assert seen["closed"] == {"channel": "", "schema": ""}
    assert "archive_rejected" in seen["opened"]["channel"]
    assert "successRoutingDecision" in seen["opened"]["schema"]


def test_every_link_of_the_page_leads_somewhere(seen: dict[str, Any]) -> None:
    assert seen["links"] > 20
    assert seen["broken_links"] == []


def test_the_page_loads_nothing_and_the_browser_complains_of_nothing(seen: dict[str, Any], site: Path) -> None:
    assert seen["requests"] == [site.as_uri()]
    assert seen["complaints"] == []
    assert "default-src 'none'" in site.read_text()


def test_nothing_on_the_page_can_act(seen: dict[str, Any]) -> None:
    assert seen["active_elements"] == 0


def test_the_page_is_no_wider_than_a_phone_or_a_desk(seen: dict[str, Any]) -> None:
    assert seen["overflow_px"] == {"400": 0, "1400": 0}


def test_the_page_shows_what_the_document_says_and_not_what_it_means(tmp_path: Path) -> None:
    document = build_document()
    document["channels"]["tasks"]["description"] = "<script>alert(1)</script>"
    document["info"]["title"] = "a & b"

    shown = page(document)

    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<h1>a &amp; b</h1>" in shown


def run_node(script: str, *arguments: Path, **environment: str) -> dict[str, Any]:
    """What a program of `asyncapi/` prints, as JSON."""
    with required():
        if shutil.which("node") is None or not (FOLDER / "node_modules/.package-lock.json").exists():
            raise ServiceMissing("Node.js, or what the programs of asyncapi/ need, is missing: .ci/services.sh docs")
    run = subprocess.run(
        ["node", FOLDER / script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told
