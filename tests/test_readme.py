"""The README: its table of options is written by a test, and its commands for a broker are run."""

import json
import re
import shlex
from pathlib import Path

import aio_pika
from generated import refresh
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from test_cli import commands
from world import ulos

from ulos_stream.lab import Broker
from ulos_stream.settings import Node

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- options: `make test` writes this table -->\n", "<!-- end of options -->\n"


def rows(model: type[BaseModel], prefix: str) -> list[str]:
    found = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += rows(info.annotation, f"{prefix}{name.upper()}_")
        else:
            description = " ".join((info.description or "").split())
            found.append(f"| `{prefix}{name.upper()}` | {shown_default(info)} | {description} |\n")
    return found


def shown_default(info: FieldInfo) -> str:
    if info.default_factory is not None or info.default in (None, (), ""):
        return ""
    return f"`{str(info.default).lower() if isinstance(info.default, bool) else info.default}`"


def test_the_table_of_options_is_what_the_settings_say() -> None:
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)

    table = "| variable | default | meaning |\n|---|---|---|\n" + "".join(rows(Node, "ULOS_"))

    refresh(README, f"{before}{BEGIN}\n{table}\n{END}{after}")


def test_every_option_says_what_it_is() -> None:
    assert [row for row in rows(Node, "ULOS_") if row.endswith("|  |\n")] == []


def test_its_table_of_commands_has_all_of_them() -> None:
    shown = set(re.findall(r"^\| `ulos (\w+)", README.read_text(), flags=re.MULTILINE))

    assert shown == {words[0] for words in commands() if words}


async def test_its_commands_for_a_broker_do_what_it_says(managed_broker: Broker, tmp_path: Path) -> None:
    environment = {
        "MESSAGE_BROKER_HOST": managed_broker.host,
        "MESSAGE_BROKER_PORT": str(managed_broker.port),
        "MESSAGE_BROKER_USERNAME": managed_broker.username,
        "MESSAGE_BROKER_PASSWORD": managed_broker.password,
        "MESSAGE_BROKER_LOGS_EXCHANGE": "processing-exchange",
        "MESSAGE_BROKER_LOGS_ROUTING_KEY": "task.log",
        "MESSAGE_BROKER_CRASH_EXCHANGE": "processing-exchange",
        "MESSAGE_BROKER_CRASH_ROUTING_KEY": "task.crashed",
        "MESSAGE_BROKER_CONSUMPTION_QUEUE": "processing-queue",
        "MESSAGE_BROKER_PREFETCH_COUNT": "0",
        "MESSAGE_BROKER_REQUEUE_ON_REJECT": "false",
        "ULOS_MANAGEMENT_URL": managed_broker.management_url or "",
    }
    topology, crashes = (
        [line.strip() for line in README.read_text().splitlines() if line.startswith(f"    ulos {topic} ")]
        for topic in ("topology", "crashes")
    )
    tree = {"exchange": "processing-exchange", "routingKey": "cypress-grammar"}
    fields = {"taskOwnerId": "67", "filePath": "/ftp/one/testing.zip", "timeout": 10, "routingTree": tree}
    tasks = {code: {"taskId": task, **fields} for code, task in (("unroutable", "1"), ("timeout", "12345"))}
    file = tmp_path / "task.json"
    file.write_text(json.dumps(tasks["timeout"]))

    ended = [await ulos(*shlex.split(line)[1:], **environment) for line in topology]
    async with await aio_pika.connect(managed_broker.url) as connection:
        channel = await connection.channel()
        for code, task in tasks.items():
            report = json.dumps({**task, "logMessage": "", "error": {"code": code, "detail": ""}}).encode()
            exchange = await channel.get_exchange("processing-exchange")
            await exchange.publish(aio_pika.Message(report, correlation_id=code), "task.crashed")
            letter = aio_pika.Message(json.dumps(task).encode(), message_id=code)
            await channel.default_exchange.publish(letter, "processing-queue.dead-letters")
    for line in crashes:
        given = line.replace("MESSAGE_ID", "unroutable").replace("task.json", str(file))
        ended.append(await ulos(*shlex.split(given)[1:], **environment))

    assert [(one.args[-1], one.returncode, one.stderr) for one in ended if one.returncode] == []
    assert "0 weaknesses" in ended[1].stdout
    assert [one.stdout.splitlines()[-1] for one in ended[-3:]] == [
        "1 would be sent, 0 left where they are", *["1 sent, 0 left where they are"] * 2
    ]  # fmt: skip
