"""No framework: one consumer on aiormq, on uvloop. What an expert writes for this one purpose."""

import asyncio
import json
import os
import signal
import sys

import uvloop
from aiormq.abc import DeliveredMessage

from benchmarks import stage
from benchmarks.contestants import Contestant
from benchmarks.coroutines import Worker, open_channel
from benchmarks.stage import plain


async def consume() -> None:
    """Work until told to end; then finish what was begun."""
    worker = await Worker.open()
    channel = await open_channel(worker.connection, confirms=False)
    running: set[asyncio.Task[None]] = set()

    async def carry_out(message: DeliveredMessage) -> None:
        await worker.carry_out(json.loads(message.body), plain)
        assert message.delivery_tag is not None
        await channel.basic_ack(message.delivery_tag, wait=False)

    async def receive(message: DeliveredMessage) -> None:
        begun = asyncio.create_task(carry_out(message))
        running.add(begun)
        begun.add_done_callback(running.discard)

    await channel.basic_qos(prefetch_count=int(os.environ["MESSAGE_BROKER_PREFETCH_COUNT"]))
    consumer = await channel.basic_consume(stage.QUEUE, receive)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    assert consumer.consumer_tag is not None
    await channel.basic_cancel(consumer.consumer_tag)
    await asyncio.gather(*running)
    await worker.close()


CONTESTANTS = {"aiormq": Contestant(command=lambda at_once: [sys.executable, "-m", __name__], encode=plain)}

if __name__ == "__main__":
    uvloop.run(consume())
