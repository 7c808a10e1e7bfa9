"""The environment: fifteen variables by their exact names, one readable line per mistake."""

import os
import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest

from ulos_stream.errors import ConfigurationError
from ulos_stream.parts import open_storage
from ulos_stream.settings import BucketAccess, RemoteStorage, read_settings
from ulos_stream.storage.s3 import S3Storage
from ulos_stream.storage.sftp import SftpStorage
from ulos_stream.storage.urls import Bucket, bucket, folder

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
    assert isinstance(settings.storage, RemoteStorage)
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


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("gopher://x", "must begin with ftp://, ftps://, sftp://, s3:// or file:///"),
        (
            "ftp://one:123@host",
            "host, port and credentials belong into REMOTE_STORAGE_*; write ftp:// or ftps://",
        ),
        ("sftp://one@host/a", "host, port and credentials belong into REMOTE_STORAGE_*; write sftp:// or sftp:/// and"),
        ("file://relative", "must be file:/// and the absolute path of a folder"),
        ("s3://", "must be s3:// and a bucket"),
        ("s3://id:key@bucket", "must be s3:// and a bucket; credentials belong into REMOTE_STORAGE_*"),
        ("s3://bucket?acl=public", "there is no option 'acl', only endpoint, region and style"),
        ("s3://bucket?endpoint=minio:9000", "endpoint must be http:// or https:// and a host"),
        ("s3://bucket?endpoint=http://a:b@minio", "endpoint must be http:// or https:// and a host"),
        ("s3://bucket?style=new", "style must be path or virtual"),
    ],
)
def test_a_wrong_url_of_a_storage_is_one_line_that_says_how_one_looks(
    environment: pytest.MonkeyPatch, url: str, line: str
) -> None:
    environment.setenv("ULOS_STORAGE_URL", url)

    with pytest.raises(ConfigurationError) as refusal:
        read_settings()

    [mistake] = refusal.value.mistakes
    assert mistake.startswith(f"ULOS_STORAGE_URL: {line}")


@pytest.mark.parametrize("given", [("USERNAME", "PASSWORD"), ()], ids=["with", "without"])
def test_a_bucket_needs_credentials_or_none(environment: pytest.MonkeyPatch, given: tuple[str, ...]) -> None:
    environment.setenv("ULOS_STORAGE_URL", "s3://bucket")
    for name in {"HOST", "PORT", "USERNAME", "PASSWORD"} - {*given}:
        environment.delenv(f"REMOTE_STORAGE_{name}")

    settings = read_settings()

    assert isinstance(settings.storage, BucketAccess)
    assert settings.storage.username == (ENVIRONMENT["REMOTE_STORAGE_USERNAME"] if given else None)
    assert isinstance(open_storage(settings), S3Storage)


def test_half_of_the_credentials_of_a_bucket_is_a_mistake(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ULOS_STORAGE_URL", "s3://bucket")
    environment.delenv("REMOTE_STORAGE_USERNAME")

    with pytest.raises(ConfigurationError, match=r"^REMOTE_STORAGE_USERNAME and _PASSWORD: set both, or neither$"):
        read_settings()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b", Bucket("b", "", "https://s3.us-east-1.amazonaws.com", "us-east-1", False)),
        ("s3://b/", Bucket("b", "", "https://s3.us-east-1.amazonaws.com", "us-east-1", False)),
        ("s3://b/a/b%20c/?region=r-1", Bucket("b", "a/b c", "https://s3.r-1.amazonaws.com", "r-1", False)),
        ("s3://b?style=virtual&region=r-1", Bucket("b", "", "https://b.s3.r-1.amazonaws.com", "r-1", True)),
        ("s3://b?endpoint=http://minio:9000/", Bucket("b", "", "http://minio:9000", "us-east-1", False)),
        (
            "s3://b?endpoint=https://oss.example:1&style=virtual",
            Bucket("b", "", "https://b.oss.example:1", "us-east-1", True),
        ),
    ],
)
def test_the_url_of_a_bucket_says_which_and_where(url: str, expected: Bucket) -> None:
    assert bucket(url) == expected


@pytest.mark.parametrize(("url", "expected"), [("sftp://", ""), ("sftp:///", ""), ("sftp:///srv/a%20b/", "/srv/a b")])
def test_the_url_of_an_sftp_server_may_name_a_folder(url: str, expected: str) -> None:
    assert folder(url) == expected


@pytest.mark.parametrize("content", ["", "-----BEGIN OPENSSH PRIVATE KEY-----"])
def test_a_file_without_a_private_key_is_one_line(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    (tmp_path / "key").write_text(content)
    environment.setenv("ULOS_STORAGE_URL", "sftp://")
    environment.setenv("ULOS_STORAGE_PRIVATE_KEY_FILE", str(tmp_path / "key"))

    with pytest.raises(ConfigurationError) as refusal:
        open_storage(read_settings())

    [mistake] = refusal.value.mistakes
    assert mistake.startswith(f"{tmp_path}/key: holds no private key that REMOTE_STORAGE_PASSWORD opens: ")


def test_a_private_key_may_have_a_passphrase(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passphrase = ENVIRONMENT["REMOTE_STORAGE_PASSWORD"]
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "key", "pkcs8-pem", passphrase)
    environment.setenv("ULOS_STORAGE_URL", "sftp://")
    environment.setenv("ULOS_STORAGE_PRIVATE_KEY_FILE", str(tmp_path / "key"))

    storage = open_storage(read_settings())

    assert isinstance(storage, SftpStorage)
    assert storage.private_key is not None
    assert "s3cret" not in repr(storage)


WITHOUT = """
import sys
sys.modules[{package!r}] = None
from faststream.__main__ import cli
cli()
"""


@pytest.mark.parametrize(("scheme", "package"), [("sftp", "asyncssh"), ("s3", "obstore")])
def test_an_extra_that_is_missing_is_one_line_that_says_how_to_install_it(scheme: str, package: str) -> None:
    environment = {"PATH": os.environ["PATH"], **ENVIRONMENT, "ULOS_STORAGE_URL": f"{scheme}://bucket"}
    environment |= {"ULOS_STORAGE_URL": "sftp://"} if scheme == "sftp" else {}
    program = WITHOUT.format(package=package)

    ended = subprocess.run(
        [sys.executable, "-c", program, "run", "ulos_stream.app:app"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"ulos-stream: ULOS_STORAGE_URL: {scheme}:// needs {package}, which is not installed: "
        f"pip install 'ulos-stream[{scheme}]'"
    ]


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
    [
        ("ULOS_JOURNAL_KEY", "hunter2"),
        ("ULOS_MANAGEMENT_URL", "ftp://admin:hunter2@nowhere"),
        ("ULOS_STORAGE_URL", "sftp://one:hunter2@host"),
    ],
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
