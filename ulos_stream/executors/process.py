"""Executors that are commands on the node itself: lab equipment, drivers, trusted checkers."""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from ulos_stream.errors import DeviceFault, ExecutorUnavailable, NodeFault
from ulos_stream.executors import Job, Output, finish
from ulos_stream.executors.descriptor import ProcessDescriptor
from ulos_stream.executors.verdict import discard_verdict, judge
from ulos_stream.tasks import Verdict

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are found, and the PATH they see, unless the descriptor sets another."""
BLOCK_BYTES = 64 * 1024
"""Read at once: what a pipe holds."""
DRAIN_S = 1.0
"""Seconds for the rest of the output once the group is dead; a process that left the group may hold the pipe."""
GUARD = 'read _; kill -9 -"$1"'
"""Waits for the end of its input, which comes with the end of the node, and then kills a process group."""
NOT_STARTABLE = {errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP, errno.EPERM}


class ProcessExecutor:
    """Runs a command in a session and process group of its own, in the job's directory.

    The group is killed when the command ends, whatever way it ends, and when the node is killed:
    two nodes must not drive one machine. Where the descriptor grants time to stop, the command itself
    is asked first; not when the node is killed, for then its lease is gone at once. A program that
    starts a session of its own leaves the group and is out of reach: run such ones in a container.

    Args:
        descriptor: What to run.
        folder: Where the descriptor lies; a relative program path starts there.
    """

    def __init__(self, descriptor: ProcessDescriptor, folder: Path) -> None:
        program, *self._arguments = descriptor.command
        self._program = str(folder.absolute() / program) if "/" in program else program
        self._descriptor = descriptor

    @property
    def output_limit_bytes(self) -> int:
        return self._descriptor.sandbox.output_mib * 1024 * 1024

    @property
    def device(self) -> str | None:
        return self._descriptor.device

    async def run(self, job: Job) -> Verdict:
        await finish(asyncio.to_thread(discard_verdict, self._descriptor, job.directory))
        # A pipe of our own: with asyncio's, waiting for the process waits for its grandchildren too.
        readable, writable = os.pipe()
        copying = asyncio.create_task(_copy(readable, job.output))
        starting = asyncio.create_task(self._start(job.directory, writable))
        try:
            process, _ = await asyncio.shield(starting)
            job.facts["process"] = str(process.pid)
            exit_code = await process.wait()
            job.facts["exit_code"] = str(exit_code)
        finally:
            await finish(_end(starting, copying, self._descriptor.stop_s))
        if not copying.cancelled():
            copying.result()  # raises what kept the output from being written
        if self.device and exit_code == os.EX_TEMPFAIL:
            last_words = job.output.tail().strip().rpartition("\n")[2]
            raise DeviceFault(f"{self.device}: {last_words or 'the program does not say why'}")
        return judge(self._descriptor, exit_code, job.directory)

    async def check(self) -> str | None:
        if shutil.which(self._program, path=self._descriptor.environment.get("PATH", PATH)):
            return None
        return f"the program {self._program!r} is not on this node, or is not executable"

    async def _start(self, directory: Path, output: int) -> tuple[Process, Process]:
        """Start the command, and the guard of its group."""
        environment = {"PATH": PATH, "HOME": str(directory), "LANG": "C.UTF-8", **self._descriptor.environment}
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *self._arguments,
                cwd=directory,
                env=environment,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as exc:
            if exc.errno in NOT_STARTABLE:
                raise ExecutorUnavailable(f"cannot start {self._program!r}: {exc.strerror}") from exc
            raise NodeFault(f"cannot start a process: {exc.strerror}") from exc
        finally:
            os.close(output)
        try:
            return process, await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", GUARD, "sh", str(process.pid)), stdin=PIPE, stderr=DEVNULL, start_new_session=True
            )
        except OSError as exc:
            await _kill(process)
            raise NodeFault(f"cannot start a process: {exc.strerror}") from exc


async def _copy(pipe: int, output: Output) -> None:
    """Write what comes through the pipe to `output`, and close the pipe at its end.

    By hand: uvloop's own pipe transport closes the descriptor twice (MagicStack/uvloop#763), and the
    second time it may be a file that another thread has just opened: an artifact, say.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    os.set_blocking(pipe, False)
    loop.add_reader(pipe, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                if not (block := os.read(pipe, BLOCK_BYTES)):
                    return
                output.write(block)
    finally:
        loop.remove_reader(pipe)
        os.close(pipe)


async def _end(starting: "asyncio.Task[tuple[Process, Process]]", copying: "asyncio.Task[None]", stop_s: float) -> None:
    """Let the command stop, kill what is left of the group, reap the process, and read the rest of the output."""
    await asyncio.wait([starting])
    if starting.exception() is None:
        command, guard = starting.result()
        if stop_s and command.returncode is None:
            command.terminate()
            await asyncio.wait([asyncio.ensure_future(command.wait())], timeout=stop_s)
        await _kill(command)
        await _kill(guard)
    await asyncio.wait([copying], timeout=DRAIN_S)
    copying.cancel()
    await asyncio.gather(copying, return_exceptions=True)


async def _kill(leader: Process) -> None:
    """Kill a process group and reap its leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    await leader.wait()
