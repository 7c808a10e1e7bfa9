"""Services for the tests: each worker starts its own, on free ports, once it needs one.

Passwords are drawn, so that a test can look for them in whatever leaves a node.
"""

import contextlib
import functools
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from servers import S3Server, SftpServer

from ulos_stream import lab, shipped
from ulos_stream.errors import ServiceMissing
from ulos_stream.executors.descriptor import ContainerDescriptor, read_descriptor
from ulos_stream.executors.disk import release
from ulos_stream.images import build, local_image
from ulos_stream.lab import Broker, FtpServer

STAND_INS = Path(__file__).parent / "images" / "stand_ins"
"""By executor: a base for its image."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and what the tests start would inherit that Ctrl-C means nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def required() -> Iterator[None]:
    """A missing service skips locally, and fails in CI."""
    try:
        yield
    except ServiceMissing as missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A directory of the test's own, below which nothing stays mounted."""
    yield tmp_path
    release(tmp_path)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    with required(), lab.rabbitmq(password=f"broker-{secrets.token_hex(8)}") as broker:
        yield broker


@pytest.fixture(scope="session")
def managed_broker() -> Iterator[Broker]:
    """A broker that serves the management API too."""
    with required(), lab.rabbitmq(management=True) as broker:
        yield broker


@pytest.fixture(scope="session")
def vsftpd_server() -> Iterator[FtpServer]:
    with required(), lab.vsftpd() as server:
        yield server


@pytest.fixture(scope="session")
def pyftpd_server() -> Iterator[FtpServer]:
    with lab.pyftpd(password=f"storage-{secrets.token_hex(8)}") as server:
        yield server


@pytest.fixture(params=["vsftpd_server", "pyftpd_server"], ids=["vsftpd", "pyftpdlib"])
def ftp_server(request: pytest.FixtureRequest) -> Iterator[FtpServer]:
    """Tests that use it run against both, each on an empty server; they may stop it."""
    server: FtpServer = request.getfixturevalue(request.param)
    _clear(server)  # those that use a server by its own name leave files
    yield server
    server.stop()
    _clear(server)
    server.start()


@pytest.fixture(scope="session")
def sshd_server() -> Iterator[SftpServer]:
    with required(), servers.sshd() as server:
        yield server


@pytest.fixture
def sftp_server(sshd_server: SftpServer) -> Iterator[SftpServer]:
    """An empty server, which tests may stop."""
    yield sshd_server
    sshd_server.stop()
    _clear(sshd_server)
    sshd_server.start()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture
def s3_server(moto_server: S3Server) -> S3Server:
    """A server with an empty bucket; tests may stop it."""
    if moto_server.server.process is None:
        moto_server.start()
    moto_server.make_bucket()
    return moto_server


def _clear(server: FtpServer | SftpServer) -> None:
    for left in server.root.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


@pytest.fixture(scope="session")
def docker() -> str:
    """A container engine that answers; the name of an image on it whose `run` says hello."""
    with required():
        return local_image("ulos-test/hello", "echo hello\n")


@pytest.fixture
def no_image(tmp_path: Path) -> Path:
    """A folder of executors whose only one, `no-image`, can never run: its image is not there."""
    folder = tmp_path / "executors" / "no-image"
    folder.mkdir(parents=True)
    descriptor = 'kind = "container"\nrouting_key = "no-image"\nimage = "ulos-test/no-such-image"\n'
    (folder / "executor.toml").write_text(descriptor)
    return folder.parent


@pytest.fixture(scope="session")
def local_base() -> str:
    """A base for images that is made here: no registry is asked."""
    base = "ulos-debian"
    subprocess.run([shipped("executors").parent / ".ci" / "debian.sh", base], check=True)
    return base


@pytest.fixture(scope="session")
def executors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped executors; those with a stand-in, for want of the real base, have an image of the session's own.

    So nobody mistakes it for the real one, nobody's real one is replaced, and workers do not take it from each other.
    """
    folder = tmp_path_factory.mktemp("executors")
    for descriptor in shipped("executors").glob("*/executor.toml"):
        name = descriptor.parent.name
        if not (STAND_INS / name).is_dir():
            (folder / name).symlink_to(descriptor.parent)
            continue
        shutil.copytree(descriptor.parent, folder / name)
        image = f'image = "ulos-test/{name}-{secrets.token_hex(8)}"'
        (folder / name / "executor.toml").write_text(re.sub('(?m)^image = ".*"$', image, descriptor.read_text()))
    return folder


@pytest.fixture(scope="session")
def built(executors: Path, local_base: str) -> Iterator[Callable[[str], Path]]:
    """Builds the image of one shipped executor, unless it needs none, once a session; returns the executor's folder.

    One on a stand-in goes with the session.
    """
    unreal = []

    @functools.cache
    def built(name: str) -> Path:
        folder = executors / name
        descriptor = read_descriptor(folder / "executor.toml")
        if isinstance(descriptor, ContainerDescriptor):
            base = local_base
            with required():
                if (STAND_INS / name).is_dir():
                    base = f"{local_base}-{name}"
                    build(STAND_INS / name, base, base=local_base)
                    unreal.append(descriptor.image)
                build(folder, descriptor.image, base=base)
        return folder

    yield built
    for image in unreal:
        subprocess.run(["docker", "rmi", image], capture_output=True, check=True)
