"""`ulos topology`: what a node needs on the broker, declared or checked."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ulos_stream.commands import AsJson, plain, run

if TYPE_CHECKING:
    from ulos_stream.settings import Node
    from ulos_stream.tasks import Hop
    from ulos_stream.topology.connection import Access
    from ulos_stream.topology.declaring import Declared
    from ulos_stream.topology.places import Places, Wanted

app = typer.Typer(no_args_is_help=True, help="Declare or check the queues and exchanges that a node needs.")

Bind = Annotated[
    list[str] | None,
    typer.Option("--bind", metavar="EXCHANGE:KEY", help="Let tasks published there reach the consumption queue."),
]


@app.command()
def apply(bind: Bind = None) -> None:
    """Declare what is missing, alter nothing.

    Says of each thing whether it is as it should be. Nothing that exists is altered: a queue with other
    arguments is left alone, and the steps of a migration are printed. A missing exchange becomes a direct one,
    an existing one may be of any type. Exit code 1 when anything is not as it should be.
    """
    binds = [_hop(text) for text in bind or ()]

    async def command(node: "Node", access: "Access", places: "Places") -> int:
        from ulos_stream.topology.connection import connected, version
        from ulos_stream.topology.declaring import declare
        from ulos_stream.topology.places import wanted

        async with connected(access) as connection:
            declared = await declare(connection, wanted(places, binds, version(connection)))
        for one in declared:
            print(plain(f"{one.state:15} {_named(one.thing)}{': ' if one.note else ''}{one.note}"))
        for one in declared:
            if one.state == "otherwise":
                print("\n" + plain(_migration(one, places, binds, access.virtual_host)))
        return 0 if all(one.good for one in declared) else 1

    run(command)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Name every weakness of what is there.

    And what could not be checked. AMQP shows only what exists; arguments, policies and bindings are read from
    RabbitMQ's management API (`ULOS_MANAGEMENT_URL`), with the broker's credentials. Exit code 1 when there is
    a weakness.
    """

    async def command(node: "Node", access: "Access", places: "Places") -> int:
        from ulos_stream.errors import ManagementFault
        from ulos_stream.settings import tls_context
        from ulos_stream.topology import checking, management
        from ulos_stream.topology.connection import connected, look
        from ulos_stream.topology.virtual_host import VirtualHost

        async with connected(access) as connection:
            shown = await look(connection, *checking.looked_at(places))
        host: VirtualHost | str
        try:
            url = node.management_url or management.default_url(access)
            host = await management.fetch(url, access, tls_context(node.broker_ca_file))
        except ManagementFault as unseen:
            host = str(unseen)
        findings = checking.check(places, shown, host, held_s=node.max_timeout_s + node.fault_budget_s)
        if as_json:
            print(json.dumps([asdict(finding) for finding in findings], indent=2))
        else:
            for one in findings:
                print(plain(f"{one.kind:12} {one.code:27} {one.about}: {one.text}"))
            weaknesses = sum(one.kind == "weakness" for one in findings)
            print(f"{weaknesses} weaknesses, {len(findings) - weaknesses} not checked")
        return 1 if any(finding.kind == "weakness" for finding in findings) else 0

    run(command)


def _hop(text: str) -> "Hop":
    from ulos_stream.tasks import Hop

    exchange, _, key = text.partition(":")
    if not exchange or not key:
        raise typer.BadParameter(
            f"{text!r} is not EXCHANGE:KEY; the default exchange leads to every queue by its name, and binds nothing"
        )
    return Hop(exchange=exchange, routing_key=key)


def _named(thing: "Wanted") -> str:
    from ulos_stream.topology.places import WantedBinding, WantedExchange

    if isinstance(thing, WantedBinding):
        return f"binding {thing.exchange} -> {thing.queue} by {thing.routing_key!r}"
    if isinstance(thing, WantedExchange):
        return f"exchange {thing.name}"
    return f"queue {thing.name} ({thing.arguments['x-queue-type']})"


def _migration(one: "Declared", places: "Places", binds: "list[Hop]", virtual_host: str) -> str:
    from ulos_stream.topology.migration import migrate_exchange, migrate_queue
    from ulos_stream.topology.places import WantedQueue

    if isinstance(one.thing, WantedQueue):
        return migrate_queue(places, one.thing.name, binds, virtual_host)
    return migrate_exchange(one.thing.name, virtual_host) if not hasattr(one.thing, "queue") else ""
