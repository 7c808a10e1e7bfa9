"""What pages of the site take from the code, and from the other documents, when it is built: so none of it can be old.

A page says where, in a comment, and reads well without it:

    <!-- generated: settings -->                     a part that `PARTS` makes
    <!-- from README.md: Differences from ULOS -->   what stands below that heading

It also says beside a block of commands what that block needs and not every reader has; see `NEEDS`.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from ulos_stream import errors
from ulos_stream.admission import Admission
from ulos_stream.asyncapi.examples import MESSAGE_ID
from ulos_stream.crashes.advice import ADVICE
from ulos_stream.docs import build_document, build_site, settings_of_the_document
from ulos_stream.errors import Crash, MalformedMessage
from ulos_stream.parts import add_gauges, find_executors
from ulos_stream.readiness import Readiness
from ulos_stream.settings import MessageBroker, Node, OpenTelemetry, RemoteStorage
from ulos_stream.telemetry import Log
from ulos_stream.telemetry.log import LogEvent
from ulos_stream.telemetry.metrics import Metrics
from ulos_stream.telemetry.watch import Arrival

ROOT = Path(__file__).parent.parent

NEEDS = {
    "needs-cluster": "needs a cluster",
    "needs-registry": "needs a registry of images",
    "needs-root": "as root, on the machine itself",
    "needs-servers": "needs servers of your own",
}
"""Marks of a block of commands, after its language: ```` ```sh needs-cluster ````. A test runs all the others."""

PLACES = {
    "CONTRIBUTING.md": "explanation/house.md",
    "CHANGELOG.md": "reference/changelog.md",
    "executors/README.md": "tutorial/own-executor.md",
    "helm/ulos-stream/README.md": "reference/chart.md",
    "asyncapi/asyncapi.yaml": "reference/messages.md",
}
"""Pages that hold other documents, which link to each other by file. docs/ is there as it is."""

WHOSE = {
    "malformed_message": "the sender's",
    "artifact_missing": "the sender's",
    "archive_rejected": "the author's, or the executor's",
    "unknown_executor": "the operator's, or the sender's",
    "executor_unavailable": "the operator's",
    "executor_crashed": "the executor's",
    "timeout": "the author's; the operator's where nodes are overloaded",
    "unroutable": "the operator's, or the sender's",
    "poison": "unknown: look at the nodes' logs",
    "fault": "the infrastructure's, and so the operator's",
    "internal": "ours",
    "unreported": "unknown: look at the nodes' logs",
}
"""By code of a crash, whose doing it is."""


def setup(app: Sphinx) -> ExtensionMetadata:
    """What Sphinx calls."""
    app.connect("source-read", lambda app, page, source: source.__setitem__(0, fill(source[0], page)))
    app.connect("build-finished", lambda app, wrong: None if wrong else build_site(Path(app.outdir) / "asyncapi"))
    return {"parallel_read_safe": True}


def fill(text: str, page: str) -> str:
    """The text of a page with everything in the place of its comments.

    Args:
        text: As it is in its file.
        page: Its path below docs/, without `.md`.
    """
    text = re.sub(r"<!-- generated: (\S+) -->", lambda match: PARTS[match[1]](), text)
    text = re.sub(r"<!-- from (\S+?)(?:: (.+?))? -->", lambda match: below(match[1], match[2], page), text)
    return re.sub(r"^```(\w+) (needs-\w+)\n", r"```{code-block} \1\n:class: \2\n\n", text, flags=re.MULTILINE)


def below(file: str, heading: str | None, page: str) -> str:
    """What stands in a file of the repository below a heading, or below its title.

    Raises:
        ValueError: There is no such heading.
    """
    path = ROOT / file
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    is_code, headings = False, []
    for number, line in enumerate(lines):
        is_code ^= line.startswith("```")
        if not is_code and (match := re.match(r"(#+) (.+)", line)):
            headings.append((number, len(match[1]), match[2].strip()))
    begins = [found for found in headings if found[2] == heading or heading is None]
    if not begins:
        raise ValueError(f"{file} has no heading {heading!r}")
    begin, level, _ = begins[0]
    end = next((number for number, its, _ in headings if number > begin and its <= level), len(lines))
    # A section becomes a page, or a part of one: its own parts go up with it.
    shift = level - 1 if heading is not None else 0
    text = "".join(re.sub(rf"^#{{{shift}}}(#+ )", r"\1", line) for line in lines[begin + 1 : end])
    text = re.sub(
        r"<!-- (keys|values): .* -->\n((?:.*\n)+?)<!-- end of \1 -->\n", lambda table: entries(table[2]), text
    )
    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", lambda link: linked(link[1], link[2], path.parent, page), text)


def entries(table: str) -> str:
    """A long table of names and their meanings as a list of definitions, which reads on a phone too."""
    head, _, *rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in table.strip().splitlines()]
    return "".join(
        f"{name}{''.join(f' · {label}' for label in labels(head[1:-1], middle))}\n: {meaning}\n\n"
        for name, *middle, meaning in rows
    )


def labels(heads: list[str], cells: list[str]) -> Iterator[str]:
    """What stands beside a name: the cells that say something, and which of them is the default."""
    for head, cell in zip(heads, cells, strict=True):
        if cell.strip():
            yield f"default {cell}" if head == "default" and cell != "required" else cell


def linked(words: str, target: str, folder: Path, page: str) -> str:
    """A link of a file in `folder`, as it is to be on a page: to a page, else the words and the name of the file."""
    if "://" in target or target.startswith("#"):
        return f"[{words}]({target})"
    path, _, anchor = target.partition("#")
    there = Path(os.path.normpath(folder / path)).relative_to(ROOT).as_posix()
    place = there.removeprefix("docs/") if there.startswith("docs/") else PLACES.get(there)
    if place is not None:
        relative = os.path.relpath(place, Path(page).parent)
        return f"[{words}]({relative}{'#' * bool(anchor)}{anchor})"
    return words if words.strip("`") in (there, path.rstrip("/")) else f"{words} (`{there}`)"


def settings() -> str:
    """Every variable: what it means, its unit, its default."""
    return "\n\n".join(
        f"## {title}\n\n{words}\n\n{''.join(variables(model))}"
        for title, words, model in (
            ("The broker", "Names and meanings are those of ULOS. All are required.", MessageBroker),
            (
                "The storage",
                "Also as in ULOS. All are required, unless `ULOS_STORAGE_URL` names a place without a server.",
                RemoteStorage,
            ),
            ("The node", "Each has a default.", Node),
            (
                "Traces",
                "OpenTelemetry's own variables. These are looked at by the node; the others are read by "
                "OpenTelemetry and mean what its documentation says.",
                OpenTelemetry,
            ),
        )
    )


def variables(model: type[BaseModel], prefix: str | None = None) -> Iterator[str]:
    """Each variable of a section, as an entry of a list of definitions."""
    prefix = str(model.model_config.get("env_prefix")) if prefix is None else prefix
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from variables(info.annotation, f"{prefix}{name.upper()}_")
            continue
        variable = f"{prefix}{name.upper()}"
        if not info.description:
            raise ValueError(f"{variable} does not say what it means")
        yield f"(variable-{variable.lower().replace('_', '-')})=\n`{variable}`{said_default(info)}\n"
        yield f": {one_line(info.description)}\n\n"


def said_default(info: FieldInfo) -> str:
    """The default of a setting as a page says it; nothing for one that its words explain."""
    if info.is_required() or info.default_factory is not None or info.default in (None, (), ""):
        return ""
    return f" · default `{str(info.default).lower() if isinstance(info.default, bool) else info.default}`"


def messages() -> str:
    """Every message: what it is, where it travels, its fields, its AMQP properties, and true examples."""
    document = build_document()
    schemas, found = document["components"]["schemas"], []
    for name, channel in document["channels"].items():
        action = {"receive": "Received.", "send": "Published."}[document["operations"][name]["action"]]
        for key in channel["messages"]:
            message = document["components"]["messages"][key]
            schema = reference(message["payload"])
            found.append(
                f"## {message['title']}\n\n{message['summary']}\n\n"
                f"**{action}** {channel['description']}\n\n{fields(schemas[schema])}\n\n"
                + "".join(
                    f"{example['summary']}\n\n```json\n{json.dumps(example['payload'], indent=2)}\n```\n\n"
                    for example in message["examples"]
                )
                + f"AMQP properties:\n\n{fields(message['x-amqp-properties'])}\n\n"
                + (f"Headers:\n\n{fields(message['headers'])}\n\n" if "headers" in message else "")
            )
    shared = [name for name in ("RoutingDecision", "Hop", "ErrorReport", "RawBody") if name in schemas]
    found += ["## Parts\n\nOf several messages.\n\n"] + [
        f"(schema-{name.lower()})=\n### `{name}`\n\n{schemas[name]['description']}\n\n{fields(schemas[name])}\n\n"
        for name in shared
    ]
    return "".join(found)


def fields(schema: dict[str, Any]) -> str:
    """The fields of a JSON schema, as a list of definitions."""
    required = schema.get("required", [])
    return "".join(
        f"`{name}` {kind(about)}{'' if name in required or 'const' in about else ', optional'}\n"
        f": {one_line(about.get('description', '').split(chr(10) * 2)[0])}\n\n"
        for name, about in schema.get("properties", {}).items()
    )


def kind(about: dict[str, Any]) -> str:
    """What a field takes, in words."""
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    if "$ref" in about:
        name = reference(about)
        return name if name == "Verdict" else f"[`{name}`](#schema-{name.lower()})"
    if choices := about.get("anyOf") or about.get("allOf"):
        return " or ".join(kind(choice) for choice in choices)
    if "enum" in about and len(about["enum"]) < 10:
        return ", ".join(f"`{value}`" for value in about["enum"])
    return "`null`" if about["type"] == "null" else str(about["type"])


def reference(schema: dict[str, str]) -> str:
    """The name that a `$ref` ends with."""
    return schema["$ref"].rsplit("/", 1)[1]


def error_codes() -> str:
    """Every code of a crash: what it means, whose doing it is, and what to do."""
    crashes = {crash.code: crash for crash in Crash.__subclasses__() if crash.__module__ == errors.__name__}
    return "".join(
        f"(code-{code.replace('_', '-')})=\n## `{code}`\n\n{ADVICE[code].means}\n\n"
        f"**Whose doing:** {WHOSE[code]}. **What to do:** {ADVICE[code].do}\n\n"
        for code in [*crashes, "unreported"]
    )


def metrics() -> str:
    """Every metric of a node with its labels, from the text that one serves."""
    settings = settings_of_the_document()
    executors = find_executors(settings.node)
    shown = Metrics(["an executor"], lambda key: "unknown")
    log = Log()
    names = ("consuming", "publishing", "storage", "stages", "executors", "disk")
    add_gauges(
        shown,
        settings,
        Readiness(dict.fromkeys(names, _never), log),
        executors,
        Admission(most=1, adaptive=False, most_per_owner=None, hindrance=str),
    )
    with shown.stage(Arrival(MESSAGE_ID, None, "", "", "", {}, None), None) as end:
        end(MalformedMessage("an example"))
    return metric_list(shown.render().decode())


async def _never() -> None:
    """A check that nobody makes."""


def metric_list(text: str) -> str:
    """What is in a text of Prometheus' format, as a list of definitions."""
    found = []
    for name, words in re.findall(r"^# HELP (\S+) (.*)$", text, flags=re.MULTILINE):
        series = re.search(rf"^{name}(?:_bucket)?{{(.+?)}} ", text, flags=re.MULTILINE)
        labels = [label for label in re.findall(r'(\w+)="', series[1]) if label != "le"] if series else []
        by = f" by {', '.join(f'`{label}`' for label in labels)}" if labels else ""
        [its_kind] = re.findall(rf"^# TYPE {name} (\S+)$", text, flags=re.MULTILINE)
        if not name.endswith("_created"):
            found.append(f"`{name}` {its_kind}{by}\n: {words}\n\n")
    return "".join(found)


def log_events() -> str:
    """The closed set of `event` in a node's log lines."""
    return ", ".join(f"`{event}`" for event in get_args(LogEvent)) + "."


def commands() -> str:
    """The help of every command, as a test has written it down."""
    text = (ROOT / "tests/golden/cli.txt").read_text(encoding="utf-8")
    parts = re.split(r"^\$ (ulos.*?) ?--help$", text, flags=re.MULTILINE)[1:]
    return "".join(
        f"## {name}\n\n```text\n{shown.strip()}\n```\n\n" for name, shown in zip(parts[::2], parts[1::2], strict=True)
    )


def measured() -> str:
    """What a node did in the benchmarks: its row of each table."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    tables = re.findall(r"^(\| (?:22 bytes|1 MiB) .*\n)(\|[-:|]+\|\n)((?:\|.*\n)+)", text, flags=re.MULTILINE)
    rows = [
        (head, rule, row) for head, rule, body in tables for row in re.findall(r"^\| ulos-stream \|.*\n", body, re.M)
    ]
    return "\n".join(head + rule + row for head, rule, row in rows)


def one_line(text: str) -> str:
    """The text without line ends."""
    return " ".join(text.split())


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "messages": messages,
    "error-codes": error_codes,
    "metrics": metrics,
    "log-events": log_events,
    "commands": commands,
    "measured": measured,
}
"""By the name that pages use."""
