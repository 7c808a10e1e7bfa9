"""Whether a node can do its work now, and if not, why: looked at every two seconds, told when it changes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ulos_stream.errors import UlosError
from ulos_stream.telemetry import Log

LOOK_S = 2.0
"""Seconds between two looks: an outage is told well before somebody reports it."""
ANSWER_S = 5.0
"""Seconds that a part of the world has to answer."""

Check = Callable[[], Awaitable[None]]
"""Returns when all is well, and raises one of our errors when it is not."""


class Readiness:
    """What keeps the node from working, by the name of the check that says so; empty when nothing does.

    Before `start` that is the start itself.

    Args:
        checks: By name.
        log: Told of every change.
    """

    def __init__(self, checks: Mapping[str, Check], log: Log) -> None:
        self.reasons = {"start": "the node is starting"}
        self._checks = checks
        self._log = log
        self._looking = False
        self._watching: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        """Of all checks."""
        return list(self._checks)

    def passes(self, name: str) -> bool:
        """Whether this check passed when it was last made; none has before the start, nor after the end."""
        return self._looking and name not in self.reasons

    def wait(self, reason: str) -> None:
        """Not ready yet, before the first look, for this reason."""
        self.reasons = {"start": reason}

    def start(self) -> None:
        """Ready; begin to look, in the background."""
        self.reasons = {}
        self._looking = True
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Look no more: the node takes no more work. Idempotent."""
        self._looking = False
        self.reasons = {"stop": "the node is stopping"}
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def look(self) -> None:
        """Make every check once, all at the same time, and say so if their names have changed."""
        answers = await asyncio.gather(*(_ask(check) for check in self._checks.values()))
        reasons = {name: answer for name, answer in zip(self._checks, answers, strict=True) if answer}
        changed = reasons.keys() != self.reasons.keys()
        self.reasons = reasons
        if changed and reasons:
            self._log.warning("not ready", reason="; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        elif changed:
            self._log.info("ready")

    async def _watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)


async def _ask(check: Check) -> str | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            await check()
    except TimeoutError:
        return f"no answer within {ANSWER_S:g} s"
    except UlosError as wrong:
        return str(wrong)
    except Exception as defect:  # of this package: who asks is to hear of it, again and again
        return f"the check itself failed: {defect!r}"
    return None
