"""Values that cannot work are refused before anything is installed, with a sentence that says what to do."""

from typing import Any

import pytest
from chart import BASE, Refusal, merged, nested, render

DESCRIPTOR = 'kind = "{kind}"\nrouting_key = "own"\nstop_s = {stop_s}\n'

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pool": {}}, "additional properties 'pool' not allowed"),
    (nested("pools.main.quue", "q"), "at '/pools/main': additional properties 'quue' not allowed"),
    (nested("pools.main.env.ULOS_LOG_LEVL", "DEBUG"), "at '/pools/main/env': additional properties 'ULOS_LOG_LEVL'"),
    (nested("pools.main.env.ULOS_GRACE_S", 5), "additional properties 'ULOS_GRACE_S' not allowed"),
    (nested("pools.Main.queue", "q"), "invalid propertyName 'Main'"),
    (nested("pools.main.engine.kind", "socket"), "value must be one of 'none', 'remote', 'jobs'"),
    (nested("broker.managementUrl", "http://u:p@mq"), "at '/broker/managementUrl'"),
    ({"pools": None}, "pools: name at least one pool and its queue"),
    (nested("broker.host", ""), "broker.host: name the RabbitMQ server"),
    (nested("storage.host", ""), "storage.host: name the server"),
    (nested("storage.url", "sftp:///work"), "storage.sftp.knownHosts.configMap: name the ConfigMap"),
    (nested("broker.existingSecret", ""), "broker: name the Secret with its credentials"),
    (nested("storage.existingSecret", ""), "storage: name the Secret with its credentials"),
    (nested("pools.main.queue", ""), "pools.main.queue: name the queue that this pool consumes"),
    (
        nested("pools.main", {"prefetch": 0, "scaling": {"kind": "hpa"}}),
        "pools.main.prefetch is 0, so nobody knows how much one node takes, and nothing can scale",
    ),
    (
        {
            **nested("broker.managementUrl", "http://mq"),
            **nested("pools.main", {"scaling": {"kind": "keda"}, "prefetch": 0}),
        },
        "pools.main.prefetch is 0",
    ),
    (nested("pools.main.scaling", {"min": 5, "max": 4}), "pools.main.scaling: min (5) is more than max (4)"),
    (nested("pools.main.scaling", {"kind": "hpa", "min": 0}), "pools.main.scaling.min is 0"),
    (
        nested("pools.main", {"scaling": {"kind": "hpa"}, "resources": {"requests": None}}),
        "pools.main.resources.requests.cpu is not set",
    ),
    (nested("pools.main.scaling.kind", "keda"), "set broker.managementUrl"),
    (
        nested("pools.main.terminationGracePeriodSeconds", 599),
        "pools.main.terminationGracePeriodSeconds is 599, but a stage may need 660",
    ),
    (nested("pools.main.taskTimeoutSeconds", 1501), "taskTimeoutSeconds 1501 + faultBudgetSeconds 300 is more than"),
    (
        nested("pools.main.executors.require", ["cypress-grammar"]),
        "pools.main: cypress-grammar is a container, and this pool has no engine to run it on",
    ),
    (
        nested("pools.main.binds", [{"exchange": "x", "routingKey": "python-tests"}]),
        "pools.main: python-tests is a container, and this pool has no engine to run it on",
    ),
    (
        nested("pools.main.executors.inline.own", {"executor.toml": DESCRIPTOR.format(kind="container", stop_s=0)}),
        "pools.main: own is a container, and this pool has no engine to run it on",
    ),
    (
        nested("pools.main.executors.inline.own", {"executor.toml": DESCRIPTOR.format(kind="process", stop_s=20.5)}),
        "pools.main.stopSeconds is 0, but the machine of own gets 20.5 seconds",
    ),
    (
        nested("pools.main.executors.inline.own", {"executor.toml": "kind ="}),
        "pools.main.executors.inline.own: its executor.toml is no TOML",
    ),
    (nested("pools.main.executors.inline.own", {"run": "true"}), "missing property 'executor.toml'"),
    (nested("pools.main.engine", {"kind": "remote", "remote": {"host": "tcp://engine"}}), "set host and tlsSecret"),
    (nested("pools.main.engine", {"kind": "remote", "remote": {"tlsSecret": "tls"}}), "set host and tlsSecret"),
    (nested("pools.main.engine.remote.host", "unix:///run/docker.sock"), "at '/pools/main/engine/remote/host'"),
    (nested("topology.enabled", True), "topology.rabbitmqClusterReference: name the RabbitmqCluster"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_cannot_work_is_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal) as refused:
        render(merged(BASE, values))

    assert sentence in str(refused.value)


def test_what_can_work_is_not() -> None:
    assert render(BASE)
