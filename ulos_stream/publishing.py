"""One way to publish: confirmed, mandatory, bounded in time, errors classified.

A publish ends in one of three ways. It returns: the broker has the message in a queue. It
raises `Unroutable`: the broker said that no queue takes it. Or it raises `BrokerFault`: refused,
timed out or broken off, so its outcome is unknown, and the caller tries again with the same
message id.
"""

import asyncio

from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelNotFoundEntity, PublishError
from faststream.rabbit.publisher import RabbitPublisher

from ulos_stream.errors import BrokerFault, Unroutable
from ulos_stream.tasks import Hop, Wire
from ulos_stream.topology import exchange


async def publish(
    publisher: RabbitPublisher,
    message: Wire,
    hop: Hop,
    *,
    message_id: str,
    correlation_id: str,
    timeout_s: float,
) -> None:
    """Publish `message`, persistent, to `hop` through a declared publisher, and await the confirmation.

    Args:
        publisher: Declared on a broker whose channel raises on a returned message.
        message: Encoded as JSON in UTF-8.
        hop: Where it goes.
        message_id: Deterministic, so that a second attempt can be recognised.
        correlation_id: Id of the incoming message that this one follows from.
        timeout_s: Seconds to wait. FastStream takes a timeout of its own and ignores it.

    Raises:
        Unroutable: The exchange is missing or closed to this user, or no queue is bound for the key.
        BrokerFault: Anything else; whether the broker has the message is unknown.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await publisher.publish(
                message.encode(),
                exchange=exchange(hop.exchange),
                routing_key=hop.routing_key,
                message_id=message_id,
                correlation_id=correlation_id,
                content_type="application/json",
                persist=True,
            )
    except PublishError as returned:
        raise Unroutable(f"no queue takes {_spoken(hop)}") from returned
    except (ChannelNotFoundEntity, ChannelAccessRefused) as closed:
        # The channel is shared: only the publish whose exchange the broker names is to blame.
        if f"exchange '{hop.exchange}' in" in str(closed):
            reason = "does not exist" if isinstance(closed, ChannelNotFoundEntity) else "is closed to this user"
            raise Unroutable(f"exchange {hop.exchange!r} {reason}; routing key {hop.routing_key!r}") from closed
        raise BrokerFault(f"the channel closed under a message to {_spoken(hop)}") from closed
    except (AMQPError, OSError, RuntimeError, asyncio.CancelledError) as broken:
        # aiormq cancels the futures of a connection that it closes; a cancellation of ours goes on.
        task = asyncio.current_task()
        if isinstance(broken, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        raise BrokerFault(f"no confirmation of a message to {_spoken(hop)}: {_reason(broken)}") from broken


def _spoken(hop: Hop) -> str:
    return f"exchange {hop.exchange!r} with routing key {hop.routing_key!r}"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
