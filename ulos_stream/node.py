"""The stream: one declared subscriber, three declared publishers; receive → run → hand over → settle.

    consumption queue ──▶ receive ──▶ stage ──▶ pipeline: download … upload
                             ▲          ├─────▶ logs        each event, as it happens
                             │          ├─────▶ next hop    confirmed
                             │          └─────▶ crashes     confirmed, instead of the hop
                    ack or reject ◀─────┘                   after every confirmation

A stage runs in a task of its own, not in its delivery's: when the connection drops, the
deliveries on it are cancelled, the work goes on, and the redelivery joins it by message id.
"""

import asyncio
import contextvars
import time
import uuid
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import AMQPError
from faststream import AckPolicy
from faststream.rabbit import RabbitBroker, RabbitMessage

from ulos_stream import routing, topology
from ulos_stream.admission import ALONE, Admission, Share
from ulos_stream.errors import Crash, InternalError, MalformedMessage
from ulos_stream.events import EventPublisher, StageEvents
from ulos_stream.journal import Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.publishing import Outbox
from ulos_stream.settings import Settings
from ulos_stream.tasks import (
    SENT_AT,
    Hop,
    MalformedCrash,
    Task,
    TaskCrash,
    TaskLog,
    Verdict,
    crash_message,
    malformed_message,
    parse_task,
)
from ulos_stream.telemetry import Log
from ulos_stream.telemetry.watch import Arrival, End, Watch, trace_headers

REMEMBERED_OUTCOMES = 1_000
DETACH_S = 5.0
"""Seconds that the broker gets to confirm that this node consumes no more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended, and so how its delivery is settled."""

    verdict: Verdict | None
    """None for a stage that has crashed."""
    events: StageEvents | None
    """None for a message that is no task, and for a stage that is done and only remembered."""
    context: contextvars.Context
    """Of the stage: what log lines say of it, and its trace."""

    @property
    def done(self) -> bool:
        """Acknowledge; otherwise reject."""
        return self.verdict is not None


StageKey = tuple[str, str]
"""Message id, or the one drawn for this delivery, and sha256 of the body: a producer may repeat an id."""


class Node:
    """Consumes one queue. Declares its endpoints on two brokers; does no I/O until they start.

    Args:
        settings: Of the whole node.
        consuming: The broker that delivers and settles.
        publishing: The broker that everything is published on: a blocked or broken publisher
            must not touch deliveries.
        pipeline: Carries the stages out.
        log: The node's own log lines.
        watch: Follows every stage.
        admission: Says when each may begin.
    """

    def __init__(
        self,
        settings: Settings,
        consuming: RabbitBroker,
        publishing: RabbitBroker,
        pipeline: Pipeline,
        log: Log,
        watch: Watch,
        admission: Admission,
    ) -> None:
        broker = settings.broker
        self._settings = settings
        self._consuming = consuming
        self._pipeline = pipeline
        self._log = log
        self._watch = watch
        self._admission = admission
        self._running: dict[StageKey, asyncio.Task[Outcome]] = {}
        self._lost: set[asyncio.Task[Outcome]] = set()
        """Those that run for a delivery which is lost: with its connection, before it was settled."""
        self._ended: OrderedDict[StageKey, Outcome] = OrderedDict()
        self._deliveries: set[asyncio.Task[None]] = set()

        self._queue = topology.consumption_queue(broker.consumption_queue)
        self.tasks = consuming.subscriber(
            self._queue,
            channel=topology.consuming_channel(settings.stages_at_once),
            ack_policy=AckPolicy.MANUAL,
            decoder=_raw,
            no_reply=True,
            title="tasks",
            description="Task messages: each is carried through one stage.",
        )
        self.tasks(self.receive)
        self.logs = publishing.publisher(
            exchange=topology.exchange(broker.logs_exchange),
            routing_key=broker.logs_routing_key,
            persist=True,
            schema=TaskLog,
            title="logs",
            description="What happens to each task, event by event.",
        )
        self.crashes = publishing.publisher(
            exchange=topology.exchange(broker.crash_exchange),
            routing_key=broker.crash_routing_key,
            persist=True,
            schema=TaskCrash | MalformedCrash,
            title="crashes",
            description="Stages that could not be carried out, and bodies that are no task.",
        )
        self.hops = publishing.publisher(
            persist=True,
            schema=Task,
            title="hops",
            description="Tasks on their way: exchange and routing key are those of the branch taken.",
        )
        self.outbox = Outbox(
            broker=publishing,
            hops=self.hops,
            crashes=self.crashes,
            crash_hop=Hop(exchange=broker.crash_exchange, routing_key=broker.crash_routing_key),
            fault_budget_s=settings.node.fault_budget_s,
            log=log,
            watch=watch,
        )
        self.events = EventPublisher(
            publisher=self.logs,
            hop=Hop(exchange=broker.logs_exchange, routing_key=broker.logs_routing_key),
            persistently=self.outbox.persistently,
            log=log,
            watch=watch,
        )

    async def receive(self, body: bytes) -> None:
        """Take one delivery: start its stage or join the one that runs, then settle."""
        delivery = asyncio.current_task()
        assert delivery is not None  # noqa: S101 (a coroutine runs in a task)
        self._deliveries.add(delivery)
        try:
            message: RabbitMessage = self._consuming.context.get_local("message")
            origin = _origin(message.raw_message)
            key = (origin.message_id, origin.body_sha256)
            outcome = self._remembered(key, origin)
            if outcome is None:
                stage = self._stage(key, origin, _arrival(message.raw_message, origin, self._queue.name))
                try:
                    outcome = await asyncio.shield(stage)
                except asyncio.CancelledError:
                    if not stage.done():
                        self._lost.add(stage)
                    raise
            if origin.redelivered and outcome.events is not None:
                # Who had it before may have been killed in an upload, also where a copy of it is what ran here.
                sweep = self._pipeline.sweep(outcome.events.task, origin)
                await asyncio.create_task(sweep, context=outcome.context)
            await self._settle(message, key, origin, outcome)
        finally:
            self._deliveries.discard(delivery)

    async def check(self) -> None:
        """See that this node consumes its queue.

        Raises:
            BrokerFault: It does not.
        """
        await topology.check_consuming(self._consuming, self._queue)

    async def drain(self) -> None:
        """Take no more messages, let running stages end within the grace period, cancel the rest.

        What was cancelled is unsettled, so the broker gives it to another node.
        """
        if not self.tasks.running:
            return
        self._log.info("draining", stages=len(self._running))
        try:
            async with asyncio.timeout(DETACH_S):
                await topology.cancel_consumers(self._consuming, self._queue)
        except (AMQPError, OSError, RuntimeError) as away:
            self._log.warning("fault", reason=f"cannot cancel the consumer: {away}")
        stages = list(self._running.values())
        if work := {*self._deliveries, *stages}:  # a stage may have lost its delivery
            await asyncio.wait(work, timeout=self._settings.node.grace_s)
        for stage in stages:
            stage.cancel()
        await asyncio.gather(*stages, return_exceptions=True)

    def _remembered(self, key: StageKey, origin: Origin) -> Outcome | None:
        """How the stage of a message has ended, if that is known.

        A copy that the hop before published twice carries the same id and is absorbed here. One that has crashed and is
        not redelivered was sent anew. The events of a stage that is done are not kept; this message tells of what.
        """
        outcome = self._ended.get(key)
        if outcome is None or not (outcome.done or origin.redelivered):
            return None
        if outcome.events is None and outcome.done:
            task = parse_task(origin.body, self._settings.node.max_timeout_s)
            return replace(outcome, events=outcome.context.run(self._events, task, origin))
        return outcome

    def _stage(self, key: StageKey, origin: Origin, arrival: Arrival) -> "asyncio.Task[Outcome]":
        """The stage of a message, which runs once however often the message is delivered.

        A message without an id may be a fresh copy of another: it joins only a stage that lost its delivery, and once
        that has ended, the journal decides.
        """
        stage = self._running.get(key)
        if stage is None and origin.redelivered and not origin.has_id:
            alike = (stage for (_, body), stage in self._running.items() if body == origin.body_sha256)
            stage = next((stage for stage in alike if stage in self._lost), None)
            self._lost.discard(stage)
        if stage is None:
            self._ended.pop(key, None)
            # In a context of its own: it is remembered, and that of the delivery holds the whole message.
            stage = asyncio.create_task(self._carry_out(origin, arrival), context=contextvars.Context())
            self._running[key] = stage
            stage.add_done_callback(lambda ended: self._remember(key, ended))
        return stage

    def _remember(self, key: StageKey, stage: "asyncio.Task[Outcome]") -> None:
        del self._running[key]
        self._lost.discard(stage)
        if stage.cancelled():
            return
        if defect := stage.exception():
            self._log.error("stage broken", message=key[0], reason=repr(defect), exc_info=defect)
        else:
            outcome = stage.result()
            self._ended[key] = replace(outcome, events=None) if outcome.done else outcome
            while len(self._ended) > REMEMBERED_OUTCOMES:
                self._ended.popitem(last=False)

    async def _carry_out(self, origin: Origin, arrival: Arrival) -> Outcome:
        """One stage, from the received body to the last confirmation before the settlement."""
        message_id = origin.message_id
        try:
            task = parse_task(origin.body, self._settings.node.max_timeout_s)
        except MalformedMessage as crash:
            with self._watch.stage(arrival, None) as end, self._log.about(message=message_id):
                end(crash)
                self._log.warning("message malformed", reason=str(crash))
                await self.outbox.report_crash(malformed_message(origin.body, crash), message_id)
                return Outcome(None, None, contextvars.copy_context())
        about = {"task": task.task_id, "stage": task.routing_tree.routing_key, "message": message_id}
        with self._watch.stage(arrival, task) as end, self._log.about(**about):
            return await self._carry_out_task(task, origin, arrival, end)

    async def _carry_out_task(self, task: Task, origin: Origin, arrival: Arrival, end: End) -> Outcome:
        message_id, context = origin.message_id, contextvars.copy_context()
        events = self._events(task, origin)
        started = time.monotonic()
        self._log.debug("stage started")
        waiting = self._admission.waiting
        place = f", where {waiting} wait for their turn" if waiting else ""
        events.emit("received", f"received by {self._settings.node.node}{place}")
        try:
            verdict = await self._run(task, origin, arrival, events)
        except Crash as crash:
            end(crash)
            say = self._log.error if isinstance(crash, InternalError) else self._log.warning
            say("stage crashed", code=crash.code, reason=str(crash), exc_info=isinstance(crash, InternalError))
            await self.outbox.report_crash(crash_message(task, crash), message_id)
            events.emit("crashed", f"{crash.code}: {crash}")
            await events.confirmed()
            return Outcome(None, events, context)
        end(verdict)
        await events.confirmed()
        self._log.info("stage ended", verdict=verdict, seconds=round(time.monotonic() - started, 3))
        return Outcome(verdict, events, context)

    def _events(self, task: Task, origin: Origin) -> StageEvents:
        return StageEvents(task, origin.message_id, self._settings.node.node, self.events.tell)

    def _turn(self, task: Task, origin: Origin) -> AbstractAsyncContextManager[None]:
        """The stage's turn; one that nobody can execute takes nothing, and is told at once."""
        entry = self._pipeline.executors.claim(task.routing_tree.routing_key)
        if entry is None:
            return nullcontext()
        weight = ALONE if origin.is_to_be_alone else entry.weight
        return self._admission.turn(task.task_owner_id, entry.key, Share(weight, entry.at_once))

    async def _run(self, task: Task, origin: Origin, arrival: Arrival, events: StageEvents) -> Verdict:
        """Carry the stage out in its turn, and hand the task over to its next hop, if there is one."""
        try:
            if origin.is_suspect:
                origin = replace(origin, deaths=await self._pipeline.count_deaths(task, origin))
            if origin.is_to_be_alone:
                self._log.warning("stage alone", reason=f"its node died {origin.deaths} times; others wait for it")
            async with self._turn(task, origin):
                done = await self._pipeline.run(task, origin, events.emit)
                branch = routing.branch(task, done.verdict)
                if branch is not None:
                    if not done.received:
                        hop_id = routing.hop_id(done.message_id, done.verdict)
                        next_task = routing.next_task(task, branch)
                        await self.outbox.hand_over(next_task, hop_id, origin.message_id, trace_headers(arrival))
                    events.emit("forwarded", f"forwarded to {branch.routing_key}", done.verdict)
        except (Crash, asyncio.CancelledError):
            raise
        except Exception as defect:
            raise InternalError(f"{type(defect).__name__}: {defect}") from defect
        return done.verdict

    async def _settle(self, message: RabbitMessage, key: StageKey, origin: Origin, outcome: Outcome) -> None:
        """Ack or reject the delivery, then publish the event that says so, best effort."""
        requeue = not outcome.done and routing.requeues(
            wanted=self._settings.broker.requeue_on_reject,
            redelivered=origin.redelivered,
            deliveries=origin.deliveries,
        )
        try:
            await (message.ack() if outcome.done else message.reject(requeue=requeue))
        except (AMQPError, RuntimeError) as lost:
            # The channel is gone; the redelivery finds the outcome remembered and settles it.
            outcome.context.run(self._log.warning, "settlement lost", reason=str(lost))
            return
        if not outcome.done:
            self._ended.pop(key, None)  # whoever sends it again wants it to be tried again
        if outcome.events is not None:
            if outcome.done:
                outcome.events.emit("acknowledged", "the stage is done", outcome.verdict)
            else:
                outcome.events.emit("rejected", "put back into the queue" if requeue else "taken off the queue")
            await outcome.events.confirmed()


async def _raw(message: RabbitMessage) -> bytes:
    """Decode nothing: a body that is no task must reach the handler too."""
    return message.body


def _origin(raw: AbstractIncomingMessage) -> Origin:
    # FastStream's own message id is invented where there is none.
    count = raw.headers.get("x-delivery-count")
    return Origin(
        message_id=raw.message_id or str(uuid.uuid4()),
        body=raw.body,
        has_id=bool(raw.message_id),
        redelivered=bool(raw.redelivered),
        deliveries=count if isinstance(count, int) else 0,
    )


def _arrival(raw: AbstractIncomingMessage, origin: Origin, queue: str) -> Arrival:
    sent_at_ms = raw.headers.get(SENT_AT)
    if isinstance(sent_at_ms, int):
        sent_at_s: float | None = sent_at_ms / 1000
    else:
        sent_at_s = raw.timestamp.timestamp() if raw.timestamp else None
    return Arrival(
        message_id=origin.message_id,
        correlation_id=raw.correlation_id,
        queue=queue,
        exchange=raw.exchange or "",
        routing_key=raw.routing_key or "",
        headers=raw.headers,
        sent_at_s=None if origin.redelivered else sent_at_s,
    )
