"""`ulos executor`: what an author does with a folder, as an author does it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from world import LIMIT_S, ulos

PROCESS = 'kind = "process"\nrouting_key = "check"\ncommand = ["./run"]\n'
CONTAINER = 'kind = "container"\nrouting_key = "check"\nimage = "{image}"\ncommand = ["sh", "-c", """{script}"""]\n'


def an_executor(tmp_path: Path, descriptor: str, *samples: str, run: str = "", dockerfile: str | None = None) -> Path:
    """A folder with these samples, each with one file, `hello.txt`."""
    folder = tmp_path / "check"
    folder.mkdir()
    (folder / "executor.toml").write_text(descriptor)
    (folder / "run").write_text(f"#!/bin/sh\n{run}\n")
    (folder / "run").chmod(0o755)
    if dockerfile is not None:
        (folder / "Dockerfile").write_text(dockerfile)
    for sample in samples:
        (folder / "samples" / sample).mkdir(parents=True)
        (folder / "samples" / sample / "hello.txt").write_text("hello")
    return folder


async def tried(folder: Path | str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """What `ulos executor test --json` says; results are kept beside the folder."""
    keep = () if "--keep" in arguments else ("--keep", str(Path(folder).parent / "results"))
    ended = await ulos("executor", "test", str(folder), *arguments, *keep, "--json", **environment)
    assert ended.returncode in (0, 1), ended.stderr
    told: list[dict[str, Any]] = json.loads(ended.stdout)
    assert ended.returncode == int(not all(one["as_expected"] for one in told))
    return told


async def test_a_new_process_executor_works_as_it_is(tmp_path: Path) -> None:
    await ulos("executor", "new", "word-count", "--kind", "process", "--into", str(tmp_path))

    ended = await ulos("executor", "test", str(tmp_path / "word-count"), TMPDIR=str(tmp_path))

    lines = ended.stdout.splitlines()
    samples = tmp_path / "word-count" / "samples"
    [kept] = tmp_path.glob("ulos-results-*")
    assert ended.returncode == 0, ended.stderr
    assert lines[0].startswith(f"{samples}/fail-no-report: FAIL as expected; 0.")
    assert lines[1:3] == ["    added    output_trial_word-count.txt", f"    result   {kept}/fail-no-report.zip"]
    assert lines[3].startswith(f"{samples}/pass-a-report: PASS as expected; 0.")
    assert lines[-1] == "2 of 2 as expected"
    assert ended.stderr.splitlines() == [
        f"{samples}/fail-no-report",
        "    report.txt is missing: put your report there, at the top of the zip.",
        f"{samples}/pass-a-report",
        "    report.txt says something.",
    ]
    assert kept.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in tmp_path.glob("ulos-*")] == [kept.name]


async def test_a_new_inline_executor_works_once_it_is_installed(tmp_path: Path) -> None:
    await ulos("executor", "new", "word-count", "--kind", "inline", "--into", str(tmp_path))
    folder, site = tmp_path / "word-count", tmp_path / "site"

    before = await ulos("executor", "test", str(folder))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    await asyncio.to_thread(subprocess.run, [*pip, str(site), str(folder)], check=True, capture_output=True)
    told = await tried(folder, PYTHONPATH=str(site))
    by_key = await tried("word-count", str(folder), "--keep", str(tmp_path / "more"), PYTHONPATH=str(site))

    assert before.returncode == 2
    assert before.stderr == f"ulos: {folder}: its function is not installed: pip install --editable {folder}\n"
    assert [(one["expected"], one["ending"]) for one in told] == [("fail", "fail"), ("pass", "pass")]
    assert {one["peak_memory_bytes"] for one in told} == {None}
    assert [(one["expected"], one["ending"]) for one in by_key] == [(None, "fail")]


async def test_it_tells_what_became_of_the_files_and_keeps_the_result(tmp_path: Path) -> None:
    run = "echo new >b.txt; echo more >>hello.txt; chmod +x c.txt; rm d.txt; echo done"
    folder = an_executor(tmp_path, PROCESS, "pass-x", run=run)
    for name in ("c.txt", "d.txt", "same.txt"):
        (folder / "samples" / "pass-x" / name).write_text(name)

    [told] = await tried(folder)

    assert told["changes"] == {
        "added": ["b.txt", "output_trial_check.txt"], "changed": ["c.txt", "hello.txt"], "removed": ["d.txt"]
    }  # fmt: skip
    with zipfile.ZipFile(told["result"]) as result:
        assert set(result.namelist()) == {
            ".ulos/journal.json",
            "b.txt",
            "c.txt",
            "hello.txt",
            "same.txt",
            "output_trial_check.txt",
        }
        assert b"\ndone\n" in result.read("output_trial_check.txt")
        journal = json.loads(result.read(".ulos/journal.json"))
    assert [(entry["executor"], entry["verdict"]) for entry in journal["entries"]] == [("check", "PASS")]
    assert told["result"] == str(tmp_path / "results" / "pass-x.zip")
    assert 0 < told["duration_s"] < LIMIT_S


async def test_what_a_run_prints_is_shown_while_it_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    folder = an_executor(tmp_path, PROCESS, "pass-x", run=f"printf 'now \\033[2J'; cat {gate}; printf then")

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ulos_stream", "executor", "test", str(folder), "--keep", str(tmp_path / "results"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        shown = await process.stderr.readuntil(b"2J")
        await asyncio.to_thread(gate.write_text, "and\n")
        _, rest = await process.communicate()

    assert shown.decode() == f"{folder}/samples/pass-x\n    now \\x1b[2J"
    assert rest == b"and\n    then\n"


async def test_no_more_is_shown_than_is_kept(tmp_path: Path) -> None:
    folder = an_executor(tmp_path, PROCESS, "pass-x", run="head -c 3000000 /dev/zero | tr '\\0' x")

    ended = await ulos("executor", "test", str(folder), "--keep", str(tmp_path / "results"))

    assert ended.returncode == 0
    assert ended.stderr.count("x") - str(folder / "samples" / "pass-x").count("x") == 1024 * 1024


@pytest.mark.parametrize(
    ("arguments", "run", "ending", "expected", "code"),
    [
        ((), "exit 0", "pass", None, 0),
        ((), "exit 1", "fail", None, 0),
        (("--timeout", "0.2"), "sleep 60", "crash", None, 1),
        (("--expect", "pass"), "exit 0", "pass", "pass", 0),
        (("--expect", "pass"), "exit 1", "fail", "pass", 1),
        (("--expect", "fail"), "exit 0", "pass", "fail", 1),
        (("--expect", "crash"), "exit 1", "fail", "crash", 1),
        (("--expect", "crash", "--timeout", "0.2"), "sleep 60", "crash", "crash", 0),
        (("--expect", "crash", "--timeout", "0"), "exit 0", "crash", "crash", 0),
    ],
)
async def test_the_exit_code_says_whether_it_ended_as_expected(
    tmp_path: Path, arguments: tuple[str, ...], run: str, ending: str, expected: str | None, code: int
) -> None:
    folder = an_executor(tmp_path, PROCESS, "pass-x", run=run)
    work = (folder / "samples" / "pass-x").rename(tmp_path / "pass-work")  # no sample: it lies elsewhere

    [told] = await tried(folder, str(work), *arguments)

    assert (told["ending"], told["expected"], told["as_expected"]) == (ending, expected, code == 0)


async def test_a_sample_that_does_not_end_as_its_name_says_is_told(tmp_path: Path) -> None:
    folder = an_executor(tmp_path, PROCESS, "fail-x", "pass-y")

    ended = await ulos("executor", "test", str(folder), "--keep", str(tmp_path / "results"))

    assert ended.returncode == 1
    assert "fail-x: PASS, and fail was expected; " in ended.stdout
    assert ended.stdout.endswith("\n1 of 2 as expected\n")


async def test_a_crash_is_told_with_its_code_and_keeps_nothing(tmp_path: Path) -> None:
    folder = an_executor(tmp_path, PROCESS, run="sleep 60")
    (folder / "samples").mkdir()
    (folder / "samples" / "crash-no-zip.zip").write_text("PK")
    (folder / "samples" / "crash-endless").mkdir()

    ended = await ulos("executor", "test", str(folder), "--timeout", "1", "--keep", str(tmp_path / "results"))

    endless, took, no_zip, why, count = ended.stdout.splitlines()
    assert (ended.returncode, count) == (0, "2 of 2 as expected")
    assert re.search(r"/crash-endless: crash \(timeout\) as expected; 1\.\d s, \d+ MiB of memory seen$", endless)
    assert took == "    not done within 1 s"
    assert no_zip.endswith("/crash-no-zip.zip: crash (archive_rejected) as expected; not run, memory unknown")
    assert why.startswith("    the archive: no zip")
    assert list((tmp_path / "results").iterdir()) == []


async def test_the_report_is_shown_where_it_matters(tmp_path: Path) -> None:
    checks = [
        {"name": "units", "status": "failed", "message": "Write\nG21.", "file": "a.gcode", "line": 3},
        {"name": "travel", "status": "warning", "message": "Long.", "file": None, "line": None},
        {"name": "syntax", "status": "passed", "message": "", "file": None, "line": None},
    ]
    folder = an_executor(tmp_path, PROCESS, run="mkdir results; cp report.json results; exit 1")
    sample = folder / "samples" / "fail-x"
    sample.mkdir(parents=True)
    (sample / "report.json").write_text(json.dumps({"executor": "check", "verdict": "FAIL", "checks": checks}))

    ended = await ulos("executor", "test", str(folder), "--keep", str(tmp_path / "results"))
    [told] = await tried(folder)

    shown = ended.stdout.splitlines()[1:3]
    assert shown == ["    failed   units (a.gcode:3): Write G21.", "    warning  travel: Long."]
    assert told["checks"] == checks


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"executor": "check", "verdict": "FAIL", "checks": [{"name": "units", "status": "bad"}]}',
         "checks.0.status: Input should be 'passed', 'failed' or 'warning'"),
        ("{", "Invalid JSON"),
    ],
)  # fmt: skip
async def test_a_report_that_is_none_is_said(tmp_path: Path, content: str, said: str) -> None:
    folder = an_executor(tmp_path, PROCESS, run="mkdir results; cp report.json results")
    sample = folder / "samples" / "pass-x"
    sample.mkdir(parents=True)
    (sample / "report.json").write_text(content)

    [told] = await tried(folder)

    assert told["checks"] is None
    assert told["detail"].startswith("results/report.json is no report: ")
    assert said in told["detail"]


@pytest.mark.parametrize(
    ("descriptor", "said"),
    [
        ('kind = "odd"', """kind: is 'odd'; write kind = "container" or kind = "process\""""),
        ("kind", "is no TOML in UTF-8: "),
        (f"{PROCESS}mount = '/work'", "mount: a process has no such thing; remove it, or use kind"),
        (f"{PROCESS}passes = 'always'", "passes: must be 'verdict-file', 'exit-code' or 'both' (it is 'always')"),
        (PROCESS.replace("command", "comand"), "command: is missing; add it"),
        (PROCESS.replace("routing_key", "routing_kye"), "routing_kye: unknown key; did you mean routing_key"),
        (f"{PROCESS}[sandbox]\npids = 9", "sandbox.pids: a process cannot be held to this; remove it, or use kind"),
        (f"{PROCESS}[sandbox]\noutput_mib = 0", "sandbox.output_mib: must be at least 1 (it is 0)"),
        (PROCESS.replace('"check"', '"pass"'), "routing_key: 'pass' is claimed by built in too; change one"),
    ],
)
async def test_a_wrong_descriptor_is_said_with_file_key_and_remedy(tmp_path: Path, descriptor: str, said: str) -> None:
    folder = an_executor(tmp_path, descriptor, "pass-x")

    ended = await ulos("executor", "test", str(folder))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert [line for line in ended.stderr.splitlines() if line.startswith(f"ulos: {folder}/executor.toml: {said}")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("test", "nowhere"), "ulos: nowhere: there is no nowhere/executor.toml, and no executor of this machine"),
        (("build", "nowhere"), "ulos: nowhere: there is no nowhere/executor.toml, and no executor of this machine"),
        (("test", "pass"), "ulos: pass: nobody knows where its samples are; give an archive"),
        (("build", "pass"), "ulos: pass: is of the kind mock, which has no image"),
        (("test", "{folder}"), "/check/samples: holds no sample; add one, or give an archive"),
        (("test", "{folder}", "{folder}", "--timeout", "90000"), "ulos: timeout: "),
        (
            ("test", "{folder}", "{folder}", "--keep", "/proc/none"),
            "/check: cannot be copied to /proc/none/check.zip: ",
        ),
        (("test", "{folder}", "/no/such.zip"), "'/no/such.zip' does not exist"),
        (("build", "{folder}"), "/check: is of the kind process, which has no image"),
        (("build", "{odd}"), "/odd/executor.toml: kind: is missing; write kind ="),
    ],
)
async def test_what_cannot_be_meant_ends_with_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    folder, odd = an_executor(tmp_path, PROCESS), tmp_path / "odd"
    odd.mkdir()
    (odd / "executor.toml").touch()

    ended = await ulos("executor", *(word.format(folder=folder, odd=odd) for word in arguments))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in " ".join(ended.stderr.replace("│", " ").split())


async def test_a_sample_whose_name_does_not_say_how_it_ends_is_refused(tmp_path: Path) -> None:
    folder = an_executor(tmp_path, PROCESS, "passing", ".hidden", "pass")

    ended = await ulos("executor", "test", str(folder))

    said = f"ulos: {folder}/samples/passing: begin the name with how it is to end: pass, fail or crash\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", said)


async def test_a_folder_that_makes_no_archive_is_refused(tmp_path: Path) -> None:
    folder = an_executor(tmp_path, PROCESS, "pass-x")
    (folder / "samples" / "pass-x" / "a\\b").touch()

    ended = await ulos("executor", "test", str(folder))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "has a backslash in its name" in ended.stderr


async def test_a_missing_engine_is_3(tmp_path: Path) -> None:
    folder = an_executor(tmp_path, CONTAINER.format(image="i", script="true"), "crash-x", dockerfile="FROM scratch")

    tried = await ulos("executor", "test", str(folder), ULOS_DOCKER_HOST="unix:///nonexistent")
    built = await ulos("executor", "build", str(folder), DOCKER_HOST="unix:///nonexistent")

    assert (tried.returncode, tried.stdout) == (3, "")
    assert tried.stderr.startswith("ulos: check cannot run here: the container engine at unix:///nonexistent ")
    assert (built.returncode, built.stdout) == (3, "")
    assert built.stderr.startswith("ulos: no Docker engine answers: apt-get install docker.io")


async def test_a_missing_image_is_3_and_the_advice_does_it(docker: str, tmp_path: Path) -> None:
    descriptor = CONTAINER.format(image="ulos-test/advice", script="cat greeting")
    folder = an_executor(tmp_path, descriptor, "pass-x", dockerfile="ARG BASE\nFROM ${BASE}\nRUN echo hi >greeting\n")
    await asyncio.to_thread(subprocess.run, ["docker", "rmi", "-f", "ulos-test/advice"], capture_output=True)

    before = await ulos("executor", "test", str(folder))
    [_, advice, _] = before.stderr.split("`")
    built = await ulos(*advice.split()[1:], ULOS_BASE_IMAGE=docker)
    [told] = await tried(folder)

    assert (before.returncode, before.stdout) == (3, "")
    assert before.stderr.startswith("ulos: check cannot run here: the image 'ulos-test/advice' is not on this node; ")
    assert advice == f"ulos executor build {folder}"
    assert (built.returncode, told["ending"]) == (0, "pass"), built.stderr
    assert "echo hi >greeting" in built.stdout + built.stderr
    subprocess.run(["docker", "rmi", "ulos-test/advice"], capture_output=True, check=True)


async def test_a_build_that_fails_is_1_and_one_without_a_dockerfile_2(docker: str, tmp_path: Path) -> None:
    folder = an_executor(tmp_path, CONTAINER.format(image="ulos-test/broken", script="true"))

    without = await ulos("executor", "build", str(folder))
    (folder / "Dockerfile").write_text(f"FROM {docker}\nRUN echo it does not compile && false\n")
    failed = await ulos("executor", "build", str(folder))

    assert (without.returncode, without.stderr) == (
        2,
        f"ulos: {folder}: holds no Dockerfile; its image is made elsewhere\n",
    )
    assert failed.returncode == 1
    assert "it does not compile" in failed.stdout + failed.stderr
    assert failed.stderr.endswith("ulos: the image 'ulos-test/broken' cannot be built\n")


async def test_a_container_is_held_as_on_a_node(docker: str, tmp_path: Path) -> None:
    script = "test -e results/passed.log && exit; head -c 40m /dev/zero >/tmp/x; sleep 0.5; id -u; touch /x; exit 0"
    descriptor = CONTAINER.format(image=docker, script=script) + 'working_dir = "/work"\npasses = "verdict-file"\n'
    folder = an_executor(tmp_path, descriptor, "fail-x")
    planted = folder / "samples" / "fail-x" / "results" / "passed.log"
    planted.parent.mkdir()
    planted.touch()

    [told] = await tried(folder)

    output = zipfile.ZipFile(told["result"]).read("output_trial_check.txt").decode()
    assert told["ending"] == "fail"
    assert told["changes"]["removed"] == ["results/passed.log"]
    assert f"\n{os.getuid() or 65532}\n" in output
    assert "/x: Read-only file system" in output
    assert 40 <= told["peak_memory_bytes"] / 1024**2 < 60


async def test_the_memory_of_a_process_is_seen(tmp_path: Path) -> None:
    program = "import time; x = bytearray(60 << 20); time.sleep(0.5); del x; time.sleep(0.5)"
    folder = an_executor(tmp_path, PROCESS, "pass-x", run=f"{sys.executable} -c '{program}'")

    [told] = await tried(folder)

    assert 60 <= told["peak_memory_bytes"] / 1024**2 < 90


async def test_ctrl_c_leaves_nothing_running(docker: str, tmp_path: Path) -> None:
    descriptor = CONTAINER.format(image=docker, script="echo up; sleep 60")
    folder = an_executor(tmp_path, descriptor, "pass-x")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ulos_stream", "executor", "test", str(folder),
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "ULOS_NODE": "interrupted"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        await process.stderr.readuntil(b"up\n")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    listed = subprocess.run(["docker", "ps", "-aq", "--filter", "label=ulos.node=interrupted"], capture_output=True)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert listed.stdout == b""
    assert list(tmp_path.glob("ulos-node-*")) == []


async def test_a_key_is_found_on_the_executors_path_and_a_prefix_takes_any(tmp_path: Path) -> None:
    descriptor = PROCESS.replace('routing_key = "check"', 'routing_key_prefix = "check-"')
    folder = an_executor(tmp_path, descriptor, "pass-x", run="true")

    by_key = await ulos("executor", "test", "check-7", "--keep", str(tmp_path / "r"), ULOS_EXECUTORS_PATH=str(tmp_path))
    [by_folder] = await tried(folder)

    assert by_key.returncode == 0, by_key.stderr
    assert "output_trial_check-7.txt" in by_key.stdout
    assert by_folder["changes"]["added"] == ["output_trial_check-1.txt"]


async def test_the_list_is_that_of_ulos_executors(tmp_path: Path) -> None:
    folder = an_executor(tmp_path, PROCESS)

    listed = await ulos("executor", "list", "--json", ULOS_EXECUTORS_PATH=str(folder))
    same = await ulos("executors", "--json", ULOS_EXECUTORS_PATH=str(folder))

    assert [one["key"] for one in json.loads(listed.stdout)][-1] == "check"
    assert listed.stdout == same.stdout
