"""What Cypress says of the specs, held against what their source promises. Pure: nothing is run or read here."""

import collections
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from judge import Check

SPEC = re.compile(r"cypress/e2e/((?!\.|node_modules/)[^/]+/)*(?!\.)[^/]+\.cy\.(js|jsx|ts|tsx)")
"""Cypress's default `specPattern`, without what it passes over: these must be run, whatever the configuration says."""
FRAME = re.compile(r"webpack://[^/]*/\./(?P<file>.+?):(?P<line>\d{1,7}):\d+")
"""A line of a stack trace, as Cypress maps it back to the source."""
MARKED = re.compile(r"^> *(?P<line>\d{1,7}) \|", re.MULTILINE)
"""The line at fault in the piece of source that Babel shows."""
TRACE = re.compile(r"^ +at .*\n?|^Error: Webpack Compilation Error\n|^Module build failed .*\n", re.MULTILINE)
MOST_CHARACTERS = 4000

Outlines = Mapping[str, list[dict[str, Any]] | None]
"""The tests that each spec of the submission is certain to have, as `outline.cjs` lists them."""


def specs_in(files: Iterable[str]) -> list[str]:
    """Those of a submission's files that Cypress takes for specs."""
    return sorted(file for file in files if SPEC.fullmatch(file))


def specs_of(report: Any) -> list[str]:
    """The specs that Cypress reports.

    Raises:
        KeyError, TypeError: It is no report of Cypress's.
    """
    return [run["spec"]["relative"] for run in report["runs"]]


def compare(report: Any, outlines: Outlines) -> list[Check]:
    """A check for each test, and one more for whatever does not add up.

    Raises:
        KeyError, TypeError: It is no report of Cypress's.
    """
    runs = {run["spec"]["relative"]: run for run in report["runs"]}
    checks: list[Check] = []
    for spec in sorted({*runs, *outlines}):
        if spec not in runs:
            advice = "Cypress was told to leave it out. Look at specPattern and excludeSpecPattern in cypress.config."
            checks.append(Check(spec, False, advice, spec))
        elif spec not in outlines:
            checks.append(Check(spec, False, "Cypress ran it, but it is not part of the submission."))
        else:
            checks += _spec(spec, runs[spec], outlines[spec])
    if report["totalFailed"] and all(check.passed or check.warning for check in checks):
        checks.append(Check("Cypress", False, f"It counts {report['totalFailed']} failures, and says of none where."))
    return checks


def _spec(spec: str, run: Any, outline: list[dict[str, Any]] | None) -> Iterator[Check]:
    """What there is to say of one spec that was run."""
    if run["error"]:
        marked = MARKED.search(run["error"])
        yield Check(spec, False, readable(run["error"]), spec, int(marked["line"]) if marked else None)
        return
    if outline is None:
        yield Check(spec, False, "It is nested too deeply to be read.", spec)
        return
    lines = {tuple(test["titles"]): test["line"] for test in outline}
    for test in run["tests"]:
        yield _test(spec, test, lines.get(tuple(test["title"])))
    yield from _left_out(spec, run, outline)
    states = {test["state"] for test in run["tests"]}
    if not states and not outline:
        yield Check(spec, False, "There is no test in it. Write one: it('shows a title', () => { … })", spec)
    elif states == {"pending"}:
        yield Check(spec, False, "Every test in it is skipped, so nothing was tested.", spec)


def _test(spec: str, test: Any, line: int | None) -> Check:
    name = " > ".join(test["title"])
    match test["state"]:
        case "passed":
            return Check(name, True, "", spec, line)
        case "pending":
            return Check(name, False, "Skipped: it.skip, or a test without a function.", spec, line, warning=True)
        case "failed":
            error = test["displayError"] or "It failed, and Cypress does not say why."
            # A line of the spec says more than one of a command that it uses.
            for frame in sorted(FRAME.finditer(error), key=lambda frame: frame["file"] != spec):
                return Check(name, False, readable(error), frame["file"], int(frame["line"]))
            return Check(name, False, readable(error), spec, line)
    return Check(name, False, "Not run: a hook before it failed, or Cypress.stop() was called.", spec, line)


def _left_out(spec: str, run: Any, outline: list[dict[str, Any]]) -> Iterator[Check]:
    """Tests of the source that Cypress does not report."""
    reported = collections.Counter(tuple(test["title"]) for test in run["tests"])
    named = [(tuple(test["titles"]), test["line"]) for test in outline if None not in test["titles"]]
    for titles, line in named:
        if reported[titles] < 1:
            advice = "It is in the spec, but was not run. Look for an .only, a return before it, or Cypress.stop()."
            yield Check(" > ".join(titles), False, advice, spec, line)
        reported[titles] -= 1
    if len(run["tests"]) < len(outline) and min(reported.values(), default=0) >= 0:
        told = f"{len(outline)} tests are in the spec, but {len(run['tests'])} were run. Look for an .only."
        yield Check(spec, False, told, spec)


def readable(printed: str) -> str:
    """What Cypress printed of an error, without what only its makers can use."""
    _, _, cause = printed.rpartition("The error was:\n")
    cause, _, _ = cause.partition("\nThis occurred while Cypress was compiling")
    return TRACE.sub("", cause).replace("/tmp/submission/", "").strip()[:MOST_CHARACTERS]
