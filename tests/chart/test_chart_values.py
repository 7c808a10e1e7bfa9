"""For each value of the chart: which rendered line it changes, and what the node does with it.

A row sets one value, looks at one place in what Helm renders with it and without, and, where that is a variable of the
node's environment, has the node's own code read the whole environment and looks at the setting.
"""

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from chart import BASE, Manifest, environment, look, merged, nested, render
from test_chart_golden import leaves

from ulos_stream.settings import Settings, read_settings

DEPLOYMENT = "Deployment/-main spec"
POD = f"{DEPLOYMENT} template spec"
NODE = f"{POD} containers node"
SECOND = "Deployment/-second spec template spec containers node"
POLICY = "NetworkPolicy/-main spec"
AUTOSCALER = "HorizontalPodAutoscaler spec"
TRIGGER = "ScaledObject spec triggers 0"

KEDA = {**nested("broker.managementUrl", "http://mq:15672"), **nested("pools.main.scaling.kind", "keda")}
HPA = nested("pools.main.scaling.kind", "hpa")
REMOTE = nested("poolDefaults.engine", {"kind": "remote", "remote": {"host": "tcp://f", "tlsSecret": "s"}})
NOT_REMOTE = merged(REMOTE, nested("poolDefaults.engine.kind", "none"))
JOBS = nested("pools.main.engine.kind", "jobs")
TRYING = nested("broker", {"existingSecret": "", "username": "u", "password": "p"})
TRYING_STORAGE = nested("storage", {"existingSecret": "", "username": "u", "password": "p"})
SFTP = nested("storage", {"url": "sftp:///work", "port": 22, "sftp": {"knownHosts": {"configMap": "hosts"}}})
S3 = nested("storage", {"url": "s3://bucket?endpoint=https://s3:9443", "existingSecret": ""})
TOPOLOGY = nested("topology", {"enabled": True, "rabbitmqClusterReference": {"name": "mq"}})
COMMON_QUEUE = {**nested("pools.second", {}), **nested("poolDefaults.queue", "common")}
GRACE = f"{POD} terminationGracePeriodSeconds"


@dataclass(frozen=True)
class Row:
    """One value, set."""

    value: str
    to: Any
    where: str
    """What changes, as `look` finds it."""
    becomes: Any
    given: dict[str, Any] = field(default_factory=dict)
    """Other values, without which this one changes nothing."""
    setting: str | None = None
    """Of the node, as a path from `Settings`."""
    reads: Any = None
    """What the node then has there."""


def env(name: str) -> str:
    return f"{NODE} env {name} value"


def secret(name: str) -> str:
    return f"{NODE} env {name} valueFrom secretKeyRef"


def settings_row(
    value: str, to: Any, name: str, becomes: str, setting: str, reads: Any, given: dict[str, Any] | None = None
) -> Row:
    return Row(value, to, env(name), becomes, given or {}, setting, reads)


def pools(key: str, to: Any, where: str, becomes: Any, given: dict[str, Any] | None = None, **more: Any) -> list[Row]:
    """The same for a pool, and for the defaults of all pools."""
    return [Row(f"{place}.{key}", to, where, becomes, given or {}, **more) for place in ("pools.main", "poolDefaults")]


ROWS: Sequence[Row] = [
    Row("image.repository", "r.example.org/n", f"{NODE} image", "r.example.org/n:0.1.0"),
    Row("image.tag", "0.2.0", f"{NODE} image", "ulos-stream:0.2.0"),
    Row("image.digest", f"sha256:{'0' * 64}", f"{NODE} image", f"ulos-stream@sha256:{'0' * 64}"),
    Row("image.pullPolicy", "Always", f"{NODE} imagePullPolicy", "Always"),
    Row("imagePullSecrets", [{"name": "r"}], f"{POD} imagePullSecrets 0 name", "r"),
    Row("nameOverride", "nodes", "ServiceAccount metadata name", "lab-nodes"),
    Row("fullnameOverride", "nodes", "ServiceAccount metadata name", "nodes"),
    settings_row("broker.host", "mq", "MESSAGE_BROKER_HOST", "mq", "broker.host", "mq"),
    settings_row("broker.port", 5673, "MESSAGE_BROKER_PORT", "5673", "broker.port", 5673),
    Row("broker.port", 5673, f"{POLICY} egress 1 ports 0 port", 5673),
    settings_row("broker.virtualHost", "lab", "ULOS_VIRTUAL_HOST", "lab", "node.virtual_host", "lab"),
    Row("broker.virtualHost", "lab", f"{TRIGGER} metadata vhostName", "lab", KEDA),
    Row("broker.virtualHost", "lab", "Queue spec vhost", "lab", TOPOLOGY),
    Row("broker.existingSecret", "s", secret("MESSAGE_BROKER_PASSWORD"), {"name": "s", "key": "password"}),
    Row("broker.usernameKey", "u", secret("MESSAGE_BROKER_USERNAME"), {"name": "rabbitmq-user", "key": "u"}),
    Row("broker.passwordKey", "p", secret("MESSAGE_BROKER_PASSWORD"), {"name": "rabbitmq-user", "key": "p"}),
    Row("broker.username", "me", "Secret/-broker stringData username", "me", TRYING, "broker.username", "me"),
    Row("broker.password", "pw", "Secret/-broker stringData password", "pw", TRYING, "broker.password", "pw"),
    settings_row("broker.logs.exchange", "", "MESSAGE_BROKER_LOGS_EXCHANGE", "", "broker.logs_exchange", ""),
    settings_row("broker.logs.routingKey", "l", "MESSAGE_BROKER_LOGS_ROUTING_KEY", "l", "broker.logs_routing_key", "l"),
    settings_row("broker.crash.exchange", "x", "MESSAGE_BROKER_CRASH_EXCHANGE", "x", "broker.crash_exchange", "x"),
    settings_row(
        "broker.crash.routingKey", "c", "MESSAGE_BROKER_CRASH_ROUTING_KEY", "c", "broker.crash_routing_key", "c"
    ),
    settings_row(
        "broker.requeueOnReject", True, "MESSAGE_BROKER_REQUEUE_ON_REJECT", "true", "broker.requeue_on_reject", True
    ),
    settings_row(
        "broker.deliveryTimeoutSeconds", 3600, "ULOS_DELIVERY_TIMEOUT_S", "3600", "node.delivery_timeout_s", 3600
    ),
    settings_row("broker.tls.enabled", True, "ULOS_BROKER_TLS", "true", "node.broker_tls", True),
    settings_row(
        "broker.tls.ca.secret",
        "ca",
        "ULOS_BROKER_CA_FILE",
        "/etc/ulos/broker-ca/ca.crt",
        "node.broker_ca_file",
        "/etc/ulos/broker-ca/ca.crt",
    ),
    Row("broker.tls.ca.secret", "ca", f"{POD} volumes broker-ca secret secretName", "ca"),
    Row("broker.tls.ca.secret", "ca", "TriggerAuthentication spec secretTargetRef 3 name", "ca", KEDA),
    Row("broker.tls.ca.configMap", "ca", f"{POD} volumes broker-ca configMap name", "ca"),
    Row("broker.tls.ca.configMap", "ca", "TriggerAuthentication spec configMapTargetRef 0 name", "ca", KEDA),
    settings_row(
        "broker.tls.ca.key",
        "ca.pem",
        "ULOS_BROKER_CA_FILE",
        "/etc/ulos/broker-ca/ca.pem",
        "node.broker_ca_file",
        "/etc/ulos/broker-ca/ca.pem",
        nested("broker.tls.ca.secret", "ca"),
    ),
    settings_row(
        "broker.managementUrl",
        "http://mq:1",
        "ULOS_MANAGEMENT_URL",
        "http://mq:1",
        "node.management_url",
        "http://mq:1",
    ),
    Row("broker.managementUrl", "http://q:1/", f"{TRIGGER} metadata host", "http://q:1/", KEDA),
    settings_row("storage.url", "ftps://", "ULOS_STORAGE_URL", "ftps://", "node.storage_url", "ftps://"),
    settings_row("storage.url", "file:///data", "ULOS_STORAGE_URL", "file:///data", "storage", None),
    Row("storage.url", S3["storage"]["url"], f"{POLICY} egress 2 ports", [{"port": 9443, "protocol": "TCP"}]),
    settings_row("storage.host", "f", "REMOTE_STORAGE_HOST", "f", "storage.host", "f"),
    settings_row("storage.port", 2121, "REMOTE_STORAGE_PORT", "2121", "storage.port", 2121),
    Row("storage.port", 2121, f"{POLICY} egress 2 ports 0 port", 2121),
    Row("storage.passivePorts", {"from": 2000, "to": 3000}, f"{POLICY} egress 2 ports 1 endPort", 3000),
    Row("storage.existingSecret", "s", secret("REMOTE_STORAGE_USERNAME"), {"name": "s", "key": "username"}),
    Row("storage.existingSecret", "s", secret("REMOTE_STORAGE_USERNAME"), {"name": "s", "key": "username"}, S3),
    Row("storage.usernameKey", "u", secret("REMOTE_STORAGE_USERNAME"), {"name": "ftp-user", "key": "u"}),
    Row("storage.passwordKey", "p", secret("REMOTE_STORAGE_PASSWORD"), {"name": "ftp-user", "key": "p"}),
    Row(
        "storage.username", "me", "Secret/-storage stringData username", "me", TRYING_STORAGE, "storage.username", "me"
    ),
    Row(
        "storage.password", "pw", "Secret/-storage stringData password", "pw", TRYING_STORAGE, "storage.password", "pw"
    ),
    settings_row(
        "storage.ca.secret",
        "ca",
        "ULOS_STORAGE_CA_FILE",
        "/etc/ulos/storage-ca/ca.crt",
        "node.storage_ca_file",
        "/etc/ulos/storage-ca/ca.crt",
    ),
    Row("storage.ca.secret", "ca", f"{POD} volumes storage-ca secret secretName", "ca"),
    Row("storage.ca.configMap", "ca", f"{POD} volumes storage-ca configMap name", "ca"),
    Row(
        "storage.ca.key", "x", env("ULOS_STORAGE_CA_FILE"), "/etc/ulos/storage-ca/x", nested("storage.ca.secret", "ca")
    ),
    Row("storage.sftp.knownHosts.configMap", "h", f"{POD} volumes known-hosts configMap name", "h", SFTP),
    Row("storage.sftp.knownHosts.key", "h", env("ULOS_STORAGE_KNOWN_HOSTS"), "/etc/ulos/known-hosts/h", SFTP),
    Row("storage.sftp.privateKey.secret", "k", f"{POD} volumes private-key secret secretName", "k", SFTP),
    Row(
        "storage.sftp.privateKey.key",
        "k",
        env("ULOS_STORAGE_PRIVATE_KEY_FILE"),
        "/etc/ulos/private-key/k",
        merged(SFTP, nested("storage.sftp.privateKey.secret", "k")),
    ),
    Row(
        "journal.existingSecret",
        "a-secret",
        secret("ULOS_JOURNAL_KEY"),
        {"name": "a-secret", "key": "journal-key"},
        {},
        "node.journal_key",
        "a-secret:journal-key",
    ),
    Row(
        "journal.key", "k", f"{secret('ULOS_JOURNAL_KEY')} key", "k", nested("journal.existingSecret", "a-long-secret")
    ),
    settings_row("http.port", 9090, "ULOS_HTTP_PORT", "9090", "node.http_port", 9090),
    Row("http.port", 9090, f"{NODE} ports http containerPort", 9090),
    settings_row("http.host", "::", "ULOS_HTTP_HOST", "::", "node.http_host", "::"),
    settings_row(
        "telemetry.otlpEndpoint",
        "http://c:4318",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://c:4318",
        "telemetry.exporters",
        ("otlp",),
    ),
    Row("telemetry.otlpEndpoint", "http://c:4318", f"{POLICY} egress 3 ports 0 port", 4318),
    settings_row("telemetry.logLevel", "DEBUG", "ULOS_LOG_LEVEL", "DEBUG", "node.log_level", "DEBUG"),
    Row("pools", {"second": {"queue": "q"}}, "Deployment/-second spec replicas", 2),
    Row("pools.main.queue", "q", env("MESSAGE_BROKER_CONSUMPTION_QUEUE"), "q", {}, "broker.consumption_queue", "q"),
    Row("pools.main.queue", "q", f"{TRIGGER} metadata queueName", "q", KEDA),
    Row("poolDefaults.queue", "q", f"{SECOND} env MESSAGE_BROKER_CONSUMPTION_QUEUE value", "q", COMMON_QUEUE),
    *pools("prefetch", 8, env("MESSAGE_BROKER_PREFETCH_COUNT"), "8", setting="broker.prefetch_count", reads=8),
    *pools("prefetch", 8, f"{TRIGGER} metadata value", "8", KEDA),
    *pools("taskTimeoutSeconds", 900, env("ULOS_MAX_TIMEOUT_S"), "900", setting="node.max_timeout_s", reads=900),
    *pools("taskTimeoutSeconds", 900, env("ULOS_GRACE_S"), "950", setting="node.grace_s", reads=950),
    *pools("taskTimeoutSeconds", 900, GRACE, 960),
    *pools("drainSeconds", 90, env("ULOS_GRACE_S"), "680", setting="node.grace_s", reads=680),
    *pools("drainSeconds", 90, GRACE, 690),
    *pools("stopSeconds", 20, GRACE, 680, setting="node.grace_s", reads=650),
    *pools("terminationGracePeriodSeconds", 700, GRACE, 700, setting="node.grace_s", reads=690),
    *pools("faultBudgetSeconds", 60, env("ULOS_FAULT_BUDGET_S"), "60", setting="node.fault_budget_s", reads=60),
    *pools(
        "executors.folders",
        ["/a", "/b"],
        env("ULOS_EXECUTORS_PATH"),
        "/a:/b",
        setting="node.executors_path",
        reads=(Path("/a"), Path("/b")),
    ),
    *pools("executors.configMaps", ["own"], f"{POD} volumes executor-own configMap name", "own"),
    *pools("executors.configMaps", ["own"], env("ULOS_EXECUTORS_PATH"), "/etc/ulos/executors"),
    *pools(
        "executors.inline",
        {"own": {"executor.toml": ""}},
        "ConfigMap/lab-ulos-stream-main-own data",
        {"executor.toml": ""},
    ),
    *pools(
        "executors.inline",
        {"own": {"executor.toml": ""}},
        f"{NODE} volumeMounts executor-own mountPath",
        "/etc/ulos/executors/own",
    ),
    *pools(
        "executors.require",
        ["robot-arm", "pass"],
        env("ULOS_REQUIRE_EXECUTORS"),
        "robot-arm,pass",
        setting="node.require_executors",
        reads=("robot-arm", "pass"),
    ),
    *pools("engine.kind", "jobs", f"{POD} automountServiceAccountToken", True),
    *pools("engine.kind", "jobs", "Role/-jobs rules 0 verbs", ["create", "get", "list", "delete"]),
    *pools(
        "engine.kind",
        "remote",
        env("DOCKER_TLS_VERIFY"),
        "1",
        NOT_REMOTE,
    ),
    *pools("engine.remote.host", "tcp://e:99", env("DOCKER_HOST"), "tcp://e:99", REMOTE),
    *pools("engine.remote.host", "tcp://e:99", f"{POLICY} egress 3 ports 0 port", 99, REMOTE),
    *pools("engine.remote.tlsSecret", "t", f"{POD} volumes engine secret secretName", "t", REMOTE),
    *pools("engine.jobs.namespace", "apart", env("ULOS_KUBERNETES_NAMESPACE"), "apart", JOBS),
    *pools("engine.jobs.namespace", "apart", "NetworkPolicy/-jobs metadata namespace", "apart", JOBS),
    *pools("engine.kind", "remote", env("DOCKER_CERT_PATH"), "/etc/ulos/engine", NOT_REMOTE),
    *pools("engine.kind", "remote", f"{NODE} volumeMounts engine mountPath", "/etc/ulos/engine", NOT_REMOTE),
    *pools("engine.kind", "jobs", f"{POLICY} egress 3 ports 1 port", 6443),
    *pools("engine.jobs.registry", "r/c", env("ULOS_KUBERNETES_REGISTRY"), "r/c", JOBS),
    *pools("engine.jobs.podSecurity", "baseline", env("ULOS_KUBERNETES_POD_SECURITY"), "baseline", JOBS),
    *pools("engine.jobs.userNamespaces", True, env("ULOS_KUBERNETES_USER_NAMESPACES"), "true", JOBS),
    *pools("engine.jobs.startSeconds", 60, env("ULOS_KUBERNETES_START_S"), "60", JOBS),
    *pools("scaling.kind", "hpa", f"{AUTOSCALER} scaleTargetRef name", "lab-ulos-stream-main"),
    *pools("scaling.kind", "hpa", f"{DEPLOYMENT} replicas", None),
    *pools("scaling.kind", "keda", f"{DEPLOYMENT} replicas", None, nested("broker.managementUrl", "http://mq")),
    *pools("scaling.kind", "keda", f"{TRIGGER} metadata protocol", "http", nested("broker.managementUrl", "http://mq")),
    *pools("scaling.replicas", 3, f"{DEPLOYMENT} replicas", 3),
    *pools("scaling.min", 2, f"{AUTOSCALER} minReplicas", 2, HPA),
    *pools("scaling.min", 0, "ScaledObject spec minReplicaCount", 0, KEDA),
    *pools("scaling.max", 5, f"{AUTOSCALER} maxReplicas", 5, HPA),
    *pools("scaling.max", 5, "ScaledObject spec maxReplicaCount", 5, KEDA),
    *pools("scaling.scaleDownAfterSeconds", 60, f"{AUTOSCALER} behavior scaleDown stabilizationWindowSeconds", 60, HPA),
    *pools("scaling.scaleDownAfterSeconds", 60, "ScaledObject spec cooldownPeriod", 60, KEDA),
    *pools("scaling.hpa.cpuPercent", 50, f"{AUTOSCALER} metrics 0 resource target averageUtilization", 50, HPA),
    *pools("scaling.keda.messagesPerNode", 2, f"{TRIGGER} metadata value", "2", KEDA),
    *pools("scaling.keda.pollingSeconds", 5, "ScaledObject spec pollingInterval", 5, KEDA),
    *pools("scaling.keda.authentication", "own", f"{TRIGGER} authenticationRef name", "own", KEDA),
    *pools("scaling.keda.authentication", "own", "TriggerAuthentication metadata name", None, KEDA),
    *pools("resources", {"limits": {"memory": "2Gi"}}, f"{NODE} resources limits memory", "2Gi"),
    *pools("workDirSize", "1Gi", f"{POD} volumes work emptyDir sizeLimit", "1Gi"),
    *pools("tmpSize", "1Gi", f"{POD} volumes tmp emptyDir sizeLimit", "1Gi"),
    *pools("env", {"ULOS_OWNER_LIMIT": 3}, env("ULOS_OWNER_LIMIT"), "3", setting="node.owner_limit", reads=3),
    *pools(
        "extraEnv",
        [{"name": "OTEL_SDK_DISABLED", "value": "true"}],
        env("OTEL_SDK_DISABLED"),
        "true",
        setting="telemetry.sdk_disabled",
        reads=True,
    ),
    *pools("extraVolumes", [{"name": "v", "emptyDir": {}}], f"{POD} volumes v emptyDir", {}),
    *pools("extraVolumeMounts", [{"name": "v", "mountPath": "/v"}], f"{NODE} volumeMounts v mountPath", "/v"),
    *pools("podAnnotations", {"a": "b"}, f"{DEPLOYMENT} template metadata annotations a", "b"),
    *pools("podLabels", {"a": "b"}, f"{DEPLOYMENT} template metadata labels a", "b"),
    *pools("nodeSelector", {"a": "b"}, f"{POD} nodeSelector a", "b"),
    *pools("tolerations", [{"key": "a"}], f"{POD} tolerations 0 key", "a"),
    *pools("affinity", {"podAffinity": {}}, f"{POD} affinity", {"podAffinity": {}}),
    *pools("topologySpreadConstraints", [], f"{POD} topologySpreadConstraints", None),
    *pools("priorityClassName", "high", f"{POD} priorityClassName", "high"),
    *pools("podDisruptionBudget.enabled", False, "PodDisruptionBudget spec", None),
    *pools("podDisruptionBudget.maxUnavailable", "20%", "PodDisruptionBudget spec maxUnavailable", "20%"),
    *pools(
        "binds",
        [{"exchange": "x", "routingKey": "k"}],
        "Binding/processing-queue-x-k-321a903c spec routingKey",
        "k",
        TOPOLOGY,
    ),
    Row("podSecurityContext", {"runAsUser": 1000}, f"{POD} securityContext runAsUser", 1000),
    Row("securityContext", {"privileged": False}, f"{NODE} securityContext privileged", False),
    Row("serviceAccount.create", False, f"{POD} serviceAccountName", "default"),
    Row("serviceAccount.name", "n", f"{POD} serviceAccountName", "n"),
    Row("serviceAccount.annotations", {"a": "b"}, "ServiceAccount metadata annotations a", "b"),
    Row("networkPolicy.enabled", False, POLICY, None),
    Row("networkPolicy.metricsFrom", [{"podSelector": {}}], f"{POLICY} ingress 0 from", [{"podSelector": {}}]),
    Row("networkPolicy.brokerTo", [{"podSelector": {}}], f"{POLICY} egress 1 to", [{"podSelector": {}}]),
    Row("networkPolicy.storageTo", [{"podSelector": {}}], f"{POLICY} egress 2 to", [{"podSelector": {}}]),
    Row("networkPolicy.extraEgress", [{"to": [{"podSelector": {}}]}], f"{POLICY} egress 3 to 0", {"podSelector": {}}),
    Row("podMonitor.enabled", True, "PodMonitor spec podMetricsEndpoints 0 path", "/metrics"),
    Row(
        "podMonitor.interval",
        "5s",
        "PodMonitor spec podMetricsEndpoints 0 interval",
        "5s",
        nested("podMonitor.enabled", True),
    ),
    Row("podMonitor.labels", {"a": "b"}, "PodMonitor metadata labels a", "b", nested("podMonitor.enabled", True)),
    Row("prometheusRule.enabled", True, "PrometheusRule spec groups 0 name", "ulos-stream"),
    Row(
        "prometheusRule.labels",
        {"a": "b"},
        "PrometheusRule metadata labels a",
        "b",
        nested("prometheusRule.enabled", True),
    ),
    Row("dashboard.enabled", True, "ConfigMap/-dashboard metadata labels grafana_dashboard", "1"),
    Row(
        "dashboard.labels", {"a": "b"}, "ConfigMap/-dashboard metadata labels a", "b", nested("dashboard.enabled", True)
    ),
    Row(
        "dashboard.annotations",
        {"a": "b"},
        "ConfigMap/-dashboard metadata annotations a",
        "b",
        nested("dashboard.enabled", True),
    ),
    Row(
        "topology.enabled",
        True,
        "Queue/-processing-queue-dead-letters-1c7812de spec type",
        "quorum",
        nested("topology.rabbitmqClusterReference.name", "mq"),
    ),
    Row(
        "topology.rabbitmqClusterReference",
        {"name": "other"},
        "Exchange spec rabbitmqClusterReference name",
        "other",
        TOPOLOGY,
    ),
    Row("extraObjects", ["kind: Job\nmetadata: {name: '{{ .Release.Name }}'}"], "Job metadata name", "lab"),
]


@functools.cache
def rendered(values: str) -> list[Manifest]:
    return render(json.loads(values))


def settings(manifests: list[Manifest], root: Path) -> Settings:
    """What the node's own code makes of the rendered environment."""
    variables = environment(manifests, "main", root)
    for name, value in variables.items():
        if name.endswith(("_CA_FILE", "_KEY_FILE", "_KNOWN_HOSTS")):
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).touch()
    with patch.dict(os.environ, variables, clear=True):
        return read_settings()


def plain(value: Any, root: Path) -> Any:
    """A setting as a row writes it."""
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()
    return str(value).removeprefix(str(root)) if isinstance(value, Path) else value


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.value} → {row.where}")
def test_a_value_changes_its_line_and_the_node_reads_it(row: Row, tmp_path: Path) -> None:
    given = merged(BASE, row.given)

    before = rendered(json.dumps(given))
    after = rendered(json.dumps(merged(given, nested(row.value, row.to))))

    assert look(after, row.where) == row.becomes
    assert look(before, row.where) != row.becomes
    if row.setting is not None:
        found: Any = settings(after, tmp_path)
        for part in row.setting.split("."):
            found = getattr(found, part)
        assert plain(found, tmp_path) == row.reads


def test_there_is_a_row_for_every_value() -> None:
    assert sorted({leaf.path for leaf in leaves()} - {row.value for row in ROWS}) == []
