"""What an installation makes is what Kubernetes and its operators take, and holds together."""

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart import BASE, CHART, CI, NAMESPACE, Manifest, look, merged, nested, read, render, run
from test_readme import rows

from ulos_stream.settings import MessageBroker, Node, RemoteStorage
from ulos_stream.tasks import Hop
from ulos_stream.topology.places import Places, Wanted, WantedBinding, WantedExchange, WantedQueue, wanted

KUBERNETES = "1.37"
NAMES = [file.name.removesuffix("-values.yaml") for file in CI]
HERE = Path(__file__).parent
CRDS = {
    (crd["group"], crd["kind"]): crd["schema"]
    for file in sorted((HERE / "crds").glob("*.yaml"))
    for crd in [yaml.load(file.read_text(), yaml.CSafeLoader)]
}


@functools.cache
def rendered(name: str) -> list[Manifest]:
    """What the values of one file in ci/ make."""
    return render(read(CHART / "ci" / f"{name}-values.yaml"))


@pytest.fixture(params=NAMES)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(request.param)


def settings_of_the_environment() -> set[str]:
    """The names of all variables that a node reads."""
    sections = ((MessageBroker, "MESSAGE_BROKER_"), (RemoteStorage, "REMOTE_STORAGE_"), (Node, "ULOS_"))
    return {row.split("`")[1] for section, prefix in sections for row in rows(section, prefix)}


def deployments(manifests: list[Manifest]) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == "Deployment"]


def closed(schema: Any) -> Any:
    """A schema of a custom resource as the API server checks it when asked to be strict: no field is unknown."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    return inner


@pytest.mark.parametrize("file", CI, ids=lambda file: file.name)
def test_helm_finds_nothing_to_complain_of(file: Path) -> None:
    assert "0 chart(s) failed" in run("lint", read(file), "--strict")


def test_nor_where_nothing_is_set_yet() -> None:
    assert "0 chart(s) failed" in run("lint", {}, "--strict")


def test_kubernetes_takes_its_own_kinds_to_the_letter(manifests: list[Manifest]) -> None:
    own = [one for one in manifests if (one["apiVersion"].partition("/")[0], one["kind"]) not in CRDS]

    for one in own:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    assert {"Deployment", "ServiceAccount"} <= {one["kind"] for one in own}


def test_the_operators_take_theirs_to_the_letter() -> None:
    checked = Counter[str]()

    for name in NAMES:
        for one in rendered(name):
            if schema := CRDS.get((one["apiVersion"].partition("/")[0], one["kind"])):
                jsonschema.validate(one["spec"], closed(schema))
                checked[one["kind"]] += 1

    assert sorted(checked) == sorted(kind for _, kind in CRDS)


def test_a_field_that_an_operator_does_not_know_would_be_found() -> None:
    (scaled,) = (one for one in rendered("keda") if one["kind"] == "ScaledObject")
    scaled = merged(scaled, nested("spec.maxReplicas", 3))

    with pytest.raises(jsonschema.ValidationError, match="maxReplicas"):
        jsonschema.validate(scaled["spec"], closed(CRDS["keda.sh", "ScaledObject"]))


def test_every_object_has_a_name_of_its_own(manifests: list[Manifest]) -> None:
    names = Counter(
        (one["kind"], one["metadata"].get("namespace", NAMESPACE), one["metadata"]["name"]) for one in manifests
    )

    assert [name for name, times in names.items() if times > 1] == []
    assert [name for _, _, name in names if len(name) > 253] == []


def test_every_variable_is_one_that_a_node_or_a_standard_library_reads(manifests: list[Manifest]) -> None:
    known = settings_of_the_environment() | {"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}

    for one in deployments(manifests):
        names = [variable["name"] for variable in look([one], "Deployment spec template spec containers node env")]
        assert len(names) == len(set(names))
        assert {name for name in names if not name.startswith("OTEL_")} - known == set()


def test_a_node_is_killed_only_after_its_longest_task_and_its_own_end(manifests: list[Manifest]) -> None:
    for one in deployments(manifests):
        pod = look([one], "Deployment spec template spec")
        seconds = {
            variable["name"]: float(variable["value"])
            for variable in pod["containers"][0]["env"]
            if variable["name"] in ("ULOS_MAX_TIMEOUT_S", "ULOS_GRACE_S")
        }
        assert seconds["ULOS_MAX_TIMEOUT_S"] < seconds["ULOS_GRACE_S"] < pod["terminationGracePeriodSeconds"]


def test_whatever_selects_pods_selects_those_of_its_pool(manifests: list[Manifest]) -> None:
    pools = {one["metadata"]["name"]: one for one in deployments(manifests)}
    labels = {name: look([one], "Deployment spec template metadata labels") for name, one in pools.items()}

    selectors = []
    for one in manifests:
        spec = one.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        if "app.kubernetes.io/name" in selector.get("matchLabels", {}):
            selectors.append((one, selector["matchLabels"]))
        for spread in look([one], "Deployment spec template spec topologySpreadConstraints") or []:
            selectors.append((one, spread["labelSelector"]["matchLabels"]))

    for one, selector in selectors:
        selected = {name for name, own in labels.items() if selector.items() <= own.items()}
        name = one["metadata"]["name"]
        assert selected == ({name} if name in pools else set(pools)), f"{one['kind']} {name}"
    assert len(selectors) >= 2 * len(pools)


def test_whatever_scales_refers_to_a_deployment_that_leaves_its_number_alone(manifests: list[Manifest]) -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in manifests if "scaleTargetRef" in one.get("spec", {})}

    assert scaled == {one["metadata"]["name"] for one in deployments(manifests) if "replicas" not in one["spec"]}


def test_a_pod_is_restricted_and_reaches_no_socket_of_an_engine(manifests: list[Manifest]) -> None:
    for one in deployments(manifests):
        pod = look([one], "Deployment spec template spec")
        (node,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert node["securityContext"]["allowPrivilegeEscalation"] is False
        assert node["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert node["securityContext"]["readOnlyRootFilesystem"] is True
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert [volume for volume in pod["volumes"] if "hostPath" in volume] == []
        assert "docker.sock" not in json.dumps(one)
        mounted = [mount["name"] for mount in node["volumeMounts"]]
        assert sorted(mounted) == sorted(volume["name"] for volume in pod["volumes"])


def test_only_pools_with_jobs_have_a_token_and_only_they_bring_rights() -> None:
    for name in NAMES:
        manifests = rendered(name)
        pods = [look([one], "Deployment spec template spec") for one in deployments(manifests)]
        tokens = [pod["automountServiceAccountToken"] for pod in pods]
        roles = [one for one in manifests if one["kind"] == "Role"]
        assert any(tokens) == bool(roles) == (name in ("jobs", "topology", "everything"))
        assert not any("*" in rule["verbs"] or "secrets" in rule["resources"] for one in roles for rule in one["rules"])


def test_the_rights_are_those_that_running_jobs_takes_and_no_more() -> None:
    rules = look(rendered("jobs"), "Role rules")

    assert {(rule["apiGroups"][0], rule["resources"][0]): set(rule["verbs"]) for rule in rules} == {
        ("batch", "jobs"): {"create", "get", "list", "delete"},
        ("", "pods"): {"list", "watch"},
        ("", "pods/log"): {"get"},
        ("", "pods/exec"): {"get", "create"},
        ("", "events"): {"list"},
        ("networking.k8s.io", "networkpolicies"): {"list"},
    }


def test_every_object_says_to_which_release_it_belongs(manifests: list[Manifest]) -> None:
    labels = [one["metadata"].get("labels", {}) for one in manifests if one["metadata"]["name"] != "lab-extra"]

    assert {label.get("app.kubernetes.io/instance") for label in labels} == {"lab"}


def test_the_topology_is_the_one_that_ulos_topology_apply_declares() -> None:
    values = read(CHART / "ci" / "topology-values.yaml")
    expected: list[Wanted] = []
    for pool in values["pools"].values():
        places = Places(
            pool["queue"],
            Hop(exchange="processing-exchange", routing_key="task.log"),
            Hop(exchange="processing-exchange", routing_key="task.crashed"),
        )
        binds = [Hop(exchange=bind["exchange"], routing_key=bind["routingKey"]) for bind in pool["binds"]]
        expected += wanted(places, binds, "4.0.0")

    declared: list[Wanted] = []
    for one in rendered("topology"):
        spec = one.get("spec", {})
        if one["kind"] == "Exchange":
            declared.append(WantedExchange(spec["name"], spec["type"], lenient=spec["type"] == "direct"))
        elif one["kind"] == "Queue":
            declared.append(WantedQueue(spec["name"], {"x-queue-type": spec["type"], **spec["arguments"]}))
        elif one["kind"] == "Binding" and spec["destinationType"] == "queue":
            declared.append(WantedBinding(spec["destination"], spec["source"], spec["routingKey"]))

    def shown(things: list[Wanted]) -> set[str]:
        return {
            f"{thing.name} {sorted(thing.arguments.items())}" if isinstance(thing, WantedQueue) else str(thing)
            for thing in things
        }

    assert shown(declared) == shown(expected)
    assert len(declared) == len(shown(declared))


def test_what_is_declared_on_the_broker_outlives_the_release() -> None:
    declared = [one for one in rendered("topology") if one["apiVersion"].startswith("rabbitmq.com/")]

    assert declared
    assert {look([one], f"{one['kind']} metadata annotations helm.sh/resource-policy") for one in declared} == {"keep"}


def test_alerts_and_dashboard_reach_their_operators_unchanged() -> None:
    manifests = rendered("everything")

    alerts = yaml.load((CHART / "alerts" / "ulos-stream.yaml").read_text(), yaml.CSafeLoader)
    assert look(manifests, "PrometheusRule spec") == alerts
    dashboard = look(manifests, "ConfigMap/-dashboard data ulos-stream.json")
    assert json.loads(dashboard) == json.loads((CHART / "dashboards" / "ulos-stream.json").read_text())


def test_the_notes_end_with_the_next_command() -> None:
    said = run("install", merged(BASE, nested("pools.main.queue", "q")), "--dry-run=client")

    assert "main: queue q; nodes: 2; stages at once on each: up to 4" in said
    assert said.rstrip().endswith("kubectl --namespace lab exec deploy/lab-ulos-stream-main -- ulos doctor")
