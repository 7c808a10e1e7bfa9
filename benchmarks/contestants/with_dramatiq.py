"""Dramatiq: two processes of four threads, without middleware that this work has no use for."""

import sys

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.common import xq_name

from benchmarks import stage
from benchmarks.blocking import carry_out
from benchmarks.contestants import Contestant
from benchmarks.stage import Message, Task

PROCESSES, THREADS = 2, 4


def encode(task: Task) -> Message:
    """As `Actor.send` would send it."""
    sent = dramatiq.Message(queue_name=stage.QUEUE, actor_name="stage", args=(task,), kwargs={}, options={})
    return Message(sent.encode())


def work(task: Task) -> None:
    carry_out(task, encode)


dramatiq.set_broker(RabbitmqBroker(url=stage.world().url, middleware=[]))
dramatiq.actor(actor_name="stage", queue_name=stage.QUEUE)(work)


def _command(at_once: int | None) -> list[str]:
    threads = at_once // PROCESSES if at_once else THREADS
    return [sys.executable, "-m", "dramatiq", __name__, "--processes", str(PROCESSES), "--threads", str(threads)]


CONTESTANTS = {
    "dramatiq": Contestant(
        command=_command,
        encode=encode,
        consumers=PROCESSES,
        queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": xq_name(stage.QUEUE)},
    )
}
