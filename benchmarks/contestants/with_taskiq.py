"""taskiq on aio-pika: two processes of sixteen coroutines, acknowledging when the task is done."""

import os
import sys
from typing import Any

from taskiq import TaskiqEvents, TaskiqMessage
from taskiq_aio_pika import AioPikaBroker, Queue

from benchmarks import stage
from benchmarks.contestants import Contestant
from benchmarks.coroutines import Worker
from benchmarks.stage import Message, Task

PROCESSES = 2
AT_ONCE = int(os.environ.get("MESSAGE_BROKER_PREFETCH_COUNT", stage.AT_ONCE)) // PROCESSES

broker = AioPikaBroker(stage.world().url, qos=AT_ONCE, task_queues=[Queue(name=stage.QUEUE, declare=False)])


def encode(task: Task) -> Message:
    """As `kiq` would send it."""
    task_id = f"{task['taskId']} {task['routingTree']['routingKey']}"
    sent = broker.formatter.dumps(TaskiqMessage(task_id=task_id, task_name="stage", labels={}, args=[task], kwargs={}))
    return Message(sent.message, {"task_id": task_id, "task_name": "stage"})


async def carry_out(task: Task) -> None:
    """The task of this worker."""
    await broker.state.worker.carry_out(task, encode)


async def _open(state: Any) -> None:
    state.worker = await Worker.open()


async def _close(state: Any) -> None:
    await state.worker.close()


broker.register_task(carry_out, task_name="stage")
broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, _open)
broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, _close)


def _command(at_once: int | None) -> list[str]:
    worker = [sys.executable, "-m", "taskiq", "worker", f"{__name__}:broker", "--log-level", "ERROR"]
    processes = ["--workers", str(PROCESSES), "--max-async-tasks", str((at_once or stage.AT_ONCE) // PROCESSES)]
    return [*worker, *processes, "--ack-type", "when_executed", "--no-parse"]


CONTESTANTS = {"taskiq": Contestant(command=_command, encode=encode, consumers=PROCESSES)}
