"""What the chart says of itself and of the node is written from their sources; whoever is old is written anew."""

import json
import re
import tomllib
from dataclasses import dataclass
from typing import Any

import yaml
from chart import CHART, render
from generated import refresh
from test_readme import rows

from ulos_stream import __version__, shipped
from ulos_stream.settings import Node

BEGIN, END = "<!-- values: `make test-chart` writes this table -->\n", "<!-- end of values -->\n"
ENVIRONMENT = CHART / "templates" / "_environment.tpl"


@dataclass(frozen=True)
class Leaf:
    """A value that can be set."""

    path: str
    default: object
    comment: str


def leaves() -> list[Leaf]:
    """Each value in values.yaml whose comment stands above it; below one with a comment all belongs to it."""
    found: list[Leaf] = []
    keys: list[tuple[int, str]] = []
    comment: list[str] = []
    told_at = None
    values = yaml.load((CHART / "values.yaml").read_text(), yaml.CSafeLoader)
    for line in (CHART / "values.yaml").read_text().splitlines()[1:]:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            comment = []
        elif line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
        elif key := re.match(r" *([A-Za-z]+):", line):
            keys = [*((at, name) for at, name in keys if at < indent), (indent, key[1])]
            if told_at is not None and indent > told_at:
                continue
            told_at = None
            if comment:
                path = [name for _, name in keys]
                value: Any = values
                for name in path:
                    value = value[name]
                if path != ["poolDefaults"]:
                    told_at = indent
                    found.append(Leaf(".".join(path), value, " ".join(comment)))
            comment = []
    return found


def flat(values: Any, path: str = "") -> set[str]:
    """The paths of all values; what is empty is one."""
    if isinstance(values, dict) and values:
        return set[str]().union(*(flat(value, f"{path}.{key}".strip(".")) for key, value in values.items()))
    return {path}


def told(values: object) -> str:
    text = json.dumps(values).replace("|", r"\|")
    return "" if values in (None, "") else f"`{text if isinstance(values, dict | list | bool) else values}`"


def test_the_readme_has_every_value_with_its_comment() -> None:
    readme = CHART / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)

    lines = [f"| `{leaf.path}` | {told(leaf.default)} | {leaf.comment} |\n" for leaf in leaves()]
    table = "| value | default | meaning |\n|---|---|---|\n" + "".join(lines)

    refresh(readme, f"{before}{BEGIN}\n{table}\n{END}{after}")


def test_the_values_of_its_example_are_all_that_an_installation_needs() -> None:
    _, _, rest = (CHART / "README.md").read_text().partition("`lab.yaml`")
    example = [line for line in rest[: rest.index("Then,")].splitlines() if line.startswith("    ")]

    kinds = {one["kind"] for one in render(yaml.load("\n".join(example), yaml.CSafeLoader))}

    assert {"Deployment", "PodDisruptionBudget", "NetworkPolicy"} <= kinds


def test_every_value_has_a_comment() -> None:
    paths = {leaf.path for leaf in leaves()}
    values = yaml.load((CHART / "values.yaml").read_text(), yaml.CSafeLoader)

    assert [path for path in flat(values) if not any(f"{path}.".startswith(f"{told}.") for told in paths)] == []


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.load((CHART / "values.yaml").read_text(), yaml.CSafeLoader)
    unlike: list[str] = []

    def compare(part: dict[str, Any], values: Any, path: str) -> None:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if part.get("additionalProperties") is False and values:
            unlike.extend(f"{path}.{key}" for key in part["properties"].keys() ^ values.keys())
            for key in part["properties"].keys() & values.keys():
                compare(part["properties"][key], values[key], f"{path}.{key}")

    del schema["properties"]["global"]  # which Helm itself may give to a chart
    compare(schema, values, "")

    assert unlike == []


def test_the_schema_knows_the_settings_that_a_pool_may_set() -> None:
    file = CHART / "values.schema.json"
    schema = json.loads(file.read_text())
    text = ENVIRONMENT.read_text()
    own = {name for row in rows(Node, "ULOS_") if f"name: {(name := row.split('`')[1])}\n" not in text}

    value = {"type": ["string", "number", "boolean"]}
    schema["$defs"]["pool"]["properties"]["env"]["properties"] = dict.fromkeys(sorted(own), value)

    refresh(file, json.dumps(schema, indent=2) + "\n")
    assert "ULOS_OWNER_LIMIT" in own
    assert "ULOS_GRACE_S" not in own


def test_the_chart_knows_which_shipped_executors_are_containers() -> None:
    descriptors = (tomllib.loads(file.read_text()) for file in sorted(shipped("executors").glob("*/executor.toml")))
    keys = [descriptor["routing_key"] for descriptor in descriptors if descriptor["kind"] == "container"]

    refresh(CHART / "containers.txt", "".join(f"{key}\n" for key in keys))


def test_the_values_name_the_executors_that_pod_security_restricted_refuses() -> None:
    descriptors = (tomllib.loads(file.read_text()) for file in sorted(shipped("executors").glob("*/executor.toml")))
    roots = [one["routing_key"] for one in descriptors if one.get("sandbox", {}).get("user") == "0:0"]

    (comment,) = (leaf.comment for leaf in leaves() if leaf.path == "poolDefaults.engine.jobs.podSecurity")

    assert comment.endswith(f": {', '.join(roots)}.")


def test_the_chart_has_the_version_of_the_node() -> None:
    chart = yaml.load((CHART / "Chart.yaml").read_text(), yaml.CSafeLoader)

    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
