"""Which executor a routing key gets, and what ends the start instead."""

import asyncio
from pathlib import Path

import pytest
from workbench import NOWHERE, make_job

from ulos_stream import shipped
from ulos_stream.errors import ConfigurationError, ExecutorCrashed, Fault, UnknownExecutor
from ulos_stream.executors.registry import Registry, build_registry
from ulos_stream.tasks import Verdict

PROCESS = 'kind = "process"\ncommand = ["true"]\n'


def build(*paths: Path) -> Registry:
    return build_registry(paths, mock_delay_s=0, node="node-1", docker_host=NOWHERE)


def describe(folder: Path, name: str, text: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "executor.toml").write_text(text)
    return folder / name / "executor.toml"


def install(site: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str, **points: str) -> None:
    """Put a package with entry points where Python finds it."""
    (site / f"{module}.py").write_text(code)
    information = site / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (information / "entry_points.txt").write_text("\n".join(["[ulos.executors]", *lines]))
    monkeypatch.syspath_prepend(str(site))


def claims(registry: Registry) -> list[tuple[str, bool, str]]:
    return [(entry.key, entry.is_prefix, entry.kind) for entry in registry]


def test_the_mocks_are_always_there(tmp_path: Path) -> None:
    registry = build(tmp_path)

    assert claims(registry) == [
        ("skip", False, "mock"),
        ("pass", False, "mock"),
        ("fail", False, "mock"),
        ("crash", False, "mock"),
        ("testing", True, "mock"),
    ]


def test_the_shipped_executors_are_found_and_say_what_they_are() -> None:
    registry = build(shipped("executors"))

    found = {entry.key: entry for entry in registry if entry.kind == "container"}
    assert set(found) >= {"cypress-grammar", "cypress-execution", "gcode-execution", "kotlin-execution"}
    assert all(entry.description for entry in found.values())
    assert found["gcode-execution"].origin.endswith("gcode-execution/executor.toml")


def test_an_exact_key_wins_over_a_prefix_and_a_long_prefix_over_a_short_one(tmp_path: Path) -> None:
    for name, claim in {
        "exact": 'routing_key = "print.fast"',
        "short": 'routing_key_prefix = "p"',
        "long": 'routing_key_prefix = "print."',
    }.items():
        describe(tmp_path, name, f"{claim}\n{PROCESS}")
    registry = build(tmp_path)
    by_key = {entry.key: entry.executor for entry in registry}

    found = [registry.find(key) for key in ("print.fast", "print.faster", "print", "pass", "testing-7")]

    assert found == [by_key[key] for key in ("print.fast", "print.", "p", "pass", "testing")]


@pytest.mark.parametrize("key", ["unheard-of", "passing", "test", ""])
def test_an_unknown_key_is_named(tmp_path: Path, key: str) -> None:
    registry = build(tmp_path)

    with pytest.raises(UnknownExecutor, match=f"routing key '{key}'; this node knows 5"):
        registry.find(key)


def test_two_claims_of_one_key_are_a_mistake_that_names_both(tmp_path: Path) -> None:
    first = describe(tmp_path, "first", f'routing_key = "a"\n{PROCESS}')
    second = describe(tmp_path, "second", f'routing_key = "a"\n{PROCESS}')

    with pytest.raises(ConfigurationError) as raised:
        build(tmp_path)

    assert raised.value.mistakes == (f"{second}: routing_key: 'a' is claimed by {first} too; change one",)


def test_a_key_of_a_mock_or_its_prefix_cannot_be_claimed(tmp_path: Path) -> None:
    describe(tmp_path, "key", f'routing_key = "pass"\n{PROCESS}')
    describe(tmp_path, "prefix", f'routing_key_prefix = "testing"\n{PROCESS}')

    with pytest.raises(ConfigurationError) as raised:
        build(tmp_path)

    assert ["claimed by built in too" in line for line in raised.value.mistakes] == [True, True]


def test_a_key_may_be_claimed_beside_the_prefix_of_the_same_name(tmp_path: Path) -> None:
    describe(tmp_path, "key", f'routing_key = "testing"\n{PROCESS}')

    registry = build(tmp_path)

    assert registry.find("testing") is not registry.find("testing-1")


def test_all_mistakes_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    describe(tmp_path, "a", 'routing_key = "a"\nkind = "process"\n[sandbox]\npids = 1')
    describe(tmp_path, "b", "not toml")
    describe(tmp_path, "c", f'routing_key = "skip"\n{PROCESS}')

    with pytest.raises(ConfigurationError) as raised:
        build(tmp_path, tmp_path / "missing")

    folders = [line.removeprefix(f"{tmp_path}/").partition(":")[0] for line in raised.value.mistakes]
    assert folders == ["a/executor.toml", "a/executor.toml", "b/executor.toml", "missing", "c/executor.toml"]


def test_a_path_may_be_one_executors_own_folder(tmp_path: Path) -> None:
    file = describe(tmp_path, "a", f'routing_key = "a"\n{PROCESS}')
    describe(tmp_path / "a", "samples", f'routing_key = "b"\n{PROCESS}')

    registry = build(file.parent)

    assert [(entry.key, entry.folder) for entry in registry if entry.kind == "process"] == [("a", file.parent)]


async def test_an_installed_function_is_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'async def check(job):\n    """Look at it.\n\n    Closely.\n    """\n    return True\n'
    install(tmp_path, monkeypatch, "lab_good", code, look="lab_good:check")
    job, _ = make_job(tmp_path)

    registry = build()
    verdict = await registry.find("look").run(job)

    entry = next(entry for entry in registry if entry.key == "look")
    assert verdict is Verdict.PASS
    assert (entry.kind, entry.description) == ("inline", "Look at it.")
    assert entry.origin == "lab_good, entry point look = lab_good:check"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('no licence')", "cannot be loaded (RuntimeError: no licence)"),
        ("raise SystemExit(1)", "cannot be loaded (SystemExit: 1)"),
        ("", "cannot be loaded (AttributeError: module"),
        ("def check(job): return True", "is no async function"),
        ("check = 3", "is no async function"),
    ],
)
def test_an_installed_function_that_cannot_be_used_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str, request: pytest.FixtureRequest
) -> None:
    module = f"lab_bad_{abs(hash(request.node.name))}"
    install(tmp_path, monkeypatch, module, code, look=f"{module}:check")

    with pytest.raises(ConfigurationError) as raised:
        build()

    [line] = raised.value.mistakes
    assert line.startswith(f"{module}, entry point look = {module}:check: {said}")


async def test_the_check_says_which_executors_cannot_run(tmp_path: Path) -> None:
    describe(tmp_path, "good", f'routing_key = "good"\n{PROCESS}')
    describe(tmp_path, "gone", 'routing_key = "gone"\nkind = "process"\ncommand = ["no-such-program"]')
    describe(tmp_path, "image", 'routing_key_prefix = "image."\nkind = "container"\nimage = "i"')
    registry = build(tmp_path)

    reasons = await registry.check()

    assert set(reasons) == {"gone", "image."}
    assert "no-such-program" in reasons["gone"]
    assert NOWHERE in reasons["image."]


async def test_a_required_executor_that_cannot_run_is_a_fault(tmp_path: Path) -> None:
    describe(tmp_path, "gone", 'routing_key_prefix = "gone."\nkind = "process"\ncommand = ["no-such-program"]')
    registry = build(tmp_path)

    with pytest.raises(Fault, match=r"gone\.1: the program 'no-such-program' is not on this node"):
        await registry.insist(["pass", "gone.1"])


async def test_a_required_executor_that_nobody_claims_is_a_mistake(tmp_path: Path) -> None:
    registry = build(tmp_path)

    with pytest.raises(UnknownExecutor, match="'unheard-of'"):
        await registry.insist(["unheard-of"])


async def test_an_engine_that_never_answers_does_not_hold_up_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulos_stream.executors.registry.CHECK_S", 0.2)
    describe(tmp_path, "image", 'routing_key = "image"\nkind = "container"\nimage = "any"')
    held: list[asyncio.StreamWriter] = []
    socket = tmp_path / "docker.sock"

    async with await asyncio.start_unix_server(lambda _, writer: held.append(writer), socket):
        registry = build_registry([tmp_path], mock_delay_s=0, node="n", docker_host=f"unix://{socket}")
        reasons = await registry.check()
        await registry.aclose()
        for writer in held:
            writer.close()

    assert reasons == {"image": "no answer within 0.2 s"}


@pytest.mark.parametrize(
    ("key", "verdict"), [("skip", Verdict.PASS), ("pass", Verdict.PASS), ("fail", Verdict.FAIL), ("testing-1", "PASS")]
)
async def test_a_mock_ends_as_its_name_says_and_prints_a_line(tmp_path: Path, key: str, verdict: Verdict) -> None:
    job, printout = make_job(tmp_path)

    assert await build().find(key).run(job) is Verdict(verdict)

    assert printout.text() == f"mock: {verdict} after 0 s\n"


async def test_the_crash_mock_crashes(tmp_path: Path) -> None:
    job, printout = make_job(tmp_path)

    with pytest.raises(ExecutorCrashed):
        await build().find("crash").run(job)

    assert printout.text() == "mock: crash after 0 s\n"


async def test_a_mock_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    registry = build_registry((), mock_delay_s=0.2, node="node-1", docker_host=None)
    job, printout = make_job(tmp_path)

    running = registry.find("pass").run(job)

    assert await running is Verdict.PASS
    assert printout.text() == "mock: PASS after 0.2 s\n"
