"""What a node tells of its own work: log lines always; traces and metrics where they are asked for."""

from ulos_stream.telemetry.log import Log, LogEvent, configure_logging

__all__ = ["Log", "LogEvent", "configure_logging"]
