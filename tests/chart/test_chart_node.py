"""A pool's environment, taken literally, starts a node here: it becomes ready, works, and ends."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from chart import BASE, environment, look, merged, mount, render
from world import NodeProcess, World, a_tree, a_world

from ulos_stream.lab import Broker, FtpServer


def values_for(world: World, ftp: FtpServer, port: int) -> Mapping[str, Any]:
    """What an operator would write for this broker and this storage."""
    broker = {
        "host": world.broker.host,
        "port": world.broker.port,
        "existingSecret": "",
        "username": world.broker.username,
        "password": world.broker.password,
        "logs": {"exchange": world.exchange.name, "routingKey": "log"},
        "crash": {"exchange": world.exchange.name, "routingKey": "crash"},
    }
    storage = {
        "host": ftp.host,
        "port": ftp.port,
        "existingSecret": "",
        "username": ftp.username,
        "password": ftp.password,
    }
    pool = {
        "queue": world.tasks.name,
        "prefetch": 3,
        "taskTimeoutSeconds": 20,
        "executors": {
            "require": ["greet"],
            "inline": {
                "greet": {
                    "executor.toml": 'kind = "process"\nrouting_key = "greet"\ncommand = ["./run"]\n',
                    "run": "#!/bin/sh\necho hello\n",
                }
            },
        },
    }
    return {"broker": broker, "storage": storage, "http": {"host": "127.0.0.1", "port": port}, "pools": {"main": pool}}


async def test_a_pool_starts_a_node_with_its_settings_which_runs_its_own_executor(
    broker: Broker, pyftpd_server: FtpServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    async with a_world(broker, pyftpd_server.root) as world:
        manifests = render(merged(BASE, values_for(world, pyftpd_server, port)))
        variables = environment(manifests, "main", tmp_path)
        mount(manifests, tmp_path)

        async with NodeProcess.running(variables) as node:
            ready = await node.says("ready")
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                probes = look(manifests, "Deployment spec template spec containers node")
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    async with session.get(probes[probe]["httpGet"]["path"]) as answer:
                        assert answer.status == 200
                async with session.get("/info") as answer:
                    info = await answer.json()
            await world.send(world.task(a_tree("greet")))
            heard = await world.hear_the_end()
            ended = await node.stop()

    assert ready["queue"] == world.tasks.name
    assert info["node"] == "lab-main-7d4b9-x2x9z"
    assert (info["limits"]["stages_at_once"], info["limits"]["max_timeout_s"]) == (3, 20)
    assert (
        info["limits"]["grace_s"] == look(manifests, "Deployment spec template spec terminationGracePeriodSeconds") - 10
    )
    assert [message.event for message in heard][-1] == "acknowledged"
    assert "passed" in [message.event for message in heard]
    assert ended == 0
