"""`executor.toml`: what it says by default, and what is said of each mistake in it."""

from pathlib import Path
from typing import Any

import pytest

from ulos_stream import shipped
from ulos_stream.errors import ConfigurationError
from ulos_stream.executors.descriptor import (
    ContainerDescriptor,
    ProcessDescriptor,
    ProcessSandbox,
    Sandbox,
    read_descriptor,
)

CONTAINER = 'routing_key = "check"\nkind = "container"\nimage = "checker"\n'
PROCESS = 'routing_key = "check"\nkind = "process"\ncommand = ["./check"]\n'


def write(directory: Path, text: str) -> Path:
    file = directory / "executor.toml"
    file.write_text(text)
    return file


def mistakes(directory: Path, text: str) -> list[str]:
    """What is said of a file that holds `text`, without the file's name."""
    file = write(directory, text)
    with pytest.raises(ConfigurationError) as raised:
        read_descriptor(file)
    assert all(line.startswith(f"{file}: ") for line in raised.value.mistakes)
    return [line.removeprefix(f"{file}: ") for line in raised.value.mistakes]


def test_a_container_needs_a_key_and_an_image_and_is_held_by_safe_limits(tmp_path: Path) -> None:
    descriptor = read_descriptor(write(tmp_path, CONTAINER))

    assert descriptor == ContainerDescriptor(routing_key="check", kind="container", image="checker")
    assert (descriptor.command, descriptor.mount, descriptor.passes) == (["run"], "/work", "exit-code")
    assert descriptor.sandbox == Sandbox(
        user="node",
        capabilities=[],
        read_only=True,
        network="none",
        runtime=None,
        pids=64,
        memory_mib=512,
        cpus=1.0,
        tmpfs_mib=64,
        output_mib=1,
        disk_mib=512,
    )


def test_everything_can_be_said_of_a_container(tmp_path: Path) -> None:
    text = """
        routing_key_prefix = "check."
        kind = "container"
        description = "Checks."
        image = "registry.example:5000/checker@sha256:1234"
        command = ["check", "--all"]
        mount = "/mnt/tests/"
        working_dir = "/mnt"
        passes = "both"
        verdict_file = "passed"

        [environment]
        UNITS = "mm"

        [sandbox]
        user = "1000:1000"
        cpus = 2
        runtime = "runsc"
    """

    descriptor = read_descriptor(write(tmp_path, text))

    assert isinstance(descriptor, ContainerDescriptor)
    assert descriptor.routing_key_prefix == "check."
    assert descriptor.mount == "/mnt/tests"
    assert descriptor.environment == {"UNITS": "mm"}
    assert (descriptor.sandbox.user, descriptor.sandbox.cpus) == ("1000:1000", 2.0)
    assert descriptor.sandbox.runtime == "runsc"


def test_a_process_needs_a_key_and_a_command(tmp_path: Path) -> None:
    descriptor = read_descriptor(write(tmp_path, PROCESS))

    assert isinstance(descriptor, ProcessDescriptor)
    assert (descriptor.command, descriptor.verdict_file) == (["./check"], "results/passed.log")
    assert (descriptor.device, descriptor.stop_s) == (None, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'kind: is missing; write kind = "container" or kind = "process"'),
        ('kind = "vm"', 'kind: is \'vm\'; write kind = "container" or kind = "process"'),
        ("kind = ", "is no TOML in UTF-8: Invalid value (at end of document)"),
        ('kind = "container"\nimage = "i"', "routing_key_prefix: give either routing_key or routing_key_prefix"),
        (CONTAINER + 'routing_key_prefix = "a"', "routing_key_prefix: give either routing_key or routing_key_prefix"),
        ('kind = "container"\nrouting_key = "a"', "image: is missing; add it"),
        ('kind = "process"\nrouting_key = "a"', "command: is missing; add it"),
        (CONTAINER + 'mont = "/a"', "mont: unknown key; did you mean mount?"),
        (CONTAINER + "[sandbox]\nmemory = 1", "sandbox.memory: unknown key; did you mean memory_mib?"),
        (PROCESS + "[sandbox]\nxyz = 1", "sandbox.xyz: unknown key; known are output_mib"),
        (
            PROCESS + "[sandbox]\nmemory_mib = 1",
            'sandbox.memory_mib: a process cannot be held to this; remove it, or use kind = "container"',
        ),
        (CONTAINER + "[environment]\nPORT = 5555", "environment.PORT: must be text in quotes (it is 5555)"),
        (
            CONTAINER + '[environment]\n"A=B" = ""',
            "environment.A=B: is no name of an environment variable (it is 'A=B')",
        ),
        (
            CONTAINER + '[environment]\nA = "\\u0000"',
            "environment.A: must not hold a NUL character (it is '\\x00')",
        ),
        (CONTAINER + "environment = 3", "environment: must be a table (it is 3)"),
        (CONTAINER + "sandbox = 3", "sandbox: must be a table (it is 3)"),
        (CONTAINER + 'command = "run"', "command: must be a list, like [\"run\"] (it is 'run')"),
        (CONTAINER + "command = []", "command: must not be empty (it is [])"),
        (CONTAINER + 'command = [""]', "command.0: must not be empty or hold a NUL character (it is '')"),
        (CONTAINER + 'passes = "always"', "passes: must be 'verdict-file', 'exit-code' or 'both' (it is 'always')"),
        (
            CONTAINER + 'mount = "work"',
            "mount: must be an absolute path without '..', like /work (it is 'work')",
        ),
        (
            CONTAINER + 'working_dir = "/a/../b"',
            "working_dir: must be an absolute path without '..', like /work (it is '/a/../b')",
        ),
        *(
            (
                PROCESS + f'device = "{device}"',
                "device: must be a name of at most 100 letters, digits, '.', '-' and '_', like arm-1"
                f" (it is {device!r})",
            )
            for device in ("", "arm 1", "../arm", ".arm", "arm/1", "a" * 101)
        ),
        (PROCESS + "stop_s = -1", "stop_s: must be at least 0 (it is -1)"),
        *(
            (
                CONTAINER + f'mount = "{mount}"',
                f"mount: would hide what every container needs; choose another directory, like /work (it is '{mount}')",
            )
            for mount in ("/", "//", "/tmp", "/tmp/", "/proc", "/dev/shm", "/sys/fs")
        ),
        *(
            (
                CONTAINER + f'verdict_file = "{file}"',
                "verdict_file: must be a relative path without '.', '..' or empty parts, like results/passed.log "
                f"(it is '{file}')",
            )
            for file in ("", "/etc/passwd", "../passed", "a//b", "a/", "./a")
        ),
        (CONTAINER + "[sandbox]\npids = true", "sandbox.pids: must be a whole number (it is True)"),
        (CONTAINER + "[sandbox]\npids = 0", "sandbox.pids: must be at least 1 (it is 0)"),
        (CONTAINER + "[sandbox]\ncpus = inf", "sandbox.cpus: must be a finite number (it is inf)"),
        (CONTAINER + "[sandbox]\noutput_mib = 5000", "sandbox.output_mib: must be at most 1024 (it is 5000)"),
        (CONTAINER + '[sandbox]\nread_only = "no"', "sandbox.read_only: must be true or false (it is 'no')"),
        (
            CONTAINER + '[sandbox]\nnetwork = "all"',
            "sandbox.network: must be 'none', 'bridge' or 'host' (it is 'all')",
        ),
        (
            CONTAINER + '[sandbox]\nuser = "bob"',
            'sandbox.user: must be "node", "image" or "uid:gid" in numbers, like "1000:1000" (it is \'bob\')',
        ),
        (
            'kind = "process"\ncommand = ["a"]\nrouting_key_prefix = ""',
            "routing_key_prefix: must be 1 to 255 bytes long, as a routing key is (it is '')",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    assert mistakes(tmp_path, text) == [said]


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, 'kind = "container"\nmount = "work"\n[sandbox]\npids = 0\ncpu = 1')

    assert [line.partition(":")[0] for line in lines] == [
        "routing_key_prefix",
        "image",
        "mount",
        "sandbox.pids",
        "sandbox.cpu",
    ]


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_descriptor(tmp_path / "executor.toml")


def test_a_file_in_another_encoding_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "executor.toml").write_bytes(b'description = "\xe9"')

    with pytest.raises(ConfigurationError, match=r"is no TOML in UTF-8"):
        read_descriptor(tmp_path / "executor.toml")


@pytest.mark.parametrize("model", [ContainerDescriptor, ProcessDescriptor, ProcessSandbox, Sandbox])
def test_every_key_is_explained(model: type[Any]) -> None:
    unexplained = {name for name, field in model.model_fields.items() if not field.description}

    assert unexplained <= {"kind", "sandbox"}


@pytest.mark.parametrize(
    ("key", "image", "mount", "working_dir", "passes", "environment"),
    [
        (
            "cypress-grammar",
            "cypress-grammar",
            "/mnt/tests",
            None,
            "verdict-file",
            {"FILES_DIR": "cypress/e2e", "FILE_EXT": "cy.js"},
        ),
        ("cypress-execution", "cypress-executor", "/mnt/tests", None, "verdict-file", {}),
        ("gcode-execution", "gcode-visualizer", "/app/tests", None, "verdict-file", {}),
        (
            "kotlin-execution",
            "android-deployer",
            "/app",
            "/app",
            "exit-code",
            {
                "INNER_DIR": "",
                "APK_REL": "/app/build/outputs/apk/debug/app-debug.apk",
                "PACKAGE": "com.example.budgetbuddy.MainActivity",
                "ADB_HOST": "127.0.0.1",
                "ADB_PORT": "5555",
            },
        ),
    ],
)
def test_the_descriptors_for_images_of_ulos_keep_its_container_contract(
    key: str, image: str, mount: str, working_dir: str | None, passes: str, environment: dict[str, str]
) -> None:
    descriptor = read_descriptor(shipped("samples") / "ulos-images" / key / "executor.toml")
    ours = read_descriptor(shipped("executors") / key / "executor.toml")

    assert isinstance(descriptor, ContainerDescriptor)
    assert (descriptor.routing_key, descriptor.image, descriptor.command) == (key, image, ["run"])
    assert (descriptor.mount, descriptor.working_dir) == (mount, working_dir)
    assert (descriptor.passes, descriptor.verdict_file) == (passes, "results/passed.log")
    assert descriptor.environment == environment
    assert isinstance(ours, ContainerDescriptor)
    assert (ours.routing_key, ours.image, ours.command, ours.mount) == (key, image, ["run"], mount)
    assert ours.environment.items() >= environment.items()
