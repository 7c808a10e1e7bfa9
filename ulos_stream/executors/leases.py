"""Leases on named devices: machines that one stage at a time may use."""

import asyncio
from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Leases(Protocol):
    """Gives a device to one stage at a time."""

    def hold(self, device: str) -> AbstractAsyncContextManager[object]:
        """Wait until nobody has `device`, however long that takes, and have it until the end of the block.

        A lease that is lost meanwhile cancels the block. It is given back when the block has ended, not before:
        whatever moves the device is at rest by then.

        Raises:
            Fault: It cannot be had now, or was lost.
        """
        ...


class LocalLeases:
    """Exclusive within this process, where no other one uses the devices; never lost."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def hold(self, device: str) -> asyncio.Lock:
        return self._locks[device]
