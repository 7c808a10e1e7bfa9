"""Secrets and access: passwords stay in the node, certificates are verified, and an ordinary user is enough."""

import asyncio
import contextlib
import json
import os
import secrets
import ssl
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from faststream.specification import AsyncAPI
from test_settings import ENVIRONMENT
from world import LIMIT_S, NodeProcess, Proxy, World, a_tree, a_world, a_zip

from ulos_stream import lab, shipped
from ulos_stream.app import create_app
from ulos_stream.executors import Job, Output
from ulos_stream.executors.descriptor import ContainerDescriptor, read_descriptor
from ulos_stream.executors.sandbox import configuration
from ulos_stream.lab import Broker, FtpServer
from ulos_stream.settings import read_settings

NOBODY = 65534
AS_NOBODY = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --bounding-set=-all --no-new-privs".split()


@pytest.fixture
async def world(broker: Broker, pyftpd_server: FtpServer) -> AsyncIterator[World]:
    """With the artifacts on an FTP server, so that the node knows two passwords."""
    async with a_world(broker, pyftpd_server.root) as world:
        world.settings = over_ftp(pyftpd_server)
        yield world


def over_ftp(server: FtpServer, url: str = "ftp://") -> dict[str, str]:
    return {
        "ULOS_STORAGE_URL": url,
        "REMOTE_STORAGE_HOST": server.host,
        "REMOTE_STORAGE_PORT": str(server.port),
        "REMOTE_STORAGE_USERNAME": server.username,
        "REMOTE_STORAGE_PASSWORD": server.password,
    }


# Passwords


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_neither_the_application_nor_its_asyncapi_document_shows_a_password(environment: None) -> None:
    app = create_app(read_settings())

    shown = [repr(app), *(repr(broker) for broker in app.brokers), AsyncAPI(*app.brokers).to_specification().to_json()]

    assert "broker.example" in shown[-1]
    assert [text for text in shown if "s3cret" in text] == []


CONTAINERS = [
    path for path in sorted(shipped("executors").glob("*/executor.toml")) if 'kind = "container"' in path.read_text()
]


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.parent.name)
def test_a_container_is_configured_without_anything_of_the_nodes_environment(
    environment: None, tmp_path: Path, path: Path
) -> None:
    descriptor = read_descriptor(path)
    assert isinstance(descriptor, ContainerDescriptor)

    with contextlib.closing(Output((tmp_path / "output").open("wb"), 100)) as output:
        shown = json.dumps(configuration(descriptor, Job(tmp_path, output, "m-1", "t-1"), tmp_path, node="n-1", cpus=2))

    assert "ulos.message" in shown
    assert [
        value for name, value in os.environ.items() if name in ENVIRONMENT and "PASSWORD" in name and value in shown
    ] == []


DEFECT = """
from ulos_stream import {module}
async def defective(*arguments, **options): raise LookupError("a defect")
{module}.{function} = defective
from faststream.__main__ import cli
cli()
"""
DEFECTS = {
    "at the start": ("topology", "Connecting.start"),
    "while it looks for its queue": ("topology", "Connecting.find_queue"),
    "in a stage": ("pipeline", "Pipeline.run"),
    "in a hop": ("publishing", "Outbox.hand_over"),
}


@pytest.mark.parametrize(("module", "function"), DEFECTS.values(), ids=DEFECTS)
async def test_the_traceback_of_a_defect_shows_no_password(world: World, module: str, function: str) -> None:
    await world.listen("next")
    await world.send(world.task(a_tree("pass", success=a_tree("next"))))

    async with world.node_process(DEFECT.format(module=module, function=function)) as node:
        assert node.process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            said = (await node.process.stderr.readuntil(b"a defect")).decode()
        with contextlib.suppress(ProcessLookupError):  # at the start it ends by itself
            node.process.terminate()
        said += await node.words()

    assert "LookupError" in said
    assert world.broker.password not in said
    assert world.settings["REMOTE_STORAGE_PASSWORD"] not in said


async def test_passwords_of_any_characters_open_the_broker_and_the_storage(tmp_path: Path) -> None:
    password = f"{secrets.token_hex(4)}@s/s:w%2F?&+ ="

    with lab.rabbitmq(password=password) as broker, lab.pyftpd(password=password + "\"'#`$(id)ñ") as storage:
        async with a_world(broker, storage.root) as world, world.node(**over_ftp(storage)):
            await world.send(world.task(a_tree("pass")))
            heard = await world.hear_the_end()

    assert heard[-1].event == "acknowledged"


# Certificates


@pytest.mark.parametrize("name", ["127.0.0.1", "another.example"])
async def test_a_broker_with_a_certificate_of_another_authority_or_name_is_not_logged_in_to(
    world: World, tmp_path: Path, name: str
) -> None:
    trusted, other = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    (other if name == "127.0.0.1" else trusted).issue_cert(name).configure_cert(tls)

    async with Proxy(world.broker.host, world.broker.port, tls).listening() as proxy:
        over_tls = {"MESSAGE_BROKER_PORT": str(proxy.port), "ULOS_BROKER_TLS": "true"}
        async with world.node_process(**over_tls, ULOS_BROKER_CA_FILE=str(tmp_path / "ca.pem")) as node:
            line = await node.says("waiting")

    assert "CERTIFICATE_VERIFY_FAILED" in line["reason"]


@pytest.mark.parametrize("name", ["127.0.0.1", "another.example"])
async def test_a_storage_with_a_certificate_of_another_authority_or_name_is_not_logged_in_to(
    world: World, tmp_path: Path, name: str
) -> None:
    trusted, other = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    with lab.pyftpd(tls=(other if name == "127.0.0.1" else trusted).issue_cert(name)) as server:
        over_tls = over_ftp(server, "ftps://") | {"ULOS_STORAGE_CA_FILE": str(tmp_path / "ca.pem")}
        async with world.node_process(**over_tls) as node:
            line = await node.says("waiting")

    assert "CERTIFICATE_VERIFY_FAILED" in line["reason"]


# An ordinary user


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else; whoever runs this is ordinary already"
)
async def test_a_node_needs_no_more_than_an_ordinary_user_may_do(world: World) -> None:
    if subprocess.run([*AS_NOBODY, sys.executable, "-c", "import ulos_stream.app"], capture_output=True).returncode:
        pytest.skip("this checkout is closed to ordinary users")
    task = world.task(a_tree("pass"))
    (world.artifacts / task["filePath"][1:]).write_bytes(a_zip(a_txt="a"))

    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        async with NodeProcess.running(world.environment(ULOS_WORK_DIR=directory), launcher=AS_NOBODY) as node:
            await node.says("ready")
            uids = Path(f"/proc/{node.process.pid}/status").read_text().partition("Uid:")[2].split()[:4]
            await world.send(task)
            heard = await world.hear_the_end()
            exit_code = await node.stop()
        left = os.listdir(directory)

    assert uids == [str(NOBODY)] * 4
    assert [message.event for message in heard if message.event in ("passed", "acknowledged")] == [
        "passed",
        "acknowledged",
    ]
    assert exit_code == 0
    assert left == []
    with zipfile.ZipFile(world.artifacts / task["filePath"][1:]) as archive:
        assert archive.namelist() == ["a.txt", f"output_{world.exchange.name}_pass.txt", ".ulos/journal.json"]
