"""Leases on a real broker: one holder at a time, gone with it, and given up by it in time."""

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from pydantic import SecretStr
from world import Proxy

from ulos_stream.errors import BrokerFault
from ulos_stream.lab import Broker
from ulos_stream.topology.connection import Access, connected
from ulos_stream.topology.leases import TERM_S, BrokerLeases, queue_of


@pytest.fixture
def access(broker: Broker) -> Access:
    return Access(broker.host, broker.port, "/", broker.username, SecretStr(broker.password), None)


@pytest.fixture
def device() -> str:
    return f"arm-{uuid.uuid4()}"


def leases(access: Access, in_use: list[str] | None = None) -> BrokerLeases:
    """Those of one node."""
    return BrokerLeases(access, ([] if in_use is None else in_use).append)


class Machine:
    """Knows how many use it at once."""

    def __init__(self) -> None:
        self.users = self.most_users = self.uses = 0

    async def use(self, leases: BrokerLeases, device: str, for_s: float = 0.05) -> None:
        async with leases.hold(device):
            self.users += 1
            self.most_users = max(self.most_users, self.users)
            await asyncio.sleep(for_s)
            self.users -= 1
            self.uses += 1


async def test_stages_of_several_nodes_have_a_device_one_at_a_time(access: Access, device: str) -> None:
    nodes, machine = [leases(access), leases(access), leases(access)], Machine()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(4):
            for node in nodes:
                group.create_task(machine.use(node, device))

    assert (machine.uses, machine.most_users) == (12, 1)


@pytest.mark.parametrize("at_once", [1, 50])
async def test_a_node_with_much_to_do_does_not_starve_another_one(access: Access, device: str, at_once: int) -> None:
    busy, other, machine = leases(access), leases(access), Machine()

    async def always() -> None:
        while True:
            await machine.use(busy, device, for_s=0.3)

    backlog = [asyncio.create_task(always()) for _ in range(at_once)]
    async with asyncio.timeout(60):
        for _ in range(5):
            await machine.use(other, device)
    uses = machine.uses
    for stage in backlog:
        stage.cancel()
    await asyncio.wait(backlog)

    assert 8 <= uses <= 15  # ten, if they take turns


async def test_devices_do_not_wait_for_each_other(access: Access, device: str) -> None:
    node = leases(access)

    async with asyncio.timeout(10), node.hold(device), node.hold(f"{device}-2"):
        pass


async def test_a_wait_is_told_once(access: Access, device: str) -> None:
    told: list[str] = []
    node = leases(access, told)
    async with leases(access).hold(device):
        waiting = asyncio.create_task(Machine().use(node, device))
        await asyncio.sleep(2)  # several tries
        assert told == [device]
        behind = asyncio.create_task(Machine().use(node, device))
        await asyncio.sleep(0)

    await asyncio.gather(waiting, behind)

    assert told == [device, device]


async def test_a_stage_that_waits_no_more_stands_in_nobodys_way(access: Access, device: str) -> None:
    node = leases(access)
    async with leases(access).hold(device):
        stages = [asyncio.create_task(Machine().use(node, device)) for _ in range(2)]
        await asyncio.sleep(0.2)
        for stage in stages:
            stage.cancel()
        await asyncio.wait(stages)

    async with asyncio.timeout(5), node.hold(device):
        pass


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError("no space left"), TimeoutError("too late")])
async def test_what_a_stage_raises_is_not_taken_for_the_brokers_fault(
    access: Access, device: str, error: Exception
) -> None:
    with pytest.raises(type(error)) as raised:
        async with leases(access).hold(device):
            raise error

    assert raised.value is error


async def test_a_lease_ends_with_its_connection_and_its_stage_is_cancelled(
    access: Access, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulos_stream.topology.leases.TERM_S", 60)
    monkeypatch.setattr("ulos_stream.topology.leases.RENEW_S", 60)
    async with Proxy(access.host, access.port).listening() as proxy:
        node = leases(replace(access, port=proxy.port))
        ended: list[str] = []

        async def stage() -> None:
            async with node.hold(device):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.1)  # bring the machine to rest
                    ended.append("at rest")
                    raise

        running = asyncio.create_task(stage())
        await _in_use(access, device)
        proxy.drop()
        with pytest.raises(BrokerFault, match=f"the lease on {device} is lost"):
            await asyncio.wait_for(running, 10)

    assert ended == ["at rest"]
    async with asyncio.timeout(5), leases(access).hold(device):
        pass


async def test_a_holder_that_is_cut_off_has_given_up_before_another_can_begin(access: Access, device: str) -> None:
    async with Proxy(access.host, access.port).listening() as proxy:
        order: list[str] = []

        async def cut_off() -> None:
            async with leases(replace(access, port=proxy.port)).hold(device):
                try:
                    await asyncio.sleep(60)
                finally:
                    order.append("gave up")

        first = asyncio.create_task(cut_off())
        await _in_use(access, device)
        proxy.silence()
        cut_at = time.monotonic()
        async with asyncio.timeout(10), leases(access).hold(device):
            order.append("began")
        took_s = time.monotonic() - cut_at
        with pytest.raises(BrokerFault, match="is lost"):
            await first

    assert order == ["gave up", "began"]
    assert TERM_S < took_s < 10


HOLDER = """if True:
    import asyncio, sys
    from pydantic import SecretStr
    from ulos_stream.topology.connection import Access
    from ulos_stream.topology.leases import BrokerLeases
    async def main(host, port, username, password, device):
        access = Access(host, int(port), "/", username, SecretStr(password), None)
        async with BrokerLeases(access, print).hold(device):
            print("held", flush=True)
            await asyncio.sleep(60)
    asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def a_holder(access: Access, device: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has the lease."""
    password = access.password.get_secret_value()
    arguments = [HOLDER, access.host, str(access.port), access.username, password, device]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", *arguments), stdout=asyncio.subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize(("sent", "within_s"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 10)])
async def test_a_killed_or_frozen_holder_frees_its_device(
    access: Access, device: str, sent: signal.Signals, within_s: float
) -> None:
    async with a_holder(access, device) as holder:
        holder.send_signal(sent)

        async with asyncio.timeout(within_s), leases(access).hold(device):
            pass


async def test_a_broker_that_is_away_or_refuses_is_a_fault(access: Access) -> None:
    for wrong, reason in (
        (replace(access, password=SecretStr("wrong")), "ACCESS_REFUSED"),
        (replace(access, port=1), "Connect call failed"),
    ):
        with pytest.raises(BrokerFault, match=reason):
            async with leases(wrong).hold("arm-1"):
                pass


async def _in_use(access: Access, device: str) -> None:
    """Wait until somebody has the lease."""
    while True:
        try:
            async with connected(access) as connection:
                await (await connection.channel()).declare_queue(queue_of(device), passive=True)
        except BrokerFault as fault:
            if "RESOURCE_LOCKED" in str(fault):
                return
        await asyncio.sleep(0.02)
