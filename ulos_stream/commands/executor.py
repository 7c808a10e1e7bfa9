"""`ulos executor`: a new executor, from its folder to its last sample, without broker and storage."""

import codecs
import json
import sys
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ulos_stream.commands import AsJson, complain, conclude, executors, one_line, plain, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ulos_stream.trial import Ending, Outcome

MIB = 1024 * 1024

app = typer.Typer(no_args_is_help=True, help="Write an executor, build its image, and try it.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The executor's folder, or a routing key known here.")]

app.command("list")(executors.executors)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the folder, the routing key and the image.")],
    kind: Annotated[
        Literal["container", "process", "inline"],
        typer.Option(help="For untrusted code; for equipment and drivers; a Python function in the node itself."),
    ] = "container",
    into: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Where the folder is made.")] = Path(),
) -> None:
    """Write an executor that works: descriptor, program, README, a good and a bad sample."""

    async def command() -> int:
        from ulos_stream.scaffold import scaffold

        folder = scaffold(name, kind, into)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            say(plain(path))
        return 0

    conclude(command)


@app.command()
def build(
    name: Name,
    base: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", envvar="ULOS_BASE_IMAGE", help="Instead of the public image it is built on."),
    ] = None,
) -> None:
    """Build the image of an executor, under the name that its descriptor gives.

    Exit code 1 when the build fails, 3 when no Docker engine answers.
    """

    async def command() -> int:
        from ulos_stream import images
        from ulos_stream.errors import ConfigurationError, ServiceMissing
        from ulos_stream.executors.descriptor import ContainerDescriptor, read_descriptor
        from ulos_stream.settings import read_node_settings
        from ulos_stream.trial import find

        subject = find(name, read_node_settings())
        if subject.entry.kind != "container" or subject.folder is None:
            raise ConfigurationError(f"{name}: is of the kind {subject.entry.kind}, which has no image")
        if not (subject.folder / "Dockerfile").exists():
            raise ConfigurationError(f"{subject.folder}: holds no Dockerfile; its image is made elsewhere")
        descriptor = read_descriptor(subject.folder / "executor.toml")
        assert isinstance(descriptor, ContainerDescriptor)  # noqa: S101 (its entry's kind)
        images.docker("version", hint="no Docker engine answers: apt-get install docker.io, and start dockerd as root")
        try:
            images.build(subject.folder, descriptor.image, base=base, quiet=False)
        except ServiceMissing as failed:
            return complain(1, str(failed))
        return 0

    conclude(command)


@app.command("test")
def try_out(
    name: Name,
    archive: Annotated[
        Path | None,
        typer.Argument(metavar="ARCHIVE", exists=True, help="A zip or a folder; all samples of NAME by default."),
    ] = None,
    expect: Annotated[
        Literal["pass", "fail", "crash"] | None,
        typer.Option(help="How it is to end; of a sample, its name's first word says so."),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="S", min=0, help="Seconds for a stage.")] = 60,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Where results go; a new folder by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an executor exactly as a node does, without broker and storage.

    What the run prints appears on standard error, as it comes; how it ended, what it took and which files it
    changed on standard output. Exit code 0 when each archive ended as expected or, where nothing is expected, did
    not crash; 3 when the executor cannot run here.
    """

    async def command() -> int:
        from ulos_stream.errors import ConfigurationError
        from ulos_stream.settings import read_node_settings
        from ulos_stream.trial import expected, find, opened, samples

        node = read_node_settings()
        subject = find(name, node)
        if archive is None and subject.folder is None:
            raise ConfigurationError(f"{name}: nobody knows where its samples are; give an archive")
        archives = samples(subject.folder) if archive is None and subject.folder else [archive or Path()]
        wanted = {each: expect or expected(each) for each in archives}
        kept = keep or Path(tempfile.gettempdir()) / f"ulos-results-{uuid.uuid4().hex[:8]}"
        printer = _Printer()
        good, told = 0, []
        async with opened(subject, node, timeout_s=timeout, kept=kept, show=printer) as trial:
            for each, ending in wanted.items():
                print(plain(each), file=sys.stderr, flush=True)
                outcome = await trial.run(each)
                printer.end()
                good += _is_as_expected(outcome.ending, ending)
                told.append(_object(each, ending, outcome))
                if not as_json:
                    say("\n".join(_lines(each, ending, outcome)))
        if as_json:
            say(json.dumps(told, indent=2))
        elif len(told) > 1:
            say(f"{good} of {len(told)} as expected")
        return 0 if good == len(told) else 1

    conclude(command)


class _Printer:
    """Passes on what a run prints, indented, and harmless for a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begins_line = True

    def __call__(self, data: bytes) -> None:
        for line in plain(self._decoder.decode(data)).splitlines(keepends=True):
            print("    " * self._begins_line + line, end="", file=sys.stderr, flush=True)
            self._begins_line = line.endswith("\n")

    def end(self) -> None:
        """The run is over: what comes next begins a line."""
        if not self._begins_line:
            print(file=sys.stderr, flush=True)
        self._begins_line = True


def _is_as_expected(ending: "Ending", wanted: "Ending | None") -> bool:
    return ending == wanted if wanted else ending != "crash"


def _lines(archive: Path, wanted: "Ending | None", outcome: "Outcome") -> "Iterator[str]":
    ending = f"crash ({outcome.code})" if outcome.code else outcome.ending.upper()
    verdict = "" if wanted is None else " as expected" if outcome.ending == wanted else f", and {wanted} was expected"
    took = "not run" if outcome.took_s is None else f"{outcome.took_s:.1f} s"
    seen = "memory unknown" if outcome.peak_bytes is None else f"{-(-outcome.peak_bytes // MIB)} MiB of memory seen"
    yield f"{one_line(archive)}: {ending}{verdict}; {took}, {seen}"
    if outcome.detail:
        yield f"    {one_line(outcome.detail)}"
    for check in outcome.report.checks if outcome.report else ():
        if check.status != "passed":
            place = f" ({check.file}{f':{check.line}' if check.line else ''})" if check.file else ""
            yield f"    {check.status:8} {one_line(f'{check.name}{place}: {check.message}')}"
    if changes := outcome.changes:
        for what, names in (("added", changes.added), ("changed", changes.changed), ("removed", changes.removed)):
            yield from (f"    {what:8} {one_line(name)}" for name in names)
    if outcome.result:
        yield f"    result   {one_line(outcome.result)}"


def _object(archive: Path, wanted: "Ending | None", outcome: "Outcome") -> dict[str, object]:
    return {
        "archive": str(archive),
        "expected": wanted,
        "ending": outcome.ending,
        "as_expected": _is_as_expected(outcome.ending, wanted),
        "code": outcome.code,
        "detail": outcome.detail,
        "duration_s": outcome.took_s,
        "peak_memory_bytes": outcome.peak_bytes,
        "changes": asdict(outcome.changes) if outcome.changes else None,
        "checks": [check.model_dump() for check in outcome.report.checks] if outcome.report else None,
        "result": str(outcome.result) if outcome.result else None,
    }
