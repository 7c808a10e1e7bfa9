"""Files that travel to a remote engine and back: what arrives, what comes back, and what is held on the way."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from workbench import (
    RemoteLine,
    change_client,
    container,
    container_executor,
    containers_of,
    make_job,
    open_engine,
    script_image,
)

from ulos_stream.errors import EngineFault, ExecutorCrashed, ExecutorUnavailable
from ulos_stream.executors import copying
from ulos_stream.executors.container import ContainerExecutor
from ulos_stream.executors.tar import TooMuch
from ulos_stream.tasks import Verdict

pytestmark = pytest.mark.usefixtures("docker")
MIB = 1024 * 1024


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


@pytest.fixture
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
async def line(certificates: Path) -> AsyncIterator[RemoteLine]:
    async with RemoteLine(certificates) as line:
        yield line


@pytest.fixture(scope="module")
def furnished_image() -> Iterator[str]:
    """An image that has files of its own where the work is mounted."""
    tag = f"ulos-test/furnished-{uuid.uuid4().hex[:8]}"
    recipe = f"FROM {script_image()}\nRUN mkdir -p /work/old && echo old > /work/old/file\n"
    subprocess.run(["docker", "build", "-q", "-t", tag, "-"], input=recipe.encode(), check=True, capture_output=True)
    yield tag
    subprocess.run(["docker", "rmi", "--force", tag], check=True, capture_output=True)


async def test_the_work_arrives_and_comes_back_as_the_run_left_it(tmp_path: Path, line: RemoteLine) -> None:
    script = (
        "stat -c '%n %a %u %Y' . tool folder/text; cat folder/text; rm folder/text;"
        "mkdir -p made/deep; echo new > made/deep/file; cp tool copy"
    )
    job, printout = make_job(tmp_path, script)
    (job.directory / "tool").write_text("#!/bin/sh\n")
    (job.directory / "tool").chmod(0o755)
    (job.directory / "folder").mkdir()
    (job.directory / "folder" / "text").write_text("grüße\n")
    for name in ("tool", "folder/text"):
        os.utime(job.directory / name, (86_400, 86_400))

    async with container_executor(line.host, line.certificates) as executor:
        verdict = await executor.run(job)

    here, *files, content = printout.text().splitlines()
    left = {str(path.relative_to(job.directory)) for path in job.directory.rglob("*")}
    assert verdict is Verdict.PASS
    assert here.split()[:3] == [".", "700", "65532"]
    assert files == ["tool 755 65532 86400", "folder/text 644 65532 86400"]
    assert content == "grüße"
    assert left == {"job.sh", "tool", "copy", "folder", "made", "made/deep", "made/deep/file"}
    assert (job.directory / "copy").stat().st_mode & 0o777 == 0o755
    assert (job.directory / "tool").stat().st_mtime == 86_400
    assert list(tmp_path.iterdir()) == [job.directory]


async def test_what_the_image_has_in_the_place_of_the_work_is_not_seen(
    tmp_path: Path, line: RemoteLine, furnished_image: str
) -> None:
    job, printout = make_job(tmp_path, "ls /work")

    async with container_executor(line.host, line.certificates, image=furnished_image) as executor:
        await executor.run(job)

    assert printout.text() == "job.sh\n"
    assert [path.name for path in job.directory.iterdir()] == ["job.sh"]


@pytest.mark.parametrize("mount", ["/mnt/deep/tests", "/usr/src", "/app"])
async def test_the_work_may_lie_anywhere(tmp_path: Path, line: RemoteLine, mount: str) -> None:
    job, _ = make_job(tmp_path)
    command = ["sh", "-c", f"ls -ld {mount}; echo done > {mount}/done"]

    async with container_executor(line.host, line.certificates, mount=mount, command=command) as executor:
        assert await executor.run(job) is Verdict.PASS

    assert (job.directory / "done").read_text() == "done\n"


async def test_a_root_cannot_write_to_what_the_image_has(tmp_path: Path, line: RemoteLine) -> None:
    script = "for place in bin etc; do touch /$place/mine && echo wrote to $place; done; touch /tmp/mine && echo fine"
    job, printout = make_job(tmp_path, script)

    async with container_executor(line.host, line.certificates, sandbox={"user": "0:0"}) as executor:
        await executor.run(job)

    assert printout.text().count("Read-only file system") == 2
    assert "wrote to" not in printout.text()
    assert "fine" in printout.text().splitlines()


async def test_a_run_without_a_network_knows_its_own_name(tmp_path: Path, line: RemoteLine) -> None:
    job, printout = make_job(tmp_path, "cat /etc/hosts")

    async with container_executor(line.host, line.certificates) as executor:
        await executor.run(job)

    assert "127.0.0.1 localhost" in printout.text()


async def test_of_links_and_special_files_only_hard_links_come_back(tmp_path: Path, line: RemoteLine) -> None:
    script = (
        "echo mine > file; ln file hard; ln -s /etc/passwd link; ln -s / folder; mkfifo pipe; ln pipe pipe-too;"
        "mkdir inside; ln -s ../file inside/link"
    )
    job, _ = make_job(tmp_path, script)

    async with container_executor(line.host, line.certificates) as executor:
        await executor.run(job)

    assert {path.name for path in job.directory.rglob("*")} == {"job.sh", "file", "hard", "inside"}
    assert (job.directory / "hard").read_text() == "mine\n"


@pytest.mark.parametrize("fill", ["head -c 3000000 /dev/zero > large", "truncate -s 3000000 sparse"])
async def test_a_run_that_takes_too_much_of_the_disk_is_stopped(tmp_path: Path, line: RemoteLine, fill: str) -> None:
    job, _ = make_job(tmp_path, f"for name in a b; do mkdir $name; cd $name; {fill}; cd ..; done; sleep 600")

    async with container_executor(line.host, line.certificates, sandbox={"disk_mib": 4}) as executor:
        with pytest.raises(ExecutorCrashed, match="more than 4 MiB"):
            await executor.run(job)

    assert containers_of(job) == []


async def test_a_run_that_makes_files_without_content_is_stopped(
    tmp_path: Path, line: RemoteLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "MAX_ENTRIES", 500)
    job, _ = make_job(tmp_path, "i=0; while [ $i -lt 600 ]; do true > $i; i=$((i+1)); done; sleep 600")

    async with container_executor(line.host, line.certificates) as executor:
        with pytest.raises(ExecutorCrashed, match="more than 500 files"):
            await executor.run(job)


async def test_files_are_counted_by_what_they_are_and_not_by_their_names(tmp_path: Path, line: RemoteLine) -> None:
    script = """for i in 1 2 3; do true > '"Path":'$i; done; echo made; sleep 600"""
    job, printout = make_job(tmp_path, script)

    async with open_engine(line.host, certificates=line.certificates) as engine:
        running = asyncio.create_task(ContainerExecutor(container(), Path("/"), engine).run(job))
        await printout.shows("made")
        [left] = await engine.ask(lambda docker: docker.containers.list(filters={"id": containers_of(job)}))
        more = [most for most in range(20) if await engine.has_more_than(most, left)]
        listed = await engine.ask(lambda docker: docker._query_json(f"containers/{left.id}/changes"))
        running.cancel()
        await asyncio.wait([running])

    assert more == list(range(len(listed)))


async def test_a_run_that_takes_too_much_and_ends_before_anybody_looks_has_no_result(
    tmp_path: Path, line: RemoteLine
) -> None:
    job, _ = make_job(tmp_path, "for name in a b c d e f; do truncate -s 100M $name; done")

    async with container_executor(line.host, line.certificates, sandbox={"disk_mib": 128}) as executor:
        with pytest.raises(ExecutorCrashed, match="left more than 128 MiB"):
            await executor.run(job)

    assert list(tmp_path.iterdir()) == [job.directory]


async def test_no_more_is_fetched_than_a_node_has_room_for(tmp_path: Path, line: RemoteLine) -> None:
    async with open_engine(line.host, certificates=line.certificates) as engine:
        made = await engine.create({"Image": script_image(), "Cmd": ["run"]})
        try:
            with (tmp_path / "tar").open("wb") as tar, pytest.raises(TooMuch):
                await engine.get(made, "/bin", tar, 100_000)
        finally:
            await engine.remove(made)

    assert (tmp_path / "tar").stat().st_size <= 100_000


async def test_a_run_that_removes_its_own_directory_crashes(tmp_path: Path, line: RemoteLine) -> None:
    job, _ = make_job(tmp_path, "cd /; rm -rf /work")

    async with container_executor(line.host, line.certificates, sandbox={"user": "image"}) as executor:
        with pytest.raises(ExecutorCrashed, match="removed its own directory, /work"):
            await executor.run(job)


async def test_a_tree_too_deep_for_the_engine_is_the_runs_own_doing(tmp_path: Path, line: RemoteLine) -> None:
    deep = "for level in $(seq 3000); do mkdir d && cd -P d || exit 1; done 2>/dev/null"
    job, _ = make_job(tmp_path, deep)

    async with container_executor(line.host, line.certificates) as executor:
        with pytest.raises(ExecutorCrashed, match="levels of directories"):
            await executor.run(job)


@pytest.mark.parametrize("method", [b"PUT ", b"GET "])
async def test_a_connection_that_breaks_while_files_travel_is_a_fault_and_leaves_no_container(
    tmp_path: Path, line: RemoteLine, method: bytes
) -> None:
    job, _ = make_job(tmp_path, "exit 0")

    def cut(data: bytes) -> None:
        if data.startswith(method) and b"/archive?" in data.partition(b"\r\n")[0]:
            line.drop()

    async with container_executor(line.host, line.certificates) as executor:
        await executor.check()
        line.on_request = cut
        with pytest.raises(EngineFault):
            await executor.run(job)

    assert containers_of(job) == []
    assert list(tmp_path.iterdir()) == [job.directory]


@pytest.mark.parametrize("method", [b"PUT ", b"GET "])
async def test_a_run_that_is_cancelled_while_files_travel_leaves_nothing(
    tmp_path: Path, line: RemoteLine, method: bytes
) -> None:
    job, _ = make_job(tmp_path)

    def cancel(data: bytes) -> None:
        if data.startswith(method) and b"/archive?" in data.partition(b"\r\n")[0]:
            running.cancel()

    async with container_executor(line.host, line.certificates) as executor:
        await executor.check()
        running = asyncio.create_task(executor.run(job))
        line.on_request = cancel
        await asyncio.wait([running])

    assert running.cancelled()
    assert containers_of(job) == []
    assert list(tmp_path.iterdir()) == [job.directory]


async def test_an_engine_that_falls_silent_while_files_travel_is_a_fault(
    tmp_path: Path, line: RemoteLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulos_stream.executors.engine.TRANSFER_S", 0.5)
    monkeypatch.setattr("ulos_stream.executors.engine.REMOVE_S", 0)
    job, _ = make_job(tmp_path)

    def silence(data: bytes) -> None:
        line.silence() if data.startswith(b"PUT ") else None

    async with open_engine(line.host, certificates=line.certificates, call_s=0.5) as engine:
        executor = ContainerExecutor(container(), Path("/"), engine)
        await executor.check()
        line.on_request = silence
        with pytest.raises(EngineFault, match="does not answer"):
            await executor.run(job)

    [left] = containers_of(job)  # to be found by a sweep, once the engine answers
    await asyncio.to_thread(subprocess.run, ["docker", "rm", left], check=True, capture_output=True)


SECLUDED = """if True:
    import asyncio, logging, pathlib, sys
    from workbench import container_executor, make_job

    async def main(directory):
        logging.basicConfig(format="%(message)s")
        async with container_executor() as executor:
            for _ in range(2):
                job, printout = make_job(pathlib.Path(directory), "echo done > done")
                print(await executor.run(job), (job.directory / "done").read_text(), sep="")
        print([path for path in pathlib.Path(directory).iterdir() if path != job.directory and path.is_mount()])

    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
async def test_an_engine_on_this_machine_that_sees_another_disk_is_sent_the_files(tmp_path: Path) -> None:
    program = 'mount -t tmpfs tmpfs "$1" && exec "$2" -c "$3" "$1"'
    node = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", program, "sh", str(tmp_path), sys.executable, SECLUDED),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    printed, said = await node.communicate()

    assert printed.decode().splitlines() == ["PASSdone", "", "PASSdone", "", "[]"], said.decode()
    assert said.decode().count("so they are copied") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
async def test_any_user_may_be_asked_for(tmp_path: Path, line: RemoteLine, monkeypatch: pytest.MonkeyPatch) -> None:
    job, printout = make_job(tmp_path, "id -u; stat -c %u job.sh")
    monkeypatch.setattr("os.getuid", lambda: 65532)  # in a pod, where nobody may give files away

    async with container_executor(line.host, line.certificates, sandbox={"user": "1000:1000"}) as executor:
        await executor.run(job)

    assert printout.text() == "1000\n1000\n"


def damaged(folder: Path) -> None:
    (folder / "key.pem").write_text("no key")


def missing(folder: Path) -> None:
    (folder / "ca.pem").unlink()


def foreign(folder: Path) -> None:
    RemoteLine(folder)  # writes what belongs to another one


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (damaged, "ca.pem, cert.pem and key.pem in .* cannot be used"),
        (missing, "ca.pem, cert.pem and key.pem in .* cannot be used: .*No such file"),
        (foreign, "certificate verify failed"),
        (change_client, "cannot be reached"),
    ],
)
async def test_certificates_that_are_no_use_are_said(
    line: RemoteLine, certificates: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(certificates)

    async with open_engine(line.host, certificates=certificates) as engine:
        with pytest.raises(ExecutorUnavailable, match=sentence):
            await engine.runtimes()


async def test_an_engine_that_wants_tls_of_a_node_without_is_said() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_engine(f"tcp://127.0.0.1:{port}") as engine:
            with pytest.raises(ExecutorUnavailable, match="wants to be spoken to by TLS; set DOCKER_TLS_VERIFY=1"):
                await engine.runtimes()


async def test_an_engine_that_speaks_no_tls_is_reached_in_plain_text_where_that_is_wanted(
    tmp_path: Path, certificates: Path
) -> None:
    job, _ = make_job(tmp_path)

    async with RemoteLine(None) as plain:
        async with container_executor(plain.host) as executor:
            assert await executor.run(job) is Verdict.PASS
        async with open_engine(plain.host, certificates=RemoteLine(certificates).certificates) as engine:
            with pytest.raises(ExecutorUnavailable, match=r"wrong version number|record layer failure"):
                await engine.runtimes()


async def test_runs_at_once_on_a_remote_engine_do_not_wait_for_connections(line: RemoteLine) -> None:
    async with open_engine(line.host, certificates=line.certificates) as engine:
        assert await engine.ask(lambda docker: asyncio.sleep(0, docker.connector.limit)) == 0
