"""`ulos topology` on a real broker: what is missing is declared, nothing is altered, every weakness is found."""

import asyncio
import base64
import http.server
import json
import os
import signal
import ssl
import sys
import threading
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import trustme
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity
from pydantic import SecretStr
from world import Proxy, ulos

from ulos_stream.lab import Broker
from ulos_stream.tasks import Hop
from ulos_stream.topology.checking import check, looked_at
from ulos_stream.topology.connection import Access, connected, look, version
from ulos_stream.topology.declaring import declare
from ulos_stream.topology.management import fetch
from ulos_stream.topology.places import Places, wanted


@dataclass
class Site:
    """A corner of the broker with names of its own."""

    broker: Broker
    channel: AbstractChannel
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4()}")

    def environment(self, **changes: str) -> dict[str, str]:
        """What the commands need: no storage."""
        return {
            "MESSAGE_BROKER_HOST": self.broker.host,
            "MESSAGE_BROKER_PORT": str(self.broker.port),
            "MESSAGE_BROKER_USERNAME": self.broker.username,
            "MESSAGE_BROKER_PASSWORD": self.broker.password,
            "MESSAGE_BROKER_LOGS_EXCHANGE": self.name,
            "MESSAGE_BROKER_LOGS_ROUTING_KEY": "log",
            "MESSAGE_BROKER_CRASH_EXCHANGE": self.name,
            "MESSAGE_BROKER_CRASH_ROUTING_KEY": "crash",
            "MESSAGE_BROKER_CONSUMPTION_QUEUE": self.name,
            "MESSAGE_BROKER_PREFETCH_COUNT": "0",
            "MESSAGE_BROKER_REQUEUE_ON_REJECT": "false",
            "ULOS_MANAGEMENT_URL": self.broker.management_url or "",
            **changes,
        }

    async def apply(self, *arguments: str, **changes: str) -> tuple[int, str]:
        ended = await ulos("topology", "apply", *arguments, **self.environment(**changes))
        return ended.returncode, ended.stdout + ended.stderr

    async def check(self, **changes: str) -> tuple[int, list[tuple[str, str]]]:
        """Exit code, and kind and code of each finding."""
        ended = await ulos("topology", "check", "--json", **self.environment(**changes))
        assert ended.stdout, ended.stderr
        return ended.returncode, [(found["kind"], found["code"]) for found in json.loads(ended.stdout)]

    async def check_at_any_time(self, **changes: str) -> tuple[int, list[tuple[str, str]]]:
        """The same, but for policies: the API shows none before its statistics come, some seconds after a queue."""
        code, findings = await self.check(**changes)
        return code, [found for found in findings if found != ("not checked", "policy")]

    async def weaknesses(self) -> set[str]:
        """What `check` finds, without the price of a process."""
        async with connected(self.access) as connection:
            shown = await look(connection, *looked_at(self.places))
        host = await fetch(self.broker.management_url or "", self.access, ssl.create_default_context())
        return {found.code for found in check(self.places, shown, host, held_s=1) if found.kind == "weakness"}

    async def declare(self, *keys: str) -> None:
        """What `apply` does, without the price of a process."""
        async with connected(self.access) as connection:
            binds = [Hop(exchange=self.name, routing_key=key) for key in keys]
            await declare(connection, wanted(self.places, binds, version(connection)))

    @property
    def access(self) -> Access:
        broker = self.broker
        return Access(broker.host, broker.port, "/", broker.username, SecretStr(broker.password), tls=None)

    @property
    def places(self) -> Places:
        logs, crashes = (Hop(exchange=self.name, routing_key=key) for key in ("log", "crash"))
        return Places(self.name, logs, crashes)


SOUND_FINDINGS = (0, [("not checked", "consumer-timeout")])


@pytest.fixture
async def site(managed_broker: Broker) -> AsyncIterator[Site]:
    async with await aio_pika.connect(managed_broker.url) as connection:
        yield Site(managed_broker, await connection.channel())


def api(broker: Broker, method: str, path: str, **body: object) -> None:
    credentials = base64.b64encode(f"{broker.username}:{broker.password}".encode()).decode()
    request = urllib.request.Request(
        f"{broker.management_url}/api{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        method=method,
    )
    urllib.request.urlopen(request, timeout=10).close()


# apply


async def test_what_is_missing_is_created_and_a_second_time_nothing_is(site: Site) -> None:
    first_code, first = await site.apply("--bind", f"{site.name}:grammar", "--bind", f"{site.name}:simulate")
    second_code, second = await site.apply("--bind", f"{site.name}:grammar", "--bind", f"{site.name}:simulate")

    assert (first_code, second_code) == (0, 0)
    assert [line.split("  ")[0] for line in first.splitlines()] == [
        *["created"] * 3, "bound", *["created"] * 3, *["bound"] * 4
    ]  # fmt: skip
    assert second == first.replace("created        ", "as it should be")


async def test_what_was_applied_has_no_weakness(site: Site) -> None:
    await site.apply("--bind", f"{site.name}:grammar")

    assert await site.check_at_any_time() == SOUND_FINDINGS


async def test_a_task_published_where_it_was_bound_reaches_the_queue_and_dead_it_reaches_the_dead_letters(
    site: Site,
) -> None:
    await site.apply("--bind", f"{site.name}:grammar")
    exchange = await site.channel.get_exchange(site.name)
    tasks = await site.channel.get_queue(site.name)
    dead = await site.channel.get_queue(f"{site.name}.dead-letters")

    await exchange.publish(aio_pika.Message(b"task"), "grammar")
    message = await tasks.get()
    assert message is not None
    await message.reject(requeue=False)
    async with asyncio.timeout(10), dead.iterator(no_ack=True) as letters:
        letter = await anext(aiter(letters))

    assert letter.body == b"task"
    assert letter.headers["x-first-death-queue"] == site.name


async def test_an_exchange_of_another_type_is_respected(site: Site) -> None:
    await site.channel.declare_exchange(site.name, "topic", durable=True)

    code, said = await site.apply("--bind", f"{site.name}:task.*")

    assert code == 0
    assert f"as it should be exchange {site.name}\n" in said
    assert await site.check_at_any_time() == SOUND_FINDINGS


async def test_the_default_exchange_for_logs_and_crashes_needs_only_queues_of_those_names(site: Site) -> None:
    changes = {
        "MESSAGE_BROKER_LOGS_EXCHANGE": "",
        "MESSAGE_BROKER_LOGS_ROUTING_KEY": f"{site.name}-log",
        "MESSAGE_BROKER_CRASH_EXCHANGE": "",
        "MESSAGE_BROKER_CRASH_ROUTING_KEY": f"{site.name}-crash",
    }

    before = await site.check(**changes)
    code, said = await site.apply("--bind", f"{site.name}:grammar", **changes)

    assert {found for kind, found in before[1] if kind == "weakness"} == {
        "queue-missing", "logs-unbound", "crash-unbound"
    }  # fmt: skip
    assert code == 0, said
    assert await site.check_at_any_time(**changes) == SOUND_FINDINGS


async def test_a_queue_with_other_arguments_is_left_alone_and_the_way_on_is_printed(site: Site) -> None:
    old = await site.channel.declare_queue(site.name, durable=True)
    await site.channel.default_exchange.publish(aio_pika.Message(b"precious"), old.name)

    code, said = await site.apply("--bind", f"{site.name}:grammar")

    assert code == 1
    assert f"otherwise       queue {site.name} (quorum): PRECONDITION_FAILED" in said
    assert f"not done        binding {site.name} -> {site.name} by 'grammar': because of queue {site.name}" in said
    assert f"created         queue {site.name}.crash (stream)" in said
    assert f"bound           binding {site.name} -> {site.name}.log by 'log'" in said
    assert f"MESSAGE_BROKER_CONSUMPTION_QUEUE={site.name}.quorum ulos topology apply" in said
    precious = await old.get()
    assert precious is not None
    assert precious.body == b"precious"


async def test_a_dead_letter_exchange_of_another_type_is_left_alone_and_the_way_on_is_printed(site: Site) -> None:
    await site.channel.declare_exchange(f"{site.name}.dead-letters", "direct", durable=True)

    code, said = await site.apply()

    assert code == 1
    assert f"otherwise       exchange {site.name}.dead-letters" in said
    assert f"rabbitmqadmin delete exchange name={site.name}.dead-letters" in said


async def test_a_user_who_may_not_declare_is_told_so_of_each_thing(site: Site) -> None:
    api(site.broker, "PUT", f"/users/{site.name}", password="p", tags="")
    api(site.broker, "PUT", f"/permissions/%2F/{site.name}", configure="^$", write=".*", read=".*")

    code, said = await site.apply(MESSAGE_BROKER_USERNAME=site.name, MESSAGE_BROKER_PASSWORD="p")

    assert code == 1
    assert said.count("refused  ") == 6
    assert "ACCESS_REFUSED" in said
    with pytest.raises(ChannelNotFoundEntity):
        await site.channel.declare_queue(site.name, passive=True)


@pytest.mark.parametrize("bind", ["grammar", ":grammar", "exchange:"])
async def test_a_binding_that_is_none_is_refused(site: Site, bind: str) -> None:
    code, said = await site.apply("--bind", bind)

    assert code == 2
    assert "EXCHANGE:KEY" in said


# check


SOUND: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": "amq.fanout",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"x-queue-type": "classic"}, "queue-not-quorum"),
        ({"x-delivery-limit": None}, "delivery-limit-none"),
        ({"x-delivery-limit": 3}, "delivery-limit-low"),
        ({"x-dead-letter-exchange": None, "x-dead-letter-strategy": None}, "dead-letters-none"),
        ({"x-dead-letter-strategy": None}, "dead-letters-at-most-once"),
        ({"x-dead-letter-exchange": "nowhere"}, "dead-letters-nowhere"),
        ({"x-overflow": "drop-head"}, "overflow-drop-head"),
        ({"x-max-length": 10}, "max-length"),
        ({"x-max-length-bytes": 10}, "max-length-bytes"),
        ({"x-message-ttl": 10_000}, "message-ttl"),
        ({"x-expires": 100_000}, "expires"),
    ],
)
async def test_a_planted_weakness_of_the_queue_is_found(site: Site, changes: dict[str, Any], code: str) -> None:
    arguments = {name: value for name, value in (SOUND | changes).items() if value is not None}
    if arguments["x-queue-type"] == "classic":
        arguments = {"x-dead-letter-exchange": "amq.fanout", "x-overflow": "reject-publish"}
    dead = await site.channel.declare_queue(f"{site.name}-dead", durable=True)
    await dead.bind("amq.fanout")
    tasks = await site.channel.declare_queue(site.name, durable=True, arguments=arguments)
    await site.declare()
    await tasks.bind(site.name, "grammar")

    found = await site.weaknesses()
    await dead.delete(if_empty=False)

    assert found == {code}


async def test_a_queue_that_a_restart_of_the_broker_takes_away_is_found(site: Site) -> None:
    await site.channel.declare_queue(site.name, durable=False)

    assert "queue-not-durable" in await site.weaknesses()


async def test_a_policy_that_overrides_is_found(site: Site) -> None:
    await site.declare("grammar")
    definition = {"delivery-limit": 3}

    api(site.broker, "PUT", f"/policies/%2F/{site.name}", pattern=f"^{site.name}$", definition=definition)
    async with asyncio.timeout(60):
        while ("not checked", "policy") in (await site.check())[1]:  # the API tells nobody when its statistics come
            await asyncio.sleep(0.5)

    assert await site.weaknesses() == {"policy", "delivery-limit-low"}


async def test_places_that_lead_nowhere_are_found(site: Site) -> None:
    await site.declare()
    for queue, key in ((f"{site.name}.crash", "crash"), (f"{site.name}.log", "log")):
        await (await site.channel.get_queue(queue)).unbind(site.name, key)

    assert await site.weaknesses() == {"queue-unbound", "crash-unbound", "logs-unbound"}


async def test_crash_reports_that_only_one_can_read_are_found(site: Site) -> None:
    await site.declare("grammar")
    await (await site.channel.get_queue(f"{site.name}.crash")).unbind(site.name, "crash")
    await (await site.channel.get_queue(f"{site.name}.log")).bind(site.name, "crash")

    assert await site.weaknesses() == {"crash-not-stream"}


async def test_where_there_is_nothing_everything_is_missing(site: Site) -> None:
    assert await site.weaknesses() == {"queue-missing", "logs-exchange-missing", "crash-exchange-missing"}


async def test_findings_are_readable_lines_and_a_last_line_counts_them(site: Site) -> None:
    ended = await ulos("topology", "check", **site.environment())

    *lines, last = ended.stdout.splitlines()
    assert lines[0] == (
        f"weakness     queue-missing               {site.name}: does not exist: nodes wait for it and consume nothing"
    )
    assert last == "3 weaknesses, 1 not checked"


async def test_without_the_management_api_what_amqp_shows_is_checked_and_the_rest_is_listed(site: Site) -> None:
    away = {"ULOS_MANAGEMENT_URL": "http://127.0.0.1:1"}

    missing_code, missing = await site.check(**away)
    await site.declare()
    code, findings = await site.check(**away)

    assert missing_code == 1
    assert [found for kind, found in missing if kind == "weakness"] == [
        "queue-missing", "logs-exchange-missing", "crash-exchange-missing"
    ]  # fmt: skip
    assert code == 0
    assert {kind for kind, _ in findings} == {"not checked"}
    assert len(findings) == 7


async def test_an_api_that_refuses_the_user_says_which_tag_is_missing(site: Site) -> None:
    await site.declare()
    api(site.broker, "PUT", f"/users/{site.name}", password="p", tags="")
    api(site.broker, "PUT", f"/permissions/%2F/{site.name}", configure="", write=".*", read=".*")
    user = {"MESSAGE_BROKER_USERNAME": site.name, "MESSAGE_BROKER_PASSWORD": "p"}

    ended = await ulos("topology", "check", **site.environment(**user))

    assert ended.returncode == 0
    assert f"user {site.name!r} is refused; it needs the tag 'management'" in ended.stdout


@contextmanager
def a_web_server(status: int, body: bytes) -> Iterator[str]:
    """Answers every request in one way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", "what answers is no management API of RabbitMQ"),
        (200, b"[]", "what answers is no management API of RabbitMQ"),
        (302, b"", "answers 302 Found to /api/overview"),
        (500, b"", "answers 500 Internal Server Error to /api/overview"),
    ],
)
async def test_something_else_in_place_of_the_api_is_told_apart(
    site: Site, status: int, body: bytes, reason: str
) -> None:
    with a_web_server(status, body) as url:
        ended = await ulos("topology", "check", **site.environment(ULOS_MANAGEMENT_URL=url))

    assert reason in ended.stdout


async def test_an_api_behind_tls_is_asked_only_if_its_certificate_is_trusted(site: Site, tmp_path: Path) -> None:
    await site.declare("grammar")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    port = int((site.broker.management_url or "").rpartition(":")[2])

    async with Proxy(site.broker.host, port, tls).listening() as proxy:
        url = {"ULOS_MANAGEMENT_URL": f"https://127.0.0.1:{proxy.port}"}
        trusting = await site.check_at_any_time(ULOS_BROKER_CA_FILE=str(tmp_path / "ca.pem"), **url)
        other = await site.check(**url)

    assert trusting == SOUND_FINDINGS
    assert ("not checked", "queue-arguments") in other[1]


async def test_the_amqp_port_in_place_of_the_api_is_told_apart(site: Site) -> None:
    url = f"http://{site.broker.host}:{site.broker.port}"

    ended = await ulos("topology", "check", **site.environment(ULOS_MANAGEMENT_URL=url))

    assert f"not checked  dead-letters                {site.name}: " in ended.stdout
    assert ended.stderr == ""


# both


@pytest.mark.parametrize("command", [("topology", "apply"), ("topology", "check"), ("crashes", "list")])
async def test_wrong_settings_end_with_2_and_a_line_each(site: Site, command: tuple[str, ...]) -> None:
    wrong = {"MESSAGE_BROKER_PORT": "x", "ULOS_MANAGEMENT_URL": "http://u:s3cret@host:15672"}

    ended = await ulos(*command, **site.environment(**wrong))

    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 2
    assert "ulos: ULOS_MANAGEMENT_URL: takes no credentials" in ended.stderr
    assert "s3cret" not in ended.stderr


@pytest.mark.parametrize(
    "away",
    [{"MESSAGE_BROKER_PORT": "1"}, {"MESSAGE_BROKER_PASSWORD": "wrong"}, {"ULOS_VIRTUAL_HOST": "nowhere"}],
    ids=str,
)
async def test_a_broker_that_does_not_let_us_in_ends_with_3_and_one_line(site: Site, away: dict[str, str]) -> None:
    ended = await ulos("topology", "check", **site.environment(**away))

    assert ended.returncode == 3
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"ulos: broker 127.0.0.1:{away.get('MESSAGE_BROKER_PORT', site.broker.port)}, virtual host")


async def test_an_interrupted_command_ends_with_130(site: Site) -> None:
    connected = asyncio.Event()
    server = await asyncio.start_server(lambda reader, writer: connected.set(), "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ulos_stream", "topology", "check",
            env={"PATH": os.environ["PATH"], **site.environment(MESSAGE_BROKER_PORT=port)},
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

        await connected.wait()
        command.send_signal(signal.SIGINT)
        _, said = await command.communicate()

    assert command.returncode == 130
    assert b"Traceback" not in said
