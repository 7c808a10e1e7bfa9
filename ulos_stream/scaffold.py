"""The folder of a new executor, which works at once: from templates, and from what the descriptors say of their keys.

    templates/container/    and so on: what is special about each kind
    templates/samples/      of all of them

`{{name}}` and `{{module}}` in a template stand for what is special about each executor.
"""

import json
import keyword
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ulos_stream import shipped
from ulos_stream.errors import ConfigurationError
from ulos_stream.executors.descriptor import ContainerDescriptor, Descriptor, ProcessDescriptor
from ulos_stream.executors.inline import MOCK_VERDICTS

Kind = Literal["container", "process", "inline"]

TEMPLATES = Path(__file__).parent / "templates"
DESCRIPTION = "Passes submissions whose report.txt says something."
"""What the templates do."""
WIDTH = 110
"""Of the comments in a descriptor."""


def scaffold(name: str, kind: Kind, into: Path) -> Path:
    """Write the folder of an executor that claims the routing key `name`; returns it.

    Raises:
        ConfigurationError: The name will not do, or there is something of that name.
    """
    folder, module = into / name, name.replace("-", "_")
    if mistake := _unfit(name, module if kind == "inline" else ""):
        raise ConfigurationError(f"{name!r} {mistake}")
    try:
        shutil.copytree(TEMPLATES / kind, folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(TEMPLATES / "samples", folder / "samples")
        for file in filter(Path.is_file, folder.rglob("*")):
            file.write_text(file.read_text().replace("{{name}}", name).replace("{{module}}", module))
        if kind == "inline":
            (folder / "module.py").rename(folder / f"{module}.py")
            return folder
        (folder / "run").chmod(0o755)
        given = {"routing_key": name, "kind": kind, "description": DESCRIPTION}
        if kind == "process":
            descriptor = described(ProcessDescriptor, {**given, "command": ["./run"]})
        else:
            shutil.copyfile(shipped("executors") / "judge" / "judge.py", folder / "judge.py")
            descriptor = described(ContainerDescriptor, {**given, "image": name, "passes": "both"})
        (folder / "executor.toml").write_text(descriptor)
    except FileExistsError as exc:
        raise ConfigurationError(f"{folder} is there already; remove it, or take another name") from exc
    except OSError as exc:
        raise ConfigurationError(f"{folder} cannot be written: {exc.strerror or exc}") from exc
    return folder


def _unfit(name: str, module: str) -> str | None:
    """Why an executor, and a module if it has one, cannot have this name."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60:
        return "will not do: take lower-case letters, digits and single hyphens, like word-count, 60 at most"
    if name in MOCK_VERDICTS:
        return "is a mock's; take another name"
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        return "is Python's own; take another name"
    return None


def described(model: type[Descriptor], given: Mapping[str, object]) -> str:
    """An `executor.toml` with every key below its meaning; those that are not `given` have their default, commented."""
    schema = model.model_json_schema()
    head = "Every key stands below its meaning. One that is commented out has the value that is shown, or none."
    return "\n".join([_comment(head), *_table(schema, schema, given, ""), ""])


def _table(schema: Mapping[str, Any], root: Mapping[str, Any], given: Mapping[str, object], name: str) -> Iterator[str]:
    """The lines of one table; the tables in it follow its keys, as TOML wants it."""
    tables = {}
    for key, about in schema["properties"].items():
        kinds = [about, *about.get("anyOf", ())]
        inner = next((root["$defs"][kind["$ref"].rpartition("/")[2]] for kind in kinds if "$ref" in kind), None)
        if inner is not None or about.get("type") == "object":
            tables[key] = inner or about
            continue
        example = next(iter(about.get("examples", ())), None)
        default = example if about.get("default") is None else about["default"]
        yield ""
        yield _comment(about["description"])
        yield f"{key} = {json.dumps(given[key])}" if key in given else f"#{key} = {json.dumps(default)}"
    for key, inner in tables.items():
        yield ""
        yield _comment(inner["description"])
        yield f"[{name}{key}]"
        if "properties" in inner:
            yield from _table(inner, root, {}, f"{name}{key}.")
        else:
            yield from (f"#{name} = {json.dumps(value)}" for name, value in inner["examples"][0].items())


def _comment(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, initial_indent="# ", subsequent_indent="# ")
