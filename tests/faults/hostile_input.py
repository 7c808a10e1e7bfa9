"""Hostile archives and bodies among good tasks: each costs itself one crash report, and nobody else anything.

    python -m tests.faults.hostile_input [--seed N] [--good 300]

One node, as a process of its own, consumes a quorum queue; artifacts lie on an FTP server. The
passwords that the node knows, and the content of a file beside its work directory, are canaries:
none of them may be seen in anything that leaves the node.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))  # where the tests keep their makers

from archives import ATTACKS, BOMBS, LINK, Entry
from archives import a_zip as a_raw_zip
from bodies import MALFORMED
from world import Heard, NodeProcess, World, a_tree, a_world, a_zip

from ulos_stream import lab
from ulos_stream.errors import DETAIL_CHARS
from ulos_stream.lab import Broker, FtpServer

MIB = 1024 * 1024
WARM_UP = 30
"""Good tasks before the first look at the node's memory."""
GROWTH_MIB = 50
"""What the node's memory may have grown by in the end."""
SILENCE_S = 60.0
"""Seconds without a message after which nothing more is awaited."""
QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 20}
ENVIRONMENT = """
routing_key = "environment"
kind = "process"
command = ["/bin/sh", "-c", "env; tr '\\\\0' '\\\\n' </proc/self/environ"]
"""
BRANCHES = {"pass": "done", "skip": "done", "environment": "done", "fail": "failed"}
"""The executors of good tasks, and where each sends them."""
ODD_ENVELOPES: list[dict[str, Any]] = [
    {},
    {"content_type": "application/x-python-pickle; charset=utf-16", "content_encoding": "gzip"},
    {"headers": {"x-delivery-count": 10**6, "x-death": "once", "traceparent": "\0", "": {"": [None, {}]}}},
    {"correlation_id": "\r\n", "type": "t" * 255, "app_id": "\0", "priority": 255, "expiration": 10**6},
    {"reply_to": "no-such-queue"},
]
"""Properties of a message that must make no difference."""


@dataclass(frozen=True, slots=True)
class Item:
    """One message, and the end it must come to."""

    message_id: str
    body: bytes
    end: str
    """`done`, `failed`, or the code of a crash."""
    executor: str = ""
    artifact: Path | None = None
    content: bytes | None = None
    """What the artifact must still be afterwards; None for one that a stage may replace."""
    envelope: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of a node, from its warm-up to its end."""

    items: list[Item]
    heard: list[Heard]
    said: list[bytes]
    """The node's own log lines."""
    canaries: list[bytes]
    outputs: list[bytes]
    """Every file of the artifacts that a stage replaced; the others must be as they were."""
    grown_mib: float
    channels: list[str]
    """The consuming channel as the broker names it, before and after."""
    refused: list[tuple[str, object]]
    """Message id and delivery count of what ended in the dead-letter queue."""
    left: list[str]
    """Temporaries, directories of stages, messages not settled."""
    exit_code: int
    seconds: float


def good(world: World, number: int, draw: random.Random) -> Item:
    """A task with an artifact of its own."""
    executor = draw.choice(list(BRANCHES))
    task = world.task(a_tree(executor, a_tree("done"), a_tree("failed")), taskId=f"t-{number}")
    artifact = world.artifacts / task["filePath"][1:]
    artifact.write_bytes(a_zip(number_txt=str(number), **{f"output_x_y{number}_txt": "of an earlier stage"}))
    odd_id = draw.choice(["", "", "\r\nDELE /a.zip", "/../../a", "\u202e", "'; --"])
    envelope = draw.choice(ODD_ENVELOPES)
    body = json.dumps(task).encode()
    return Item(f"good {number}{odd_id}", body, BRANCHES[executor], executor, artifact, envelope=envelope)


def hostile_archives(world: World, canary: Path) -> Iterator[Item]:
    """Tasks whose artifact breaks a rule."""
    archives = {name: archive for name, (archive, _) in ATTACKS.items()}
    archives |= {name: bomb() for name, (bomb, reason) in BOMBS.items() if reason}
    archives["link to the canary"] = a_raw_zip(Entry(b"a", os.fsencode(canary), LINK))
    archives["over the canary"] = a_raw_zip(Entry(b"../../../canary.txt", b"overwritten"))
    archives["over the canary by its path"] = a_raw_zip(Entry(os.fsencode(canary), b"overwritten"))
    for name, archive in archives.items():
        yield _stored(world, f"archive: {name}", archive)
    large = replace(_stored(world, "archive: larger than 100 MiB", b"PK\3\4"), content=None)
    assert large.artifact is not None
    os.truncate(large.artifact, 100 * MIB + 1)
    yield large


def _stored(world: World, message_id: str, archive: bytes) -> Item:
    task = world.task(a_tree("pass", success=a_tree("done")), taskId=message_id)
    artifact = world.artifacts / task["filePath"][1:]
    artifact.write_bytes(archive)
    content = archive if len(archive) < MIB else None
    return Item(message_id, json.dumps(task).encode(), "archive_rejected", artifact=artifact, content=content)


def hostile_bodies(world: World, canary: Path) -> Iterator[Item]:
    """Bodies that are no task, and tasks that lead nowhere."""
    for name, (body, _) in MALFORMED.items():
        yield Item(f"body: {name}", body, "malformed_message")
    (world.artifacts / "folder").mkdir()
    nowhere: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "no artifact": ("artifact_missing", a_tree("pass"), {"filePath": "/missing.zip"}),
        "a folder": ("artifact_missing", a_tree("pass"), {"filePath": "/folder"}),
        "a file of the node": ("artifact_missing", a_tree("pass"), {"filePath": str(canary)}),
        "a file of the system": ("artifact_missing", a_tree("pass"), {"filePath": "/etc/passwd"}),
        "FTP's own words": ("artifact_missing", a_tree("pass"), {"filePath": "/-la *?[a]~%2e%2e"}),
        "a path as a key": ("unknown_executor", a_tree("../../bin/sh"), {}),
        "a command as a key": ("unknown_executor", a_tree("$(id);`id`|id"), {}),
        "a pattern as a key": ("unknown_executor", a_tree("#"), {}),
        "another way round": ("unknown_executor", a_tree("\u202ecba"), {}),
        "no time": ("timeout", a_tree("pass"), {"timeout": 0}),
        "nearly no time": ("timeout", a_tree("pass"), {"timeout": 1e-300}),
        "no exchange": ("unroutable", a_tree("pass", success=a_tree("x", exchange="no such exchange")), {}),
        "no queue": ("unroutable", a_tree("pass", success=a_tree("no such queue", exchange="")), {}),
        "a built-in exchange": ("unroutable", a_tree("pass", success=a_tree("x", exchange="amq.direct")), {}),
    }
    for name, (code, tree, fields) in nowhere.items():
        task = world.task(tree, taskId=name, **fields)
        yield Item(f"task: {name}", json.dumps(task).encode(), code)


async def besiege(broker: Broker, storage: FtpServer, seed: int, good_tasks: int) -> Evidence:
    """Run a node through all of it, in an order drawn from the seed."""
    draw = random.Random(seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ulos-hostile-") as directory:
        space = Path(directory)
        canary, work, executors = space / "canary.txt", space / "work", space / "executors"
        secret = f"canary-{secrets.token_hex(8)}"
        canary.write_text(secret)
        work.mkdir()
        (executors / "environment").mkdir(parents=True)
        (executors / "environment" / "executor.toml").write_text(ENVIRONMENT)
        async with a_world(broker, storage.root, **QUORUM) as world:
            await world.listen("done", "failed")
            world.settings = {
                "ULOS_WORK_DIR": str(work),
                "ULOS_EXECUTORS_PATH": str(executors),
                "ULOS_STORAGE_URL": "ftp://",
                "REMOTE_STORAGE_HOST": storage.host,
                "REMOTE_STORAGE_PORT": str(storage.port),
                "REMOTE_STORAGE_USERNAME": storage.username,
                "REMOTE_STORAGE_PASSWORD": storage.password,
            }
            warm_up = [good(world, -number, draw) for number in range(1, WARM_UP + 1)]
            items = [good(world, number, draw) for number in range(good_tasks)]
            items += [*hostile_archives(world, canary), *hostile_bodies(world, canary)]
            draw.shuffle(items)
            async with world.node_process() as node:
                said: list[bytes] = []
                reading = asyncio.create_task(_read(node, said))
                heard = await _pass(world, warm_up)
                before_mib, before = _memory_mib(node), _channel(broker, world)
                heard += await _pass(world, items)
                grown_mib, after = _memory_mib(node) - before_mib, _channel(broker, world)
                node.process.terminate()
                async with asyncio.timeout(SILENCE_S):
                    exit_code = await node.process.wait()
                    await reading
            async for raw in _rest(world.told):
                heard.append(Heard(raw.routing_key or "", json.loads(raw.body), raw))
            refused = [(raw.message_id or "", raw.headers.get("x-delivery-count")) async for raw in _rest(world.dead)]
            left = [f"stage directory {path.name}" for path in work.iterdir()]
            left += [f"temporary {path.name}" for path in storage.root.rglob("*.tmp")]
            left += [f"{await world.count(world.tasks)} messages"] * bool(await world.count(world.tasks))
            left += ["the canary was overwritten"] * (canary.read_text() != secret)
        return Evidence(
            items=[*warm_up, *items],
            heard=heard,
            said=said,
            canaries=[text.encode() for text in (secret, broker.password, storage.password)],
            outputs=list(_outputs([*warm_up, *items])),
            grown_mib=grown_mib,
            channels=[before, after],
            refused=refused,
            left=left,
            exit_code=exit_code,
            seconds=time.monotonic() - started,
        )


async def _pass(world: World, items: list[Item]) -> list[Heard]:
    """Send all of it, and hear what the node publishes until each has ended, or nothing more comes."""
    heard: list[Heard] = []
    left = len(items)
    sending = asyncio.create_task(_send(world, items))
    with contextlib.suppress(TimeoutError):
        async with world.told.iterator(timeout=SILENCE_S) as messages:
            async for raw in messages:
                await raw.ack()
                heard.append(Heard(raw.routing_key or "", json.loads(raw.body), raw))
                left -= _ends(heard[-1])
                if not left:
                    break
    await sending
    return heard


async def _send(world: World, items: list[Item]) -> None:
    for item in items:
        await world.send(item.body, item.message_id, **item.envelope)


def _ends(message: Heard) -> bool:
    """Whether a message is the last that is heard of an incoming one."""
    return message.event in ("acknowledged", "rejected") or "raw" in message.fields


async def _read(node: NodeProcess, said: list[bytes]) -> None:
    assert node.process.stderr is not None
    while line := await node.process.stderr.readline():
        said.append(line)


async def _rest(queue: Any) -> Any:
    """What is left in a queue."""
    while (raw := await queue.get(no_ack=True, fail=False)) is not None:
        yield raw


def _memory_mib(node: NodeProcess) -> float:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _channel(broker: Broker, world: World) -> str:
    """The broker's name of the channel that consumes; another one after it was closed."""
    program = Path(broker.server.command[-1]).parent / "rabbitmqctl"
    command = [str(program), "--silent", "list_consumers", "queue_name", "channel_pid"]
    listed = subprocess.run(command, env=broker.server.environment, capture_output=True, text=True, check=True)
    return " ".join(line for line in listed.stdout.splitlines() if line.startswith(f"{world.tasks.name}\t"))


def _outputs(items: list[Item]) -> Iterator[bytes]:
    for item in items:
        if item.executor and item.artifact:
            with zipfile.ZipFile(item.artifact) as archive:
                yield from (archive.read(name) for name in archive.namelist())


def violations(seen: Evidence) -> Iterator[str]:
    """What does not hold, in words."""
    by_id: dict[str | None, list[Heard]] = {}
    for message in seen.heard:
        by_id.setdefault(message.raw.correlation_id, []).append(message)
    for item in seen.items:
        about = by_id.pop(item.message_id, [])
        for wrong in _of_good(item, about) if item.executor else _of_hostile(item, about):
            yield f"{item.message_id!r}: {wrong}"
    yield from (f"messages about {unknown!r}, which was never sent" for unknown in by_id)
    yield from seen.left
    yield from _leaks(seen)
    if seen.grown_mib >= GROWTH_MIB:
        yield f"the node's memory grew by {seen.grown_mib:.0f} MiB"
    if not seen.channels[0] or seen.channels[0] != seen.channels[1]:
        yield f"the consuming channel is another one: {seen.channels}"
    expected = Counter(item.message_id for item in seen.items if not item.executor)
    if Counter(message_id for message_id, _ in seen.refused) != expected:
        yield "the dead-letter queue holds something else than the hostile messages"
    yield from (f"{message_id!r} was delivered again" for message_id, count in seen.refused if count)
    for event in ("connection lost", "settlement lost", "event lost", "crash report held", "fault"):
        yield from (f"the node said {line!r}" for line in seen.said if json.loads(line)["event"] == event)
    if seen.exit_code:
        yield f"the node's exit code is {seen.exit_code}"


def _of_good(item: Item, about: list[Heard]) -> Iterator[str]:
    verdict = "failed" if item.end == "failed" else "passed"
    events = ["received", "downloaded", verdict, "uploaded", "forwarded", "acknowledged"]
    if [message.event for message in about if message.key == "log"] != events:
        yield f"events {[message.event for message in about]}"
    if [message.key for message in about if message.key != "log"] != [item.end]:
        yield f"it went to {[message.key for message in about if message.key != 'log']}"
    task = json.loads(item.body)
    exchange = task["routingTree"]["exchange"]
    assert item.artifact is not None
    with zipfile.ZipFile(item.artifact) as archive:
        number = task["taskId"].removeprefix("t-")
        outputs = [f"output.x.y{number}.txt", f"output_{exchange}_{item.executor}.txt"]
        names = ["number.txt", *outputs, ".ulos/journal.json"]
        if archive.testzip() or archive.namelist() != names or archive.read("number.txt") != number.encode():
            yield f"its artifact holds {archive.namelist()}"
        elif item.executor == "environment" and b"PATH=" not in archive.read(outputs[-1]):
            yield "its output is not that of its executor"


def _of_hostile(item: Item, about: list[Heard]) -> Iterator[str]:
    crashes = [message.fields for message in about if message.key == "crash"]
    codes = [crash["error"]["code"] for crash in crashes]
    if codes != [item.end]:
        yield f"crash reports {codes}"
    events = [message.event for message in about if message.key == "log"]
    if events[-2:] != ([] if item.end == "malformed_message" else ["crashed", "rejected"]):
        yield f"events {events}"
    for crash in crashes:
        for reason in (crash["error"]["detail"], crash["logMessage"]):
            if not reason.isprintable() or not 0 < len(reason) <= DETAIL_CHARS:
                yield f"the reason {reason!r}"
        if len(crash.get("raw", {}).get("text", "")) > 512:
            yield "more than 512 bytes of it in its report"
        if crash["error"]["output_tail"] and item.end == "archive_rejected":
            yield f"output of what must not have run: {crash['error']['output_tail']!r}"
    if any(message.key in ("done", "failed") for message in about):
        yield "it went on"
    if item.artifact is not None and item.content not in (None, item.artifact.read_bytes()):
        yield "its artifact was changed"


def _leaks(seen: Evidence) -> Iterator[str]:
    published = [message.raw.body + repr(message.raw.headers).encode() for message in seen.heard]
    for where, texts in ("a message", published), ("an artifact", seen.outputs), ("a log line", seen.said):
        for text in texts:
            yield from (f"a canary is in {where}: {text[:300]!r}" for canary in seen.canaries if canary in text)


def main() -> int:
    """Run it, say what does not hold and the figures; 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="decides the order and the good tasks")
    parser.add_argument("--good", type=int, default=300, help="how many good tasks")
    options = parser.parse_args()
    secret = secrets.token_hex(8)
    with lab.rabbitmq(password=f"broker-{secret}") as broker, lab.pyftpd(password=f"storage-{secret}") as storage:
        seen = asyncio.run(besiege(broker, storage, options.seed, options.good))
        wrong = list(violations(seen))
    for line in wrong:
        print(f"does not hold: {line}")
    kinds = Counter(item.message_id.partition(":")[0] for item in seen.items if not item.executor)
    ended = Counter(message.raw.correlation_id for message in seen.heard if _ends(message))
    print(f"good: {options.good + WARM_UP}, hostile: {dict(kinds)}, memory grew by {seen.grown_mib:.1f} MiB")
    summary = {
        "scenario": "hostile input",
        "seed": options.seed,
        "tasks": len(seen.items),
        "faults": kinds,
        "lost": sum(not ended[item.message_id] for item in seen.items),
        "duplicated": sum(ended[item.message_id] > 1 for item in seen.items),
        "corrupt": sum("artifact" in line for line in wrong),
        "violations": len(wrong),
        "seconds": round(seen.seconds, 1),
    }
    print(json.dumps(summary))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
