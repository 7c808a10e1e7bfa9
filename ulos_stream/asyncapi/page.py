"""The document as one page of HTML: no script, and nothing is loaded, so it opens anywhere and can publish nothing.

A channel or a schema is a `<details>`, and its anchor lies inside: a browser that follows a link
to it, or finds a text in it, opens it.
"""

import base64
import hashlib
import json
import re
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ulos_stream.asyncapi.text import to_yaml

Schema = dict[str, Any]


def page(document: dict[str, Any]) -> str:
    """The whole page, of a document made by `document.complete`."""
    here = Path(__file__).parent
    style = (here / "page.css").read_text(encoding="utf-8")
    info, components = document["info"], document["components"]
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(info["title"]),
        version=escape(info["version"]),
        asyncapi=escape(document["asyncapi"]),
        description=_prose(info["description"]),
        style=style,
        style_sha256=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        source=base64.b64encode(to_yaml(document).encode()).decode(),
        contents=_contents(document),
        flow=_flow(document),
        channels="\n".join(_channel(document, name) for name in document["channels"]),
        servers=_servers(document),
        schemas="\n".join(_schema(name, schema) for name, schema in components["schemas"].items()),
    )


def _contents(document: dict[str, Any]) -> str:
    def group(title: str, kind: str, names: dict[str, Any]) -> str:
        links = "".join(f'<li class="{kind}"><a href="#{kind}-{name}">{name}</a></li>' for name in names)
        return f'<p class="group">{title}</p><ul>{links}</ul>'

    return (
        group("Channels", "channel", document["channels"])
        + ('<p class="group">Broker</p><ul><li><a href="#connections">connections</a></li></ul>')
        + group("Schemas", "schema", document["components"]["schemas"])
    )


def _flow(document: dict[str, Any]) -> str:
    """What comes in, the node, what goes out."""
    boxes: dict[str, str] = {"receive": "", "send": ""}
    for name, channel in document["channels"].items():
        action = document["operations"][name]["action"]
        boxes[action] += f'<a href="#channel-{name}">{name}<code>{escape(channel["address"])}</code></a>'
    arrow = '<div class="arrow" aria-hidden="true"></div>'
    return (
        f'<div class="flow"><div>{boxes["receive"]}</div>{arrow}<div><span class="node">node</span></div>'
        f"{arrow}<div>{boxes['send']}</div></div>"
    )


def _channel(document: dict[str, Any], name: str) -> str:
    channel, operation = document["channels"][name], document["operations"][name]
    action, place = operation["action"], channel["bindings"]["amqp"]
    if place["is"] == "queue":
        facts = {"queue": _code(place["queue"]["name"]), "settled": "by hand: acknowledged or rejected"}
    else:
        fixed = {"exchange": _code(place["exchange"]["name"] or '""'), "routing key": _code(channel["address"])}
        varied = {
            f"{{{parameter}}}": f"<p>{_inline(said['description'])} Read from {_code(said['location'])}.</p>"
            for parameter, said in channel.get("parameters", {}).items()
        }
        facts = (varied or fixed) | {"published": "persistent, mandatory, confirmed"}
    facts["connection"] = f'<a href="#connections">{_name(channel["servers"][0])}</a>'
    messages = "".join(_message(document["components"]["messages"][message]) for message in channel["messages"])
    return (
        f'<details class="item"><summary><span class="action {action}">{action}</span>'
        f'<span class="title">{name} {_code(channel["address"])}</span>'
        f'<span class="about">{_inline(channel["description"])}</span></summary>'
        f'<div class="body" id="channel-{name}">{_prose(operation["summary"])}{_facts(facts)}{messages}</div></details>'
    )


def _message(message: dict[str, Any]) -> str:
    examples = "".join(
        _part(example["summary"], f"<pre>{_json(example['payload'])}</pre>", is_open=number == 0)
        for number, example in enumerate(message["examples"])
    )
    headers = _part("Headers", _fields(message["headers"])) if "headers" in message else ""
    schema = _name(message["payload"])
    return (
        f"<h3>{escape(message['title'])}</h3>{_prose(message['summary'])}"
        f'<p class="quiet">JSON, as the schema <a href="#schema-{schema}">{schema}</a> says. For example:</p>{examples}'
        f"{_part('AMQP properties', _fields(message['x-amqp-properties']))}{headers}"
    )


def _part(title: str, content: str, *, is_open: bool = False) -> str:
    return f'<details class="part"{" open" if is_open else ""}><summary>{_inline(title)}</summary>{content}</details>'


def _servers(document: dict[str, Any]) -> str:
    first = next(iter(document["servers"].values()))
    variables = {
        f"{{{name}}}": f"<p>{_inline(said['description'])} For example {_code(said['default'])}.</p>"
        for name, said in first["variables"].items()
    }
    purposes = {name: _prose(server["description"]) for name, server in document["servers"].items()}
    security = document["components"]["securitySchemes"]
    users = {name.replace("-", " and "): _prose(scheme["description"]) for name, scheme in security.items()}
    url = f"{first['protocol']}://{first['host']}{first['pathname']}"
    return f"<p>{_code(url)}</p>{_facts(purposes | variables | users)}"


def _schema(name: str, schema: Schema) -> str:
    values = f"<p>{_values(schema['enum'])}</p>" if "enum" in schema else ""
    more = '<p class="quiet">Unknown fields are kept.</p>' if schema.get("additionalProperties") else ""
    return (
        f'<details class="item"><summary><span class="title">{name}</span>'
        f'<span class="about">{_inline(schema["description"])}</span></summary>'
        f'<div class="body" id="schema-{name}">{_fields(schema)}{values}{more}</div></details>'
    )


def _fields(schema: Schema) -> str:
    required = schema.get("required", [])
    rows = ""
    for name, field in schema.get("properties", {}).items():
        kind = _kind(field) + ("" if name in required or "const" in field else ", optional")
        said = _prose(field.get("description", ""))
        if "enum" in field and not any(f"`{value}`" in field.get("description", "") for value in field["enum"]):
            said += f"<p>{_values(field['enum'])}</p>"
        if "examples" in field:
            said += f'<p class="quiet">{_values(field["examples"])}</p>'
        rows += _row(f'<span class="path">{escape(name)}</span> <span class="kind">{kind}</span>', said)
    return f'<dl class="fields">{rows}</dl>' if rows else ""


def _kind(field: Schema) -> str:
    if "const" in field:
        return _code(json.dumps(field["const"]))
    if "$ref" in field:
        return f'<a href="#schema-{_name(field)}">{_name(field)}</a>'
    if choices := field.get("anyOf") or field.get("allOf"):
        return " or ".join(_kind(choice) for choice in choices)
    least = f" ≥ {field['minimum']}" if "minimum" in field else ""
    return f"{field.get('format', field['type'])}{least}"


def _facts(facts: dict[str, str]) -> str:
    """Names, as they are, and what is said of each, in HTML."""
    rows = (_row(f'<span class="kind">{escape(name)}</span>', said) for name, said in facts.items())
    return f'<dl class="fields">{"".join(rows)}</dl>'


def _row(term: str, said: str) -> str:
    return f"<div><dt>{term}</dt><dd>{said}</dd></div>"


def _values(values: list[Any]) -> str:
    return " ".join(_code(str(value)) for value in values)


def _name(reference: dict[str, str]) -> str:
    return reference["$ref"].rsplit("/", 1)[1]


def _prose(text: str) -> str:
    """The little of Markdown that descriptions use: paragraphs, lists, code."""
    blocks = text.split("\n\n") if text else []
    return "".join(
        "<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in block.split("\n")) + "</ul>"
        if block.startswith("- ")
        else f"<p>{_inline(block)}</p>"
        for block in blocks
    )


def _inline(text: str) -> str:
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text))


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _json(value: object) -> str:
    text = escape(json.dumps(value, indent=2, ensure_ascii=False), quote=False)
    text = re.sub(r'("(?:[^"\\]|\\.)*")(?!:)(,?)$', r'<span class="value">\1</span>\2', text, flags=re.MULTILINE)
    return re.sub(r'^( *)("(?:[^"\\]|\\.)*"):', r'\1<span class="key">\2</span>:', text, flags=re.MULTILINE)
