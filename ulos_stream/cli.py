"""The `ulos` command."""

import typer

from ulos_stream import __version__
from ulos_stream.commands import (
    crashes,
    dev,
    doctor,
    executor,
    executors,
    finish,
    lint,
    submit,
    topology,
    trace,
    watch,
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

app.command()(dev.dev)
app.command()(submit.submit)
app.command()(watch.watch)
app.command()(lint.lint)
app.command()(executors.executors)
app.command()(doctor.doctor)
app.add_typer(executor.app, name="executor")
app.add_typer(topology.app, name="topology")
app.add_typer(crashes.app, name="crashes")
app.command()(trace.trace)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ulos-stream {__version__}")
        raise typer.Exit


@app.callback()
def ulos(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show it.")) -> None:
    """Carry files through stages: RabbitMQ in, executors, RabbitMQ out."""


@app.command()
def demo() -> None:
    """Show it all working, with sample tasks.

    On a private RabbitMQ, an FTP server and a node. Exit code 0 when every task ended as expected, 1 when one
    did not, 3 when a service is missing or does not come up.
    """
    from ulos_stream.demo import run_demo

    finish(run_demo)


def main() -> None:
    """Entry point of the `ulos` command."""
    app(prog_name="ulos")
