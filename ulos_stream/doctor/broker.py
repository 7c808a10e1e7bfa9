"""The broker: reachable, lets us in, has the queue and the exchanges, and lets us use them."""

from collections.abc import Collection

from ulos_stream.doctor import Diagnosis
from ulos_stream.errors import BrokerFault
from ulos_stream.tasks import Hop
from ulos_stream.topology.checking import looked_at
from ulos_stream.topology.connection import Access, Connection, Shown, connected, look, version
from ulos_stream.topology.leases import queue_of
from ulos_stream.topology.permissions import consuming_refused, leasing_refused, publishing_refused
from ulos_stream.topology.places import Places

APPLY = "ulos topology apply makes what is missing"


async def examine(access: Access, places: Places, devices: Collection[str]) -> list[Diagnosis]:
    """Broker, queue, both places that nodes publish to, and the leases on devices if executors use any."""
    try:
        async with connected(access) as connection:
            told = f"RabbitMQ {version(connection)} at {access.host}:{access.port} lets {access.username!r} in"
            shown = await look(connection, *looked_at(places))
            return [
                Diagnosis("broker", "well", told),
                await _queue(connection, places.consumption_queue, shown, access),
                await _place(connection, "logs", places.logs, shown, access),
                await _place(connection, "crashes", places.crashes, shown, access),
                *([await _leases(connection, devices, access)] if devices else []),
            ]
    except BrokerFault as away:
        parts = ["queue", "logs", "crashes", *(["leases"] if devices else [])]
        unseen = [Diagnosis(part, "not checked", "the broker is away") for part in parts]
        return [Diagnosis("broker", "wrong", str(away), _remedy(str(away))), *unseen]


async def _queue(connection: Connection, queue: str, shown: Shown, access: Access) -> Diagnosis:
    if reason := shown.queues[queue]:
        return Diagnosis("queue", "wrong", f"queue {queue!r} {reason}", APPLY)
    if refused := await consuming_refused(connection, queue):
        return Diagnosis("queue", "wrong", refused, _grant(access, "read", queue))
    return Diagnosis("queue", "well", f"{queue!r} may be consumed")


async def _place(connection: Connection, part: str, hop: Hop, shown: Shown, access: Access) -> Diagnosis:
    if reason := shown.exchanges.get(hop.exchange, ""):
        return Diagnosis(part, "wrong", f"exchange {hop.exchange!r} {reason}", APPLY)
    if not hop.exchange and (reason := shown.queues[hop.routing_key]):
        return Diagnosis(part, "wrong", f"queue {hop.routing_key!r} {reason}", APPLY)
    if refused := await publishing_refused(connection, hop):
        return Diagnosis(part, "wrong", refused, _grant(access, "write", hop.exchange or "amq.default"))
    return Diagnosis(part, "well", f"exchange {hop.exchange!r} may be published to")


async def _leases(connection: Connection, devices: Collection[str], access: Access) -> Diagnosis:
    for device in devices:
        if refused := await leasing_refused(connection, device):  # nobody needs a device that no task is sent to
            return Diagnosis("leases", "doubtful", refused, _grant(access, "configure", queue_of(device)))
    return Diagnosis("leases", "well", f"leases may be had on {', '.join(devices)}")


def _grant(access: Access, permission: str, thing: str) -> str:
    command = f"rabbitmqctl set_permissions -p {access.virtual_host} {access.username} CONFIGURE WRITE READ"
    return f"{command}, with {thing} in {permission.upper()}; a node needs CONFIGURE for nothing but ulos.lease.*"


def _remedy(reason: str) -> str:
    if "ACCESS_REFUSED" in reason:
        return "check MESSAGE_BROKER_USERNAME and MESSAGE_BROKER_PASSWORD"
    if "does not exist or is closed" in reason:
        return "check ULOS_VIRTUAL_HOST, and the user's permissions there: rabbitmqctl list_user_permissions USER"
    return "check MESSAGE_BROKER_HOST and MESSAGE_BROKER_PORT, ULOS_BROKER_TLS, and that RabbitMQ runs"
