"""The node's own log lines: short text, structured fields, a closed set of events.

On a terminal they are text, coloured unless `NO_COLOR` is set, elsewhere one JSON object a line. They go to
standard error. What other systems want to know of a task travels as log messages instead.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import structlog

from ulos_stream.errors import Fault

LogEvent = Literal[
    "starting",
    "listening",
    "waiting",
    "ready",
    "not ready",
    "swept",
    "journal key derived",
    "stage started",
    "stage ended",
    "stage alone",
    "stage crashed",
    "stage broken",
    "message malformed",
    "fault",
    "connection lost",
    "connection back",
    "event unroutable",
    "event lost",
    "traces lost",
    "traces back",
    "crash report held",
    "settlement lost",
    "executor unavailable",
    "notice",
    "device in use",
    "draining",
    "stopped",
]
"""Every `event` that a log line of the node can have; `notice` is what a part of it says by itself."""

OWN = __name__.partition(".")[0]
"""The name of the logger that writes the node's own lines."""
PACKAGE = f"{OWN}."
"""How the names of its modules' loggers begin."""
HEAD = ("timestamp", "level", "event", "task", "stage", "verdict", "code")
"""What a line begins with, where it has it: what an eye that runs down a page of them looks for."""


class Log:
    """Writes log lines; each names one of the events and adds fields to it."""

    def __init__(self) -> None:
        self._log = structlog.stdlib.get_logger(OWN)

    def about(self, **fields: str) -> AbstractContextManager[object]:
        """Within it, and in what it starts, every line has these fields."""
        return _About(fields)

    def debug(self, event: LogEvent, **fields: object) -> None:
        """A step of normal work."""
        self._log.debug(event, **fields)

    def info(self, event: LogEvent, **fields: object) -> None:
        """Something that an operator wants to see on a quiet day; a student's failure is one."""
        self._log.info(event, **fields)

    def warning(self, event: LogEvent, **fields: object) -> None:
        """Something is wrong around the node, and the node copes."""
        self._log.warning(event, **fields)

    def error(self, event: LogEvent, **fields: object) -> None:
        """Somebody has to act."""
        self._log.error(event, **fields)

    def fault(self, fault: Fault, wait_s: float) -> None:
        """A fault of the infrastructure that is tried again in `wait_s` seconds."""
        self.warning("fault", reason=str(fault), retry_in_s=round(wait_s, 2))

    def waiting(self, reason: str) -> None:
        """The node consumes nothing, for this reason."""
        self.warning("waiting", reason=reason)


class _About(AbstractContextManager[None]):
    """Fields of every line, as long as it is entered."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._before = structlog.contextvars.bind_contextvars(**self._fields)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        structlog.contextvars.reset_contextvars(**self._before)


def configure_logging(level: str) -> None:
    """Send every log line of this process to standard error; libraries speak from WARNING up."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    shown = _for_a_terminal() if sys.stderr.isatty() else _as_json
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown],
            foreign_pre_chain=[_as_notice, *shared],
        )
    )
    structlog.configure(
        processors=[*shared, _handed_on],
        logger_factory=_Loggers(_Own(handler, shown)),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    # What no line shows is not looked up for each: "Optimization" in Python's Logging HOWTO.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for library in ("aio_pika", "aiormq"):
        # A dropped connection is a page of tracebacks to them; the node says it in one line.
        logging.getLogger(library).setLevel(logging.CRITICAL)
    logging.getLogger(OWN).setLevel(level)


class _Own:
    """Writes the node's own lines, in turn with those of others and as the standard library does: what cannot be
    written harms nobody. But no record is made of them, which takes longer than all the rest.

    Args:
        handler: Writes the lines of others.
        shown: Makes a line of fields.
    """

    def __init__(self, handler: "logging.StreamHandler[TextIO]", shown: "Shown") -> None:
        self._handler = handler
        self._shown = shown

    def write(self, fields: structlog.typing.EventDict) -> None:
        handler = self._handler
        handler.acquire()
        try:
            handler.stream.write(f"{self._shown(self, '', fields)}\n")
            handler.flush()
        except Exception:
            handler.handleError(logging.makeLogRecord({"msg": fields}))
        finally:
            handler.release()

    debug = info = warning = error = write


class _Loggers(structlog.stdlib.LoggerFactory):
    """The node's own lines take the short way, and those of another who uses structlog, like an executor that somebody
    adds, the way of libraries.
    """

    def __init__(self, own: _Own) -> None:
        super().__init__(ignore_frame_names=[__name__])
        self._own = own

    def __call__(self, *names: Any) -> Any:
        return self._own if names == (OWN,) else super().__call__(*names)


def _handed_on(
    logger: structlog.typing.WrappedLogger, method: str, fields: structlog.typing.EventDict
) -> structlog.typing.ProcessorReturnValue:
    """The end of what is done at the caller's: the rest happens where the line is written."""
    if isinstance(logger, _Own):
        return (fields,), {}
    return structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, method, fields)


Shown = Callable[[object, str, structlog.typing.EventDict], str]
"""Makes a line of fields; a processor of structlog, of which the first two arguments do not matter."""
_json = json.JSONEncoder(default=repr)


def _as_json(logger: object, method: str, fields: structlog.typing.EventDict) -> str:
    return _json.encode(_head_first(fields))


def _for_a_terminal() -> Shown:
    colors = not os.environ.get("NO_COLOR")
    renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return lambda logger, method, fields: renderer(logger, method, _harmless(_head_first(fields)))


def _harmless(fields: dict[str, Any]) -> dict[str, Any]:
    """Nothing that others said, a server for one, can steer the terminal or look like a line of ours."""
    return {
        name: _escaped(value, kept="\n\t" if name == "exception" else "") if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _escaped(text: str, kept: str) -> str:
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def _as_notice(logger: object, method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What a module of this package logs by itself is one of the events, too; a library's text stays its event."""
    record: logging.LogRecord = fields["_record"]
    return {**fields, "event": "notice", "reason": fields["event"]} if record.name.startswith(PACKAGE) else fields


def _head_first(fields: structlog.typing.EventDict) -> dict[str, Any]:
    return {name: fields[name] for name in HEAD if name in fields} | dict(fields)
