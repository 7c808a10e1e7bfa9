"""Executors that are Python functions, and the mocks among them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ulos_stream.errors import Crash, ExecutorCrashed, Fault
from ulos_stream.executors import Job
from ulos_stream.tasks import Verdict

Function = Callable[[Job], Awaitable[Verdict | bool]]
"""Runs a job: returns a `Verdict`, or True for PASS and False for FAIL; raises to crash.

It runs on the node's event loop: what blocks belongs in a thread, or in a process executor.
"""


@dataclass(frozen=True, slots=True)
class InlineExecutor:
    """Runs an `async def` of this process."""

    function: Function
    output_limit_bytes: int = 1024 * 1024
    device: str | None = None

    async def run(self, job: Job) -> Verdict:
        try:
            verdict = await self.function(job)
        except (Crash, Fault):
            raise
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ExecutorCrashed("the function was cancelled from within") from exc
        except (Exception, SystemExit) as exc:
            raise ExecutorCrashed(f"{type(exc).__name__}: {exc}") from exc
        if isinstance(verdict, bool):
            return Verdict.PASS if verdict else Verdict.FAIL
        if not isinstance(verdict, Verdict):
            raise ExecutorCrashed(f"the function returned {verdict!r:.100}, which is neither a Verdict nor a bool")
        return verdict

    async def check(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class Mock:
    """Does nothing for a while and ends as it is told: for tests, demos and load."""

    verdict: Verdict | None
    """None: crash."""
    delay_s: float

    async def __call__(self, job: Job) -> Verdict:
        await asyncio.sleep(self.delay_s)
        job.output.write(f"mock: {self.verdict or 'crash'} after {self.delay_s:g} s\n".encode())
        if self.verdict is None:
            raise ExecutorCrashed("the mock was asked to crash")
        return self.verdict


MOCK_VERDICTS = {"skip": Verdict.PASS, "pass": Verdict.PASS, "fail": Verdict.FAIL, "crash": None}
"""How the mock of each routing key ends."""
MOCK_PREFIX = "testing"
"""Every routing key that starts so passes."""
