"""The channel under the publishers, on a real broker: in order, confirmed, and never waited for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NoReturn, cast

import pytest
from aiormq.exceptions import ChannelClosed, ChannelInvalidStateError, PublishError
from faststream.rabbit import RabbitBroker
from faststream.rabbit.response import RabbitPublishCommand
from faststream.response.publish_type import PublishType

from ulos_stream import producer, topology
from ulos_stream.lab import Broker


@contextlib.asynccontextmanager
async def a_publisher(broker: Broker, timeout_s: float = 10) -> AsyncIterator[Any]:
    """Publishes to a queue of its own by the default exchange."""
    rabbit = RabbitBroker(broker.url, default_channel=topology.publishing_channel(), logger=None)
    producer.install(rabbit, timeout_s)
    publisher = rabbit.publisher(persist=True)
    async with rabbit:
        await rabbit.start()
        connection = await rabbit.connect()
        async with connection.channel() as channel:
            queue = await channel.declare_queue(exclusive=True)

            async def publish(number: int, key: str = queue.name, body: bytes = b"body") -> "asyncio.Future[Any]":
                sent = await publisher.publish(body, routing_key=key, message_id=f"m-{number}", correlation_id="c")
                return cast("asyncio.Future[Any]", sent)

            yield publish, queue, rabbit


async def test_a_publish_returns_at_once_and_its_confirmation_comes_later(broker: Broker) -> None:
    async with a_publisher(broker) as (publish, queue, _):
        sent = [await publish(number) for number in range(200)]
        before = [one.done() for one in sent]
        await asyncio.gather(*sent)
        got = [await queue.get(no_ack=True) for _ in sent]

    assert not any(before)
    assert [message.message_id for message in got] == [f"m-{number}" for number in range(200)]
    assert {(message.delivery_mode, message.correlation_id, message.body) for message in got} == {(2, "c", b"body")}


async def test_a_body_larger_than_a_frame_arrives_whole(broker: Broker) -> None:
    body = bytes(range(256)) * 4_000

    async with a_publisher(broker) as (publish, queue, _):
        await (await publish(1, body=body))
        got = await queue.get(no_ack=True)

    assert got.body == body


async def test_a_message_that_no_queue_takes_is_told_and_its_neighbours_are_confirmed(broker: Broker) -> None:
    async with a_publisher(broker) as (publish, _, __):
        first, lost, last = await publish(1), await publish(2, key="nowhere"), await publish(3)

        await first
        with pytest.raises(PublishError):
            await lost
        await last


async def test_the_end_of_one_message_does_not_hide_that_no_queue_takes_another_with_its_id(broker: Broker) -> None:
    async with a_publisher(broker) as (publish, _, __):
        given_up, lost = await publish(1), await publish(1, key="nowhere")
        given_up.cancel()

        with pytest.raises(PublishError):
            await lost


async def test_the_ids_of_answered_messages_do_not_pile_up(broker: Broker) -> None:
    async with a_publisher(broker) as (publish, _, rabbit):
        for number in range(3 * producer.SPARE_IDS):
            await (await publish(number))
        robust = await rabbit.config.broker_config.channel_manager.get_channel()
        channel = await robust.get_underlay_channel()

        assert len(channel.message_id_delivery_tag) <= producer.SPARE_IDS + 1


async def test_nobody_waits_for_a_connection_that_takes_nothing_and_all_arrive_once_it_does(broker: Broker) -> None:
    async with a_publisher(broker) as (publish, queue, rabbit):
        robust = await rabbit.config.broker_config.channel_manager.get_channel()
        channel = await robust.get_underlay_channel()
        held = asyncio.Queue(maxsize=1)  # type: ignore[var-annotated]
        flowing, channel.write_queue = channel.write_queue, held

        sent = []
        for number in range(30):
            sent.append(await publish(number))
            await asyncio.sleep(0)
        frames = 0
        while not all(one.done() for one in sent):
            await flowing.put(await held.get())
            frames += 1
            await asyncio.wait(sent, timeout=0.05)
        channel.write_queue = flowing
        got = [await queue.get(no_ack=True) for _ in sent]

    assert [message.message_id for message in got] == [f"m-{number}" for number in range(30)]
    assert frames < 30


async def test_each_message_that_is_not_answered_in_time_is_given_up(broker: Broker) -> None:
    async with a_publisher(broker, timeout_s=0.2) as (publish, _, rabbit):
        robust = await rabbit.config.broker_config.channel_manager.get_channel()
        channel = await robust.get_underlay_channel()
        answered = await publish(0)
        await answered
        held = asyncio.Queue()  # type: ignore[var-annotated]
        flowing, channel.write_queue = channel.write_queue, held

        first = await publish(1)
        await asyncio.sleep(0.1)
        second = await publish(2)
        async with asyncio.timeout(20):
            for unanswered in (first, second):
                with pytest.raises(TimeoutError):
                    await unanswered
        channel.write_queue = flowing
        while not held.empty():
            await flowing.put(held.get_nowait())

        await (await publish(3))


async def test_a_publish_waits_only_so_long_for_a_channel() -> None:
    async def get_channel() -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    with pytest.raises(TimeoutError):
        await producer.Producer(get_channel, timeout_s=0.05).publish(
            RabbitPublishCommand(b"body", message_id="m-1", _publish_type=PublishType.PUBLISH)
        )


async def test_on_a_closed_channel_a_publish_says_so_and_what_was_written_is_given_up(broker: Broker) -> None:
    async with a_publisher(broker) as (publish, _, rabbit):
        robust = await rabbit.config.broker_config.channel_manager.get_channel()
        channel = await robust.get_underlay_channel()
        held = asyncio.Queue(maxsize=1)  # type: ignore[var-annotated]
        flowing, channel.write_queue = channel.write_queue, held
        written = await publish(1)
        await held.get()  # the broker never sees it, and so does not confirm it either
        channel.write_queue = flowing
        await channel.close()

        with pytest.raises(ChannelClosed):
            await written
        with pytest.raises(ChannelInvalidStateError):
            await publish(2)
