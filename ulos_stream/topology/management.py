"""RabbitMQ's management API, which alone shows arguments, policies and bindings."""

import asyncio
import base64
import http.client
import json
import ssl
from typing import Any
from urllib.parse import quote, urlsplit

from ulos_stream.errors import ManagementFault
from ulos_stream.topology.connection import Access
from ulos_stream.topology.virtual_host import Binding, Exchange, Queue, VirtualHost

TIMEOUT_S = 10.0
"""Seconds within which each answer must begin; a broker with thousands of queues takes one or two."""
QUEUE_COLUMNS = "name,type,durable,auto_delete,exclusive,arguments,policy,operator_policy,effective_policy_definition"


def default_url(access: Access) -> str:
    """Where the API is when nobody says: on the broker's host, at RabbitMQ's own ports."""
    return f"https://{access.host}:15671" if access.tls else f"http://{access.host}:15672"


async def fetch(url: str, access: Access, tls: ssl.SSLContext) -> VirtualHost:
    """What the virtual host of `access` holds.

    Args:
        url: Of the API, without credentials; nothing is sent to any other address.
        access: Virtual host and credentials.
        tls: How a server behind `https` is verified.

    Raises:
        ManagementFault: It cannot be reached, refuses, or answers something else.
    """
    try:
        return await asyncio.to_thread(_fetch, url, access, tls)
    except (OSError, http.client.HTTPException) as away:
        raise ManagementFault(f"{url}: {away or type(away).__name__}") from away
    except (ValueError, KeyError, TypeError, AttributeError) as strange:
        raise ManagementFault(f"{url}: what answers is no management API of RabbitMQ") from strange


def _fetch(url: str, access: Access, tls: ssl.SSLContext) -> VirtualHost:
    host = quote(access.virtual_host, safe="")
    version = _get(url, "/api/overview", access, tls)["rabbitmq_version"]
    queues = [_queue(fields) for fields in _get(url, f"/api/queues/{host}?columns={QUEUE_COLUMNS}", access, tls)]
    exchanges = [_exchange(fields) for fields in _get(url, f"/api/exchanges/{host}", access, tls)]
    bindings = [
        Binding(b["source"], b["destination"], b["routing_key"], to_queue=b["destination_type"] == "queue")
        for b in _get(url, f"/api/bindings/{host}", access, tls)
    ]
    return VirtualHost(
        {queue.name: queue for queue in queues},
        {exchange.name: exchange for exchange in exchanges},
        tuple(bindings),
        version,
    )


def _get(url: str, path: str, access: Access, tls: ssl.SSLContext) -> Any:
    """No redirects, no proxies: the credentials go nowhere else."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=tls)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    secret = f"{access.username}:{access.password.get_secret_value()}".encode()
    try:
        connection.request(
            "GET", parts.path + path, headers={"Authorization": "Basic " + base64.b64encode(secret).decode()}
        )
        answer = connection.getresponse()
        if answer.status in (401, 403):
            raise ManagementFault(f"{url}: user {access.username!r} is refused; it needs the tag 'management'")
        if answer.status != 200:
            raise ManagementFault(f"{url}: answers {answer.status} {answer.reason} to {path}")
        return json.load(answer)
    finally:
        connection.close()


def _queue(fields: dict[str, Any]) -> Queue:
    return Queue(
        fields["name"],
        type=fields.get("type") or fields["arguments"].get("x-queue-type", "classic"),
        durable=fields["durable"],
        auto_delete=fields["auto_delete"],
        exclusive=bool(fields.get("exclusive")),
        arguments=_object(fields["arguments"]),
        # A part of the statistics: absent for the first ten seconds of a queue.
        policies=tuple(fields[k] for k in ("policy", "operator_policy") if fields[k]) if "policy" in fields else None,
        policy=_object(fields.get("effective_policy_definition")),
    )


def _exchange(fields: dict[str, Any]) -> Exchange:
    arguments = _object(fields["arguments"])
    alternate = arguments.get("alternate-exchange")
    return Exchange(fields["name"], fields["type"], fields["durable"], None if alternate is None else str(alternate))


def _object(value: object) -> dict[str, object]:
    """Erlang's empty list of pairs comes out as an empty JSON array."""
    return value if isinstance(value, dict) else {}
