"""The `ulos` command."""

import typer

from ulos_stream import __version__
from ulos_stream.commands import topology
from ulos_stream.commands.trace import trace

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

app.add_typer(topology.app, name="topology")
app.command()(trace)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ulos-stream {__version__}")
        raise typer.Exit


@app.callback()
def ulos(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show it.")) -> None:
    """Carry files through stages: RabbitMQ in, executors, RabbitMQ out."""


@app.command()
def demo() -> None:
    """Show it all working: a private RabbitMQ, an FTP server and a node; sample tasks and their ends.

    Exit code 0 when every task ended as expected, 1 when one did not, 3 when a service is missing.
    """
    from ulos_stream.demo import run_demo

    raise typer.Exit(run_demo())


def main() -> None:
    """Entry point of the `ulos` command."""
    app()
