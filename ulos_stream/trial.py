"""One executor, tried on archives as a node runs it, without broker and FTP server.

    find ▶ opened ▶ Trial.run ▶ Outcome

The pipeline with all its limits, the directory and the executor are a node's own. The storage is a folder, which
keeps the results. Whoever tries it out also sees what the run prints, while it does, and how much memory it takes.
"""

import asyncio
import contextlib
import json
import shutil
import time
import tomllib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from ulos_stream import archive
from ulos_stream.app import find_executors
from ulos_stream.errors import ArchiveRejected, ConfigurationError, Crash, Fault, FaultBudgetSpent, MalformedMessage
from ulos_stream.executors import Job, Output
from ulos_stream.executors.memory import memory_bytes
from ulos_stream.executors.registry import ENTRY_POINTS, Entry, Registry
from ulos_stream.executors.report import MOST_REPORT_BYTES, REPORT, Report
from ulos_stream.journal import Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.settings import Node
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.tasks import Event, Task, Verdict, parse_task
from ulos_stream.workspace import NodeDirectory

Ending = Literal["pass", "fail", "crash"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)
LOOK_S = 0.02
"""Seconds between two looks at the memory; one takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An executor that is to be tried."""

    entry: Entry
    key: str
    """The routing key of the trial's stage."""
    folder: Path | None
    """Where it lies, with its samples in `samples/`; None if nobody can tell."""
    executors: Registry


def find(name: str, node: Node) -> Subject:
    """The executor of a folder, or the one that claims a routing key on this machine.

    Args:
        name: The folder holds an `executor.toml`, or the package of an inline executor.
        node: Settings of the node that it is tried for.

    Raises:
        ConfigurationError: There is none, or a descriptor is wrong.
    """
    folder = Path(name)
    if (folder / "executor.toml").exists():
        executors = find_executors(node.model_copy(update={"executors_path": (folder,)}))
        own = next(entry for entry in executors if entry.folder)
        return Subject(own, own.key + "1" * own.is_prefix, folder, executors)
    function = _function(folder)
    executors = find_executors(node)
    if entry := executors.claim(function or name):
        return Subject(entry, function or name, folder if function else entry.folder, executors)
    if function:
        raise ConfigurationError(f"{name}: its function is not installed: pip install --editable {name}")
    raise ConfigurationError(
        f"{name}: there is no {folder / 'executor.toml'}, and no executor of this machine claims that routing key;"
        " `ulos executor new` makes one, `ulos executor list` shows all"
    )


def _function(folder: Path) -> str | None:
    """The routing key of the function in a package's folder; None if it is no such folder."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"][ENTRY_POINTS]
        return str(next(iter(points), "")) or None
    return None


def samples(folder: Path) -> list[Path]:
    """The samples of an executor, by name.

    Raises:
        ConfigurationError: There are none.
    """
    found = [path for path in sorted((folder / "samples").glob("*")) if not path.name.startswith(".")]
    if not found:
        raise ConfigurationError(f"{folder / 'samples'}: holds no sample; add one, or give an archive")
    return found


def expected(sample: Path) -> Ending | None:
    """How a sample is to end: the first word of its name. None for what is no sample.

    Raises:
        ConfigurationError: It is one, and its name does not say.
    """
    if sample.absolute().parent.name != "samples":
        return None
    for ending in ENDINGS:
        if sample.stem.split("-")[0] == ending:
            return ending
    raise ConfigurationError(f"{sample}: begin the name with how it is to end: pass, fail or crash")


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
    observed = _Observed(subject, show)
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
    observed: "_Observed"

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
            before = await asyncio.to_thread(archive.files_of, kept, limits)
            done = await self.pipeline.run(task, Origin(str(uuid.uuid4()), body), _untold)
        except FaultBudgetSpent as spent:
            raise Fault(str(spent.__cause__)) from spent
        except Crash as crash:
            kept.unlink(missing_ok=True)
            return Outcome("crash", crash.code, str(crash), self.observed.took_s, self.observed.peak_bytes)
        told, detail = await asyncio.to_thread(_report, kept, limits)
        return Outcome(
            "pass" if done.verdict is Verdict.PASS else "fail",
            detail=detail,
            took_s=self.observed.took_s,
            peak_bytes=self.observed.peak_bytes,
            changes=_compare(before, await asyncio.to_thread(archive.files_of, kept, limits)),
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


class _Observed:
    """The subject's executor, with somebody looking on."""

    def __init__(self, subject: Subject, show: Callable[[bytes], None]) -> None:
        self._executor = subject.entry.executor
        self._show = show
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self.took_s: float | None = None
        self.peak_bytes: int | None = None

    @property
    def output_limit_bytes(self) -> int:
        return self._executor.output_limit_bytes

    async def run(self, job: Job) -> Verdict:
        begun = time.monotonic()
        looking = asyncio.create_task(self._look(job))
        try:
            return await self._executor.run(replace(job, output=_Shown(job.output, self._show)))
        finally:
            self.took_s = time.monotonic() - begun
            looking.cancel()
            await asyncio.wait([looking])

    async def check(self) -> str | None:
        return await self._executor.check()

    async def _look(self, job: Job) -> None:
        while True:
            if taken := await asyncio.to_thread(memory_bytes, job):
                self.peak_bytes = max(taken, self.peak_bytes or 0)
            await asyncio.sleep(LOOK_S)


class _Shown(Output):
    """An output of which everything that is kept is shown as well."""

    def __init__(self, output: Output, show: Callable[[bytes], None]) -> None:
        self._output = output
        self._show = show

    def write(self, data: bytes) -> None:
        dropped_bytes = self._output.dropped_bytes
        self._output.write(data)
        self._show(data[: len(data) - (self._output.dropped_bytes - dropped_bytes)])

    def remark(self, text: str) -> None:
        self._output.remark(text)


def _place(sample: Path, kept: Path, limits: archive.Limits) -> None:
    """Put the archive where the storage has it."""
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sample.is_dir():
            archive.pack(sample, kept, {}, limits)
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


def _report(result: Path, limits: archive.Limits) -> tuple[Report | None, str]:
    """The report in a result, if there is one; else what is wrong with it."""
    content = archive.read_member(result, REPORT, limits, MOST_REPORT_BYTES)
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
