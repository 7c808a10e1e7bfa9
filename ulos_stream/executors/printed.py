"""What a container prints, put together from the stream attached to it and the engine's log."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping

from ulos_stream.executors import Output


class Printed:
    """What a container has printed: passed on to the job's output, and remembered by channel (1: output, 2: errors)."""

    def __init__(self, output: Output) -> None:
        self.bytes: Counter[int] = Counter()
        self.head = b""
        self._digests: defaultdict[int, hashlib._Hash] = defaultdict(hashlib.sha256)
        self._output = output

    def write(self, channel: int, data: bytes) -> None:
        self.bytes[channel] += len(data)
        self.head = self.head or data[:64]
        self._digests[channel].update(data)
        self._output.write(data)

    def complete(self, log: Mapping[int, bytes]) -> None:
        """Add what is missing at the end: Docker ends the stream with the container, sent or not.

        Docker's log replaces what is no UTF-8; one that does not begin as the stream did is no help.
        """
        for channel, data in log.items():
            seen = self.bytes[channel]
            if hashlib.sha256(data[:seen]).digest() == self._digests[channel].digest():
                self.write(channel, data[seen:])
