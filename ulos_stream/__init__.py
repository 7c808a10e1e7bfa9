"""ulos-stream: the processing node of a multistage task system, on FastStream."""

__version__ = "0.1.0"
