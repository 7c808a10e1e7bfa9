"""A stand-in for a Kubernetes cluster: an API server, and a kubelet whose containers are Docker's.

It is strict where a real one is: requests carry a token over TLS, may do what the Role allows and nothing else, and
what is created fits the schemas of Kubernetes 1.37. Pods that break Pod Security are not made. Everything else goes
well unless a test says otherwise: `meddle`, `evict`, `lose`, `schedulable`, `shows`.
"""

import asyncio
import contextlib
import itertools
import json
import ssl
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_validate
import trustme
from aiohttp import WSMsgType, web

TOKEN = "a-service-account"
ROLE = {
    ("batch", "jobs"): {"create", "get", "list", "delete"},
    ("", "pods"): {"list", "watch"},
    ("", "pods/log"): {"get"},
    ("", "pods/exec"): {"get", "create"},
    ("", "events"): {"list"},
    ("networking.k8s.io", "networkpolicies"): {"list"},
    ("authorization.k8s.io", "selfsubjectaccessreviews"): {"create"},  # everybody may
}
"""What is documented that a node needs."""
NO_NETWORK = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "no-network"},
    "spec": {"podSelector": {"matchLabels": {"ulos.network": "none"}}, "policyTypes": ["Ingress", "Egress"]},
}
SLOW_READER_BYTES = 64 * 1024


@dataclass
class Run:
    """A Job, its pod, and the containers of that."""

    job: dict[str, Any]
    pod: dict[str, Any]
    volumes: Path
    containers: dict[str, str] = field(default_factory=dict)
    starting: "list[asyncio.Future[tuple[int, str]]]" = field(default_factory=list)
    """Containers that Docker has been asked for; it makes them even if nobody waits for that."""
    kubelet: "asyncio.Task[None] | None" = None


class ApiServer:
    """An API server of one namespace, with one node."""

    def __init__(self, directory: Path, *, pod_security: str = "restricted") -> None:
        self.runs: dict[str, Run] = {}
        self.created: list[dict[str, Any]] = []
        """Every Job that was ever made."""
        self.requests: list[str] = []
        self.namespaces = {"course"}
        self.role = {resource: {*verbs} for resource, verbs in ROLE.items()}
        self.policies: list[Any] = [NO_NETWORK]
        self.events: list[dict[str, Any]] = []
        self.schedulable = asyncio.Event()
        self.schedulable.set()
        self.waiting: dict[str, str] | None = None
        """Why the run's container does not start: `reason` and `message`."""
        self.cut: set[str] = set()
        """`in` or `out`: the next transfer that way breaks off in the middle."""
        self.meddle: Callable[[web.Request], web.Response | None] = lambda _: None
        """Asked before each request; may answer in place of the server, or `hang_up`."""
        self.kubeconfig = directory / "kubeconfig"
        self._directory = directory
        self._pod_security = pod_security
        self._watchers: list[asyncio.Queue[tuple[str, dict[str, Any]]]] = []
        self._versions = itertools.count(1)
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._images: dict[str, tuple[int, str]] = {}
        self._label = f"ulos-test.cluster={uuid.uuid4()}"

    async def __aenter__(self) -> "ApiServer":
        authority = trustme.CA()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._tls)
        authority.cert_pem.write_to_path(str(self._directory / "ca.pem"))
        await self.come_back()
        user = {"name": "node", "user": {"token": TOKEN}}
        server = f"https://127.0.0.1:{self._port}"
        cluster = {"name": "c", "cluster": {"server": server, "certificate-authority": str(self._directory / "ca.pem")}}
        context = {"name": "x", "context": {"cluster": "c", "user": "node", "namespace": "course"}}
        config = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
        self.kubeconfig.write_text(json.dumps(config))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.go_away()
        for task in [*self._tasks, *(run.kubelet for run in self.runs.values() if run.kubelet)]:
            task.cancel()
            await asyncio.wait([task])
        if left := await self.containers():
            await docker("rm", "-f", "-v", *left)

    async def containers(self) -> list[str]:
        """Ids of all containers that are still there."""
        return (await docker("ps", "-aq", "--filter", f"label={self._label}"))[1].split()

    async def come_back(self) -> None:
        app = web.Application(middlewares=[self._admit], client_max_size=2**20)
        space = "namespaces/{namespace}"
        app.add_routes(
            [
                web.post(f"/apis/batch/v1/{space}/jobs", self._create),
                web.get(f"/apis/batch/v1/{space}/jobs", self._list_jobs),
                web.get(f"/apis/batch/v1/{space}/jobs/{{name}}", self._get),
                web.delete(f"/apis/batch/v1/{space}/jobs/{{name}}", self._delete),
                web.get(f"/api/v1/{space}/pods", self._pods),
                web.get(f"/api/v1/{space}/pods/{{name}}/log", self._log),
                web.get(f"/api/v1/{space}/pods/{{name}}/exec", self._exec),
                web.get(f"/api/v1/{space}/events", self._list_events),
                web.get(f"/apis/networking.k8s.io/v1/{space}/networkpolicies", self._list_policies),
                web.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self._review),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def go_away(self) -> None:
        """Break every connection, and take no new one; pods go on."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def shows(self, look: "Callable[[ApiServer], object]") -> None:
        """Wait until something has changed, or been asked, so that `look` finds something."""
        async with self._changed:
            await self._changed.wait_for(lambda: look(self))

    async def evict(self, message: str) -> None:
        """What a kubelet does for lack of memory or disk: every container is killed."""
        [run] = self.runs.values()
        await self._stop(run)
        run.pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
        await self._tell("MODIFIED", run)

    async def lose(self) -> None:
        """Somebody deletes the pod."""
        [run] = self.runs.values()
        await self._stop(run)
        await self._tell("DELETED", run)

    # What requests meet.

    @web.middleware
    async def _admit(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return failure(401, "Unauthorized")
        verb, group, resource = _wish(request, self.namespaces)
        self.requests.append(f"{verb} {resource}")
        async with self._changed:
            self._changed.notify_all()
        verbs = {"get", "create"} if resource == "pods/exec" else {verb}
        if not verbs <= self.role.get((group, resource), set()):
            return failure(403, f'{resource} is forbidden: User "node" cannot {verb} resource "{resource}"')
        return self.meddle(request) or await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        job = await request.json()
        kubernetes_validate.validate(job, "1.37", strict=True)
        name = job["metadata"]["name"]
        if name in self.runs:
            return failure(409, f'jobs.batch "{name}" already exists')
        self.created.append(job)
        template = job["spec"]["template"]
        labels = template["metadata"]["labels"] | {"batch.kubernetes.io/job-name": name}
        about = {"name": f"{name}-x7k2q", "labels": labels, "annotations": template["metadata"]["annotations"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"], "status": {}}
        run = Run(job, pod, Path(tempfile.mkdtemp(dir=self._directory)))
        self.runs[name] = run
        if broken := violations(template["spec"]) if self._pod_security == "restricted" else baseline(template["spec"]):
            self.complain(name, f'pods "{name}-x7k2q" is forbidden: violates PodSecurity: {broken}')
        elif not self.events:
            run.kubelet = asyncio.create_task(self._kubelet(run))
        await self._tell(None, run)
        return web.json_response(job | {"status": {}}, status=201)

    def complain(self, name: str, message: str) -> None:
        """The controller of Jobs cannot make a pod, and says so in an event."""
        about = {"name": f"{name}.1", "namespace": "course"}
        self.events.append(
            {"metadata": about, "involvedObject": {"kind": "Job", "name": name}, "type": "Warning", "message": message}
        )

    async def _get(self, request: web.Request) -> web.Response:
        run = self.runs.get(request.match_info["name"])
        return web.json_response(run.job) if run else failure(404, "jobs.batch not found")

    async def _delete(self, request: web.Request) -> web.Response:
        run = self.runs.get(name := request.match_info["name"])
        if run is None:
            return failure(404, f'jobs.batch "{name}" not found')
        if "deletionTimestamp" not in run.job["metadata"]:
            run.job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            policy = request.query.get("propagationPolicy", "Background")
            if policy != "Foreground":
                del self.runs[name]
            task = asyncio.create_task(self._collect(name, run, policy))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    async def _collect(self, name: str, run: Run, policy: str) -> None:
        if policy != "Orphan":
            await self._stop(run)
            await self._tell("DELETED", run)
        if policy == "Foreground":
            del self.runs[name]
            await self._tell(None, run)

    async def _list_jobs(self, request: web.Request) -> web.Response:
        key, _, value = request.query.get("labelSelector", "").partition("=")
        jobs = [run.job for run in self.runs.values()]
        return listed(
            "batch/v1", "Job", [job for job in jobs if not key or job["metadata"]["labels"].get(key) == value]
        )

    async def _list_events(self, request: web.Request) -> web.Response:
        name = request.query["fieldSelector"].partition("=")[2]
        return listed("v1", "Event", [event for event in self.events if event["involvedObject"]["name"] == name])

    async def _list_policies(self, _: web.Request) -> web.Response:
        return listed("networking.k8s.io/v1", "NetworkPolicy", self.policies)

    async def _review(self, request: web.Request) -> web.Response:
        review = await request.json()
        kubernetes_validate.validate(review, "1.37", strict=True)
        wanted = review["spec"]["resourceAttributes"]
        resource = wanted["resource"] + (f"/{wanted['subresource']}" if wanted.get("subresource") else "")
        allowed = wanted["verb"] in self.role.get((wanted.get("group", ""), resource), set())
        return web.json_response(review | {"status": {"allowed": allowed}}, status=201)

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        name = request.query["labelSelector"].partition("=")[2]
        known = [run.pod for key, run in self.runs.items() if key == name and run.pod["status"]]
        if "watch" not in request.query:
            return listed("v1", "Pod", known)
        changes: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        for pod in known:
            changes.put_nowait(("ADDED", json.loads(json.dumps(pod))))
        self._watchers.append(changes)
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        try:
            while True:
                kind, pod = await changes.get()
                if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == name:
                    await response.write(json.dumps({"type": kind, "object": pod}).encode() + b"\n")
        finally:
            self._watchers.remove(changes)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        follow = ["--follow"] if request.query["follow"] == "true" else []
        reading = await asyncio.create_subprocess_exec(
            "docker", "logs", *follow, container, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert reading.stdout is not None
        response, left = web.StreamResponse(), int(request.query["limitBytes"])
        response.content_type = "text/plain"
        await response.prepare(request)
        try:
            while left and (data := await reading.stdout.read(min(left, SLOW_READER_BYTES))):
                await response.write(data)
                left -= len(data)
        finally:
            reading._transport.close()  # type: ignore[attr-defined]  # kills it, and forgets what it prints
        return response

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        container, command = self._container(request), request.query.getall("command")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        pipe = asyncio.subprocess.PIPE
        running = await asyncio.create_subprocess_exec(
            "docker", "exec", "-i", container, *command, stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None

        async def send(channel: int, stream: asyncio.StreamReader) -> None:
            while data := await stream.read(32 * 1024):
                await socket.send_bytes(bytes([channel]) + data)
                if channel == 1:
                    self._break_off("out", request)

        async def take(stdin: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                async for message in socket:
                    if message.type is not WSMsgType.BINARY or message.data == b"\xff\x00":
                        break
                    stdin.write(message.data[1:])
                    await stdin.drain()
                    self._break_off("in", request)
            stdin.close()

        taking = asyncio.create_task(take(running.stdin))
        try:
            await asyncio.gather(send(1, running.stdout), send(2, running.stderr))
            code = await running.wait()
            cause = {"reason": "ExitCode", "message": str(code)}
            ended: dict[str, Any] = {"status": "Success"}
            if code:
                ended = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]}}
            await socket.send_bytes(b"\x03" + json.dumps({"metadata": {}} | ended).encode())
        finally:
            taking.cancel()
            running._transport.close()  # type: ignore[attr-defined]  # kills it, and forgets what it prints
        await socket.close()
        return socket

    def _break_off(self, way: str, request: web.Request) -> None:
        if way in self.cut:
            self.cut.remove(way)
            hang_up(request)

    def _container(self, request: web.Request) -> str:
        run = next(run for run in self.runs.values() if run.pod["metadata"]["name"] == request.match_info["name"])
        return run.containers[request.query["container"]]

    # What a kubelet does.

    async def _kubelet(self, run: Run) -> None:
        spec, status = run.pod["spec"], run.pod["status"]
        full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: too small"}
        status |= {"phase": "Pending", "conditions": [] if self.schedulable.is_set() else [full]}
        await self._tell("ADDED", run)
        await self.schedulable.wait()
        status |= {"conditions": [], "initContainerStatuses": [], "containerStatuses": []}
        [receive] = spec["initContainers"]
        if await self._run(run, receive, status["initContainerStatuses"]):
            return
        status["phase"] = "Running"
        async with asyncio.TaskGroup() as containers:
            for each in spec["containers"]:  # one by one, as SyncPod starts them (pkg/kubelet/kuberuntime)
                started = asyncio.Event()
                containers.create_task(self._run(run, each, status["containerStatuses"], started))
                await started.wait()

    async def _run(
        self, run: Run, spec: dict[str, Any], told: list[dict[str, Any]], started: asyncio.Event | None = None
    ) -> int:
        """One container, from its image to its end; returns its exit code."""
        name, image = spec["name"], spec["image"]
        if image not in self._images:
            self._images[image] = await docker("image", "inspect", "--format", "{{.Id}}", image)
        known, digest = self._images[image]
        about: dict[str, Any] = {"name": name, "image": image, "ready": False, "restartCount": 0, "state": {}}
        about["imageID"] = f"{image}@{digest.strip()}"
        told.append(about)
        waiting = self.waiting if name == "run" else None
        if known and waiting is None:
            never = {"reason": "ErrImageNeverPull", "message": f'Container image "{image}" is not present'}
            absent = {"reason": "ErrImagePull", "message": f'failed to resolve reference "{image}": not found'}
            waiting = never if spec["imagePullPolicy"] == "Never" else absent
        if waiting:
            about["state"] = {"waiting": waiting}
            await self._tell("MODIFIED", run)
            await asyncio.Event().wait()
        starting = asyncio.ensure_future(docker("run", "--detach", "--label", self._label, *_flags(run, spec)))
        run.starting.append(starting)
        code, said = await asyncio.shield(starting)
        if started is not None:
            started.set()
        if code:
            about["state"] = {"terminated": {"exitCode": 128, "reason": "StartError", "message": said.strip()}}
            await self._tell("MODIFIED", run)
            return 128
        container = run.containers[name] = said.split()[-1]
        about["state"] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        await self._tell("MODIFIED", run)
        code = int((await docker("wait", container))[1])
        reason = "Error" if code else "Completed"
        if code == 137 and "true" in (await docker("inspect", "--format", "{{.State.OOMKilled}}", container))[1]:
            reason = "OOMKilled"
        about["state"] = {"terminated": {"exitCode": code, "reason": reason}}
        await self._tell("MODIFIED", run)
        return code

    async def _stop(self, run: Run) -> None:
        if run.kubelet is not None:
            run.kubelet.cancel()
            await asyncio.wait([run.kubelet])
        started = [said.split()[-1] for code, said in await asyncio.gather(*run.starting) if code == 0]
        if started:
            await docker("rm", "-f", "-v", *started)

    async def _tell(self, kind: str | None, run: Run) -> None:
        run.pod["metadata"]["resourceVersion"] = str(next(self._versions))
        if kind is not None:
            for watcher in self._watchers:
                watcher.put_nowait((kind, json.loads(json.dumps(run.pod))))
        async with self._changed:
            self._changed.notify_all()


@contextlib.asynccontextmanager
async def cluster(directory: Path, **options: Any) -> AsyncIterator[ApiServer]:
    async with ApiServer(directory, **options) as server:
        yield server


def hang_up(request: web.Request) -> web.Response:
    """Break the connection instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def failure(code: int, message: str) -> web.Response:
    """How the API server says no (meta/v1, Status)."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    headers = {"Content-Type": "application/json"}  # just this, without a charset
    return web.Response(body=json.dumps(status), status=code, headers=headers)


def listed(version: str, kind: str, items: list[dict[str, Any]]) -> web.Response:
    return web.json_response({"apiVersion": version, "kind": f"{kind}List", "metadata": {}, "items": items})


async def docker(*arguments: str) -> tuple[int, str]:
    """The exit code of a `docker` command, and what it prints."""
    pipe, both = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    running = await asyncio.create_subprocess_exec("docker", *arguments, stdout=pipe, stderr=both)
    try:
        printed = (await running.communicate())[0]
    finally:
        running._transport.close()  # type: ignore[attr-defined]  # also if it is not waited for any more
    return running.returncode or 0, printed.decode()


def violations(spec: dict[str, Any]) -> list[str]:
    """Where a pod breaks Pod Security `restricted` (its documentation, version 1.34)."""
    found = baseline(spec)
    pod = spec.get("securityContext", {})
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("seccompProfile")
    for each in [*spec["initContainers"], *spec["containers"]]:
        own = each["securityContext"]
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if "ALL" not in own["capabilities"].get("drop", []) or own["capabilities"].get("add"):
            found.append("capabilities")
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")) or own.get("runAsUser", 1) == 0:
            found.append("runAsNonRoot")
    return found


def baseline(spec: dict[str, Any]) -> list[str]:
    """Where a pod breaks Pod Security `baseline`."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace") if spec.get(name)]
    found += [volume["name"] for volume in spec["volumes"] if "emptyDir" not in volume]
    for each in [*spec["initContainers"], *spec["containers"]]:
        added = {*each["securityContext"]["capabilities"].get("add", [])}
        if added - {"DAC_OVERRIDE", "SETUID", "SETGID"} or each["securityContext"].get("privileged"):
            found.append("privileged")
    return found


def _wish(request: web.Request, namespaces: set[str]) -> tuple[str, str, str]:
    """Verb, group and resource of a request."""
    _, kind, *parts = request.path.split("/")
    group = parts.pop(0) if kind == "apis" else ""
    version, *rest = parts
    assert version == "v1"
    if rest[0] == "namespaces":
        assert rest[1] in namespaces
        rest = rest[2:]
    resource = rest[0] + (f"/{rest[2]}" if len(rest) > 2 else "")
    verb = {"POST": "create", "DELETE": "delete"}.get(request.method) or ("get" if len(rest) > 1 else "list")
    return "watch" if "watch" in request.query else verb, group, resource


def _flags(run: Run, spec: dict[str, Any]) -> list[str]:
    """A container as `docker create` takes it."""
    security, limits = spec["securityContext"], spec["resources"]["limits"]
    flags = ["--network", "none", "--security-opt", "no-new-privileges"]
    flags += [f"--cap-drop={name}" for name in security["capabilities"]["drop"]]
    flags += [f"--cap-add={name}" for name in security["capabilities"].get("add", [])]
    flags += ["--read-only"] if security["readOnlyRootFilesystem"] else []
    flags += ["--user", f"{security['runAsUser']}:{security['runAsGroup']}"] if "runAsUser" in security else []
    memory = limits["memory"].removesuffix("i").lower()
    flags += ["--memory", memory, "--memory-swap", memory, "--cpus", str(int(limits["cpu"][:-1]) / 1000)]
    flags += [flag for pair in spec.get("env", []) for flag in ("--env", f"{pair['name']}={_expanded(pair['value'])}")]
    flags += ["--workdir", spec["workingDir"]] if "workingDir" in spec else []
    for mount in spec["volumeMounts"]:
        volume = next(each["emptyDir"] for each in run.pod["spec"]["volumes"] if each["name"] == mount["name"])
        if volume.get("medium") == "Memory":
            size = volume["sizeLimit"].removesuffix("i").lower()
            flags += ["--tmpfs", f"{mount['mountPath']}:rw,size={size},mode=1777"]
            continue
        source = run.volumes / mount["name"]
        source.mkdir(exist_ok=True)
        source.chmod(0o777)
        flags += ["--volume", f"{source}:{mount['mountPath']}"]
    program, *arguments = spec.get("command", []) or [""]
    flags += ["--entrypoint", program] if program else []
    return [*flags, spec["image"], *arguments, *map(_expanded, spec.get("args", []))]


def _expanded(text: str) -> str:
    assert "$(" not in text.replace("$$", "")
    return text.replace("$$", "$")
