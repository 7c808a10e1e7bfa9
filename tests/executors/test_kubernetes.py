"""Container executors as Jobs, against an API server that is strict and real containers; see api_server.py."""

import asyncio
import contextlib
import io
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from api_server import NO_NETWORK, ApiServer, baseline, docker, failure, hang_up, violations
from workbench import EAT_UP_MEMORY, IMAGE, container, make_job, script_image
from world import a_tree, a_world, a_zip

from ulos_stream.errors import ConfigurationError, EngineFault, ExecutorCrashed, ExecutorUnavailable
from ulos_stream.executors import Job, Output, cluster
from ulos_stream.executors.cluster import Cluster
from ulos_stream.executors.kubernetes import KubernetesExecutor
from ulos_stream.executors.pod import Kubernetes, image_of, taking
from ulos_stream.executors.tar import write_tar
from ulos_stream.parts import find_executors
from ulos_stream.settings import Node
from ulos_stream.tasks import Verdict

pytestmark = pytest.mark.usefixtures("docker")
LEAVE_THE_FILE = "mkdir -p results && touch results/passed.log"
UNTIL_GO = "echo started; until [ -e /tmp/go ]; do sleep 0.05; done"
ROOT = {"user": "0:0", "capabilities": ["SETUID", "SETGID"]}


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


@pytest.fixture
async def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[ApiServer]:
    directory = tmp_path / "cluster"
    directory.mkdir()
    async with ApiServer(directory, pod_security=getattr(request, "param", "restricted")) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


on_baseline = pytest.mark.parametrize("server", ["baseline"], indirect=True)


@contextlib.asynccontextmanager
async def kubernetes_executor(
    options: dict[str, Any] | None = None, *, node: str = "", **overrides: Any
) -> AsyncIterator[KubernetesExecutor]:
    settings = Kubernetes.model_validate({"carrier_image": IMAGE} | (options or {}))
    on = Cluster(settings, node or f"node-{uuid.uuid4()}")
    try:
        yield KubernetesExecutor(container(**overrides), on)
    finally:
        await on.aclose()


async def test_a_run_sees_its_files_and_what_it_leaves_comes_back(server: ApiServer, tmp_path: Path) -> None:
    script = "cat given/text; mkdir made; echo left >made/new; rm given/text; chmod +x job.sh; exit 0"
    job, printout = make_job(tmp_path, script)
    (job.directory / "given").mkdir()
    (job.directory / "given" / "text").write_text("from the node\n")

    async with kubernetes_executor() as executor:
        verdict = await executor.run(job)

    assert verdict is Verdict.PASS
    assert printout.text() == "from the node\n"
    assert (job.directory / "made" / "new").read_text() == "left\n"
    assert (job.directory / "job.sh").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in job.directory.iterdir()) == ["given", "job.sh", "made"]
    assert not (job.directory / "given" / "text").exists()
    assert server.runs == {}


@pytest.mark.parametrize(
    ("passes", "script", "verdict"),
    [
        ("exit-code", "exit 3", Verdict.FAIL),
        ("verdict-file", f"{LEAVE_THE_FILE}; exit 1", Verdict.PASS),
        ("verdict-file", "ls results", Verdict.FAIL),
        ("both", f"{LEAVE_THE_FILE}; exit 1", Verdict.FAIL),
    ],
)
async def test_the_verdict_comes_from_what_the_descriptor_names(
    server: ApiServer, tmp_path: Path, passes: str, script: str, verdict: Verdict
) -> None:
    job, _ = make_job(tmp_path, script)
    (job.directory / "results").mkdir()
    (job.directory / "results" / "passed.log").write_text("it came with the work")

    async with kubernetes_executor(passes=passes) as executor:
        assert await executor.run(job) is verdict

    assert passes == "exit-code" or not (job.directory / "results" / "passed.log").exists()


async def test_a_job_is_all_that_pod_security_restricted_asks_for_and_more(server: ApiServer, tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with kubernetes_executor(sandbox={"runtime": "runsc", "cpus": 0.5, "memory_mib": 100}) as executor:
        await executor.run(job)

    [made] = server.created
    spec = made["spec"]["template"]["spec"]
    run = spec["containers"][1]
    assert violations(spec) == []
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["dnsConfig"] == {"nameservers": ["127.0.0.1"]}
    assert spec["runtimeClassName"] == "runsc"
    assert (made["spec"]["backoffLimit"], spec["restartPolicy"]) == (0, "Never")
    assert run["resources"]["limits"] == {"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "516Mi"}
    assert run["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["volumes"][0] == {"name": "work", "emptyDir": {"sizeLimit": "512Mi"}}
    assert made["spec"]["template"]["metadata"]["labels"]["ulos.network"] == "none"


async def test_a_run_sees_nothing_but_its_files_and_its_own_environment(server: ApiServer, tmp_path: Path) -> None:
    script = 'exec 2>&1; id -u; ls -A /work; echo "$HOME $PRICE"; touch /no; ls /carrier'
    job, printout = make_job(tmp_path, script)

    async with kubernetes_executor(environment={"PRICE": "$(HOME) $$1"}) as executor:
        await executor.run(job)

    assert printout.text().splitlines() == [
        "65532",
        "job.sh",
        "/tmp $(HOME) $$1",
        "touch: /no: Read-only file system",
        "ls: /carrier: No such file or directory",
    ]


async def test_the_output_arrives_while_the_run_goes_on_and_the_image_is_noted(
    server: ApiServer, tmp_path: Path
) -> None:
    job, printout = make_job(tmp_path, f"{UNTIL_GO}; echo wrong >&2")

    async with kubernetes_executor() as executor, asyncio.TaskGroup() as group:
        running = group.create_task(executor.run(job))
        await printout.shows("started")
        still_running = not running.done()
        await go(server)

    assert still_running
    assert printout.text() == "started\nwrong\n"
    assert job.facts["image"].startswith("sha256:")
    assert job.facts["exit_code"] == "0"


async def test_a_flood_of_output_is_read_up_to_four_times_what_is_kept(server: ApiServer, tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "head -c 9000000 /dev/zero | tr '\\0' y", limit_bytes=1000)

    async with kubernetes_executor() as executor:
        await executor.run(job)

    assert len(printout.getvalue()) == 1000
    assert job.output.dropped_bytes == 4 * 1024 * 1024 - 1000


async def test_what_is_no_regular_file_does_not_come_back_and_is_not_followed(
    server: ApiServer, tmp_path: Path
) -> None:
    (tmp_path / "bait").write_text("the node's own")
    script = f"""
        ln -s {tmp_path}/bait link; ln -s {tmp_path} folder; mkfifo pipe; mkdir shut; echo in >shut/file; chmod 0 shut
        echo closed >closed; chmod 0 closed; echo twice >one; ln one two; ln link three
    """
    job, _ = make_job(tmp_path, script)

    async with kubernetes_executor() as executor:
        await executor.run(job)

    left = {str(path.relative_to(job.directory)) for path in job.directory.rglob("*")}
    assert left == {"closed", "job.sh", "one", "shut", "shut/file", "two"}
    assert (job.directory / "two").read_text() == "twice\n"
    assert (tmp_path / "bait").read_text() == "the node's own"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("dd if=/dev/zero of=hole bs=1 count=0 seek=1000000000", "more than 2 MiB on the disk"),
        ("i=0; while [ $i -lt 70 ]; do mkdir d; cd d; i=$((i+1)); done", "more than 64 levels"),
    ],
)
async def test_a_run_that_leaves_more_than_it_may_crashes(
    server: ApiServer, tmp_path: Path, script: str, reason: str
) -> None:
    job, _ = make_job(tmp_path, script)

    async with kubernetes_executor(sandbox={"disk_mib": 2}) as executor:
        with pytest.raises(ExecutorCrashed, match=reason):
            await executor.run(job)

    assert server.runs == {}


async def test_a_run_that_takes_too_much_memory_crashes(server: ApiServer, tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, EAT_UP_MEMORY)

    async with kubernetes_executor(sandbox={"memory_mib": 20}) as executor:
        with pytest.raises(ExecutorCrashed, match="out of memory: killed at its limit of 20 MiB"):
            await executor.run(job)


@on_baseline
async def test_a_judge_that_is_root_runs_the_work_as_somebody_else_where_that_is_allowed(
    server: ApiServer, tmp_path: Path
) -> None:
    script = """
        mkdir open; chmod 777 open; echo "u:x:7:7::/:/bin/sh" >/etc/passwd
        su u -c "umask 077; mkdir open/mine; echo of somebody else >open/mine/file; id -u"
    """
    job, printout = make_job(tmp_path, script)
    options = {"pod_security": "baseline", "user_namespaces": True}

    async with kubernetes_executor(options, sandbox=ROOT | {"read_only": False}) as executor:
        verdict = await executor.run(job)

    spec = server.created[0]["spec"]["template"]["spec"]
    assert (baseline(spec), spec["hostUsers"]) == ([], False)
    assert (verdict, printout.text()) == (Verdict.PASS, "7\n")
    assert (job.directory / "open" / "mine" / "file").read_text() == "of somebody else\n"


@on_baseline
async def test_an_image_with_a_user_of_its_own_runs_where_that_may_be_root(server: ApiServer, tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, "id -u; touch left")

    async with kubernetes_executor({"pod_security": "baseline"}, sandbox={"user": "image"}) as executor:
        await executor.run(job)

    assert printout.text() == "0\n"
    assert (job.directory / "left").exists()


@pytest.mark.parametrize(
    ("sandbox", "reason"),
    [(ROOT, "ULOS_KUBERNETES_POD_SECURITY"), ({"user": "image"}, "is root"), ({"network": "host"}, "run it on Docker")],
)
async def test_what_a_pod_may_not_be_is_refused_with_a_sentence(
    server: ApiServer, tmp_path: Path, sandbox: dict[str, Any], reason: str
) -> None:
    job, _ = make_job(tmp_path)

    async with kubernetes_executor(sandbox=sandbox) as executor:
        said = await executor.check()
        with pytest.raises(ExecutorUnavailable, match=reason):
            await executor.run(job)

    assert said is not None
    assert reason in said
    assert server.created == []


@pytest.mark.parametrize(
    ("policies", "may_run"),
    [
        ([NO_NETWORK], True),
        ([NO_NETWORK | {"spec": {"podSelector": {}, "policyTypes": ["Egress", "Ingress"]}}], True),
        ([], False),
        ([NO_NETWORK | {"spec": NO_NETWORK["spec"] | {"policyTypes": ["Ingress"]}}], False),  # type: ignore[operator]
        ([NO_NETWORK | {"spec": NO_NETWORK["spec"] | {"egress": [{}]}}], False),  # type: ignore[operator]
        ([NO_NETWORK | {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}], False),
    ],
)
async def test_student_code_runs_only_where_a_policy_keeps_it_from_the_network(
    server: ApiServer, policies: list[dict[str, Any]], may_run: bool
) -> None:
    server.policies = policies

    async with kubernetes_executor() as executor:
        reason = await executor.check()
    async with kubernetes_executor(sandbox={"network": "bridge"}) as executor:
        reason_with_a_network = await executor.check()

    assert (reason is None) == may_run
    assert may_run or "NetworkPolicy" in str(reason)
    assert reason_with_a_network is None


@pytest.mark.parametrize(
    ("resource", "verb", "said"),
    [
        (("batch", "jobs"), "create", "may not create jobs in the namespace 'course'"),
        (("", "pods/exec"), "create", "may not create pods/exec"),
    ],
)
async def test_a_role_that_lacks_a_verb_is_said_by_name(
    server: ApiServer, resource: tuple[str, str], verb: str, said: str
) -> None:
    server.role[resource].remove(verb)

    async with kubernetes_executor() as executor:
        assert said in str(await executor.check())


async def test_nothing_is_done_that_the_documented_role_does_not_need(server: ApiServer, tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with kubernetes_executor() as executor:
        await executor.run(job)
        await executor._cluster.sweep_nodes(lambda node: False)

    used = set(server.requests)
    role = {f"{verb} {resource}" for (_, resource), verbs in server.role.items() for verb in verbs}
    assert role - used == {"create pods/exec", "list pods", "list events"}  # after 1.35; when a pod does not start


async def test_an_api_server_that_was_never_there_makes_the_executor_unavailable(
    server: ApiServer, tmp_path: Path
) -> None:
    job, _ = make_job(tmp_path)
    await server.go_away()

    async with kubernetes_executor() as executor:
        reason = await executor.check()
        with pytest.raises(ExecutorUnavailable, match="broke off"):
            await executor.run(job)

    assert reason is not None


async def test_neither_service_account_nor_kubeconfig_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    async with kubernetes_executor() as executor:
        reason = await executor.check()

    assert "neither a service account nor a kubeconfig" in str(reason)


@pytest.mark.parametrize(
    ("answer", "raised", "match"),
    [
        (lambda: failure(500, "etcd leader changed"), EngineFault, "etcd leader changed"),
        (lambda: failure(429, "too many requests"), EngineFault, "too many requests"),
        (lambda: failure(403, 'jobs "x" is forbidden: exceeded quota: students'), EngineFault, "exceeded quota"),
        (lambda: failure(403, 'admission webhook "p" denied the request'), ExecutorUnavailable, "denied the request"),
        (lambda: failure(422, "Job is invalid"), ExecutorUnavailable, "cannot make such a Job: Job is invalid"),
    ],
    ids=["5xx", "429", "quota", "webhook", "invalid"],
)
async def test_a_refused_job_is_a_fault_if_it_may_pass_and_a_crash_if_not(
    server: ApiServer,
    tmp_path: Path,
    answer: Callable[[], web.Response],
    raised: type[Exception],
    match: str,
) -> None:
    job, _ = make_job(tmp_path)

    async with kubernetes_executor() as executor:
        await executor.check()
        server.meddle = on("create jobs", server, answer, times=1)
        with pytest.raises(raised, match=match):
            await executor.run(job)

    assert server.runs == {}


@pytest.mark.parametrize(
    ("message", "raised"),
    [
        ('Usage of EmptyDir volume "work" exceeds the limit "512Mi". ', ExecutorCrashed),
        ('Container run exceeded its local ephemeral storage limit "516Mi". ', ExecutorCrashed),
        ("The node was low on resource: memory. Container run was using 1Gi, which exceeds its request", EngineFault),
    ],
)
async def test_an_evicted_pod_is_a_crash_for_its_own_disk_and_a_fault_for_its_neighbours(
    server: ApiServer, tmp_path: Path, message: str, raised: type[Exception]
) -> None:
    job, printout = make_job(tmp_path, UNTIL_GO)

    async with kubernetes_executor() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        await server.evict(message)
        with pytest.raises(raised):
            await running

    assert server.runs == {}


async def test_a_pod_that_is_deleted_from_outside_is_a_fault(server: ApiServer, tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, UNTIL_GO)

    async with kubernetes_executor() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        await server.lose()
        with pytest.raises(EngineFault, match="removed from outside"):
            await running

    assert server.runs == {}


@pytest.mark.parametrize(
    ("options", "image", "raised", "match"),
    [
        ({}, "ulos-test/none", ExecutorUnavailable, "ErrImageNeverPull"),
        (
            {"registry": "registry.invalid/course"},
            "none",
            ExecutorUnavailable,
            "course/none.*not found",
        ),
    ],
)
async def test_a_missing_image_is_said(
    server: ApiServer, tmp_path: Path, options: dict[str, Any], image: str, raised: type[Exception], match: str
) -> None:
    job, _ = make_job(tmp_path)

    async with kubernetes_executor(options, image=image) as executor:
        with pytest.raises(raised, match=match):
            await executor.run(job)

    assert server.runs == {}


async def test_a_registry_that_is_away_is_a_fault_once_the_time_to_start_is_over(
    server: ApiServer, tmp_path: Path
) -> None:
    job, _ = make_job(tmp_path)
    server.waiting = {"reason": "ErrImagePull", "message": "dial tcp 10.0.0.1:443: connect: connection refused"}

    async with kubernetes_executor({"start_s": 5}) as executor:
        with pytest.raises(EngineFault, match=r"not ready within 5 s: ErrImagePull: .*connection refused"):
            await executor.run(job)

    assert server.runs == {}


async def test_a_cluster_that_is_full_is_a_fault_that_says_so(server: ApiServer, tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)
    server.schedulable.clear()

    async with kubernetes_executor({"start_s": 0.5}) as executor:
        with pytest.raises(EngineFault, match="Unschedulable: 0/1 nodes: too small"):
            await executor.run(job)


async def test_a_wait_for_the_cluster_is_not_the_tasks_time(server: ApiServer, tmp_path: Path) -> None:
    job, printout = make_job(tmp_path, UNTIL_GO)
    server.schedulable.clear()

    async with kubernetes_executor() as executor, asyncio.timeout(60) as clock:
        running = asyncio.create_task(executor.run(replace(job, clock=clock)))
        await server.shows(lambda server: "watch pods" in server.requests)
        ends_while_it_waits = clock.when()
        server.schedulable.set()
        await printout.shows("started")
        ends_while_it_runs = clock.when()
        await go(server)
        await running

    assert ends_while_it_waits is None
    assert ends_while_it_runs is not None


async def test_a_pod_that_admission_never_takes_makes_the_executor_unavailable(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WATCH_S", 0.2)
    job, _ = make_job(tmp_path)

    async with kubernetes_executor({"pod_security": "baseline"}, sandbox=ROOT) as executor:
        with pytest.raises(ExecutorUnavailable, match=r"makes no such pod: .*violates PodSecurity"):
            await executor.run(job)

    assert server.runs == {}


async def test_a_program_that_is_not_in_the_image_is_said(server: ApiServer, tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with kubernetes_executor(command=["no-such-program"]) as executor:
        with pytest.raises(ExecutorUnavailable, match=r"cannot be started: .*no-such-program"):
            await executor.run(job)


@pytest.mark.parametrize("when", ["create jobs", "watch pods", "get pods/exec", "get pods/log"])
async def test_a_cancelled_run_leaves_nothing_running(server: ApiServer, tmp_path: Path, when: str) -> None:
    job, _ = make_job(tmp_path, "sleep 600")

    async with kubernetes_executor() as executor:
        await executor.check()
        running = asyncio.create_task(executor.run(job))

        def cancel() -> None:
            running.cancel()

        server.meddle = on(when, server, cancel)
        await asyncio.wait([running])

    assert running.cancelled()
    assert server.runs == {}
    assert await server.containers() == []


async def test_a_job_that_an_earlier_attempt_left_is_removed_first(server: ApiServer, tmp_path: Path) -> None:
    job, _ = make_job(tmp_path)

    async with kubernetes_executor(node="n") as killed, kubernetes_executor(node="n") as executor:
        await killed._create(job)
        await server.shows(lambda server: any(run.containers for run in server.runs.values()))
        left_over = await server.containers()
        verdict = await executor.run(job)

    first, second = (made["metadata"]["name"] for made in server.created)
    assert verdict is Verdict.PASS
    assert first == second
    assert not {*left_over} & {*await server.containers()}


async def test_two_nodes_that_run_the_same_message_do_not_disturb_each_other(server: ApiServer, tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, UNTIL_GO) for _ in range(2)]
    message_id = jobs[0][0].message_id

    async with kubernetes_executor(node="a") as first, kubernetes_executor(node="b") as second:
        runs = [
            asyncio.create_task(executor.run(replace(job, message_id=message_id)))
            for executor, (job, _) in zip((first, second), jobs, strict=True)
        ]
        for _, printout in jobs:
            await printout.shows("started")
        await go(server)
        verdicts = await asyncio.gather(*runs)

    assert verdicts == [Verdict.PASS, Verdict.PASS]


async def test_an_api_server_that_is_away_for_a_while_does_not_end_a_run(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PAUSE_S", 0.05)
    job, printout = make_job(tmp_path, f"{UNTIL_GO}; echo ended")

    async with kubernetes_executor() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        await server.go_away()
        await go(server)
        await server.come_back()
        verdict = await running

    assert verdict is Verdict.PASS
    assert printout.text() == "started\nended\n"


async def test_an_api_server_that_stays_away_is_a_fault(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PAUSE_S": 0.05, "AWAY_S": 0.2, "REMOVE_S": 0.2}.items():
        monkeypatch.setattr(cluster, name, value)
    job, printout = make_job(tmp_path, UNTIL_GO)

    async with kubernetes_executor() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        await server.go_away()
        with pytest.raises(EngineFault, match="broke off"):
            await running


async def test_a_silent_api_server_is_noticed(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WATCH_S", 0.1)
    job, printout = make_job(tmp_path, UNTIL_GO)

    async with kubernetes_executor() as executor:
        running = asyncio.create_task(executor.run(job))
        await printout.shows("started")
        watches = server.requests.count("watch pods")
        await server.shows(lambda server: server.requests.count("watch pods") > watches + 2)
        await go(server)
        verdict = await running

    assert verdict is Verdict.PASS


@pytest.mark.parametrize("way", ["in", "out"])
async def test_a_transfer_that_breaks_in_the_middle_is_made_again(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(cluster, "PAUSE_S", 0.05)
    job, _ = make_job(tmp_path, "head -c 700000 large >part; rm large")
    (job.directory / "a").write_bytes(bytes(128 * 1024 - 512))  # with its header, what is sent before the cut
    (job.directory / "large").write_bytes(bytes(range(256)) * 10_000)
    server.cut.add(way)

    async with kubernetes_executor() as executor:
        verdict = await executor.run(job)

    assert verdict is Verdict.PASS
    assert server.requests.count("get pods/exec") == 3
    assert sorted(path.name for path in job.directory.iterdir()) == ["a", "job.sh", "part"]
    assert (job.directory / "part").read_bytes() == (bytes(range(256)) * 10_000)[:700_000]


async def test_a_log_that_breaks_off_is_completed_in_the_end(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, printout = make_job(tmp_path, "seq 1000")
    server_meddle = on("get pods/log", server, None, times=1)
    server.meddle = lambda request: hang_up(request) if server_meddle(request) else None

    async with kubernetes_executor() as executor:
        verdict = await executor.run(job)

    assert verdict is Verdict.PASS
    assert printout.text() == "".join(f"{number}\n" for number in range(1, 1001))


async def test_a_sweep_removes_the_jobs_of_abandoned_nodes_alone(server: ApiServer, tmp_path: Path) -> None:
    jobs = {node: make_job(tmp_path, UNTIL_GO) for node in ("dead node", "living")}

    async with contextlib.AsyncExitStack() as stack:
        running = {}
        for node, (job, printout) in jobs.items():
            executor = await stack.enter_async_context(kubernetes_executor(node=node))
            running[node] = asyncio.create_task(executor.run(job))
            await printout.shows("started")
        await executor._cluster.sweep_nodes("dead node".__eq__)
        left = [run.job["metadata"]["annotations"]["ulos.node"] for run in server.runs.values()]
        await go(server)
        with pytest.raises(EngineFault):
            await running["dead node"]
        verdict = await running["living"]

    assert left == ["living"]
    assert verdict is Verdict.PASS


@pytest.mark.parametrize(("namespace", "owners"), [(None, ["1-2-3"]), ("course", ["1-2-3"]), ("students", [])])
async def test_jobs_belong_to_the_pod_of_the_node_in_its_own_namespace_alone(
    server: ApiServer, tmp_path: Path, namespace: str | None, owners: list[str]
) -> None:
    job, _ = make_job(tmp_path)
    server.namespaces.add("students")
    options = {"pod_name": "node-0", "pod_uid": "1-2-3", "namespace": namespace}

    async with kubernetes_executor(options) as executor:
        await executor.run(job)

    found = server.created[0]["metadata"].get("ownerReferences", [])
    assert [owner["uid"] for owner in found if (owner["kind"], owner["name"]) == ("Pod", "node-0")] == owners


@pytest.mark.parametrize(
    ("image", "registry", "found"),
    [
        ("check", None, ("check", "Never")),
        ("check:2", "r.example/course/", ("r.example/course/check:2", "IfNotPresent")),
        ("ghcr.io/a/check", "r.example", ("ghcr.io/a/check", "IfNotPresent")),
        ("localhost/check", None, ("localhost/check", "IfNotPresent")),
        ("r:5000/check", None, ("r:5000/check", "IfNotPresent")),
        ("a/check", None, ("a/check", "Never")),
    ],
)
def test_an_image_without_a_registry_is_never_pulled_from_a_public_one(
    image: str, registry: str | None, found: tuple[str, str]
) -> None:
    assert image_of(container(image=image), Kubernetes(registry=registry)) == found


async def test_what_the_clock_of_a_task_counts_leaves_out_what_is_waited_for() -> None:
    async with asyncio.timeout(100) as clock:
        job = Job(Path(), Output(io.BytesIO(), 0), "m", "t", clock=clock)
        with job.waiting():
            stopped = clock.when()
        left_s = job.left_s()

    assert stopped is None
    assert 99 < left_s <= 100
    assert replace(job, clock=None).left_s() == 86_400


async def test_jobs_without_a_carrier_end_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ULOS_KUBERNETES_CARRIER_IMAGE: is not set"):
        find_executors(Node(engine="kubernetes", executors_path=(tmp_path,)))


def test_files_of_which_some_have_not_arrived_are_not_taken_for_all(tmp_path: Path) -> None:
    for name in ("given", "work", "carrier"):
        (tmp_path / name).mkdir()
    (tmp_path / "given" / "a").write_bytes(bytes(512))
    (tmp_path / "given" / "b").write_text("b")
    tar = io.BytesIO()
    write_tar(tmp_path / "given", tar, last=".last")
    *shell, script = taking(".last")
    here = script.replace("/work", str(tmp_path / "work")).replace("/carrier", str(tmp_path / "carrier"))

    def received(data: bytes) -> bool:
        subprocess.run([*shell, here], input=data, capture_output=True, check=False)
        return (tmp_path / "carrier" / "received").exists()

    assert not received(tar.getvalue()[:1024])  # all of `a`, and where a header could begin
    assert received(tar.getvalue())
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["a", "b"]


def test_a_node_without_the_extra_says_how_to_get_it() -> None:
    program = """
import asyncio, sys
sys.modules["lightkube"] = None
from ulos_stream.executors.cluster import Cluster
from ulos_stream.executors.pod import Kubernetes
try:
    asyncio.run(Cluster(Kubernetes(), "n").shortcoming("none"))
except Exception as exc:
    print(type(exc).__name__, exc)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("ExecutorUnavailable Jobs need the extra `kubernetes`")


async def test_a_node_runs_a_container_task_as_a_job_and_hands_over(
    server: ApiServer, broker: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "executors" / "check"
    folder.mkdir(parents=True)
    (folder / "executor.toml").write_text(f'kind = "container"\nrouting_key = "check"\nimage = "{IMAGE}"\n')
    (tmp_path / "artifacts").mkdir()

    async with a_world(broker, tmp_path / "artifacts") as world:
        await world.listen("next")
        task = world.task(a_tree("check", success=a_tree("next")))
        artifact = tmp_path / "artifacts" / task["filePath"][1:]
        artifact.write_bytes(a_zip(job_sh="echo from the cluster; exit 0"))
        world.settings = {
            "ULOS_ENGINE": "kubernetes",
            "ULOS_KUBERNETES_CARRIER_IMAGE": IMAGE,
            "ULOS_EXECUTORS_PATH": str(folder.parent),
            "ULOS_REQUIRE_EXECUTORS": "check",
            "KUBECONFIG": str(server.kubeconfig),
        }
        async with world.node():
            await world.send(task)
            heard = await world.hear_the_end()

    assert [each.event for each in heard if each.key == "log"][2:4] == ["passed", "uploaded"]
    assert [each.fields["routingTree"]["routingKey"] for each in heard if each.key == "next"] == ["next"]
    assert len(server.created) == 1


async def go(server: ApiServer) -> None:
    """Let the runs that wait for it end."""
    for run in server.runs.values():
        await docker("exec", run.containers["run"], "touch", "/tmp/go")


def on(
    wish: str, server: ApiServer, act: Callable[[], Any] | None, *, times: int = 10**6
) -> Callable[[web.Request], Any]:
    """Act when the server has been asked for this, `times` times at most."""
    left = times

    def meddle(_: web.Request) -> Any:
        nonlocal left
        if server.requests[-1] != wish or not left:
            return None
        left -= 1
        return act() if act else True

    return meddle
