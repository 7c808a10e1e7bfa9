"""The executor {{name}}: a function in the node itself."""

import asyncio

from ulos_stream.executors import Job


async def check(job: Job) -> bool:
    """Passes submissions whose report.txt says something.

    Returns:
        True for PASS, False for FAIL. To raise anything is a crash.
    """
    report = job.directory / "report.txt"
    if not report.is_file():
        job.output.write(b"report.txt is missing: put your report there, at the top of the zip.\n")
        return False
    text = await asyncio.to_thread(report.read_text, errors="replace")  # the node must not wait for a disk
    if not text.split():
        job.output.write(b"report.txt is empty.\n")
        return False
    job.output.write(b"report.txt says something.\n")
    return True
