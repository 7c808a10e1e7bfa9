"""`results/report.json`: what an executor tells of its checks, for students and for programs that show it to them.

An executor need not leave one, and the verdict never depends on it.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ulos_stream.tasks import Verdict

REPORT = "results/report.json"
MOST_REPORT_BYTES = 1024 * 1024
"""The largest that is read."""


class Check(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """What, in a few words."""
    status: Literal["passed", "failed", "warning"]
    """A `warning` is worth telling, but no reason to fail."""
    message: str = ""
    """For the student: what is wrong and, if possible, what to do. Lines end with a line feed."""
    file: str | None = None
    """Where, relative to the submission."""
    line: Annotated[int, Field(ge=1)] | None = None
    """In that file."""


class Report(BaseModel):
    """What an executor tells of its checks. More fields may stand beside these."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    executor: str
    """Its name."""
    verdict: Verdict
    """The one that the executor came to; what counts is the verdict of the stage."""
    checks: list[Check]
    """In the order in which a person is to read them."""
