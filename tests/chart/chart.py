"""The chart, rendered by Helm as an installation would be, and looked into."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "ulos-stream"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE = "lab"

Manifest = dict[str, Any]
Values = Mapping[str, Any]

BASE: Values = {
    "broker": {"host": "rabbitmq", "existingSecret": "rabbitmq-user"},
    "storage": {"host": "ftp", "existingSecret": "ftp-user"},
    "pools": {"main": {"queue": "processing-queue"}},
}
"""Values as few as an installation can do with."""


def tool(name: str) -> str:
    """What `make test-chart` has fetched under `.tools`, else the machine's own; skips without, and fails in CI."""
    fetched = CHART.parents[1] / ".tools" / name
    program = str(fetched) if fetched.exists() else shutil.which(fetched.name)
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            f"no {fetched.name}; `make test-chart` gets it"
        )
    return program


class Refusal(Exception):
    """What Helm says when values are refused."""


def run(command: str, values: Values, *options: str) -> str:
    """Run `helm template`, `helm lint` or `helm install` on the chart.

    Raises:
        Refusal: Helm ends otherwise than with 0.
    """
    release = [] if command == "lint" else ["lab"]
    done = subprocess.run(
        [tool("helm"), command, *release, str(CHART), "--namespace", NAMESPACE, "--values", "-", *options],
        input=json.dumps(values),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Refusal(f"{done.stderr}{done.stdout if command == 'lint' else ''}")
    return done.stdout


def render(values: Values) -> list[Manifest]:
    """The objects that an installation with these values makes.

    Raises:
        Refusal: The values are refused.
    """
    return [one for one in yaml.load_all(run("template", values), yaml.CSafeLoader) if one]


def read(file: Path) -> Values:
    """The values in a file."""
    values: Values = yaml.load(file.read_text(), yaml.CSafeLoader)
    return values


def merged(first: Values, second: Values) -> dict[str, Any]:
    """Both, the second winning, map by map."""
    both = dict(first)
    for key, value in second.items():
        own = both.get(key)
        both[key] = merged(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return both


def nested(path: str, value: object) -> dict[str, Any]:
    """`a.b.c` and a value as `{a: {b: {c: value}}}`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def look(manifests: list[Manifest], where: str) -> Any:
    """What stands at a place like `Deployment/lab-main spec template`; None where there is nothing.

    The first word is a kind, and the end of a name if there are several; the items of a list are found by number or
    by name.
    """
    kind, *steps = where.split()
    kind, _, name = kind.partition("/")
    found: Any = next(
        (one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(name)), None
    )
    for step in steps:
        if isinstance(found, list):
            named = (item for item in found if isinstance(item, dict) and item.get("name") == step)
            found = found[int(step)] if step.isdigit() and int(step) < len(found) else next(named, None)
        elif isinstance(found, dict):
            found = found.get(step)
        else:
            return None
    return found


def environment(manifests: list[Manifest], pool: str, mounted_at: Path) -> dict[str, str]:
    """The environment of a pool's node, as the kubelet would give it; what is mounted is below a directory of ours."""
    pod = look(manifests, f"Deployment/-{pool} spec template spec")
    node = pod["containers"][0]
    mounts = [mount["mountPath"] for mount in node["volumeMounts"]]
    found = {}
    for variable in node["env"]:
        value = variable.get("value")
        if value is None:
            value = _value_from(manifests, variable["valueFrom"])
        above_or_below = re.match("/.", value) and any(
            f"{mount}/".startswith(f"{value}/") or value.startswith(f"{mount}/") for mount in mounts
        )
        found[variable["name"]] = f"{mounted_at}{value}" if above_or_below else value
    return found


def mount(manifests: list[Manifest], mounted_at: Path) -> None:
    """Make the directories that the only pod mounts, below one of ours, with the files of the chart's ConfigMaps."""
    pod = look(manifests, "Deployment spec template spec")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for each in pod["containers"][0]["volumeMounts"]:
        directory = mounted_at / each["mountPath"][1:]
        directory.mkdir(parents=True)
        source = volumes[each["name"]].get("configMap", {})
        for name, text in (look(manifests, f"ConfigMap/{source['name']} data") if source else {}).items():
            (directory / name).write_text(text)
            (directory / name).chmod(source["defaultMode"])


def _value_from(manifests: list[Manifest], source: dict[str, Any]) -> str:
    if field := source.get("fieldRef"):
        return {"metadata.name": "lab-main-7d4b9-x2x9z", "metadata.uid": "0d5c-uid"}[field["fieldPath"]]
    wanted = source["secretKeyRef"]
    for one in manifests:
        if one["kind"] == "Secret" and one["metadata"]["name"] == wanted["name"]:
            data = {key: base64.b64decode(value).decode() for key, value in one.get("data", {}).items()}
            return str({**data, **one.get("stringData", {})}[wanted["key"]])
    return f"{wanted['name']}:{wanted['key']}"  # a Secret that the chart does not make; long enough for a key
