"""`executor.toml`: what a process or container executor is, completely.

    routing_key = "g-code-check"          # or routing_key_prefix
    kind = "container"                    # or "process"
    image = "g-code-check"
    passes = "verdict-file"               # or "exit-code", "both"

    [environment]
    UNITS = "mm"

    [sandbox]
    memory_mib = 1024

What the file leaves out has a safe default, written at the fields below.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ulos_stream.errors import ConfigurationError

Passes = Literal["verdict-file", "exit-code", "both"]


def _key(text: str) -> str:
    if not 1 <= len(text.encode()) <= 255:
        raise ValueError("must be 1 to 255 bytes long, as a routing key is")
    return text


def _word(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("must not be empty or hold a NUL character")
    return text


def _value(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise ValueError("is no name of an environment variable")
    return name


def _inside(path: str) -> str:
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError("must be a relative path without '.', '..' or empty parts, like results/passed.log")
    return path


def _device(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("must be a name of at most 100 letters, digits, '.', '-' and '_', like arm-1")
    return name


def _absolute(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError("must be an absolute path without '..', like /work")
    return str(PurePosixPath("/" + path.lstrip("/")))


def _mount(path: str) -> str:
    if path in ("/", "/tmp") or PurePosixPath(path).parts[1] in ("proc", "sys", "dev"):  # noqa: S108 (in a container)
        raise ValueError("would hide what every container needs; choose another directory, like /work")
    return path


def _user(text: str) -> str:
    uid, colon, gid = text.partition(":")
    if text not in ("node", "image") and not (colon and uid.isdecimal() and gid.isdecimal()):
        raise ValueError('must be "node", "image" or "uid:gid" in numbers, like "1000:1000"')
    return text


class _Table(BaseModel):
    """A table of the file: its keys are known, and its values have TOML's own types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class ProcessSandbox(_Table):
    """What holds a process: nothing but its output's size. Run what you do not trust in a container."""

    output_mib: Annotated[int, Field(ge=1, le=1024)] = 1
    """MiB kept of what the run prints; the rest is counted and dropped. One is more than anybody reads."""


class Sandbox(ProcessSandbox):
    """What holds a container. The defaults suit a checker that somebody else's students attack."""

    user: Annotated[str, AfterValidator(_user)] = "node"
    """Who runs inside. `node`: the node's own user and group, or 65532:65532 when the node is root, so that the
    node can pack and remove what the run leaves. `uid:gid`: those numbers, for an image made for them; needs a node
    that is root. Both have no capabilities at all. `image`: the image's own user, for images made elsewhere: most
    run as root and change owners and users, so they keep Docker's default capabilities but raw sockets, device
    nodes, file capabilities and audit records; no-new-privileges and every limit here hold them too."""
    capabilities: list[Literal["SETUID", "SETGID"]] = []
    """What a root inside may do all the same: change users, so that a judge can run the work as somebody else. With
    `user = "0:0"` only; on a node that is root."""
    read_only: bool = True
    """Only the job's directory and /tmp (a tmpfs without executables) can be written: a run cannot fill the
    engine's disk. False: the image's root and its own /tmp are writable too and count towards `disk_mib`."""
    network: Literal["none", "bridge", "host"] = "none"
    """`none`: nothing but a localhost of its own; student code can neither leak nor attack. `bridge`: outgoing
    connections by the engine's NAT, to the node's neighbours too. `host`: the node's own network, everything on
    127.0.0.1 included."""
    runtime: Annotated[str, AfterValidator(_word)] | None = Field(default=None, examples=["runsc"])
    """Name of an OCI runtime that the engine knows, like `runsc` (gVisor) or `kata`: a kernel between the run and the
    node's own. The engine's default one otherwise."""
    pids: Annotated[int, Field(ge=1)] = 64
    """Processes and threads at once: enough for a compiler or an interpreter, too few for a fork bomb."""
    memory_mib: Annotated[int, Field(ge=6)] = 512
    """MiB of memory, swap and both tmpfs included; above it the kernel kills. A small runtime fits."""
    cpus: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 1.0
    """Cores' worth of processor time, fractions allowed; at most what the engine has. One leaves the others alone."""
    tmpfs_mib: Annotated[int, Field(ge=1)] = 64
    """MiB of /tmp (with `read_only`) and, separately, of /dev/shm: Docker's own default for the latter."""
    disk_mib: Annotated[int, Field(ge=1)] = 512
    """MiB of the job's directory, and the largest single file: as much as the archive may unpack to. A node that is
    root makes the directory a file system of that size, with an inode for each 4 KiB; a run that wants more is told
    that no space is left. Elsewhere, and for the root of an image that is not `read_only`, the disk is looked at
    every half second and the run stopped: a fast writer overshoots, and a deleted file that is open is not seen."""

    @field_validator("capabilities")
    @classmethod
    def _for_root(cls, capabilities: list[str], info: ValidationInfo) -> list[str]:
        if capabilities and info.data.get("user") != "0:0":
            raise ValueError('need user = "0:0"')
        return capabilities


class _Executor(_Table):
    routing_key: Annotated[str, AfterValidator(_key)] | None = Field(default=None, examples=["word-count"])
    """The stage's routing key that this executor claims."""
    routing_key_prefix: Annotated[str, AfterValidator(_key)] | None = Field(
        default=None, validate_default=True, examples=["word-count-"]
    )
    """Instead: claims every routing key that starts so and is not claimed by itself or by a longer prefix."""
    description: str = ""
    """One line for people: what the stage does with the work."""
    passes: Passes = "exit-code"
    """What PASS takes: `exit-code` 0 of the program, the `verdict-file` that it leaves, or `both`. All else is FAIL;
    with `both`, exit code 70 says that the executor itself failed: a crash."""
    verdict_file: Annotated[str, AfterValidator(_inside)] = "results/passed.log"
    """Relative to the job's directory. Deleted before the run, and removed after it: it must be the run's own."""
    environment: dict[Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_value)]] = Field(
        default={}, examples=[{"LEAST_WORDS": "500"}]
    )
    """Variables for the run. Nothing of the node's own environment gets there: it holds passwords."""
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """How much of a node one stage takes, compared with an ordinary one: a browser more than a look at a file. A node
    runs no more at once than it carries; see `ULOS_ADAPTIVE`."""
    at_once: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[2])
    """The most stages of this executor at once on a node; as many as it can carry otherwise."""
    device: Annotated[str, AfterValidator(_device)] | None = Field(default=None, examples=["arm-1"])
    """Name of a machine that one stage at a time may use, over all nodes: a stage runs only while its node holds the
    lease on it. Waiting for that is not the task's time. Executors that name the same device take turns."""

    @field_validator("routing_key_prefix")
    @classmethod
    def _one_claim(cls, prefix: str | None, info: ValidationInfo) -> str | None:
        if "routing_key" in info.data and (prefix is None) == (info.data["routing_key"] is None):
            raise ValueError("give either routing_key or routing_key_prefix")
        return prefix


class ProcessDescriptor(_Executor):
    """A command on the node itself, for lab equipment and drivers."""

    kind: Literal["process"]
    """This one is a `process`; the other kind is `container`."""
    command: Annotated[list[Annotated[str, AfterValidator(_word)]], Field(min_length=1, examples=[["./run"]])]
    """Program and arguments. A relative path with a `/` starts at the descriptor's folder; a bare name is looked
    up in PATH. It runs in the job's directory. With a `device`, exit code 75 (EX_TEMPFAIL of sysexits.h) says that
    the machine failed: nobody's verdict, the stage is tried again."""
    stop_s: Annotated[float, Field(ge=0, le=600)] = 0
    """Seconds between SIGTERM and SIGKILL when the stage must end early (timeout, cancellation, loss of the device):
    time to bring a machine to rest. The device stays held meanwhile. 0: SIGKILL at once, for what drives nothing."""
    sandbox: ProcessSandbox = ProcessSandbox()


class ContainerDescriptor(_Executor):
    """An image, for untrusted code."""

    kind: Literal["container"]
    """This one is a `container`; the other kind is `process`."""
    image: Annotated[str, AfterValidator(_word)] = Field(examples=["word-count"])
    """Name on the node's engine. Never pulled: what runs is what an operator put there."""
    command: Annotated[list[Annotated[str, AfterValidator(_word)]], Field(min_length=1)] = ["run"]
    """Program and arguments, after the image's entry point if it has one."""
    mount: Annotated[str, AfterValidator(_absolute), AfterValidator(_mount)] = "/work"
    """Where the job's directory appears inside."""
    working_dir: Annotated[str, AfterValidator(_absolute)] | None = Field(default=None, examples=["/work"])
    """Where the command starts; the image's own by default."""
    sandbox: Sandbox = Sandbox()


Descriptor = ContainerDescriptor | ProcessDescriptor
_KINDS: dict[str, type[Descriptor]] = {"container": ContainerDescriptor, "process": ProcessDescriptor}
_RULES = {
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": 'must be a list, like ["run"]',
    "too_short": "must not be empty",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
"""What pydantic's error types mean to somebody who writes TOML."""


def read_descriptor(path: Path) -> Descriptor:
    """Read and check one `executor.toml`.

    Raises:
        ConfigurationError: One line for each mistake: file, key, what is wrong, what to do.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigurationError(f"{path}: is no TOML in UTF-8: {exc}") from exc
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        found = f"is {kind!r}" if "kind" in table else "is missing"
        raise ConfigurationError(f'{path}: kind: {found}; write kind = "container" or kind = "process"')
    try:
        return _KINDS[kind].model_validate(table)
    except ValidationError as exc:
        raise ConfigurationError(*(f"{path}: {line}" for line in _lines(_KINDS[kind], exc))) from exc


def _lines(model: type[Descriptor], invalid: ValidationError) -> Iterator[str]:
    for error in invalid.errors(include_url=False):
        where = [part for part in error["loc"] if part != "[key]"]
        yield f"{'.'.join(map(str, where))}: {_advice(model, dict(error), where)}"


def _advice(model: type[Descriptor], error: dict[str, Any], where: list[int | str]) -> str:
    match error["type"], where:
        case "extra_forbidden", ["sandbox", name] if model is ProcessDescriptor and name in Sandbox.model_fields:
            return 'a process cannot be held to this; remove it, or use kind = "container"'
        case "extra_forbidden", [name] if model is ProcessDescriptor and name in ContainerDescriptor.model_fields:
            return 'a process has no such thing; remove it, or use kind = "container"'
        case "extra_forbidden", [*tables, name]:
            table = type(model.model_fields["sandbox"].default) if tables else model
            return _unknown(str(name), list(table.model_fields))
        case "missing", _:
            return "is missing; add it"
        case "value_error", ["routing_key_prefix"] if error["input"] is None or "either" in error["msg"]:
            return str(error["ctx"]["error"])
        case "value_error", _:
            rule = str(error["ctx"]["error"])
        case kind, _:
            rule = _RULES.get(kind, error["msg"]).format(**error.get("ctx", {}))
    return f"{rule} (it is {error['input']!r})"


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known)
    return f"unknown key; did you mean {' or '.join(close)}?" if close else f"unknown key; known are {', '.join(known)}"
