"""The wire: what travels between ULOS systems, as JSON in UTF-8.

Names on the wire are camelCase. Unknown fields are kept and travel on, in the task as
well as in its routing tree. A field that was absent stays absent.
"""

import enum
import hashlib
import json
import math
import re
import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticSerializationError

from ulos_stream.errors import Crash, MalformedMessage

MAX_BODY_BYTES = 1024 * 1024
MAX_TREE_LEVELS = 64
MAX_TREE_NODES = 1_000
MAX_JSON_LEVELS = 128
"""Of a body as a whole: the tree's, and some for fields that others add. `json` ends near 1,000."""
SENT_AT = "timestamp_in_ms"
"""Header of every task message that we send: when, in ms since 1970. RabbitMQ's own time stamps have this name too."""
NEVER_TRAVELS = frozenset({"logMessage", "mqId"})
"""Fields of a received task that a Scala node may have added for itself."""


_UNPLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Verdict(enum.StrEnum):
    """What an executor says of the work. Both are normal ends of a stage."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"


def _plain(text: str) -> str:
    if not text.isprintable() and _UNPLAIN.search(text):
        raise ValueError("holds a control or surrogate character")
    return text


def _identifier(text: str) -> str:
    if not 1 <= len(_plain(text).encode()) <= 256:
        raise ValueError("must be 1 to 256 bytes long")
    return text


def _exchange(text: str) -> str:
    if not _plain(text).isascii() or len(text) > 127:
        raise ValueError("must be at most 127 ASCII bytes")
    if text.startswith("amq.rabbitmq."):
        raise ValueError("names an internal exchange of the broker")
    return text


def _routing_key(text: str) -> str:
    if not 1 <= len(_plain(text).encode()) <= 255:
        raise ValueError("must be 1 to 255 bytes long")
    return text


def _absolute(path: str) -> str:
    parts = _plain(path).split("/")
    if parts[0] != "" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
        raise ValueError("must be an absolute path without '.', '..' or empty parts")
    return path


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a JSON number")
    return value


Identifier = Annotated[str, Field(strict=True), AfterValidator(_identifier)]


class Wire(BaseModel):
    """Base of everything on the wire: camelCase, frozen, unknown fields kept."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="allow",
        use_attribute_docstrings=True,
    )

    def encode(self) -> bytes:
        """The JSON of this message in UTF-8; escaped to ASCII where a text has no UTF-8 form."""
        try:
            return self.model_dump_json(by_alias=True, exclude_unset=True).encode()
        except PydanticSerializationError:
            return _json(self.model_dump(by_alias=True, exclude_unset=True)).encode()


class RoutingDecision(Wire):
    """One node of a routing tree: where a task goes, and where it goes from there."""

    exchange: Annotated[str, Field(strict=True), AfterValidator(_exchange)]
    """At most 127 ASCII bytes; the empty name is the broker's default exchange."""
    routing_key: Annotated[str, Field(strict=True), AfterValidator(_routing_key)]
    """1 to 255 bytes; names the executor of the stage."""
    success_routing_decision: "RoutingDecision | None" = None
    """Where the task goes on PASS; absent or null where the route ends."""
    failure_routing_decision: "RoutingDecision | None" = None
    """Where the task goes on FAIL; absent or null where the route ends."""


class TaskFields(Wire):
    """What every message about a task says of it, beside the routing tree."""

    task_id: Identifier
    """Names the task: 1 to 256 bytes without control characters. The same on all its way."""
    task_owner_id: Identifier
    """Names whose task it is: 1 to 256 bytes without control characters. Only carried along."""
    file_path: Annotated[str, Field(strict=True, max_length=4096), AfterValidator(_absolute)]
    """Absolute path of the artifact on the storage; input and result share it."""
    timeout: Annotated[
        int | float,
        BeforeValidator(_seconds),
        Field(ge=0),
        WithJsonSchema({"type": "number", "minimum": 0}),
    ]
    """Seconds for unpack, execute and pack together, a JSON number; 0 times out at once."""


class Task(TaskFields):
    """One piece of work on its way through a routing tree, whose root is the current stage."""

    routing_tree: RoutingDecision
    """The stages to come; at most 64 levels and 1,000 nodes."""


class Hop(BaseModel):
    """Where a message goes: an exchange (`""` is the default one) and a routing key."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, use_attribute_docstrings=True
    )

    exchange: str
    """Name of the exchange; empty for the default one."""
    routing_key: str
    """Routing key; of a stage, the name of its executor."""


Event = Literal[
    "received", "downloaded", "passed", "failed", "uploaded", "forwarded", "acknowledged", "crashed", "rejected"
]


class TaskLog(TaskFields):
    """What just happened to a task. Published for other systems to consume."""

    routing_tree: RoutingDecision | None
    """As received until the verdict; from then on the branch taken, null where the route ends."""
    log_message: str
    """The event in words, for people."""
    event: Event
    """What happened; the events of a stage come in this order."""
    at: str
    """When it happened, ISO 8601 in UTC."""
    node: str
    """Name of the node that tells it."""
    stage: Hop
    """The stage that the node executes, or executed: the root of the tree it received."""
    verdict: Verdict | None
    """What the executor said of the work; null until then."""


class ErrorReport(BaseModel):
    """Why a stage could not be carried out."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    code: str
    """Stable, for programs: one of the codes drawn at the top of `errors.py`."""
    detail: str
    """The reason in words, one line of at most 1,000 characters."""
    output_tail: str = ""
    """The end of the executor's output, at most 4 KiB."""


class TaskCrash(TaskFields):
    """A stage could not be carried out. The AMQP correlation id is the incoming message's id."""

    routing_tree: RoutingDecision
    """As received: its root is the stage that crashed."""
    log_message: str
    """The reason in words, for people."""
    error: ErrorReport
    """The reason for programs."""


class RawBody(BaseModel):
    """A message body that is no task."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    size: int
    """Of the whole body, in bytes."""
    sha256: str
    """Of the whole body, in hexadecimal digits."""
    text: str
    """Its first 512 bytes as UTF-8; what is none is replaced."""


class MalformedCrash(Wire):
    """A crash message about a body that is no task message."""

    log_message: str
    """The reason in words, for people."""
    error: ErrorReport
    """The reason for programs."""
    raw: RawBody
    """What was received."""


def parse_task(body: bytes, max_timeout_s: float = 86_400) -> Task:
    """Read a task message; the whole routing tree is checked.

    Args:
        body: JSON in UTF-8, or in Latin-1 as a Scala hop leaves escaped text; at most 1 MiB.
        max_timeout_s: The longest timeout a task may ask for, in seconds.

    Raises:
        MalformedMessage: The body is not a task message. The text names the field and the rule.
    """
    if len(body) > MAX_BODY_BYTES:
        raise MalformedMessage(f"the body has {len(body)} bytes, more than {MAX_BODY_BYTES}")
    fields = _read_json(body)
    if not isinstance(fields, dict):
        raise MalformedMessage(f"the body is a JSON {type(fields).__name__}, not an object")
    if body.count(b"{") + body.count(b"[") > MAX_TREE_LEVELS:  # the least of the bounds: fewer brackets pass none
        _bound_tree(fields.get("routingTree"))
        _bound_nesting(fields)
    for name in NEVER_TRAVELS:
        fields.pop(name, None)
    try:
        task = Task.model_validate(fields, by_name=False)
    except ValidationError as invalid:
        raise MalformedMessage(_mistakes(invalid)) from invalid
    if task.timeout > max_timeout_s:
        raise MalformedMessage(f"timeout: {task.timeout} is more than the {max_timeout_s:g} s allowed")
    return task


def crash_message(task: Task, crash: Crash) -> TaskCrash:
    """The crash message of a task."""
    return TaskCrash.model_validate(
        _about(task) | {"routingTree": task.routing_tree, "logMessage": str(crash), "error": _error(crash)},
        by_name=False,
    )


def malformed_message(body: bytes, crash: MalformedMessage) -> MalformedCrash:
    """The crash message of a body that is no task."""
    return MalformedCrash(
        log_message=str(crash),
        error=_error(crash),
        raw=RawBody(
            size=len(body), sha256=hashlib.sha256(body).hexdigest(), text=body[:512].decode("utf-8", "replace")
        ),
    )


class StageLog:
    """Writes the log messages of one stage, each a `TaskLog`: what they have in common is encoded once.

    Args:
        task: As received.
        node: Who tells it.
    """

    def __init__(self, task: Task, node: str) -> None:
        root = task.routing_tree
        stage = {"exchange": root.exchange, "routingKey": root.routing_key}
        common = _about(task) | {"node": node, "stage": stage}
        for changing in ("routingTree", "logMessage", "event", "at", "verdict"):
            common.pop(changing, None)
        self._common = _json(common)[:-1]
        self._tree: RoutingDecision | None = None
        self._encoded_tree = "null"

    def encode(self, event: Event, text: str, tree: RoutingDecision | None, verdict: Verdict | None) -> bytes:
        """The log message of one event, which happens now.

        Args:
            event: What happened.
            text: The event in words.
            tree: What the message shows as its routing tree.
            verdict: None until it is known.
        """
        if tree is not self._tree:
            self._tree, self._encoded_tree = tree, "null" if tree is None else tree.encode().decode()
        shown = "null" if verdict is None else f'"{verdict}"'
        return (
            f'{self._common},"routingTree":{self._encoded_tree},"logMessage":{encode_basestring_ascii(text)}'
            f',"event":"{event}","at":"{now()}","verdict":{shown}}}'
        ).encode()


def now() -> str:
    """The time, ISO 8601 in UTC, to the millisecond."""
    second, ms = divmod(time.time_ns() // 1_000_000, 1_000)
    return f"{_whole_second(second)}.{ms:03}+00:00"


@lru_cache(maxsize=1)
def _whole_second(second: int) -> str:
    """The same for all that happens within it, and what takes long to write."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def hop_of(decision: RoutingDecision) -> Hop:
    """Where a decision sends a task."""
    return Hop(exchange=decision.exchange, routing_key=decision.routing_key)


def _error(crash: Crash) -> ErrorReport:
    return ErrorReport(code=crash.code, detail=str(crash), output_tail=crash.output_tail)


def _about(task: Task) -> dict[str, Any]:
    """The task's fields by their wire names, unknown ones first, so that ours win over them."""
    return (task.model_extra or {}) | {
        "taskId": task.task_id,
        "taskOwnerId": task.task_owner_id,
        "filePath": task.file_path,
        "timeout": task.timeout,
    }


_json = json.JSONEncoder(separators=(",", ":")).encode


def _read_json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    try:
        return _DECODER.decode(text)
    except RecursionError as exc:
        raise MalformedMessage("the JSON is nested too deeply") from exc
    except ValueError as exc:
        reason = "Unexpected UTF-8 BOM" if text.startswith("\ufeff") else exc
        raise MalformedMessage(f"the body is not JSON: {reason}") from exc


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    """A number that is still one when it is written again: Python would write 1e999 as `Infinity`."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _bound_nesting(value: dict[str, Any]) -> None:
    """Refuse what could be read and not be written again, where Python's stack is deeper."""
    level: list[Any] = [value]
    for _ in range(MAX_JSON_LEVELS):
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, dict | list)]
        if not level:
            return
    raise MalformedMessage(f"the JSON is nested more than {MAX_JSON_LEVELS} levels deep")


def _bound_tree(root: object) -> None:
    """Refuse a tree that is too deep or too large before anything recurses into it."""
    nodes: list[Any] = [root]
    level = seen = 0
    while nodes := [node for node in nodes if isinstance(node, dict)]:
        level += 1
        seen += len(nodes)
        if level > MAX_TREE_LEVELS:
            raise MalformedMessage(f"routingTree: more than {MAX_TREE_LEVELS} levels")
        if seen > MAX_TREE_NODES:
            raise MalformedMessage(f"routingTree: more than {MAX_TREE_NODES} nodes")
        nodes = [node.get(branch) for node in nodes for branch in ("successRoutingDecision", "failureRoutingDecision")]


def _mistakes(invalid: ValidationError) -> str:
    lines = (
        f"{'.'.join(str(part) for part in error['loc']) or 'a name'}: {error['msg'].removeprefix('Value error, ')}"
        for error in invalid.errors(include_url=False, include_input=False, include_context=False)
    )
    return "; ".join(dict.fromkeys(lines))
