"""The messages of the document: what each is, its AMQP properties, and true examples.

AsyncAPI keeps `headers` for those that an application adds and has no place for the properties of
AMQP, so these are described in an extension, `x-amqp-properties`, as a JSON Schema.
"""

from typing import Any

from ulos_stream import routing
from ulos_stream.asyncapi.examples import MESSAGE_ID, Example, examples
from ulos_stream.tasks import Verdict
from ulos_stream.topology import APP_ID

CONTENT_TYPE = "application/json"


def messages() -> dict[str, Any]:
    """The messages, by the names that channels refer to them by."""
    shown = examples()
    crash_id = _derived("`:crash`", routing.crash_id(MESSAGE_ID))
    return {
        "task": {
            **_message("Task", "A task that arrives. Unknown fields are kept and travel on.", "Task", shown["task"]),
            "headers": {"type": "object", "properties": {"x-delivery-count": _DELIVERY_COUNT}},
            "x-amqp-properties": {"type": "object", "properties": {"message_id": _INCOMING_ID}},
        },
        "hop": {
            **_message("Hop", "The task as it travels on: the branch taken has become the root.", "Task", shown["hop"]),
            "x-amqp-properties": _published(
                _derived("`:success` or `:failure`", routing.hop_id(MESSAGE_ID, Verdict.PASS))
            ),
        },
        "log": {
            **_message("Log message", "What has just happened to a task.", "TaskLog", shown["log"]),
            "x-amqp-properties": _published(
                _derived("`:event:` and the event", routing.event_id(MESSAGE_ID, "received"))
            ),
        },
        "crash": {
            **_message("Crash message", "Why a stage could not be carried out.", "TaskCrash", shown["crash"]),
            "x-amqp-properties": _published(crash_id),
        },
        "malformed": {
            **_message(
                "Crash message of a body that is no task",
                "What was received, and which rule it breaks.",
                "MalformedCrash",
                shown["malformed"],
            ),
            "x-amqp-properties": _published(crash_id),
        },
    }


_DELIVERY_COUNT = {
    "type": "integer",
    "minimum": 0,
    "description": "Earlier deliveries of the message, as a quorum queue counts. From two on it is "
    "watched whether the stage ends its nodes: then it runs alone, and at last the task crashes as `poison`.",
}
_INCOMING_ID = {
    "type": "string",
    "description": "Names the message, so that a copy is recognised and a stage is not carried out twice. "
    "A node draws an id for a message that has none.",
    "examples": [MESSAGE_ID],
}


def _message(title: str, summary: str, schema: str, shown: list[Example]) -> dict[str, Any]:
    return {
        "title": title,
        "summary": summary,
        "contentType": CONTENT_TYPE,
        "correlationId": {
            "description": "The AMQP property `correlation_id`.",
            "location": "$message.header#/correlation_id",
        },
        "payload": {"$ref": f"#/components/schemas/{schema}"},
        "examples": [
            {"name": example.name, "summary": example.summary, "payload": example.payload} for example in shown
        ],
    }


def _derived(suffix: str, example: str) -> dict[str, Any]:
    return {
        "type": "string",
        "format": "uuid",
        "description": f"UUID 5 of the incoming message's id followed by {suffix}, in the namespace "
        f"`{routing.NAMESPACE}`: what is published twice carries the same id twice.",
        "examples": [example],
    }


def _published(message_id: dict[str, Any]) -> dict[str, Any]:
    """What a node sets on everything that it publishes."""
    properties = {
        "message_id": message_id,
        "correlation_id": {
            "type": "string",
            "description": "Id of the incoming message that this one follows from.",
            "examples": [MESSAGE_ID],
        },
        "delivery_mode": {"const": 2, "description": "Persistent: a durable queue keeps it when the broker restarts."},
        "content_type": {"const": CONTENT_TYPE, "description": "JSON in UTF-8."},
        "app_id": {"const": APP_ID, "description": "Marks what a node has published."},
    }
    return {"type": "object", "required": list(properties), "properties": properties}
