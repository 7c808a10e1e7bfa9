"""`python -m ulos_stream` is the `ulos` command."""

from ulos_stream.cli import main

main()
