"""Send a task message, and wait until the broker has taken it.

Broker and queue are those of the environment: `source configurations/processing-queue.env`.
"""

import argparse
import os
import sys
import uuid
from pathlib import Path

import pika
from pika.exceptions import AMQPError


def main() -> int:
    """Send the message; returns the exit code."""
    parser = argparse.ArgumentParser(description="Send a task message, and wait until the broker has taken it.")
    parser.add_argument("message", type=Path, help="file with the message, such as messages/five-stages.json")
    parser.add_argument("--exchange", default="", help="exchange to publish to; the default exchange by default")
    parser.add_argument("--key", help="routing key; the queue of the environment by default")
    arguments = parser.parse_args()

    key = arguments.key or setting("CONSUMPTION_QUEUE")
    properties = pika.BasicProperties(
        content_type="application/json", delivery_mode=pika.DeliveryMode.Persistent, message_id=str(uuid.uuid4())
    )
    try:
        body = arguments.message.read_bytes()
        with pika.BlockingConnection(broker()) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish(arguments.exchange, key, body, properties, mandatory=True)
    except (AMQPError, OSError) as error:
        print(f"not sent: {error!r}", file=sys.stderr)
        return 1
    print(f"sent {arguments.message} to exchange {arguments.exchange!r}, key {key!r} as {properties.message_id}")
    return 0


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
    sys.exit(main())
