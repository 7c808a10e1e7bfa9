"""How to come from what cannot be altered to what should be there. Pure text.

RabbitMQ fixes the type and the arguments of a queue for its life, so the way is always another queue.
"""

from collections.abc import Sequence
from urllib.parse import quote

from ulos_stream.tasks import Hop
from ulos_stream.topology.places import Places

CONSUMPTION = """\
Nothing about {queue} was changed: a queue keeps its type and arguments for its life. Two ways on:

A. Another name: nodes go on working all the time.
   1. MESSAGE_BROKER_CONSUMPTION_QUEUE={new} ulos topology apply
      (without --bind: nobody sends to it yet)
   2. Start nodes with MESSAGE_BROKER_CONSUMPTION_QUEUE={new} beside the running ones.
   3. For each exchange and key that {queue} is bound to{known}: first bind the new queue,
      MESSAGE_BROKER_CONSUMPTION_QUEUE={new} ulos topology apply --bind EXCHANGE:KEY
      and only then take the old binding away:
      {admin} delete binding source=EXCHANGE destination_type=queue destination={queue} properties_key=KEY
      In this order nothing is lost; a task sent in between is in both queues. If it must not run twice, let the
      senders pause between the two commands. Senders that name the queue itself get the new name now.
   4. When {queue} is empty (0 ready, 0 unacknowledged in {ctl} list_queues name messages_ready
      messages_unacknowledged), stop its nodes, then
      {ctl} delete_queue {queue}

B. The same name: tasks wait while the queue is replaced.
   1. {admin} declare queue name={parked} durable=true arguments='{{"x-queue-type":"quorum"}}'
   2. For each exchange and key{known}: first bind {parked}, then take the binding of {queue} away:
      {admin} declare binding source=EXCHANGE destination={parked} routing_key=KEY
      {admin} delete binding source=EXCHANGE destination_type=queue destination={queue} properties_key=KEY
   3. When the nodes have emptied {queue} (0 ready, 0 unacknowledged), stop them, then
      {ctl} delete_queue {queue}
   4. ulos topology apply --bind EXCHANGE:KEY, and only then take the bindings of {parked} away.
   5. Move what waited, each message confirmed before it is taken (plugin rabbitmq_shovel):
      {ctl} set_parameter shovel {parked} '{{"src-protocol":"amqp091","src-uri":"{uri}",
      "src-queue":"{parked}","src-delete-after":"queue-length","ack-mode":"on-confirm",
      "dest-protocol":"amqp091","dest-uri":"{uri}","dest-queue":"{queue}"}}'
   6. When {parked} is empty, {ctl} delete_queue {parked}
      and start the nodes.
"""

BESIDE = """\
Nothing about {queue} was changed: a queue keeps its type and arguments for its life.
   1. Read what is still wanted from it, and stop whoever consumes it.
   2. {ctl} delete_queue {queue}
   3. ulos topology apply
   {meanwhile}
"""

EXCHANGE = """\
Nothing about {exchange} was changed: an exchange keeps its type for its life.
   1. Look what is bound to it, and who publishes to it: {admin} list bindings
   2. Stop the nodes, then {admin} delete exchange name={exchange}
   3. ulos topology apply, and start the nodes.
"""


def migrate_queue(places: Places, queue: str, binds: Sequence[Hop], virtual_host: str) -> str:
    """The steps for a queue that is there with other arguments, by the names of this topology."""
    commands = _commands(virtual_host)
    if queue == places.consumption_queue:
        known = f" (at least {', '.join(f'{hop.exchange}:{hop.routing_key}' for hop in binds)})" if binds else ""
        return CONSUMPTION.format(queue=queue, new=f"{queue}.quorum", parked=f"{queue}.parked", known=known, **commands)
    if queue == places.crash_queue:
        meanwhile = "Between 2 and 3 crashing tasks are held by their nodes, unacknowledged: no report is lost."
    elif queue == places.dead_letter_queue:
        meanwhile = "Stop the nodes before 2 and start them after 3: a task that crashes in between may have no place."
    else:
        meanwhile = "Log messages published between 2 and 3 are lost; tasks are not touched."
    return BESIDE.format(queue=queue, meanwhile=meanwhile, **commands)


def migrate_exchange(exchange: str, virtual_host: str) -> str:
    """The steps for an exchange that is there with another type."""
    return EXCHANGE.format(exchange=exchange, **_commands(virtual_host))


def _commands(virtual_host: str) -> dict[str, str]:
    if virtual_host == "/":
        return {"ctl": "rabbitmqctl", "admin": "rabbitmqadmin", "uri": "amqp://"}
    uri = f"amqp:///{quote(virtual_host, safe='')}"
    return {"ctl": f"rabbitmqctl -p {virtual_host}", "admin": f"rabbitmqadmin -V {virtual_host}", "uri": uri}
