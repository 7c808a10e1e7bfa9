"""A trial on an engine that fails it: no verdict, and no crash of the task's either."""

import subprocess
from pathlib import Path

import pytest
from workbench import Line

from ulos_stream.errors import Fault
from ulos_stream.settings import Node
from ulos_stream.trial import find, opened


async def test_an_engine_that_breaks_off_is_a_fault_and_no_crash(docker: str, tmp_path: Path) -> None:
    folder = tmp_path / "check"
    (folder / "samples" / "crash-x").mkdir(parents=True)
    descriptor = (
        f'kind = "container"\nrouting_key = "check"\nimage = "{docker}"\ncommand = ["sh", "-c", "echo; sleep 9"]\n'
    )
    (folder / "executor.toml").write_text(descriptor)

    async with Line() as line:
        node = Node(node="cut-off", docker_host=line.host, work_dir=tmp_path)
        ready = opened(
            find(str(folder), node), node, timeout_s=30, kept=tmp_path / "kept", show=lambda printed: line.cut()
        )
        with pytest.raises(Fault, match="the container engine"):
            async with ready as trial:
                await trial.run(folder / "samples" / "crash-x")

    assert list(tmp_path.glob("ulos-node-*")) == []
    left = subprocess.run(
        ["docker", "ps", "-aq", "--filter", "label=ulos.node=cut-off"], capture_output=True, text=True
    )
    subprocess.run(["docker", "rm", "-f", *left.stdout.split()], capture_output=True, check=True)
