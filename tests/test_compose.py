"""compose.yaml: what its services are told, and the commands they run. It starts images that only a registry has."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import required
from world import NodeProcess, ulos

from ulos_stream import lab
from ulos_stream.lab import Broker, FtpServer
from ulos_stream.settings import MessageBroker, Node, RemoteStorage, read_settings

REPOSITORY = Path(__file__).parent.parent
SECRETS = {"BROKER_PASSWORD": "of-broker", "STORAGE_PASSWORD": "of-storage", "JOURNAL_KEY": "0123456789abcdef"}
COMPOSED = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]


def environment(service: str) -> dict[str, str]:
    """What a service is told, with the secrets of `.env` in place."""
    told = SERVICES[service]["environment"]
    return {name: re.sub(r"\$\{(\w+):\?.*?\}", lambda secret: SECRETS[secret[1]], told[name]) for name in told}


def test_compose_accepts_it_and_refuses_it_without_its_secrets(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("there is no docker-compose: apt-get install docker-compose")
    command = [program, "--file", str(REPOSITORY / "compose.yaml"), "--env-file", str(tmp_path / "env"), "config", "-q"]

    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    accepted = subprocess.run(command, capture_output=True, text=True, check=False)
    (tmp_path / "env").write_text("")
    refused = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert refused.returncode != 0
    assert "is to be set in .env" in refused.stderr


def test_every_variable_that_nodes_are_told_is_one_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = (MessageBroker, RemoteStorage, Node)
    known = {
        f"{section.model_config['env_prefix']}{name.upper()}" for section in sections for name in section.model_fields
    }
    for name, value in environment("node").items():
        monkeypatch.setenv(name, value)

    settings = read_settings()

    assert set(environment("node")) <= known
    assert settings.broker.host in SERVICES
    assert isinstance(settings.storage, RemoteStorage)
    assert settings.storage.host in SERVICES
    assert all(SERVICES[name]["environment"] == SERVICES["node"]["environment"] for name in ("topology", "ulos"))


def test_servers_and_nodes_agree_on_their_passwords() -> None:
    told = environment("node")

    assert environment("rabbitmq")["RABBITMQ_DEFAULT_PASS"] == told["MESSAGE_BROKER_PASSWORD"]
    user, password, *_ = environment("ftp")["USERS"].split("|")
    assert (user, password) == (told["REMOTE_STORAGE_USERNAME"], told["REMOTE_STORAGE_PASSWORD"])


def test_no_secret_is_written_down_in_it_or_goes_into_the_image_or_the_repository() -> None:
    assert not re.search(r"(_PASSWORD|_PASS|JOURNAL_KEY): (?!\$\{)", (REPOSITORY / "compose.yaml").read_text())
    assert ".env" in (REPOSITORY / ".gitignore").read_text().splitlines()
    assert (REPOSITORY / ".dockerignore").read_text().startswith("*\n")


def test_nodes_start_when_their_queue_is_there_and_end_after_their_stages() -> None:
    node = SERVICES["node"]

    assert node["depends_on"]["topology"]["condition"] == "service_completed_successfully"
    assert node["deploy"]["replicas"] == 2
    assert int(node["stop_grace_period"].rstrip("s")) > Node().grace_s


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker of its own: what its topology declares has the names that other tests use, too."""
    with required(), lab.rabbitmq() as broker:
        yield broker


async def test_its_commands_and_those_of_the_readme_carry_a_sample_through_a_node(
    own_broker: Broker, pyftpd_server: FtpServer, tmp_path: Path
) -> None:
    here = {
        "PATH": "/usr/bin:/bin",
        **environment("node"),
        "MESSAGE_BROKER_HOST": own_broker.host,
        "MESSAGE_BROKER_PORT": str(own_broker.port),
        "MESSAGE_BROKER_USERNAME": own_broker.username,
        "MESSAGE_BROKER_PASSWORD": own_broker.password,
        "REMOTE_STORAGE_HOST": pyftpd_server.host,
        "REMOTE_STORAGE_PORT": str(pyftpd_server.port),
        "REMOTE_STORAGE_USERNAME": pyftpd_server.username,
        "REMOTE_STORAGE_PASSWORD": pyftpd_server.password,
    }
    [line] = re.findall(r"docker compose run --rm ulos (submit .*)", (REPOSITORY / "README.md").read_text())
    program, *apply = SERVICES["topology"]["command"]
    submit = [
        str(REPOSITORY / word) if word.startswith("samples/") else word for word in shlex.split(line, comments=True)
    ]

    applied = await ulos(*apply, **here)
    async with NodeProcess.running(here) as node:
        await node.says("ready")
        submitted = await ulos(*submit, **here)

    assert program == "ulos"
    assert (applied.returncode, applied.stderr) == (0, "")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
