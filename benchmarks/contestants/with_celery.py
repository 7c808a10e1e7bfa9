"""Celery: acknowledges late, stores no results, and does without the chatter between workers."""

import json
import sys
from functools import partial

from celery import Celery

from benchmarks import stage
from benchmarks.blocking import carry_out
from benchmarks.contestants import Contestant
from benchmarks.stage import Message, Task

AT_ONCE = 4

app = Celery("benchmarks", broker=stage.world().url)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_heartbeat=0,
    task_default_queue=stage.QUEUE,
    task_acks_late=True,
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=stage.AT_ONCE // AT_ONCE,
)


def encode(task: Task) -> Message:
    """As `apply_async` would send it."""
    sent = app.amqp.as_task_v2(f"{task['taskId']} {task['routingTree']['routingKey']}", "stage", [task])
    serialized = {"content_type": "application/json", "content_encoding": "utf-8"}
    return Message(json.dumps(sent.body).encode(), sent.headers, {**sent.properties, **serialized})


def work(task: Task) -> None:
    carry_out(task, encode)


app.task(name="stage")(work)


def _command(pool: str, at_once: int | None) -> list[str]:
    worker = [sys.executable, "-m", "celery", "--app", __name__, "worker", "--loglevel", "ERROR"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [*worker, *quiet, "--pool", pool, "--concurrency", str(at_once or AT_ONCE)]


CONTESTANTS = {
    f"celery-{pool}": Contestant(command=partial(_command, pool), encode=encode) for pool in ("prefork", "threads")
}
