"""The README of the executors: its tables and the report's schema are written by tests, from what they describe."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from generated import refresh
from pydantic import BaseModel

from ulos_stream.executors.descriptor import ContainerDescriptor, ProcessDescriptor, read_descriptor
from ulos_stream.executors.report import Report

EXECUTORS = Path(__file__).parent.parent / "executors"
README = EXECUTORS / "README.md"
SCHEMA = EXECUTORS / "report.schema.json"


def insert(topic: str, table: str) -> None:
    """Write a table between the README's marks of this topic; fail if it was another one."""
    text = README.read_text()
    marks = rf"(<!-- {topic}: .*? -->\n)(.*?)(<!-- end of {topic} -->\n)"

    refresh(README, re.sub(marks, lambda match: f"{match[1]}\n{table}\n{match[3]}", text, flags=re.DOTALL))


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def values(about: dict[str, Any]) -> str:
    """What a key takes, in words, from its JSON schema."""
    about = next(iter(about.get("anyOf", ())), about) | {"examples": []}
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if about["type"] == "array":
        return f"list of {values(about['items'])}"
    name = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    words = name.get(about["type"], "texts by name")
    if "minimum" in about:
        words += f" from {about['minimum']}"
    if "maximum" in about:
        words += f" to {about['maximum']}"
    return words


def rows(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, str, str]]:
    """Of each key what it takes, its default, and what it means."""
    properties = model.model_json_schema()["properties"]
    found: dict[str, tuple[str, str, str]] = {}
    for name, info in model.model_fields.items():
        if isinstance(info.default, BaseModel):
            found |= rows(type(info.default), f"{name}.")
            continue
        required = info.is_required()
        default = "required" if required else "" if info.default is None else f"`{json.dumps(info.default)}`"
        found[prefix + name] = values(properties[name]), default, cell(info.description or "")
    return found


def test_the_descriptor_reference_is_what_the_models_say() -> None:
    container, process = rows(ContainerDescriptor), rows(ProcessDescriptor)
    table = "| key | of a | takes | default | meaning |\n|---|---|---|---|---|\n"

    for key in {**container, **process}:
        if container.get(key) == process.get(key):
            table += f"| `{key}` | both | {' | '.join(container[key])} |\n"
            continue
        for kind, model in (("container", container), ("process", process)):
            if key in model:
                table += f"| `{key}` | {kind} | {' | '.join(model[key])} |\n"

    assert "|  |\n" not in table, "a key does not say what it means"
    insert("keys", table)


def test_the_table_of_shipped_executors_is_what_their_descriptors_say() -> None:
    table = "| routing key | kind | what it does |\n|---|---|---|\n"

    for file in sorted(EXECUTORS.glob("*/executor.toml")):
        descriptor, name = read_descriptor(file), file.parent.name
        key = descriptor.routing_key or f"{descriptor.routing_key_prefix}…"
        table += f"| [`{key}`]({name}/) | {descriptor.kind} | {cell(descriptor.description)} |\n"

    insert("shipped", table)


def test_the_schema_of_the_report_is_that_of_the_model() -> None:
    text = json.dumps(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}, indent=2
    )

    refresh(SCHEMA, f"{text}\n")


def test_the_report_that_the_readme_shows_is_one() -> None:
    [shown] = re.findall(r"```json\n(.*?)```", README.read_text(), flags=re.DOTALL)

    report = Report.model_validate_json(shown)

    assert [check.status for check in report.checks] == ["failed"]


@pytest.mark.parametrize("folder", sorted(EXECUTORS.glob("*/executor.toml")), ids=lambda file: file.parent.name)
def test_each_shipped_executor_has_a_readme(folder: Path) -> None:
    assert (folder.parent / "README.md").is_file()
