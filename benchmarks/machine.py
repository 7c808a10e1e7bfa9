"""Where something is measured, and with which versions."""

import ftplib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import aiormq

from ulos_stream.lab import Broker, FtpServer

PACKAGES = (
    "ulos-stream",
    "faststream",
    "aiormq",
    "aioftp",
    "uvloop",
    "celery",
    "kombu",
    "amqp",
    "dramatiq",
    "pika",
    "taskiq",
    "taskiq-aio-pika",
)


async def machine(broker: Broker, storage: FtpServer) -> dict[str, str]:
    """What is in this machine, and what runs on it, in a few words each.

    Raises:
        PackageNotFoundError: A contestant is not installed.
    """
    connection = await aiormq.connect(broker.url)
    rabbitmq = connection.server_properties["version"]
    await connection.close()
    with ftplib.FTP() as ftp:
        greeting = ftp.connect(storage.host, storage.port)
    processors = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "processor": f"{len(processors)} × {processors[0]}" if processors else f"{os.cpu_count()} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
        "python": f"{platform.python_version()}, {'of the system' if sys.base_prefix == '/usr' else 'built apart'}",
        "rabbitmq": str(rabbitmq),
        "ftp server": greeting.removeprefix("220 ").strip("()"),
        **{name: version(name) for name in PACKAGES},
    }
