"""`ulos doctor`: faults are planted one by one, and each is found, with everything else still well."""

import contextlib
import json
import os
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import obstore
import pytest
from api_server import NO_NETWORK, ApiServer
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer
from servers import S3Server, SftpServer
from test_topology import api
from workbench import Line, RemoteLine
from world import World, a_world, ulos

from ulos_stream.doctor.storage import skew_s
from ulos_stream.lab import Broker

WELL = {
    "broker", "queue", "logs", "crashes", "leases", "storage", "upload", "download", "overwrite", "removal", "clock",
    "disk", "mounts", "engine", "executors",
}  # fmt: skip
Found = dict[str, tuple[str, str, str]]
"""State, text and remedy of each part."""


@pytest.fixture
async def world(managed_broker: Broker, docker: str, tmp_path: Path) -> AsyncIterator[World]:
    """With nothing wrong: an FTP server, and one executor whose image is there."""
    (tmp_path / "ftp").mkdir()
    (tmp_path / "executors" / "hello").mkdir(parents=True)
    descriptor = f'kind = "container"\nrouting_key = "hello"\nimage = "{docker}"\ndevice = "arm-1"\n'
    (tmp_path / "executors" / "hello" / "executor.toml").write_text(descriptor)
    async with a_world(managed_broker, tmp_path / "ftp") as world:
        with an_ftp_server(tmp_path / "ftp") as port:
            world.settings |= {
                "ULOS_EXECUTORS_PATH": str(tmp_path / "executors"),
                "ULOS_WORK_DIR": str(tmp_path),
                **at(port),
            }
            yield world
        assert list((tmp_path / "ftp").iterdir()) == []  # nothing is left behind
        assert list(tmp_path.glob("ulos-*")) == []


@contextlib.contextmanager
def an_ftp_server(root: Path, permissions: str = "elradfmwMT", **replaced: object) -> Iterator[int]:
    """An FTP server of which some commands do something else; gives its port."""
    loop = IOLoop()
    users = DummyAuthorizer()
    users.add_user("ulos", "right", str(root), perm=permissions)
    handler = type("Handler", (FTPHandler,), {"authorizer": users, "auth_failed_timeout": 0, **replaced})
    server = FTPServer(("127.0.0.1", 0), handler, ioloop=loop)
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            loop.loop(timeout=0.05, blocking=False)
        server.close_all()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield server.address[1]
    finally:
        ending.set()
        serving.join()


def at(port: int, password: str = "right") -> dict[str, str]:
    """The settings of such a server."""
    return {
        "ULOS_STORAGE_URL": "ftp://",
        "REMOTE_STORAGE_HOST": "127.0.0.1",
        "REMOTE_STORAGE_PORT": str(port),
        "REMOTE_STORAGE_USERNAME": "ulos",
        "REMOTE_STORAGE_PASSWORD": password,
    }


async def examine(world: World, *arguments: str, **changes: str) -> tuple[int, Found]:
    """Exit code, and all that is not well."""
    ended = await ulos("doctor", *arguments, "--json", **world.environment(**changes))
    assert ended.stderr == ""
    found = json.loads(ended.stdout)
    assert {one["part"] for one in found} >= WELL - {"clock"}
    ill = [one for one in found if one["state"] != "well"]
    return ended.returncode, {one["part"]: (one["state"], one["text"], one["remedy"]) for one in ill}


def states(found: Found) -> dict[str, str]:
    return {part: state for part, (state, _, _) in found.items()}


async def test_where_all_is_well_each_thing_is_a_line_with_a_mark(world: World) -> None:
    ended = await ulos("doctor", **world.environment())

    marks = [line.split()[0] for line in ended.stdout.splitlines()]
    assert (ended.returncode, ended.stderr) == (0, "")
    assert marks == ["✓"] * len(WELL)
    assert {line.split()[1].rstrip(":") for line in ended.stdout.splitlines()} == WELL


async def test_a_fault_is_a_line_with_its_remedy_and_the_exit_code_is_1(world: World) -> None:
    ended = await ulos("doctor", **world.environment(MESSAGE_BROKER_CONSUMPTION_QUEUE="missing"))

    line = "✗ queue: queue 'missing' does not exist → ulos topology apply makes what is missing"
    assert ended.returncode == 1
    assert line in ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("changes", "words", "remedy"),
    [
        ({"MESSAGE_BROKER_PASSWORD": "wrong"}, "ACCESS_REFUSED", "MESSAGE_BROKER_PASSWORD"),
        ({"MESSAGE_BROKER_PORT": "1"}, "127.0.0.1:1", "that RabbitMQ runs"),
        ({"ULOS_VIRTUAL_HOST": "missing"}, "'missing'", "ULOS_VIRTUAL_HOST"),
    ],
    ids=["wrong password", "closed port", "no virtual host"],
)
async def test_a_broker_that_does_not_let_us_in_is_found(
    world: World, changes: dict[str, str], words: str, remedy: str
) -> None:
    code, found = await examine(world, **changes)

    unseen = dict.fromkeys(("queue", "logs", "crashes", "leases"), "not checked")
    assert (code, states(found)) == (1, {"broker": "wrong", **unseen})
    assert words in found["broker"][1]
    assert remedy in found["broker"][2]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"MESSAGE_BROKER_CONSUMPTION_QUEUE": "missing"}, "queue"),
        ({"MESSAGE_BROKER_LOGS_EXCHANGE": "missing"}, "logs"),
        ({"MESSAGE_BROKER_CRASH_EXCHANGE": "missing"}, "crashes"),
        ({"MESSAGE_BROKER_CRASH_EXCHANGE": "", "MESSAGE_BROKER_CRASH_ROUTING_KEY": "missing"}, "crashes"),
    ],
    ids=["no queue", "no logs exchange", "no crash exchange", "no crash queue"],
)
async def test_what_is_missing_on_the_broker_is_found(world: World, changes: dict[str, str], part: str) -> None:
    code, found = await examine(world, **changes)

    assert (code, states(found)) == (1, {part: "wrong"})
    assert "'missing' does not exist" in found[part][1]


@pytest.mark.parametrize(
    ("permission", "parts", "state"),
    [("write", ["logs", "crashes"], "wrong"), ("read", ["queue"], "wrong"), ("configure", ["leases"], "doubtful")],
)
async def test_a_user_who_may_not_publish_or_consume_is_found_and_nothing_is_delivered(
    world: World, permission: str, parts: list[str], state: str
) -> None:
    user = f"user-{uuid.uuid4()}"
    api(world.broker, "PUT", f"/users/{user}", password="p", tags="")
    permissions = {"configure": ".*", "write": ".*", "read": ".*", permission: "^$"}
    api(world.broker, "PUT", f"/permissions/%2F/{user}", **permissions)
    await world.send(b"untouched")

    code, found = await examine(world, MESSAGE_BROKER_USERNAME=user, MESSAGE_BROKER_PASSWORD="p")

    assert states(found) == dict.fromkeys(parts, state)
    assert code == (1 if state == "wrong" else 0)
    assert all("ACCESS_REFUSED" in text and permission.upper() in remedy for _, text, remedy in found.values())
    message = await world.tasks.get(no_ack=True)
    assert (message.body, message.redelivered) == (b"untouched", False)
    assert await world.count(world.told) == 0


async def test_an_ftp_server_that_is_away_or_refuses_the_password_is_found(world: World) -> None:
    port = int(world.settings["REMOTE_STORAGE_PORT"])

    away_code, away = await examine(world, **at(1))
    refused_code, refused = await examine(world, **at(port, password="wrong"))

    unseen = dict.fromkeys(("upload", "download", "overwrite", "removal"), "not checked")
    assert (away_code, states(away)) == (1, {"storage": "wrong", **unseen})
    assert (refused_code, states(refused)) == (1, {"storage": "wrong", **unseen})
    assert "530" in refused["storage"][1]


def refuse_to_overwrite(handler: FTPHandler, path: str) -> None:
    if os.path.exists(path):
        handler.respond("550 There is such a file.")
    else:
        FTPHandler.ftp_RNTO(handler, path)


@pytest.mark.parametrize(
    ("permissions", "replaced", "expected"),
    [
        ("elradmwMT", {}, {"upload": "wrong", "download": "not checked", "overwrite": "not checked"}),
        ("elradfmMT", {}, {"upload": "wrong", "download": "not checked", "overwrite": "not checked"}),
        ("eladfmwMT", {}, {"download": "wrong", "overwrite": "not checked"}),
        ("elradfmwMT", {"ftp_RNTO": refuse_to_overwrite}, {"overwrite": "wrong"}),
    ],
    ids=["no rename", "no write", "no read", "no overwriting rename"],
)
async def test_an_ftp_user_who_may_not_do_all_that_a_node_does_is_found(
    world: World, tmp_path: Path, permissions: str, replaced: dict[str, object], expected: dict[str, str]
) -> None:
    with an_ftp_server(tmp_path / "ftp", permissions, **replaced) as port:
        code, found = await examine(world, **at(port))

    if expected.get("upload"):
        expected = {**expected, "removal": "not checked"}
    assert (code, states(found)) == (1, expected)


async def test_an_sftp_server_is_well_and_nothing_is_left(world: World, sftp_server: SftpServer) -> None:
    code, found = await examine(world, **sftp_server.settings())

    assert (code, states(found)) == (0, {})
    assert list(sftp_server.root.iterdir()) == []


async def test_an_sftp_server_that_is_not_known_is_found_with_the_command_that_makes_it_known(
    world: World, sftp_server: SftpServer, tmp_path: Path
) -> None:
    (tmp_path / "known").touch()

    code, found = await examine(world, **sftp_server.settings() | {"ULOS_STORAGE_KNOWN_HOSTS": str(tmp_path / "known")})

    assert (code, found["storage"][0]) == (1, "wrong")
    assert f"ssh-keyscan -p {sftp_server.port} 127.0.0.1 >> {tmp_path / 'known'}" in found["storage"][1]


async def test_a_bucket_is_well_and_nothing_is_left(world: World, s3_server: S3Server) -> None:
    code, found = await examine(world, **s3_server.settings())

    assert (code, states(found)) == (0, {"clock": "not checked"})
    assert [found for page in obstore.list(s3_server.store()) for found in page] == []


async def test_a_bucket_that_is_not_there_is_found(world: World, s3_server: S3Server) -> None:
    url = s3_server.url().replace("s3://artifacts", "s3://another")

    code, found = await examine(world, **s3_server.settings() | {"ULOS_STORAGE_URL": url})

    assert (code, found["storage"][0]) == (1, "wrong")
    assert "NoSuchBucket" in found["storage"][1]


async def test_an_ftp_user_who_may_not_remove_is_found(world: World, tmp_path: Path) -> None:
    with an_ftp_server(tmp_path / "ftp", "elrafmwMT") as port:
        code, found = await examine(world, **at(port))
    for left in (tmp_path / "ftp").iterdir():
        left.unlink()

    assert (code, states(found)) == (1, {"removal": "wrong"})


async def test_a_folder_of_the_storage_can_be_looked_at_instead(world: World, tmp_path: Path) -> None:
    code, found = await examine(world, "--folder", "/missing/")

    assert code == 1
    assert states(found)["upload"] == "wrong"
    assert "in /missing/" in found["upload"][2]


def tell_another_time(handler: FTPHandler, path: str) -> None:
    handler.respond("213 20200101000000")


def tell_no_time(handler: FTPHandler, path: str) -> None:
    handler.respond("502 Not implemented.")


@pytest.mark.parametrize(
    ("mdtm", "words"), [(tell_another_time, "s behind this machine's"), (tell_no_time, "(MDTM)")], ids=["skew", "none"]
)
async def test_a_clock_that_is_wrong_or_silent_is_a_doubt(
    world: World, tmp_path: Path, mdtm: object, words: str
) -> None:
    with an_ftp_server(tmp_path / "ftp", ftp_MDTM=mdtm) as port:
        code, found = await examine(world, **at(port))

    assert (code, states(found)) == (0, {"clock": "doubtful"})
    assert words in found["clock"][1]


@pytest.mark.parametrize(
    ("modified", "ahead_s"),
    [
        ("20010909014640", 0.0),  # 1,000,000,000 s since the epoch
        ("20010909014642.125", 0.0),
        ("20010909014655", 12.5),
        ("20010909014630", -9.5),
        ("1000000000", 0.0),
        ("1000000015", 12.5),
        ("1000000000000000000", None),
        ("yesterday", None),
    ],
)
def test_a_skew_is_what_the_duration_of_the_upload_and_whole_seconds_do_not_explain(
    modified: str, ahead_s: float | None
) -> None:
    assert skew_s(modified, began_s=1_000_000_000.5, ended_s=1_000_000_002.5) == ahead_s


@pytest.mark.parametrize(("required", "state", "code"), [("", "doubtful", 0), ("hello", "wrong", 1)])
async def test_an_engine_that_is_away_is_wrong_where_its_executors_are_required(
    world: World, required: str, state: str, code: int
) -> None:
    changes = {"ULOS_DOCKER_HOST": "unix:///nonexistent", "ULOS_REQUIRE_EXECUTORS": required}

    ended, found = await examine(world, **changes)

    assert (ended, states(found)) == (code, {"engine": state})


async def test_an_engine_that_answers_and_cannot_hold_its_limits_is_found(world: World) -> None:
    async with Line() as line:
        line.replies = {b'"SwapLimit":true': b'"SwapLimit":null'}
        code, found = await examine(world, DOCKER_HOST=line.host, ULOS_REQUIRE_EXECUTORS="hello")

    assert (code, states(found)) == (1, {"engine": "wrong"})
    assert "it cannot limit swap (the kernel may need swapaccount=1)" in found["engine"][1]
    assert "start Docker" not in found["engine"][2]


@pytest.mark.parametrize(("policies", "state"), [([NO_NETWORK], "well"), ([], "doubtful")], ids=["one", "none"])
async def test_a_cluster_without_a_policy_against_the_network_is_found(
    world: World, docker: str, tmp_path: Path, policies: list[object], state: str
) -> None:
    (tmp_path / "cluster").mkdir()
    changes = {"ULOS_ENGINE": "kubernetes", "ULOS_KUBERNETES_CARRIER_IMAGE": docker}

    async with ApiServer(tmp_path / "cluster") as server:
        server.policies = policies
        _, found = await examine(world, KUBECONFIG=str(server.kubeconfig), **changes)

    engine, _, remedy = found.get("engine", ("well", "", ""))
    assert engine == state
    assert ("docs/kubernetes.md" in remedy) == (state == "doubtful")
    assert found["mounts"][0] == "not checked"


async def test_a_remote_engine_is_well_by_tls_and_doubtful_without(world: World, tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    async with RemoteLine(tmp_path / "client") as secret, RemoteLine(None) as plain:
        tls = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path / "client")}
        by_tls = await examine(world, DOCKER_HOST=secret.host, **tls)
        code, found = await examine(world, DOCKER_HOST=plain.host)

    assert by_tls == (0, {})
    assert (code, states(found)) == (0, {"engine": "doubtful"})
    assert f"at {plain.host} answers" in found["engine"][1]
    assert "copied there and back" in found["engine"][1]
    assert "DOCKER_TLS_VERIFY=1" in found["engine"][2]


async def test_a_remote_engine_that_is_away_is_said_with_what_to_look_at(world: World) -> None:
    _, found = await examine(world, DOCKER_HOST="tcp://127.0.0.1:1")

    assert "cannot be reached" in found["engine"][1]
    assert "cert.pem and key.pem in DOCKER_CERT_PATH" in found["engine"][2]


@pytest.mark.parametrize(("required", "state", "code"), [("", "doubtful", 0), ("draw", "wrong", 1)])
async def test_an_image_that_is_missing_is_wrong_where_it_is_required(
    world: World, tmp_path: Path, required: str, state: str, code: int
) -> None:
    (tmp_path / "executors" / "draw").mkdir()
    descriptor = 'kind = "container"\nrouting_key = "draw"\nimage = "ulos-test/none"\n'
    (tmp_path / "executors" / "draw" / "executor.toml").write_text(descriptor)

    ended, found = await examine(world, ULOS_REQUIRE_EXECUTORS=required)

    assert (ended, states(found)) == (code, {"executor": state})
    assert "docker pull ulos-test/none" in found["executor"][2]


async def test_a_required_executor_that_nobody_claims_is_found(world: World) -> None:
    code, found = await examine(world, ULOS_REQUIRE_EXECUTORS="nobody")

    assert (code, states(found)) == (1, {"executor": "wrong"})


async def test_a_work_directory_that_is_missing_full_or_small_is_found(world: World, tmp_path: Path) -> None:
    small, full = tmp_path / "small", tmp_path / "full"
    for directory, size in ((small, "40m"), (full, "512k")):
        directory.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("only root can mount a small disk")

    missing_code, missing = await examine(world, ULOS_WORK_DIR=str(tmp_path / "missing"))
    full_code, found_full = await examine(world, ULOS_WORK_DIR=str(full))
    small_code, found_small = await examine(world, ULOS_WORK_DIR=str(small))

    assert (missing_code, states(missing)) == (1, {"disk": "wrong", "mounts": "not checked"})
    assert (full_code, states(found_full)) == (1, {"disk": "wrong", "mounts": "not checked"})
    assert "No space left" in found_full["disk"][1]
    assert (small_code, states(found_small)) == (0, {"disk": "doubtful"})
    assert list(full.iterdir()) == list(small.iterdir()) == []


async def test_missing_settings_end_it_with_2_and_a_line_each() -> None:
    ended = await ulos("doctor")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 15
