"""Hostile programs, each in its container through a real pipeline, beside stages that must not notice.

    python -m tests.faults.hostile_programs --times 10

Every run must end as its row says, leave no container, mount or directory, and carry nowhere a secret that lies
in the node's environment, in a file of its `/etc`, in the directory of another stage and behind a port of its
loopback interface.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import resource
import statistics
import subprocess
import tempfile
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ulos_stream import archive
from ulos_stream.errors import Crash
from ulos_stream.executors.registry import build_registry
from ulos_stream.images import local_image
from ulos_stream.journal import Origin
from ulos_stream.pipeline import Pipeline
from ulos_stream.storage.folder import FolderStorage
from ulos_stream.tasks import Event, Verdict, parse_task
from ulos_stream.workspace import NodeDirectory

STAGES_AT_ONCE = 3
"""Docker 20.10 may lock up over many starts at once."""
MAX_GROWTH_BYTES = 50 * 1024 * 1024
IMAGE = "ulos-test/hostile"
DESCRIPTOR = f"""
kind = "container"
routing_key = "{{key}}"
image = "{IMAGE}"
passes = "{{passes}}"

[sandbox]
pids = 32
memory_mib = 64
disk_mib = 40
tmpfs_mib = 4
"""


@dataclass(frozen=True, slots=True)
class Left:
    """What a run left in the artifact."""

    members: dict[str, zipfile.ZipInfo]
    printed: str

    def has(self, *names: str) -> bool:
        return set(names) <= self.members.keys()

    def lacks(self, *names: str) -> bool:
        return not set(names) & self.members.keys()


@dataclass(frozen=True, slots=True)
class Program:
    """A program that means no good, and how it must end."""

    name: str
    end: str
    """PASS, FAIL, or the code of a crash."""
    script: str
    left: Callable[[Left], bool] = lambda _: True
    """Whether the result is as it must be, where there is one."""
    detail: str = ""
    """What the reason of a crash says."""
    passes: str = "exit-code"
    timeout_s: int = 60
    files: dict[str, bytes] = field(default_factory=dict)
    """What its artifact holds beside the script; all of it can be executed."""


def without(*names: str) -> Callable[[Left], bool]:
    return lambda left: left.lacks(*names)


def says(text: str) -> Callable[[Left], bool]:
    return lambda left: text in left.printed


NO_SPACE = says("No space left on device")
WRITE_ON = "dd if=/dev/zero of={} bs=1000000 count=1 || {}"

PROGRAMS = [
    Program("fork bomb", "FAIL", "bomb() { bomb | bomb & }; bomb; sleep 2; exit 3", says("fork")),
    Program("memory bomb", "executor_crashed", "sleep 1; tail /dev/zero; sleep 1; exit 137", detail="out of memory"),
    Program(
        "memory by tmpfs", "FAIL", "cat /dev/zero > /tmp/fill; cat /dev/zero > /dev/shm/fill; exit 3", says("No space")
    ),
    Program("files of /tmp", "FAIL", "i=0; while echo > /tmp/$i; do i=$((i+1)); done; echo $i; exit 3", NO_SPACE),
    Program("disk fill", "FAIL", f"i=0; while :; do i=$((i+1)); {WRITE_ON.format('f$i', 'exit 3')}; done", NO_SPACE),
    Program(
        "disk fill by deleted files",
        "FAIL",
        "while :; do exec 9<>f; rm f; dd if=/dev/zero of=/proc/self/fd/9 bs=2M count=1 || exit 3; sleep 600 <&9 & done",
        NO_SPACE,
    ),
    Program(
        "inode fill",
        "archive_rejected",
        "i=0; while { true > $i; } 2>/dev/null; do i=$((i+1)); done; echo full after $i",
        detail="more than 10000 files",
    ),
    Program(
        "log flood",
        "PASS",
        "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo the very end",
        lambda left: (
            left.members["output__exit-code.txt"].file_size < 1.1 * 1024 * 1024 and "output cut" in left.printed
        ),
    ),
    Program("log without end", "timeout", "exec yes", timeout_s=3),
    Program(
        "links to secrets",
        "PASS",
        "ln -s /etc/shadow shadow; ln -s /proc/1/environ env; for f in /etc/ulos-canary-*; do ln -s $f canary; done",
        without("shadow", "env", "canary"),
    ),
    Program(
        "links to secret directories",
        "FAIL",
        "ln -s / root; ln -s /etc results; ln -s ../../.. up; ln -s . round; exit 0",
        without("root", "results", "up", "round"),
        passes="verdict-file",
    ),
    Program(
        "hard links", "PASS", "for i in 1 2 3; do ln job.sh again$i; done", lambda left: left.has("again1", "again3")
    ),
    Program(
        "pipe in the result", "PASS", "mkfifo pipe; mkdir d; mkfifo d/pipe; echo x > d/x", without("pipe", "d/pipe")
    ),
    Program(
        "set-id program",
        "PASS",
        "cp /bin/busybox .; chmod 6755 busybox; ./busybox id -u",
        lambda left: (
            left.members["busybox"].external_attr >> 16 & 0o7777 == 0o755 and "\n0\n" not in f"\n{left.printed}"
        ),
    ),
    Program("verdict is a directory", "FAIL", "mkdir -p results/passed.log", passes="verdict-file"),
    Program("verdict is a link", "FAIL", "mkdir results; ln -s /bin/sh results/passed.log", passes="verdict-file"),
    Program("verdict is a pipe", "FAIL", "mkdir results; mkfifo results/passed.log", passes="verdict-file"),
    Program(
        "3,000 levels",
        "archive_rejected",
        "deep=d; for i in 1 2 3 4 5 6 7 8 9; do deep=$deep/$deep; done\n"
        "for i in 1 2 3 4 5 6; do mkdir -p $deep; cd -P $deep; done",
        detail="levels deep",
    ),
    Program(
        "everything shut",
        "PASS" if os.getuid() == 0 else "archive_rejected",
        "mkdir shut; echo x > shut/f; chmod 0 shut/f shut job.sh .",
        lambda left: left.has("shut/f"),
    ),
    Program("names that are no text", "archive_rejected", "echo x > $(printf 'a\\377b')", detail="not UTF-8"),
    Program(
        "names with escape codes", "archive_rejected", "echo x > $(printf 'a\\033[2Jb')", detail="control character"
    ),
    Program(
        "times before 1980",
        "PASS",
        "touch -d '1970-01-01 00:00:00' old; touch -d '2200-01-01 00:00:00' new",
        lambda left: (left.members["old"].date_time[0], left.members["new"].date_time[0]) == (1980, 2107),
    ),
    Program(
        "escapes",
        "PASS",
        """
        try() { "$@" >/dev/null 2>&1 && echo "escaped: $*" && exit 9; }
        mkdir here
        try mount -t tmpfs none here
        try mount --bind / here
        try umount /work
        try mknod device b 254 0
        try chroot / true
        try nsenter -t 1 -m true
        try unshare -m true
        try unshare -r true
        try sethostname escaped
        try chown 0 job.sh
        try su -c true
        for file in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /etc/hosts /etc/new \
            /bin/busybox /work/../new /proc/sys/vm/drop_caches /sys/fs/cgroup/memory/memory.limit_in_bytes
        do try sh -c "echo x > $file"
        done
        exit 0
        """,
    ),
    Program(
        "network",
        "PASS",
        """
        for to in 127.0.0.1:{port} 172.17.0.1:22 1.1.1.1:80
        do echo | nc -w 1 ${to%:*} ${to#*:} && exit 9
        done
        wget -q -T 1 -O - http://example.org && exit 9
        ping -c 1 -W 1 127.0.0.1 && exit 9
        ls /sys/class/net
        exit 0
        """,
        lambda left: "lo" in left.printed.split() and "eth" not in left.printed,
    ),
    Program(
        "survivor",
        "PASS",
        "setsid sh -c 'trap \"\" TERM HUP INT; while :; do echo x >> alive; done' & until [ -e alive ]; do :; done",
        lambda left: left.has("alive"),
    ),
    Program("deaf for ever", "timeout", "trap '' TERM INT HUP QUIT; while :; do sleep 1; done", timeout_s=3),
    Program(
        "holes for a result",
        "archive_rejected",
        "for i in 1 2 3 4 5; do truncate -s 40M hole$i; done",
        detail="its zip is larger than 100 MiB",
    ),
    Program(
        "treasure hunt",
        "PASS",
        """
        env
        cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'
        cat /proc/self/mountinfo /proc/net/tcp /proc/cmdline
        cat /etc/* /run/* /var/* /root/* /dev/shm/* /mnt/*
        ls -la / /work/.. /work/../.. /mnt /media /srv /home /root
        find / -xdev -name '*canary*'
        grep -rs canary /etc /tmp /run /var /home /root /dev/shm
        cat /proc/1/root/etc/ulos-canary-* /proc/1/cwd/*
        exit 0
        """,
    ),
]

PROBE = """
my %forbidden = (mount => [165, 0, 0, 0, 0, 0], pivot_root => [155, 0, 0], init_module => [175, 0, 0, 0],
    kexec_load => [246, 0, 0, 0, 0], bpf => [321, 0, 0, 0], unshare_user => [272, 0x10000000], setns => [308, 0, 0],
    open_by_handle_at => [304, 0, 0, 0], perf_event_open => [298, 0, 0, 0, 0, 0], userfaultfd => [323, 0],
    packet_socket => [41, 17, 3, 0], raw_socket => [41, 2, 3, 1], chroot => [161, "/"], sethostname => [170, "x", 1],
    keyctl => [250, 0, 0, 0], add_key => [248, 0, 0, 0, 0, 0], swapon => [167, "x", 0], iopl => [172, 3]);
for (sort keys %forbidden) {
    my ($number, @arguments) = @{$forbidden{$_}};
    exit print("escaped by $_\\n") + 8 if syscall($number, @arguments) >= 0;
    print "$_: $!\\n" unless $! == 1 || $! == 13 || $! == 38;
}
my $space = "\\0" x 120;
my %residual = (io_uring => [425, 1, $space], ptrace => [101, 0x4206, getppid, 0, 0]);
for (sort keys %residual) {
    my ($number, @arguments) = @{$residual{$_}};
    print "$_: ", syscall($number, @arguments) < 0 ? "$!" : "allowed", "\\n";
}
"""
"""System calls by their numbers on x86-64. `io_uring` and `ptrace` are what Docker's filter of system calls lets
through, depending on its age; both stay within the container."""


def system_calls() -> Iterator[Program]:
    """Asks the kernel itself, in Perl with its libraries, where there is one."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        perl = Path("/usr/bin/perl")
        linked = subprocess.run(["ldd", perl], check=True, capture_output=True, text=True).stdout
        libraries = [Path(path) for path in re.findall(r"(/\S+) \(0x", linked)]
        [loader] = [path.name for path in libraries if path.name.startswith("ld-linux-x86-64")]
        files = {path.name: path.read_bytes() for path in (perl, *libraries)}
        script = f"./{loader} --library-path . ./perl probe"
        yield Program("system calls", "PASS", script, says("ptrace: "), files={**files, "probe": PROBE.encode()})


@dataclass
class Siege:
    """A node's pipeline with secrets all around it, and what has come of it."""

    pipeline: Pipeline
    artifacts: Path
    canary: str
    port: int
    mistakes: list[str] = field(default_factory=list)
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    growth_bytes: int = 0

    async def run(self, program: Program) -> None:
        """One run of a program; what is wrong with it joins the mistakes."""
        begun = time.monotonic()
        name = f"/{uuid.uuid4()}.zip"
        stored = self.artifacts / name[1:]
        script = program.script.replace("{port}", str(self.port)).encode()
        before = a_zip({"job.sh": script, **program.files})
        stored.write_bytes(before)
        tree = {"exchange": "", "routingKey": program.passes}
        fields = {"taskId": "t", "taskOwnerId": "o", "filePath": name, "timeout": program.timeout_s}
        task = parse_task(json.dumps({**fields, "routingTree": tree}).encode())
        try:
            done = await self.pipeline.run(task, Origin(str(uuid.uuid4()), b""), _silence)
            end, told = str(done.verdict), _look(stored).printed[-300:]
        except Crash as crash:
            end, told = crash.code, f"{crash}\n{crash.output_tail}"
            if stored.read_bytes() != before:
                self.mistakes.append(f"{program.name}: crashed, and the artifact is another")
        self.ends.setdefault(program.name, Counter())[end] += 1
        self.seconds.setdefault(program.name, []).append(time.monotonic() - begun)
        if end != program.end or program.detail not in told:
            self.mistakes.append(f"{program.name}: ended with {end} {told!r:.300}")
        elif end in (Verdict.PASS, Verdict.FAIL) and not program.left(left := _look(stored)):
            self.mistakes.append(f"{program.name}: left {sorted(left.members)[:9]}, printed {left.printed[-300:]!r}")
        if self.canary in told or self._is_leaked(stored):
            self.mistakes.append(f"{program.name}: found the canary")
        stored.unlink()

    def _is_leaked(self, artifact: Path) -> bool:
        with zipfile.ZipFile(artifact) as bundle:
            return any(self.canary.encode() in bundle.read(member) for member in bundle.infolist())


BYSTANDER = Program("bystander", "PASS", "echo fine > fine", lambda left: left.has("fine"))


async def besiege(times: int, programs: Iterable[Program]) -> Siege:
    """Run every program so often, with as many bystanders in between."""
    async with _node() as siege:
        for _ in range(STAGES_AT_ONCE):
            await siege.run(BYSTANDER)
        before_bytes = _resident_bytes()
        waiting = iter([program for _ in range(times) for program in programs])

        async def keep_running() -> None:
            for program in waiting:
                await siege.run(program)
                await siege.run(BYSTANDER)
                siege.growth_bytes = max(siege.growth_bytes, _resident_bytes() - before_bytes)

        async with asyncio.TaskGroup() as group:
            for _ in range(STAGES_AT_ONCE):
                group.create_task(keep_running())
    if siege.growth_bytes > MAX_GROWTH_BYTES:
        siege.mistakes.append(f"the node grew by {siege.growth_bytes / 2**20:.0f} MiB")
    return siege


@contextlib.asynccontextmanager
async def _node() -> AsyncIterator[Siege]:
    """A pipeline with a canary in every place that a program might reach; what is left at the end is a mistake."""
    local_image(IMAGE, "cd /work && exec /bin/sh ./job.sh\n")
    canary, node = f"canary-{uuid.uuid4()}", f"hostile-{uuid.uuid4()}"
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder, _planted(canary):
        artifacts, executors, work = (Path(folder, name) for name in ("artifacts", "executors", "work"))
        (neighbour := work / "ulos-stage-neighbour" / "files").mkdir(parents=True)
        (neighbour / "canary.txt").write_text(canary)
        artifacts.mkdir()
        for passes in ("exit-code", "verdict-file"):
            (executors / passes).mkdir(parents=True)
            (executors / passes / "executor.toml").write_text(DESCRIPTOR.format(key=passes, passes=passes))
        registry = build_registry([executors], mock_delay_s=0, node=node, docker_host=None)
        server = await asyncio.start_server(lambda _, writer: _tell(writer, canary), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        faults: list[str] = []
        directory = NodeDirectory(work, node)
        directory.open()
        pipeline = Pipeline(
            storage=FolderStorage(artifacts, 2**30),
            executors=registry,
            limits=archive.Limits(),
            directory=directory,
            node=node,
            journal_key=b"a key",
            fault_budget_s=20,
            report_fault=lambda fault, _: faults.append(f"a fault: {fault}"),
        )
        siege = Siege(pipeline, artifacts, canary, port)
        try:
            async with server:
                yield siege
        finally:
            await registry.aclose()
            directory.close()
        siege.mistakes += [*faults, *await _left_over(node, work, neighbour.parent)]


@contextlib.contextmanager
def _planted(canary: str) -> Iterator[None]:
    """The canary in the environment, and in `/etc` if that may be written."""
    os.environ["ULOS_CANARY"] = canary
    file = Path(f"/etc/ulos-{canary}")
    try:
        if os.access("/etc", os.W_OK):
            file.write_text(canary)
        yield
    finally:
        file.unlink(missing_ok=True)
        del os.environ["ULOS_CANARY"]


def _tell(writer: asyncio.StreamWriter, canary: str) -> None:
    writer.write(f"HTTP/1.0 200 OK\r\n\r\n{canary}\n".encode())
    writer.close()


async def _left_over(node: str, work: Path, neighbour: Path) -> list[str]:
    """Containers, mounts, directories and disks that outlive their stage."""
    command = ["docker", "ps", "-aq", "--filter", f"label=ulos.node={node}"]
    containers = (await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)).stdout.split()
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(work) in line]
    directories = [path for path in work.iterdir() if path != neighbour]
    deadline = time.monotonic() + 10  # the kernel takes a file system apart when it gets to it
    while (disks := _disks(work)) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return [f"left over: {thing}" for thing in (*containers, *mounts, *directories, *disks)]


def _disks(work: Path) -> list[str]:
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found += [name for name in [file.read_text().strip()] if name.startswith(str(work))]
    return found


def _look(artifact: Path) -> Left:
    with zipfile.ZipFile(artifact) as bundle:
        members = {member.filename: member for member in bundle.infolist()}
        [output] = [name for name in members if name.startswith("output_")]
        return Left(members, bundle.read(output).decode(errors="replace"))


def a_zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o100755 << 16
            bundle.writestr(member, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _silence(event: Event, text: str, verdict: Verdict | None = None) -> None: ...


def main() -> int:
    """Print a row for each program and a line for each mistake."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=10, help="runs of each program")
    options.add_argument("--only", default="", help="programs whose name has this in it")
    chosen = options.parse_args()
    programs = [program for program in [*PROGRAMS, *system_calls()] if chosen.only in program.name]
    siege = asyncio.run(besiege(chosen.times, programs))
    print(f"{'program':28} {'must end':17} {'median':>8}  ends")
    for program in [*programs, BYSTANDER]:
        ends = ", ".join(f"{end} {count}" for end, count in siege.ends[program.name].items())
        print(f"{program.name:28} {program.end:17} {statistics.median(siege.seconds[program.name]):6.2f} s  {ends}")
    print(f"the node grew by {siege.growth_bytes / 2**20:.0f} MiB; {len(siege.mistakes)} mistakes")
    print(*siege.mistakes, sep="\n")
    return bool(siege.mistakes)


if __name__ == "__main__":
    raise SystemExit(main())
