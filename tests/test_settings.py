"""The environment: fifteen variables by their exact names, one readable line per mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ulos_stream.errors import ConfigurationError
from ulos_stream.settings import read_settings

ENVIRONMENT = {
    "MESSAGE_BROKER_HOST": "broker.example",
    "MESSAGE_BROKER_PORT": "5672",
    "MESSAGE_BROKER_USERNAME": "guest",
    "MESSAGE_BROKER_PASSWORD": "s3cret-broker",
    "MESSAGE_BROKER_LOGS_EXCHANGE": "processing-exchange",
    "MESSAGE_BROKER_LOGS_ROUTING_KEY": "task.log",
    "MESSAGE_BROKER_CRASH_EXCHANGE": "processing-exchange",
    "MESSAGE_BROKER_CRASH_ROUTING_KEY": "task.crashed",
    "MESSAGE_BROKER_CONSUMPTION_QUEUE": "processing-queue",
    "MESSAGE_BROKER_PREFETCH_COUNT": "0",
    "MESSAGE_BROKER_REQUEUE_ON_REJECT": "false",
    "REMOTE_STORAGE_HOST": "storage.example",
    "REMOTE_STORAGE_PORT": "21",
    "REMOTE_STORAGE_USERNAME": "one",
    "REMOTE_STORAGE_PASSWORD": "s3cret-storage",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("MESSAGE_BROKER_", "REMOTE_STORAGE_", "ULOS_")):
            monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_fifteen_variables_are_enough(environment: pytest.MonkeyPatch) -> None:
    settings = read_settings()

    assert settings.broker.consumption_queue == "processing-queue"
    assert settings.broker.requeue_on_reject is False
    assert settings.storage is not None
    assert settings.storage.port == 21
    assert settings.stages_at_once >= 4


def test_the_prefetch_count_is_how_many_stages_run_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MESSAGE_BROKER_PREFETCH_COUNT", "7")
    environment.setenv("ULOS_CONCURRENCY", "3")

    assert read_settings().stages_at_once == 7


def test_a_prefetch_count_of_0_leaves_it_to_the_concurrency(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ULOS_CONCURRENCY", "3")

    assert read_settings().stages_at_once == 3


def test_every_missing_variable_has_a_line_of_its_own(environment: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        environment.delenv(name)

    with pytest.raises(ConfigurationError) as refusal:
        read_settings()

    assert sorted(refusal.value.mistakes) == sorted(f"{name}: is not set" for name in ENVIRONMENT)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("MESSAGE_BROKER_PORT", "rabbit", "MESSAGE_BROKER_PORT: input should be a valid integer"),
        ("MESSAGE_BROKER_PORT", "70000", "MESSAGE_BROKER_PORT: input should be less than or equal to 65535"),
        ("MESSAGE_BROKER_HOST", "", "MESSAGE_BROKER_HOST: string should have at least 1 character"),
        ("MESSAGE_BROKER_PREFETCH_COUNT", "-1", "MESSAGE_BROKER_PREFETCH_COUNT: input should be greater than"),
        ("MESSAGE_BROKER_REQUEUE_ON_REJECT", "perhaps", "MESSAGE_BROKER_REQUEUE_ON_REJECT: input should be a valid bo"),
        ("ULOS_STORAGE_URL", "gopher://x", "ULOS_STORAGE_URL: must begin with ftp://, ftps:// or file:///"),
        ("ULOS_STORAGE_URL", "ftp://one:123@host", "ULOS_STORAGE_URL: host, port and credentials belong into REMOTE_"),
        ("ULOS_STORAGE_URL", "file://relative", "ULOS_STORAGE_URL: must be file:/// and the absolute path"),
        ("ULOS_BROKER_CA_FILE", "/nowhere.pem", "ULOS_BROKER_CA_FILE: there is no file /nowhere.pem"),
        ("ULOS_GRACE_S", "soon", "ULOS_GRACE_S: input should be a valid number"),
        ("ULOS_ARCHIVE_ENTRIES", "many", "ULOS_ARCHIVE_ENTRIES: input should be a valid integer"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_variable_and_value(
    environment: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(ConfigurationError) as refusal:
        read_settings()

    [mistake] = refusal.value.mistakes
    assert mistake.startswith(line)
    assert repr(value) in mistake or value in mistake


def test_an_option_in_a_nested_group_is_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ULOS_ARCHIVE_ZIP_MIB", "7")

    assert read_settings().node.archive.zip_mib == 7


def test_lists_are_separated_as_their_docstrings_say(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ULOS_EXECUTORS_PATH", "/srv/a:/srv/b")
    environment.setenv("ULOS_REQUIRE_EXECUTORS", "skip,cypress-grammar")

    node = read_settings().node

    assert node.executors_path == (Path("/srv/a"), Path("/srv/b"))
    assert node.require_executors == ("skip", "cypress-grammar")


def test_a_folder_as_storage_needs_no_ftp_server(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ULOS_STORAGE_URL", "file:///srv/artifacts")
    for name in ENVIRONMENT:
        if name.startswith("REMOTE_STORAGE_"):
            environment.delenv(name)

    assert read_settings().storage is None


def test_no_repr_shows_a_password(environment: pytest.MonkeyPatch) -> None:
    shown = repr(read_settings())

    assert "s3cret" not in shown
    assert "guest" in shown


def test_a_wrong_password_variable_is_refused_without_showing_any(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MESSAGE_BROKER_PORT", "x")

    with pytest.raises(ConfigurationError) as refusal:
        read_settings()

    assert "s3cret" not in str(refusal.value)


def faststream_run(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "faststream", "run", "ulos_stream.app:app"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_a_wrong_environment_ends_the_start_with_exit_code_2_and_a_line_each() -> None:
    environment = {"PATH": os.environ["PATH"], **ENVIRONMENT, "MESSAGE_BROKER_PORT": "x"}
    del environment["REMOTE_STORAGE_HOST"]

    ended = faststream_run(environment)

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "ulos-stream: MESSAGE_BROKER_PORT: input should be a valid integer, unable to parse string as an integer"
        " (it is 'x')",
        "ulos-stream: REMOTE_STORAGE_HOST: is not set",
    ]


def test_importing_the_app_module_has_no_side_effect() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import ulos_stream.app"], env={}, capture_output=True, text=True, timeout=60
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_required_executor_that_nobody_claims_ends_the_start() -> None:
    environment = {"PATH": os.environ["PATH"], **ENVIRONMENT, "ULOS_REQUIRE_EXECUTORS": "skip,nobody"}

    ended = faststream_run(environment)

    assert ended.returncode == 2
    assert ended.stderr.startswith("ulos-stream: ULOS_REQUIRE_EXECUTORS: no executor claims the routing key 'nobody'")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ULOS_JOURNAL_KEY", "hunter2"), ("ULOS_MANAGEMENT_URL", "ftp://admin:hunter2@nowhere")],
)
def test_a_wrong_secret_is_named_and_not_repeated(environment: pytest.MonkeyPatch, variable: str, value: str) -> None:
    environment.setenv(variable, value)

    with pytest.raises(ConfigurationError, match=variable) as refusal:
        read_settings()

    assert "hunter2" not in str(refusal.value)


def test_the_container_engine_is_where_dockers_own_variables_say(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DOCKER_HOST", "tcp://engine.example:2376")
    environment.setenv("DOCKER_CERT_PATH", "/certificates")
    unverified = read_settings().node
    environment.setenv("DOCKER_TLS_VERIFY", "1")
    verified = read_settings().node
    environment.setenv("ULOS_DOCKER_HOST", "unix:///run/other.sock")
    own = read_settings().node

    assert (unverified.docker_host, unverified.docker_cert_path) == ("tcp://engine.example:2376", None)
    assert verified.docker_cert_path == Path("/certificates")
    assert own.docker_host == "unix:///run/other.sock"


@pytest.mark.parametrize("address", ["tcp://engine.example", "tcp://:2376", "tcp://[::1", "tcp://engine:99999"])
def test_a_wrong_address_of_the_engine_is_a_line(environment: pytest.MonkeyPatch, address: str) -> None:
    environment.setenv("DOCKER_HOST", address)

    with pytest.raises(ConfigurationError) as raised:
        read_settings()

    [mistake] = raised.value.mistakes
    assert mistake.startswith("ULOS_DOCKER_HOST: ")
