"""Message bodies: a good one, and those that are no task, each with the reason."""

import gzip
import json
import pickle
from typing import Any

TASK: dict[str, Any] = {
    "taskId": "12a345",
    "taskOwnerId": "67",
    "filePath": "/ftp/one/testing.zip",
    "timeout": 10,
    "routingTree": {
        "exchange": "processing-exchange",
        "routingKey": "pass",
        "successRoutingDecision": {"exchange": "processing-exchange", "routingKey": "task.done"},
        "failureRoutingDecision": None,
    },
}


def a_body(**changes: object) -> bytes:
    return json.dumps({**TASK, **changes}, ensure_ascii=False).encode()


def a_tree(**changes: object) -> dict[str, object]:
    return {"exchange": "lab", "routingKey": "pass", **changes}


def a_deep_tree(levels: int) -> dict[str, Any]:
    tree = a_tree()
    for _ in range(levels - 1):
        tree = a_tree(successRoutingDecision=tree)
    return tree


def a_wide_tree(levels: int) -> dict[str, Any]:
    if levels == 1:
        return a_tree()
    return a_tree(successRoutingDecision=a_wide_tree(levels - 1), failureRoutingDecision=a_wide_tree(levels - 1))


def a_timeout(number: str) -> bytes:
    """A task whose timeout is written exactly so."""
    return a_body(timeout="@").replace(b'"@"', number.encode())


def a_nested(levels: int) -> bytes:
    """A task with lists in lists in a field of somebody else's."""
    return a_body(note="@").replace(b'"@"', b"[" * levels + b"]" * levels)


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in TASK.items() if key != name}).encode()


def all_wrong(levels: int) -> dict[str, Any]:
    """A tree with two mistakes in each node."""
    below = {} if levels == 1 else dict.fromkeys(BRANCHES, all_wrong(levels - 1))
    return {"exchange": "é\n" * 200, "routingKey": "", **below}


BRANCHES = ("successRoutingDecision", "failureRoutingDecision")
NOT_A_STRING = "Input should be a valid string"
NOT_A_NUMBER = "timeout: must be a JSON number"
NOT_ABSOLUTE = "filePath: must be an absolute path"

MALFORMED: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"hello", "not JSON"),
    "empty": (b"", "not JSON"),
    "an array": (b"[1]", "a JSON list, not an object"),
    "NaN": (a_body().replace(b"10", b"NaN"), "NaN is no JSON number"),
    "nested too deeply": (b"[" * 100_000, "nested too deeply"),
    "a text": (b'"hello"', "a JSON str, not an object"),
    "null": (b"null", "a JSON NoneType, not an object"),
    "true": (b"true", "a JSON bool, not an object"),
    "cut off": (a_body()[:-10], "not JSON"),
    "two tasks": (a_body() * 2, "not JSON: Extra data"),
    "a NUL at the end": (a_body() + b"\0", "not JSON: Extra data"),
    "UTF-16": (a_body().decode().encode("utf-16"), "not JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + a_body(), "not JSON: Unexpected UTF-8 BOM"),
    "gzip": (gzip.compress(a_body()), "not JSON"),
    "a pickle": (pickle.dumps(TASK), "not JSON"),
    "XML": (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "not JSON"),
    "single quotes": (str(TASK).encode(), "not JSON"),
    "minus infinity": (a_timeout("-Infinity"), "-Infinity is no JSON number"),
    "a name without a UTF-8 form": (
        json.dumps({**TASK, "\ud800": 1}).encode(),
        "a name: Input should be a valid string",
    ),
    "a number of 5,000 digits": (a_timeout("1" * 5_000), "Exceeds the limit"),
    "a number that is infinite in a field of somebody else's": (
        a_body(note="@").replace(b'"@"', b"-1e999"),
        "a number is too large",
    ),
    "lists 129 deep": (a_nested(128), "nested more than 128 levels deep"),
    "lists 900 deep": (a_nested(900), "nested more than 128 levels deep"),
    "objects 129 deep in the tree": (
        a_body(routingTree=a_tree(note="@")).replace(b'"@"', b'{"a":' * 127 + b"1" + b"}" * 127),
        "nested more than 128 levels deep",
    ),
    "too large": (b" " * (1024 * 1024 + 1), "more than 1048576"),
    "the university API's form": (
        json.dumps({key: TASK[key] for key in ("taskId", "taskOwnerId", "filePath")}).encode(),
        "timeout: Field required; routingTree: Field required",
    ),
    "a number for an id": (a_body(taskId=12), "taskId: Input should be a valid string"),
    "an empty id": (a_body(taskOwnerId=""), "taskOwnerId: must be 1 to 256 bytes long"),
    "a long id": (a_body(taskId="é" * 129), "taskId: must be 1 to 256 bytes long"),
    "a control character in an id": (a_body(taskId="a\nb"), "taskId: holds a control or surrogate character"),
    "a surrogate in an id": (
        json.dumps({**TASK, "taskId": "\ud800"}).encode(),
        "taskId: holds a control or surrogate character",
    ),
    "a snake_case name": (
        json.dumps({**{k: v for k, v in TASK.items() if k != "taskId"}, "task_id": "1"}).encode(),
        "taskId: Field required",
    ),
    "no id": (without("taskId"), "taskId: Field required"),
    "no owner": (without("taskOwnerId"), "taskOwnerId: Field required"),
    "no path": (without("filePath"), "filePath: Field required"),
    "no tree": (without("routingTree"), "routingTree: Field required"),
    "null for an id": (a_body(taskId=None), f"taskId: {NOT_A_STRING}"),
    "a list for an id": (a_body(taskId=["1"]), f"taskId: {NOT_A_STRING}"),
    "a NUL in an id": (a_body(taskId="a\0"), "taskId: holds a control or surrogate character"),
    "a C1 control in an owner": (a_body(taskOwnerId="\x9b2J"), "taskOwnerId: holds a control or surrogate character"),
    "an escape sequence in an id": (a_body(taskId="\x1b[2J"), "taskId: holds a control or surrogate character"),
    "a number for a path": (a_body(filePath=1), f"filePath: {NOT_A_STRING}"),
    "the root as a path": (a_body(filePath="/"), NOT_ABSOLUTE),
    "an empty path": (a_body(filePath=""), NOT_ABSOLUTE),
    "a path with .": (a_body(filePath="/./a.zip"), NOT_ABSOLUTE),
    "a path that is a URL": (a_body(filePath="file:///etc/passwd"), NOT_ABSOLUTE),
    "a path with NUL": (a_body(filePath="/a.zip\0.txt"), "filePath: holds a control"),
    "a path of 5,000 bytes": (a_body(filePath="/a" * 2_500), "filePath: String should have at most 4096 characters"),
    "a relative path": (a_body(filePath="a.zip"), "filePath: must be an absolute path"),
    "a path with ..": (a_body(filePath="/a/../b.zip"), "filePath: must be an absolute path"),
    "a path with an empty part": (a_body(filePath="/a//b.zip"), "filePath: must be an absolute path"),
    "a folder": (a_body(filePath="/a/"), "filePath: must be an absolute path"),
    "a path with CR LF": (a_body(filePath="/a\r\nDELE /b"), "filePath: holds a control"),
    "a timeout as text": (a_body(timeout="5"), "timeout: must be a JSON number"),
    "a timeout as true": (a_body(timeout=True), "timeout: must be a JSON number"),
    "an infinite timeout": (a_timeout("1e999"), "a number is too large"),
    "null for a timeout": (a_body(timeout=None), NOT_A_NUMBER),
    "a list for a timeout": (a_body(timeout=[10]), NOT_A_NUMBER),
    "a timeout of 400 digits": (a_timeout("1" * 400), "is more than the 86400 s allowed"),
    "a negative timeout of 400 digits": (a_timeout("-" + "1" * 400), "timeout: Input should be greater than or equal"),
    "a hexadecimal timeout": (a_timeout("0x10"), "not JSON"),
    "a negative timeout": (a_body(timeout=-1), "timeout: Input should be greater than or equal to 0"),
    "a timeout beyond the limit": (a_body(timeout=86_401), "timeout: 86401 is more than the 86400 s allowed"),
    "a tree of 65 levels": (a_body(routingTree=a_deep_tree(65)), "routingTree: more than 64 levels"),
    "a tree of 300 levels": (a_body(routingTree=a_deep_tree(300)), "routingTree: more than 64 levels"),
    "a tree of 1,023 nodes": (a_body(routingTree=a_wide_tree(10)), "routingTree: more than 1000 nodes"),
    "a tree that is a text": (a_body(routingTree="pass"), "routingTree: Input should be"),
    "a tree that is a list": (a_body(routingTree=[a_tree()]), "routingTree: Input should be"),
    "a branch that is a list": (a_body(routingTree=a_tree(successRoutingDecision=[])), "successRoutingDecision: Input"),
    "a branch that is false": (
        a_body(routingTree=a_tree(failureRoutingDecision=False)),
        "failureRoutingDecision: Input",
    ),
    "no exchange": (a_body(routingTree={"routingKey": "pass"}), "routingTree.exchange: Field required"),
    "a number for an exchange": (a_body(routingTree=a_tree(exchange=1)), f"routingTree.exchange: {NOT_A_STRING}"),
    "a number for a routing key": (a_body(routingTree=a_tree(routingKey=1)), f"routingTree.routingKey: {NOT_A_STRING}"),
    "a NUL in an exchange": (a_body(routingTree=a_tree(exchange="a\0")), "routingTree.exchange: holds a control"),
    "a line feed in a routing key": (a_body(routingTree=a_tree(routingKey="a\nb")), "routingTree.routingKey: holds a"),
    "a long routing key in UTF-8": (a_body(routingTree=a_tree(routingKey="é" * 128)), "must be 1 to 255 bytes long"),
    "mistakes in 1,000 places": (a_body(routingTree=all_wrong(9)), "routingTree.exchange: holds a control"),
    "no routing key": (a_body(routingTree={"exchange": "lab"}), "routingTree.routingKey: Field required"),
    "an empty routing key": (a_body(routingTree=a_tree(routingKey="")), "must be 1 to 255 bytes long"),
    "a long routing key": (a_body(routingTree=a_tree(routingKey="k" * 256)), "must be 1 to 255 bytes long"),
    "a long exchange": (a_body(routingTree=a_tree(exchange="e" * 128)), "must be at most 127 ASCII bytes"),
    "an exchange outside ASCII": (a_body(routingTree=a_tree(exchange="é")), "must be at most 127 ASCII bytes"),
    "an internal exchange": (a_body(routingTree=a_tree(exchange="amq.rabbitmq.trace")), "names an internal exchange"),
    "a mistake far down the tree": (
        a_body(routingTree=a_tree(failureRoutingDecision=a_tree(successRoutingDecision=a_tree(routingKey="")))),
        "routingTree.failureRoutingDecision.successRoutingDecision.routingKey: must be 1 to 255 bytes long",
    ),
}
