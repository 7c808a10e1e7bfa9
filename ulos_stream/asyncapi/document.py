"""The AsyncAPI document: what FastStream generates of the app, completed by what it cannot know.

Kept of the generated document are the app's title and version, the channels with their names,
addresses, descriptions and directions, and the schemas of the models. Of a queue or an exchange
only the name is kept: a node takes it as it is. All else is said here, so that no default of
FastStream's is promised to anybody.
"""

from typing import Any

from ulos_stream import errors
from ulos_stream.asyncapi.messages import CONTENT_TYPE, messages

Document = dict[str, Any]

DESCRIPTION = """\
A node takes each task from its queue through one stage: it downloads the task's zip, runs the executor that the \
routing key names, uploads the result, and hands the task over to the branch of its verdict.

A message is acknowledged only after the broker has confirmed everything it led to. Whatever dies when, a task ends \
in one recorded way: handed over, at the end of its route, or reported as a crash."""

CHANNELS = {"tasks": ["task"], "hops": ["hop"], "logs": ["log"], "crashes": ["crash", "malformed"]}
"""The channels as `node` titles them, in a task's order, and the messages on each."""

SUMMARIES = {
    "tasks": "Take a task. It is acknowledged once everything it led to is confirmed, and rejected once its crash "
    "message is. The queue exists already: a node neither declares nor binds it.",
    "hops": "Hand a task over. Mandatory and confirmed: a hop that no queue takes becomes a crash, `unroutable`. "
    "Where the route ends, nothing is published.",
    "logs": "Tell what happens. The events of a stage are, in order, `received`, `downloaded`, `passed` or `failed`, "
    "`uploaded`, `forwarded` if there is a hop, `acknowledged`; after a crash `crashed` and `rejected`.",
    "crashes": "Report a stage that could not be carried out, instead of handing the task over.",
}
"""What a node does on each channel."""

BINDING_VERSION = "0.3.0"


def complete(generated: Document) -> Document:
    """The document of a node, from the one that FastStream generates of its app; that one is not altered."""
    return {
        "asyncapi": generated["asyncapi"],
        "id": generated["id"],
        "info": generated["info"],
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "consuming": _server("The connection on which messages are delivered and settled."),
            "publishing": _server("The connection on which everything is published: blocked, it holds no delivery up."),
        },
        "channels": {name: _channel(name, generated["channels"][name]) for name in CHANNELS},
        "operations": {name: _operation(name, generated["operations"][name]["action"]) for name in CHANNELS},
        "components": {
            "messages": messages(),
            "schemas": _schemas(generated["components"]["schemas"]),
            "securitySchemes": {
                "user-password": {
                    "type": "userPassword",
                    "description": "A user of the broker: `MESSAGE_BROKER_USERNAME` and `MESSAGE_BROKER_PASSWORD`. "
                    "It may read the queue and write to the exchanges. It need not configure anything but, for "
                    "executors that use a device, `ulos.lease.*`.",
                }
            },
        },
    }


def _server(purpose: str) -> Document:
    return {
        "host": "{host}:{port}",
        "pathname": "/{virtualHost}",
        "protocol": "amqp",
        "protocolVersion": "0.9.1",
        "description": purpose,
        "variables": {
            "host": {"default": "localhost", "description": "`MESSAGE_BROKER_HOST`."},
            "port": {
                "default": "5672",
                "description": "`MESSAGE_BROKER_PORT`. With `ULOS_BROKER_TLS` it is `amqps`, on 5671 as a rule.",
            },
            "virtualHost": {"default": "%2F", "description": "`ULOS_VIRTUAL_HOST`, percent-encoded."},
        },
        "security": [{"$ref": "#/components/securitySchemes/user-password"}],
    }


def _channel(name: str, generated: Document) -> Document:
    place = generated["bindings"]["amqp"]
    channel: Document = {"address": generated.get("address"), "title": name, "description": generated["description"]}
    if name == "hops":
        channel |= {"address": "{exchange}/{routingKey}", "parameters": _HOP_PARAMETERS}
        binding: Document = {"is": "routingKey", "exchange": {"name": "{exchange}"}}
    elif place["is"] == "queue":
        binding = {"is": "queue", "queue": {"name": place["queue"]["name"]}}
    else:
        binding = {"is": "routingKey", "exchange": {"name": place["exchange"].get("name", "")}}
    return channel | {
        "servers": [{"$ref": f"#/servers/{'consuming' if place['is'] == 'queue' else 'publishing'}"}],
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in CHANNELS[name]},
        "bindings": {"amqp": binding | {"bindingVersion": BINDING_VERSION}},
    }


_HOP_PARAMETERS = {
    "exchange": {
        "description": "Exchange of the branch taken; empty for the default one.",
        "location": "$message.payload#/routingTree/exchange",
    },
    "routingKey": {
        "description": "Routing key of the branch taken; names the executor of the next stage.",
        "location": "$message.payload#/routingTree/routingKey",
    },
}


def _operation(name: str, action: str) -> Document:
    binding: Document = {"ack": True} if action == "receive" else {"deliveryMode": 2, "mandatory": True}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": SUMMARIES[name],
        "bindings": {"amqp": binding | {"bindingVersion": BINDING_VERSION}},
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in CHANNELS[name]],
    }


def _schemas(generated: Document) -> Document:
    """The schemas of our models, by name, without the titles that pydantic makes of the fields' names."""
    schemas = {name: _untitled(schema) for name, schema in sorted(generated.items()) if ":" not in name}
    code = schemas["ErrorReport"]["properties"]["code"]
    crashes = [crash for crash in errors.Crash.__subclasses__() if crash.__module__ == errors.__name__]
    meanings = "\n".join(f"- `{crash.code}`: {(crash.__doc__ or '').splitlines()[0]}" for crash in crashes)
    code |= {"description": f"Stable, for programs.\n\n{meanings}", "enum": [crash.code for crash in crashes]}
    return schemas


def _untitled(schema: Document) -> Document:
    fields = schema.get("properties", {})
    return {key: value for key, value in schema.items() if key not in ("title", "properties")} | (
        {"properties": {name: _without_title(field) for name, field in fields.items()}} if fields else {}
    )


def _without_title(field: Document) -> Document:
    field = {key: value for key, value in field.items() if key != "title"}
    if "$ref" in field and len(field) > 1:  # a reader of draft 7 ignores what stands beside a reference
        field["allOf"] = [{"$ref": field.pop("$ref")}]
    return field
