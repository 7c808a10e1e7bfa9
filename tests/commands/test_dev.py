"""`ulos dev`: a lab that stays up, and in which the other commands work."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from world import LIMIT_S, ulos

from ulos_stream.lab import Broker


@dataclass
class Dev:
    """A running `ulos dev`."""

    process: asyncio.subprocess.Process
    variables: dict[str, str] = field(default_factory=dict)
    said: str = ""

    async def until_ready(self) -> None:
        """Read its log lines up to the node's `ready`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(2 * LIMIT_S):
            while '"event": "ready"' not in self.said:
                line = (await self.process.stderr.readline()).decode()
                assert line, self.said
                self.said += line

    async def stop(self, how: signal.Signals = signal.SIGINT) -> int | None:
        """End it as a user does; returns the exit code."""
        self.process.send_signal(how)
        async with asyncio.timeout(LIMIT_S):
            out, err = await self.process.communicate()
        self.said += err.decode()
        self.variables |= exported(out.decode())
        return self.process.returncode


ELSEWHERE = {
    "ULOS_VIRTUAL_HOST": "production",
    "ULOS_BROKER_TLS": "true",
    "ULOS_STORAGE_URL": "file:///nonexistent",
    "ULOS_MANAGEMENT_URL": "http://nonexistent:1",
    "ULOS_ENGINE": "kubernetes",
    "ULOS_REQUIRE_EXECUTORS": "nobody-has-it",
    "ULOS_JOURNAL_KEY": "too short",
}
"""Of a shell that has to do with other nodes."""


def exported(text: str, **before: str) -> dict[str, str]:
    """The variables that a shell, which had those `before`, has after reading `text`."""
    shell = subprocess.run(["sh", "-c", f"{text}\nenv"], env=before, capture_output=True, text=True, check=True)
    variables = dict(line.partition("=")[::2] for line in shell.stdout.splitlines())
    return {name: value for name, value in variables.items() if name.startswith(("MESSAGE_", "REMOTE_", "ULOS_"))}


@contextlib.asynccontextmanager
async def a_dev(tmp_path: Path, *arguments: str, **environment: str) -> AsyncIterator[Dev]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ulos_stream", "dev", "--env-file", str(tmp_path / "dev.env"), *arguments,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "ULOS_WORK_DIR": str(tmp_path),
             "ULOS_TRACE_FILE": str(tmp_path.with_suffix(".jsonl")), **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Dev(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_with_its_variables_a_task_travels_and_ctrl_c_ends_all_with_0(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "mine" / "always").mkdir(parents=True)
    descriptor = 'kind = "process"\nrouting_key = "always"\ncommand = ["true"]\n'
    (tmp_path / "mine" / "always" / "executor.toml").write_text(descriptor)
    work = tmp_path / "work"
    work.mkdir()
    (work / "hello.txt").write_text("hello")
    (tmp_path / "dev.env").touch(0o644)

    async with a_dev(tmp_path, "--queue", "mine", "--executors", str(tmp_path / "mine"), "--keep") as dev:
        await dev.until_ready()
        dev.variables = exported((tmp_path / "dev.env").read_text())
        route = ("--route", "always,testing-1,fail", "--on-failure", "task.failed", "--wait")
        submitted = await ulos("submit", str(work), *route, **dev.variables)
        checked = await ulos("topology", "check", "--json", **dev.variables)
        mode = (tmp_path / "dev.env").stat().st_mode & 0o777
        code = await dev.stop()

    assert submitted.stdout.splitlines()[-1].startswith("failed: handed over to task.failed"), submitted.stderr
    assert [one for one in json.loads(checked.stdout) if one["kind"] == "weakness"] == []
    assert (code, mode) == (0, 0o600)
    assert "always" in tmp_path.with_suffix(".jsonl").read_text()
    assert len([name for name in dev.variables if name.startswith(("MESSAGE_", "REMOTE_"))]) == 15
    assert dev.variables == exported((tmp_path / "dev.env").read_text())
    assert dev.variables["MESSAGE_BROKER_CONSUMPTION_QUEUE"] == "mine"
    [kept] = tmp_path.glob("ulos-dev-*")
    assert [path.suffix for path in kept.iterdir()] == [".zip"]
    assert f"the storage's files are in {kept}" in dev.said
    assert [path.name for path in tmp_path.glob("ulos-*") if path != kept] == []
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(dev.variables["MESSAGE_BROKER_PORT"]))


async def test_a_shell_that_leads_elsewhere_leads_neither_the_node_nor_other_terminals_there(
    broker: Broker, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()

    async with a_dev(tmp_path, **ELSEWHERE) as dev:
        await dev.until_ready()
        file = tmp_path / "dev.env"
        variables = exported(file.read_text(), **ELSEWHERE)
        submitted = await ulos("submit", str(tmp_path / "work"), "--route", "pass", "--wait", **variables)
        mode = file.stat().st_mode & 0o777
        await dev.stop()

    assert submitted.stdout.splitlines()[-1:] == ["done: the route ends at pass"], submitted.stderr
    assert variables.keys() & ELSEWHERE.keys() == {"ULOS_MANAGEMENT_URL"}
    assert mode == 0o600


async def test_ctrl_c_before_all_is_up_ends_it_with_130_and_leaves_nothing(broker: Broker, tmp_path: Path) -> None:
    async with a_dev(tmp_path) as dev:
        assert dev.process.stderr is not None
        await dev.process.stderr.readline()  # starting
        code = await dev.stop()

    assert code == 130
    assert "Traceback" not in dev.said
    assert list(tmp_path.iterdir()) == []


async def test_a_wrong_descriptor_ends_it_with_2_and_a_line(tmp_path: Path) -> None:
    (tmp_path / "mine" / "odd").mkdir(parents=True)
    (tmp_path / "mine" / "odd" / "executor.toml").write_text('kind = "odd"\n')

    ended = await ulos("dev", "--executors", str(tmp_path / "mine"))

    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"ulos: {tmp_path}/mine/odd/executor.toml: kind: is 'odd'")


@pytest.mark.parametrize(
    ("file", "reason"), [("missing/dev.env", "No such file or directory"), (".", "Is a directory")]
)
async def test_an_env_file_that_cannot_be_written_ends_it_with_2_before_anything_is_started(
    tmp_path: Path, file: str, reason: str
) -> None:
    ended = await ulos("dev", "--env-file", str(tmp_path / file))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"ulos: --env-file: cannot write {tmp_path / file}: {reason}\n"


async def test_without_a_rabbitmq_it_says_how_to_get_one() -> None:
    program = (
        "from ulos_stream import lab; lab._rabbitmq_script = lambda: None\n"
        "import sys; sys.argv = ['ulos', 'dev']\nfrom ulos_stream.cli import main; main()"
    )

    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], env={"PATH": ""}, capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout) == (3, "")
    assert "apt-get install rabbitmq-server" in ended.stderr
