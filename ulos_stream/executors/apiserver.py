"""The API server of a Kubernetes cluster: connected to on first use, bounded in time, its errors ours.

What a node's service account needs, in the namespace of the Jobs, stands at `PERMISSIONS`. `lightkube` is imported when
the cluster is first used: it is an extra.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ulos_stream.errors import EngineFault, ExecutorUnavailable, UlosError
from ulos_stream.executors.engine import Refused
from ulos_stream.executors.pod import Kubernetes

if TYPE_CHECKING:
    import httpx2
    from lightkube import AsyncClient

T = TypeVar("T")

PERMISSIONS = (
    ("batch", "jobs", "", ("create", "get", "list", "delete")),
    ("", "pods", "", ("list", "watch")),
    ("", "pods", "log", ("get",)),
    ("", "pods", "exec", ("get", "create")),  # the first for WebSockets before Kubernetes 1.35, the second since
    ("", "events", "", ("list",)),
    ("networking.k8s.io", "networkpolicies", "", ("list",)),
)
"""What a node does: group, resource, subresource, verbs. The chart's Role says the same."""
CALL_S = 30.0
"""Seconds that the API server has to answer."""


class Away(EngineFault):
    """The API server does not answer, or broke off."""


class ApiServer:
    """A connection to it; opened on first use.

    Args:
        options: Where the Jobs run.
        call_s: Seconds that it has to answer a call.
    """

    def __init__(self, options: Kubernetes, call_s: float) -> None:
        self.http: httpx2.AsyncClient | None = None
        """For what `lightkube` does not do; there once it is open."""
        self.owner: dict[str, str] | None = None
        """The node's own pod, as an owner reference, if the Jobs live in its namespace: elsewhere it would end them."""
        self._options = options
        self._call_s = call_s
        self._client: AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def ask(self, call: "Callable[[AsyncClient], Awaitable[T]]") -> T:
        """Make one call.

        Raises:
            Refused: The API server answers with an error.
            Away: It does not answer, or breaks off.
            ExecutorUnavailable: It has never answered this node, or the node may not do this.
        """
        client = await self.open()
        with self.translating():
            async with asyncio.timeout(self._call_s):
                return await call(client)

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        client, self._client, http, self.http = self._client, None, self.http, None
        if client is not None:
            await client.aclose()
        if http is not None:
            await http.aclose()

    async def open(self) -> "AsyncClient":
        """The client of the API, connected.

        Raises:
            ExecutorUnavailable: There is none, or this node may not do what it does.
        """
        async with self._opening:
            if self._client is None:
                _see_that_the_extra_is_here()
                with self.translating():
                    async with asyncio.timeout(self._call_s):
                        await self._connect()
            assert self._client is not None  # noqa: S101 (it was opened)
            return self._client

    async def _connect(self) -> None:
        import httpx2
        from lightkube import AsyncClient, KubeConfig
        from lightkube.config import client_adapter
        from lightkube.config.models import User
        from lightkube.core.exceptions import ConfigError

        try:
            config = KubeConfig.from_env().get()
        except (ConfigError, KeyError) as missing:
            raise ExecutorUnavailable(
                f"neither a service account nor a kubeconfig says where the cluster is: {missing}"
            ) from missing
        assert config is not None  # noqa: S101 (without a default, it raises)
        tls = client_adapter.verify_cluster(config.cluster, config.user or User(), config.abs_file)
        # A run holds two connections and needs a third to be removed: no limit on them, where httpx2 has 100.
        limits = httpx2.Limits(max_connections=None)
        transports = [httpx2.AsyncHTTPTransport(verify=tls, limits=limits) for _ in range(2)]
        client = AsyncClient(config, namespace=self._options.namespace, transport=transports[0])
        try:
            await self._see_permissions(client)
        except BaseException:
            await client.aclose()
            raise
        if self._options.pod_name and self._options.pod_uid and client.namespace == config.namespace:
            names = {"name": self._options.pod_name, "uid": self._options.pod_uid}
            self.owner = {"apiVersion": "v1", "kind": "Pod", **names}
        unhurried = httpx2.Timeout(self._call_s, read=None)  # a run may be silent for as long as it likes
        params = client_adapter.ConnectionParams(timeout=unhurried, transport=cast(Any, transports[1]))
        self._client, self.http = client, client_adapter.AsyncClient(config, params)

    async def _see_permissions(self, client: "AsyncClient") -> None:
        """See that this node may do what it does: a Role that lacks a verb is said now, not after an hour's run."""
        from lightkube.models.authorization_v1 import ResourceAttributes, SelfSubjectAccessReviewSpec
        from lightkube.resources.authorization_v1 import SelfSubjectAccessReview

        async def lacking(group: str, resource: str, sub: str, verb: str) -> str | None:
            wanted = ResourceAttributes(
                group=group, resource=resource, subresource=sub, verb=verb, namespace=client.namespace
            )
            spec = SelfSubjectAccessReviewSpec(resourceAttributes=wanted)
            review = await client.create(SelfSubjectAccessReview(spec=spec))
            allowed = review.status is not None and review.status.allowed
            return None if allowed else f"{verb} {resource}" + (f"/{sub}" if sub else "")

        asked = [lacking(group, resource, sub, verb) for group, resource, sub, verbs in PERMISSIONS for verb in verbs]
        if missing := [verb for verb in await asyncio.gather(*asked) if verb]:
            raise ExecutorUnavailable(
                f"this node may not {', '.join(missing)} in the namespace {client.namespace!r}; give it the Role"
            )

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Turn the errors of a conversation with the API server into ours."""
        import httpx2
        from httpx2 import websockets
        from lightkube import ApiError

        try:
            yield
        except ApiError as exc:
            raise self._refused(exc.status.code or 0, exc.status.message or "") from exc
        except httpx2.HTTPStatusError as exc:
            raise self._refused(exc.response.status_code, exc.response.reason_phrase) from exc
        except websockets.WebSocketUpgradeError as exc:
            raise self._refused(exc.response.status_code, exc.response.reason_phrase) from exc
        except TimeoutError as exc:
            raise self._away("the API server does not answer") from exc
        except (httpx2.HTTPError, websockets.HTTPXWSException, OSError, ValueError) as exc:
            raise self._away(f"the API server broke off: {exc or type(exc).__name__}") from exc

    def _refused(self, status: int, text: str) -> UlosError:
        if status == 403 and "exceeded quota" not in text:
            return ExecutorUnavailable(f"the cluster refuses: {text}")
        if status in (0, 401, 408, 429) or status >= 500:
            return self._away(f"the API server answers {status}: {text}")
        return Refused(text, status)

    def _away(self, text: str) -> UlosError:
        return ExecutorUnavailable(text) if self._client is None else Away(text)


def _see_that_the_extra_is_here() -> None:
    try:
        import lightkube  # noqa: F401
    except ImportError as missing:
        raise ExecutorUnavailable(
            "Jobs need the extra `kubernetes`: pip install 'ulos-stream[kubernetes]'"
        ) from missing
