"""Nodes whose artifacts are on an SFTP server or in a bucket: one effect for each task, whatever is cut or killed."""

import contextlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import obstore
import pytest
from aiohttp import web
from servers import S3Server, SftpServer, a_front
from test_redelivery import BEFORE_THE_HOP, hops, killed
from world import World, a_tree, a_world, a_zip

from ulos_stream.lab import Broker

TASK = "/a folder/work (1).zip"


class Stored:
    """A world whose artifacts are elsewhere, and one task in it."""

    def __init__(self, world: World, put: Callable[[str, bytes], object], get: Callable[[str], bytes]) -> None:
        self.world = world
        self._get = get
        self.task = world.task(a_tree("counted", success=a_tree("next")), filePath=TASK)
        put(TASK[1:], a_zip())

    @property
    def runs(self) -> list[str]:
        """What the executor has left: a line for each run, in the artifact, and outside it."""
        with zipfile.ZipFile(io.BytesIO(self._get(TASK[1:]))) as archive:
            inside = archive.read("work.txt").decode().split()
            journal = json.loads(archive.read(".ulos/journal.json"))
        assert len(journal["entries"]) == len(inside) == 1
        return self.world.artifacts.with_name("runs").read_text().split()


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    folder = tmp_path / "executors" / "counted"
    folder.mkdir(parents=True)
    (folder / "executor.toml").write_text(
        'kind = "process"\nrouting_key = "counted"\n'
        f'command = ["sh", "-c", "echo run >> {tmp_path}/runs; echo stage >> work.txt"]\n'
    )
    async with a_world(broker, tmp_path / "unused", **{"x-queue-type": "quorum"}) as world:
        world.settings |= {"ULOS_EXECUTORS_PATH": str(folder.parent), "ULOS_WORK_DIR": str(tmp_path)}
        await world.listen("next")
        yield world


@pytest.fixture(params=["sftp", "s3"])
def stored(request: pytest.FixtureRequest, world: World) -> Stored:
    if request.param == "sftp":
        server: SftpServer = request.getfixturevalue("sftp_server")
        world.settings |= server.settings()
        (server.root / TASK[1:]).parent.mkdir()
        root = server.root
        return Stored(
            world, lambda path, content: (root / path).write_bytes(content), lambda p: (root / p).read_bytes()
        )
    bucket: S3Server = request.getfixturevalue("s3_server")
    world.settings |= bucket.settings()
    return in_bucket(world, bucket)


def in_bucket(world: World, server: S3Server) -> Stored:
    store = server.store()
    return Stored(
        world,
        lambda path, content: obstore.put(store, path, content),
        lambda path: bytes(obstore.get(store, path).bytes()),
    )


async def test_a_node_killed_after_the_upload_leaves_a_task_that_is_only_handed_over(stored: Stored) -> None:
    await stored.world.send(stored.task)
    await killed(stored.world, BEFORE_THE_HOP)

    async with stored.world.node_process() as node:
        heard = await stored.world.hear_the_end()
        assert await node.stop() == 0

    assert stored.runs == ["run"]
    assert len(hops(heard)) == 1
    assert [message.event for message in heard if message.event][-3:] == ["uploaded", "forwarded", "acknowledged"]
    password = stored.world.settings["REMOTE_STORAGE_PASSWORD"]
    assert not password or password not in json.dumps(node.lines)


async def test_an_upload_whose_answer_is_lost_has_its_effect_once(world: World, s3_server: S3Server) -> None:
    async with a_front(s3_server) as front, contextlib.AsyncExitStack() as stack:
        lost: list[web.Request] = []

        async def lose_the_first(request: web.Request) -> web.StreamResponse:
            if "work" in request.path and not lost:
                lost.append(request)
                return await front.lose_the_answer(request)
            return await front.forward(request)

        front.on["PUT"] = lose_the_first
        world.settings |= s3_server.settings() | {"ULOS_STORAGE_URL": f"s3://artifacts?endpoint={front.endpoint}"}
        stored = in_bucket(world, s3_server)
        await stack.enter_async_context(world.node())
        await world.send(stored.task)
        heard = await world.hear_the_end()

    assert len(lost) == 1
    assert stored.runs == ["run"]
    assert len(hops(heard)) == 1
    assert [message.event for message in heard if message.event][-3:] == ["uploaded", "forwarded", "acknowledged"]


async def test_a_node_waits_for_a_storage_that_does_not_let_it_in_and_goes_on_when_it_does(
    world: World, sftp_server: SftpServer, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    world.settings |= sftp_server.settings() | {"ULOS_STORAGE_KNOWN_HOSTS": str(known)}

    async with world.node_process() as node:
        await node.says("waiting", "its host key is not in")
        known.write_bytes(sftp_server.known_hosts.read_bytes())
        await node.says("ready")
