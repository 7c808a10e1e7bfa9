"""Print the log messages of all nodes as they come, one line each, until Ctrl-C.

Broker, exchange and routing key are those of the environment: `source configurations/processing-queue.env`.
"""

import json
import os
import sys
from contextlib import suppress

import pika
from pika.exceptions import AMQPError


def main() -> None:
    """Print what a queue of our own receives."""
    exchange, key = setting("LOGS_EXCHANGE"), setting("LOGS_ROUTING_KEY")
    try:
        with pika.BlockingConnection(broker()) as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queue, exchange, key)
            print(f"listening to exchange {exchange!r}, key {key!r}", flush=True)
            for _, _, body in channel.consume(queue, auto_ack=True):
                print(line(body), flush=True)
    except AMQPError as error:
        sys.exit(f"no longer listening: {error!r}")


def line(body: bytes) -> str:
    """A log message in one line. A Scala node tells only the task and the text."""
    try:
        message = json.loads(body)
        task, text = message["taskId"], message["logMessage"]
        fields = [message.get("at"), task, message.get("event"), text]
    except (ValueError, KeyError, TypeError):
        fields = ["no log message:", repr(body[:200])]
    shown = "  ".join(str(field) for field in fields if field)
    return "".join(character if character.isprintable() else "?" for character in shown)


def broker() -> pika.ConnectionParameters:
    """The broker of the environment."""
    credentials = pika.PlainCredentials(setting("USERNAME"), setting("PASSWORD"))
    return pika.ConnectionParameters(setting("HOST"), int(setting("PORT")), credentials=credentials)


def setting(name: str) -> str:
    """A variable of the environment; ends the program if it is missing."""
    if value := os.environ.get(f"MESSAGE_BROKER_{name}"):
        return value
    sys.exit(f"MESSAGE_BROKER_{name} is not set: source configurations/processing-queue.env")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
