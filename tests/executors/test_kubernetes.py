"""Container executors as Jobs, against an API server that is strict and real containers; see api_server.py."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from workbench import IMAGE, container, make_job, script_image

from ulos_stream.executors.cluster import Cluster
from ulos_stream.executors.kubernetes import KubernetesExecutor
from ulos_stream.executors.pod import Kubernetes
from ulos_stream.tasks import Verdict

pytestmark = pytest.mark.usefixtures("docker")


@pytest.fixture(autouse=True, scope="module")
def _image(docker: object) -> None:
    script_image()


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    directory = tmp_path / "cluster"
    directory.mkdir()
    async with ApiServer(directory) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


@contextlib.asynccontextmanager
async def kubernetes_executor(
    options: dict[str, Any] | None = None, *, node: str = "", **overrides: Any
) -> AsyncIterator[KubernetesExecutor]:
    settings = Kubernetes.model_validate({"carrier_image": IMAGE} | (options or {}))
    cluster = Cluster(settings, node or f"node-{uuid.uuid4()}")
    try:
        yield KubernetesExecutor(container(**overrides), cluster)
    finally:
        await cluster.aclose()


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
    await asyncio.wait_for(server.shows(lambda server: not server.runs), 10)
