"""One executor, tried on archives as a node runs it, without broker and FTP server.

    subject.py     which executor: of a folder, or by its routing key; its samples
    observed.py    what is seen of a run while it runs

The pipeline with all its limits, the directory and the executor are a node's own. The storage is a folder, which
keeps the results. Whoever tries it out also sees what the run prints, while it does, and how much memory it takes.
"""

import asyncio
import contextlib
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from ulos_stream import archive
from ulos_stream.errors import ArchiveRejected, ConfigurationError, Crash, Fault, FaultBudgetSpent, MalformedMessage
from ulos_stream.executors.report import MOST_REPORT_BYTES, REPORT, Report
from ulos_stream.journal import Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.settings import Node
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.tasks import Event, Task, Verdict, parse_task
from ulos_stream.trial.observed import Observed
from ulos_stream.trial.subject import Ending, Subject, expected, find, samples
from ulos_stream.workspace import NodeDirectory

__all__ = ["Changes", "Ending", "Outcome", "Subject", "Trial", "expected", "find", "opened", "samples"]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a stage did to the files of an artifact, by name."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended, and what was seen of it."""

    ending: Ending
    code: str | None = None
    """Of a crash, as a crash message has it."""
    detail: str = ""
    """What is to be said of a crash, or of a report that is none."""
    took_s: float | None = None
    """Seconds that the executor ran; None if it did not."""
    peak_bytes: int | None = None
    """The most memory that was seen; between two looks it may have been more. None if it could not be had."""
    changes: Changes | None = None
    report: Report | None = None
    result: Path | None = None
    """The zip that a node would have uploaded; None after a crash, which uploads nothing."""


@contextlib.asynccontextmanager
async def opened(
    subject: Subject, node: Node, *, timeout_s: float, kept: Path, show: Callable[[bytes], None]
) -> AsyncIterator["Trial"]:
    """Make all ready to try an executor.

    Args:
        subject: The executor.
        node: The settings count that a node would have here.
        timeout_s: Of each stage, in seconds.
        kept: Where results are kept, by the names of their archives; made if it is not there.
        show: Given what a run prints, as it comes.

    Raises:
        Fault: It cannot run on this machine now; the text says why.
    """
    observed = Observed(subject.entry.executor, show)
    executors = subject.executors.with_entry(replace(subject.entry, executor=observed))
    directory = NodeDirectory(node.work_dir, node.node)
    try:
        if reason := await observed.check():
            raise Fault(f"{subject.key} cannot run here: {reason}")
        await asyncio.to_thread(directory.open)
        pipeline = Pipeline(
            storage=FolderStorage(kept, node.archive.zip_mib * 1024 * 1024),
            executors=executors,
            limits=node.archive,
            directory=directory,
            node=node.node,
            journal_key=uuid.uuid4().bytes,
            fault_budget_s=0,  # somebody watches, who can try again
            report_fault=lambda fault, wait_s: None,
        )
        yield Trial(pipeline, subject.key, timeout_s, node.max_timeout_s, kept, observed)
    finally:
        await asyncio.to_thread(directory.close)
        await executors.aclose()


@dataclass(frozen=True, slots=True)
class Trial:
    """Sends archives through one executor."""

    pipeline: Pipeline
    key: str
    timeout_s: float
    max_timeout_s: float
    kept: Path
    observed: Observed

    async def run(self, sample: Path) -> Outcome:
        """Carry out one stage on a zip, or on what is made of a folder.

        Raises:
            ConfigurationError: The folder makes no archive, or the timeout is more than a node takes.
            Fault: The engine or the disk failed.
        """
        limits = self.pipeline.limits
        kept = self.kept / (f"{sample.name}.zip" if sample.is_dir() else sample.name)
        body, task = self._task(f"/{kept.name}")
        await asyncio.to_thread(_place, sample, kept, limits)
        self.observed.begin()
        try:
            before, _ = await asyncio.to_thread(_look, kept, limits)
            done = await self.pipeline.run(task, Origin(str(uuid.uuid4()), body), _untold)
        except FaultBudgetSpent as spent:
            raise Fault(str(spent.__cause__)) from spent
        except Crash as crash:
            kept.unlink(missing_ok=True)
            return Outcome("crash", crash.code, str(crash), self.observed.took_s, self.observed.peak_bytes)
        after, content = await asyncio.to_thread(_look, kept, limits)
        told, detail = _report(content)
        return Outcome(
            "pass" if done.verdict is Verdict.PASS else "fail",
            detail=detail,
            took_s=self.observed.took_s,
            peak_bytes=self.observed.peak_bytes,
            changes=_compare(before, after),
            report=told,
            result=kept,
        )

    def _task(self, file_path: str) -> tuple[bytes, Task]:
        tree = {"exchange": "trial", "routingKey": self.key}
        timeout = int(self.timeout_s) if float(self.timeout_s).is_integer() else self.timeout_s
        fields = {"taskId": "trial", "taskOwnerId": "trial", "filePath": file_path, "timeout": timeout}
        body = json.dumps({**fields, "routingTree": tree}).encode()
        try:
            return body, parse_task(body, self.max_timeout_s)
        except MalformedMessage as wrong:
            raise ConfigurationError(str(wrong)) from wrong


def _place(sample: Path, kept: Path, limits: archive.Limits) -> None:
    """Put the archive where the storage has it."""
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sample.is_dir():
            with kept.open("w+b") as file:
                archive.pack(sample, file, {}, limits)
        else:
            shutil.copyfile(sample, kept)
    except ArchiveRejected as rejected:
        raise ConfigurationError(f"{sample}: {rejected}") from rejected
    except OSError as wrong:
        raise ConfigurationError(f"{sample}: cannot be copied to {kept}: {wrong.strerror or wrong}") from wrong


def _compare(before: dict[str, str], after: dict[str, str]) -> Changes:
    return Changes(
        added=tuple(sorted(after.keys() - before)),
        changed=tuple(sorted(name for name in before.keys() & after if before[name] != after[name])),
        removed=tuple(sorted(before.keys() - after)),
    )


def _look(kept: Path, limits: archive.Limits) -> tuple[dict[str, str], bytes | None]:
    """The files of an archive, and the report among them."""
    with kept.open("rb") as file, archive.opened(file, limits) as artifact:
        return artifact.files(), artifact.read(REPORT, MOST_REPORT_BYTES)


def _report(content: bytes | None) -> tuple[Report | None, str]:
    """The report that a run has left, if there is one; else what is wrong with it."""
    if content is None:
        return None, ""
    try:
        return Report.model_validate_json(content), ""
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return None, f"{REPORT} is no report: {where}: {first['msg']}"


def _untold(event: Event, text: str, verdict: Verdict | None = None) -> None:
    """Nobody follows the events of a trial."""
