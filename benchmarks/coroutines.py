"""A stage as a coroutine among others of its process: pooled aioftp, and aiormq without anything above it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import IO

import aioftp
import aiormq
from aiormq import spec
from aiormq.abc import AbstractConnection

from benchmarks import stage
from benchmarks.stage import Encode, Message, Task


def properties(message: Message) -> spec.Basic.Properties:
    """Of a persistent message."""
    return spec.Basic.Properties(headers=message.headers, delivery_mode=2, **message.properties)


async def open_channel(connection: AbstractConnection, *, confirms: bool) -> aiormq.Channel:
    """A channel, as the class that it is: only that can publish without waiting for the socket."""
    channel = await connection.channel(publisher_confirms=confirms)
    assert isinstance(channel, aiormq.Channel)
    return channel


@dataclass
class Worker:
    """What the stages of one process share: a channel to publish on, and idle FTP connections."""

    world: stage.World
    connection: AbstractConnection
    channel: aiormq.Channel
    _idle: list[aioftp.Client] = field(default_factory=list)
    _telling: set[asyncio.Task[None]] = field(default_factory=set)
    """What nobody waits for."""

    @classmethod
    async def open(cls) -> "Worker":
        world = stage.world()
        connection = await aiormq.connect(world.url)
        return cls(world, connection, await open_channel(connection, confirms=True))

    async def close(self) -> None:
        await asyncio.gather(*self._telling)
        for client in self._idle:
            client.close()
        await self.connection.close()

    async def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        """Publish one message; returns when it is confirmed."""
        await self.channel.basic_publish(
            message.body, exchange=exchange, routing_key=routing_key, properties=properties(message), wait=False
        )

    async def carry_out(self, task: Task, encode: Encode) -> None:
        """One stage, up to the last confirmation; the event after that is told with the acknowledgement."""
        path = task["filePath"]
        async with asyncio.TaskGroup() as confirmed, self._storage() as storage:

            def tell(name: str) -> None:
                confirmed.create_task(self._tell(task, name))

            tell("received")
            with TemporaryDirectory() as directory:
                with SpooledTemporaryFile(stage.SPOOL_BYTES) as artifact:
                    async with storage.download_stream(path) as stream:
                        async for block in stream.iter_by_block():
                            artifact.write(block)
                    tell("downloaded")
                    size = artifact.tell()
                    await _somewhere(size, partial(stage.unpack, artifact, directory))
                await asyncio.sleep(self.world.delay_s)
                stage.execute(task, directory)
                tell("passed")
                with SpooledTemporaryFile(stage.SPOOL_BYTES) as result:
                    await _somewhere(size, partial(stage.pack, directory, result))
                    await _upload(storage, result, path)
            tell("uploaded")
            await self.publish(*stage.forwarded(task, encode))
        await self._tell(task, "forwarded")
        last = asyncio.create_task(self._tell(task, "acknowledged"))
        self._telling.add(last)
        last.add_done_callback(self._telling.discard)

    async def _tell(self, task: Task, name: str) -> None:
        await self.publish(stage.EXCHANGE, stage.EVENT_KEY, stage.event(task, name))

    @asynccontextmanager
    async def _storage(self) -> AsyncIterator[aioftp.Client]:
        """A connection that nobody else uses meanwhile: as many are made as stages run at once."""
        if self._idle:
            client = self._idle.pop()
        else:
            client = aioftp.Client()
            await client.connect(self.world.storage_host, self.world.storage_port)
            await client.login(self.world.storage_username, self.world.storage_password)
        yield client
        self._idle.append(client)


async def _upload(storage: aioftp.Client, result: IO[bytes], path: str) -> None:
    async with storage.upload_stream(stage.temporary(path)) as stream:
        while block := result.read(stage.SMALL_BYTES):
            await stream.write(block)
    await storage.rename(stage.temporary(path), path)


async def _somewhere(size_bytes: int, work: "partial[None]") -> None:
    """Do blocking work: on the event loop when it is little, else in a thread."""
    if size_bytes <= stage.SMALL_BYTES:
        work()
    else:
        await asyncio.to_thread(work)
