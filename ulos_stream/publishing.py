"""One way to publish: confirmed, mandatory, bounded in time, errors classified.

A publish ends in one of three ways. It returns: the broker has the message in a queue. It
raises `Unroutable`: the broker said that no queue takes it. Or it raises `BrokerFault`: refused,
timed out or broken off, so its outcome is unknown, and the caller tries again with the same
message id.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelNotFoundEntity, PublishError
from faststream.rabbit import RabbitBroker
from faststream.rabbit.publisher import RabbitPublisher

from ulos_stream import routing
from ulos_stream.errors import BrokerFault, Fault, FaultBudgetSpent, Unroutable
from ulos_stream.producer import Confirmation
from ulos_stream.retry import retry, wait_for
from ulos_stream.tasks import SENT_AT, Hop, MalformedCrash, Task, TaskCrash, hop_of
from ulos_stream.telemetry import Log
from ulos_stream.telemetry.watch import Watch
from ulos_stream.topology import check_connection, exchange, find_exchange

Headers = Mapping[str, str | int]


@dataclass(kw_only=True, eq=False)
class Outbox:
    """What a node publishes with care, through its declared publishers: hops and crash reports.

    A publish with an unknown outcome is tried again, with the same message id, within the fault budget.
    """

    broker: RabbitBroker
    hops: RabbitPublisher
    crashes: RabbitPublisher
    crash_hop: Hop
    fault_budget_s: float
    log: Log
    watch: Watch
    held_reports: set[str] = field(default_factory=set)
    """Messages whose crash report the broker does not take."""
    _troubles: dict[object, Fault] = field(default_factory=dict)
    """Why publishes are tried again now."""
    _known_exchanges: set[str] = field(default_factory=set)

    async def hand_over(self, task: Task, hop_id: str, message_id: str, carried: Headers) -> None:
        """Publish `task` to the root of its tree, with the id `hop_id`, on behalf of the message `message_id`.

        It takes the headers `carried` along, unless this node traces it itself.

        Raises:
            Unroutable: No queue takes it.
            FaultBudgetSpent: The broker did not confirm it in time; it may have it all the same.
        """
        hop = hop_of(task.routing_tree)
        with self.watch.publish("hop", hop, hop_id, message_id) as watched:
            headers: Headers = {**(watched or carried), SENT_AT: time.time_ns() // 1_000_000}
            if hop.exchange and hop.exchange not in self._known_exchanges:
                await self.persistently(lambda: find_exchange(self.broker, hop.exchange))
                self._known_exchanges.add(hop.exchange)
            body = task.encode()
            try:
                await self.persistently(lambda: publish(self.hops, body, hop, hop_id, message_id, headers))
            except Unroutable:
                self._known_exchanges.discard(hop.exchange)
                raise

    async def report_crash(self, report: TaskCrash | MalformedCrash, message_id: str) -> None:
        """Publish a crash report, however long that takes: the message is held, unsettled, until the broker has it."""
        crash_id, body = routing.crash_id(message_id), report.encode()

        async def attempt() -> None:
            try:
                with self.watch.publish("crash", self.crash_hop, crash_id, message_id) as headers:
                    await self.persistently(
                        lambda: publish(self.crashes, body, self.crash_hop, crash_id, message_id, headers)
                    )
            except (Unroutable, FaultBudgetSpent) as unpublished:
                raise BrokerFault(str(unpublished)) from unpublished

        def hold(reason: str) -> None:
            self.held_reports.add(message_id)
            self.log.error("crash report held", message=message_id, reason=reason)

        try:
            await wait_for(attempt, hold)
        finally:
            self.held_reports.discard(message_id)

    async def check(self) -> None:
        """See that what this node publishes is confirmed.

        Raises:
            BrokerFault: It is not.
        """
        await check_connection(self.broker)
        if self.held_reports:
            raise BrokerFault(f"{len(self.held_reports)} crash reports are held, since the broker does not take them")
        for fault in self._troubles.values():
            raise BrokerFault(str(fault))

    async def persistently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Attempt a publish until the broker has it.

        Raises:
            FaultBudgetSpent: It did not confirm it in time; it may have it all the same.
        """

        def report(fault: Fault, wait_s: float) -> None:
            self._troubles[attempt] = fault
            self.watch.fault(fault)
            self.log.fault(fault, wait_s)

        try:
            await retry(attempt, budget_s=self.fault_budget_s, report=report)
        finally:
            self._troubles.pop(attempt, None)


async def publish(
    publisher: RabbitPublisher, body: bytes, hop: Hop, message_id: str, correlation_id: str, headers: Headers
) -> None:
    """Publish `body`, persistent, to `hop` through a declared publisher, and await the confirmation.

    Args:
        publisher: Declared on a broker with our `Producer`, which bounds the wait, and a channel that raises on a
            returned message.
        body: JSON in UTF-8.
        hop: Where it goes.
        message_id: Deterministic, so that a second attempt can be recognised.
        correlation_id: Id of the incoming message that this one follows from.
        headers: AMQP headers; not altered.

    Raises:
        Unroutable: The exchange is missing or closed to this user, or no queue is bound for the key.
        BrokerFault: Anything else; whether the broker has the message is unknown.
    """
    try:
        await (await begin(publisher, body, hop, message_id, correlation_id, headers))
    except (AMQPError, OSError, RuntimeError, asyncio.CancelledError) as broken:
        if is_our_cancellation(broken):
            raise
        raise failure(broken, hop) from broken


async def begin(
    publisher: RabbitPublisher, body: bytes, hop: Hop, message_id: str, correlation_id: str, headers: Headers
) -> Confirmation:
    """Publish without awaiting the confirmation; see `publish`. What it or the confirmation raises, `failure` reads."""
    confirmation = await publisher.publish(
        body,
        exchange=exchange(hop.exchange),
        routing_key=hop.routing_key,
        message_id=message_id,
        correlation_id=correlation_id,
        headers=dict(headers),
    )
    return cast(Confirmation, confirmation)


def is_our_cancellation(broken: BaseException) -> bool:
    """Whether this task is to end; aiormq, too, cancels, namely the futures of a connection that it closes."""
    task = asyncio.current_task()
    return isinstance(broken, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def failure(broken: BaseException, hop: Hop) -> Unroutable | BrokerFault:
    """What an error under a message to `hop` means."""
    if isinstance(broken, PublishError):
        return Unroutable(f"no queue takes {_spoken(hop)}")
    if isinstance(broken, ChannelNotFoundEntity | ChannelAccessRefused):
        # The channel is shared: only the publish whose exchange the broker names is to blame.
        if f"exchange '{hop.exchange}' in" not in str(broken):
            return BrokerFault(f"the channel closed under a message to {_spoken(hop)}")
        reason = "does not exist" if isinstance(broken, ChannelNotFoundEntity) else "is closed to this user"
        return Unroutable(f"exchange {hop.exchange!r} {reason}; routing key {hop.routing_key!r}")
    return BrokerFault(f"no confirmation of a message to {_spoken(hop)}: {_reason(broken)}")


def _spoken(hop: Hop) -> str:
    return f"exchange {hop.exchange!r} with routing key {hop.routing_key!r}"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
