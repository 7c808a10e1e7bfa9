"""A stage in a thread or process of its own: ftplib and py-amqp, a connection of each for every thread."""

import ftplib
import threading
import time
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import IO, Any

import amqp

from benchmarks import stage
from benchmarks.stage import Encode, Message, Task

BLOCK_BYTES = 64 * 1024


class Publisher:
    """Publishes without waiting; `settle` waits for all confirmations at once."""

    def __init__(self, world: stage.World) -> None:
        self._connection: Any = amqp.Connection(
            f"{world.host}:{world.port}", userid=world.username, password=world.password
        )
        self._connection.connect()
        self._channel: Any = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._published = 0
        self._unconfirmed: set[int] = set()

    def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        content = amqp.Message(message.body, application_headers=message.headers, delivery_mode=2, **message.properties)
        self._published += 1
        self._unconfirmed.add(self._published)
        self._channel.basic_publish(content, exchange=exchange, routing_key=routing_key)

    def settle(self) -> None:
        while self._unconfirmed:
            self._connection.drain_events()

    def _acked(self, tag: int, multiple: bool) -> None:
        self._unconfirmed -= {each for each in self._unconfirmed if each <= tag} if multiple else {tag}

    def _nacked(self, tag: int, multiple: bool) -> None:
        raise RuntimeError(f"the broker refused message {tag}")


class Storage:
    """One FTP connection, in binary mode from the start, so that a transfer is one command and its reply."""

    def __init__(self, world: stage.World) -> None:
        self._ftp = ftplib.FTP()
        self._ftp.connect(world.storage_host, world.storage_port)
        self._ftp.login(world.storage_username, world.storage_password)
        self._ftp.voidcmd("TYPE I")

    def download(self, path: str, file: IO[bytes]) -> None:
        with self._ftp.transfercmd(f"RETR {path}") as connection:
            while block := connection.recv(BLOCK_BYTES):
                file.write(block)
        self._ftp.voidresp()

    def upload(self, file: IO[bytes], path: str) -> None:
        with self._ftp.transfercmd(f"STOR {stage.temporary(path)}") as connection:
            while block := file.read(BLOCK_BYTES):
                connection.sendall(block)
        self._ftp.voidresp()
        self._ftp.rename(stage.temporary(path), path)


class _Connections(threading.local):
    """Made by each thread when it first needs them, and kept."""

    def __init__(self) -> None:
        self.world = stage.world()
        self.publisher = Publisher(self.world)
        self.storage = Storage(self.world)


_mine: _Connections | None = None
_making = threading.Lock()


def connections() -> _Connections:
    """This thread's; made after a fork, so no process has those of another."""
    global _mine
    with _making:
        _mine = _mine or _Connections()
    return _mine


def carry_out(task: Task, encode: Encode) -> None:
    """One stage, up to the last confirmation; the event after that is told with the acknowledgement."""
    mine, path = connections(), task["filePath"]

    def tell(name: str) -> None:
        mine.publisher.publish(stage.EXCHANGE, stage.EVENT_KEY, stage.event(task, name))

    tell("received")
    with TemporaryDirectory() as directory:
        with SpooledTemporaryFile(stage.SPOOL_BYTES) as artifact:
            mine.storage.download(path, artifact)
            tell("downloaded")
            stage.unpack(artifact, directory)
        time.sleep(mine.world.delay_s)
        stage.execute(task, directory)
        tell("passed")
        with SpooledTemporaryFile(stage.SPOOL_BYTES) as result:
            stage.pack(directory, result)
            mine.storage.upload(result, path)
    tell("uploaded")
    mine.publisher.publish(*stage.forwarded(task, encode))
    mine.publisher.settle()
    tell("forwarded")
    mine.publisher.settle()
    tell("acknowledged")
