"""What a virtual host holds, as plain data, and where a message goes in it. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as the management API shows it."""

    name: str
    type: str = "classic"
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)
    policies: tuple[str, ...] | None = ()
    """Names of the policy and the operator policy that hold for it; None if the API does not say."""
    policy: Mapping[str, object] = field(default_factory=dict)
    """What they define together."""

    def setting(self, name: str) -> object:
        """What holds for a key such as `message-ttl`: of two numbers the lower, else the argument before the policy.

        Source: RabbitMQ's documentation of policies.
        """
        argument, policy = self.arguments.get(f"x-{name}"), self.policy.get(name)
        if isinstance(argument, int) and isinstance(policy, int):
            return min(argument, policy)
        return policy if argument is None else argument


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange as the management API shows it."""

    name: str
    type: str = "direct"
    durable: bool = True
    alternate: str | None = None
    """Where a message goes that no binding of it takes."""


@dataclass(frozen=True, slots=True)
class Binding:
    """From an exchange to a queue or to another exchange."""

    source: str
    destination: str
    routing_key: str
    to_queue: bool = True


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """Everything in one virtual host, by name."""

    queues: Mapping[str, Queue]
    exchanges: Mapping[str, Exchange]
    bindings: tuple[Binding, ...]
    broker_version: str

    def reached(self, exchange: str, routing_key: str) -> set[str]:
        """The queues that a message gets into; bindings by headers count as taking every message."""
        return set(self._walk(exchange, routing_key, set()))

    def _walk(self, exchange: str, routing_key: str, seen: set[str]) -> Iterator[str]:
        if exchange == "":
            if routing_key in self.queues:
                yield routing_key
            return
        at = self.exchanges.get(exchange)
        if at is None or exchange in seen:
            return
        seen.add(exchange)
        taking = [b for b in self.bindings if b.source == exchange and _takes(at.type, b.routing_key, routing_key)]
        for binding in taking:
            if binding.to_queue:
                yield from {binding.destination} & self.queues.keys()
            else:
                yield from self._walk(binding.destination, routing_key, seen)
        if not taking and at.alternate is not None:
            yield from self._walk(at.alternate, routing_key, seen)


def _takes(exchange_type: str, pattern: str, routing_key: str) -> bool:
    if exchange_type == "direct":
        return pattern == routing_key
    if exchange_type == "topic":
        return _matches(pattern.split("."), routing_key.split("."))
    return True


def _matches(pattern: list[str], words: list[str]) -> bool:
    """`*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return _matches(pattern[1:], words) or bool(words and _matches(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])
