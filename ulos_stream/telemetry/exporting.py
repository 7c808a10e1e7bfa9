"""Where spans go: the exporters that the environment names, and one line when they stop or begin to take them.

Importing this takes 0.2 s, so it waits until traces are asked for.
"""

import logging
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ulos_stream.errors import ConfigurationError
from ulos_stream.telemetry.log import Log

ALIASES = {"otlp": "otlp_proto_http"}
"""Names that `OTEL_TRACES_EXPORTER` has for exporters, where the entry point has another."""


def open_exporters(names: Sequence[str], file: Path | None, log: Log) -> list[SpanExporter]:
    """The exporters that `OTEL_TRACES_EXPORTER` names, and one that writes OTLP JSON lines to `file`.

    Raises:
        ConfigurationError: One of them is not installed or does not start.
    """
    found: list[SpanExporter] = []
    for name in names:
        points = entry_points(group="opentelemetry_traces_exporter", name=ALIASES.get(name, name))
        if not points:
            raise ConfigurationError(f"OTEL_TRACES_EXPORTER: no exporter {name!r} is installed")
        try:
            found.append(next(iter(points)).load()())
        except Exception as wrong:  # a foreign package may raise anything
            raise ConfigurationError(f"OTEL_TRACES_EXPORTER: {name} does not start: {wrong}") from wrong
    if file is not None:
        try:
            found.append(FileSpanExporter(file))
        except OSError as closed:
            raise ConfigurationError(f"ULOS_TRACE_FILE: cannot write {file}: {closed.strerror}") from closed
    words = _FirstWords()
    library = logging.getLogger("opentelemetry")
    library.handlers, library.propagate = [words], False
    return [_Observed(exporter, words, log) for exporter in found]


class _Observed(SpanExporter):
    """An exporter that says once when it fails, and once when it works again. It is called on a thread of its own."""

    def __init__(self, exporter: SpanExporter, words: "_FirstWords", log: Log) -> None:
        self._exporter = exporter
        self._words = words
        self._log = log
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._words.text = ""
        result = self._exporter.export(spans)
        works = result is SpanExportResult.SUCCESS
        if self._works and not works:
            self._log.warning("traces lost", reason=self._words.text, note="said once, until they are taken again")
        elif works and not self._works:
            self._log.info("traces back")
        self._works = works
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _FirstWords(logging.Handler):
    """Keeps the first thing that OpenTelemetry says of a batch: the cause. Attempts and giving up follow it."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()
