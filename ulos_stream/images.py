"""Tiny container images, made without a registry: for `ulos demo` and the tests."""

import contextlib
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from ulos_stream.errors import ServiceMissing


def local_image(tag: str, script: str) -> str:
    """Make the image `tag` of a busybox whose command `run` is the shell `script`; no registry is asked.

    Nothing happens if the tag is that image already. Takes 0.3 s.

    Raises:
        ServiceMissing: No Docker engine answers, or there is no busybox.
    """
    layer = _layer(script)
    digest = hashlib.sha256(layer).hexdigest()
    hint = "no Docker engine answers: apt-get install docker.io, and start dockerd as root"
    named = tag if ":" in tag else f"{tag}:latest"
    known = docker("images", "--quiet", "--no-trunc", named, hint=hint).decode().strip()
    if known and docker("inspect", "--format", "{{.Comment}}", known, hint=hint).decode().strip() == digest:
        return tag
    docker("import", "--message", digest, "--change", "ENV PATH=/bin", "-", tag, stdin=layer, hint=hint)
    if known:  # The old image is only litter now, unless another tag or a container needs it.
        with contextlib.suppress(ServiceMissing):
            docker("rmi", known, hint=hint)
    return tag


def _layer(script: str) -> bytes:
    """A tar of busybox, a link for each of its commands, the libraries it needs if any, and `/bin/run`."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ServiceMissing("there is no busybox to make an image of: apt-get install busybox-static")
    commands = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split()
    linked = subprocess.run(["ldd", busybox], capture_output=True, check=False, text=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", linked)
    files = {"bin/busybox": Path(busybox).read_bytes(), "bin/run": f"#!/bin/sh\n{script}".encode()}
    files |= {library.lstrip("/"): Path(library).read_bytes() for library in libraries}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o755, len(content)
            tar.addfile(member, io.BytesIO(content))
        for command in sorted({*commands} - {"busybox", "run"}):
            member = tarfile.TarInfo(f"bin/{command}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(member)
        member = tarfile.TarInfo("tmp")
        member.type, member.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(member)
    return packed.getvalue()


def docker(*arguments: str, hint: str, stdin: bytes = b"") -> bytes:
    """What a `docker` command prints; when it fails, `hint` and its last line are raised."""
    try:
        done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=True)
    except FileNotFoundError as exc:
        raise ServiceMissing(hint) from exc
    except subprocess.CalledProcessError as exc:
        reason = exc.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ServiceMissing(f"{hint} ({reason})") from exc
    return done.stdout


def build(folder: Path, tag: str, *, base: str | None = None, quiet: bool = True) -> None:
    """Build the image of an executor's folder, as `tar -ch . | docker build -t TAG -` does: links are followed.

    Args:
        folder: Holds the `Dockerfile` and what it copies.
        tag: Name of the image.
        base: The Dockerfile's `BASE`; its own default otherwise.
        quiet: Keep what the build prints to the error.

    Raises:
        ServiceMissing: No Docker engine answers, or the build fails.
    """
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w", dereference=True) as tar:
        tar.add(folder, arcname=".", filter=_undated)
    command = ["docker", "build", "--force-rm", "--network", "host", "--tag", tag, "-"]
    if base is not None:
        command[2:2] = ["--build-arg", f"BASE={base}"]
    try:
        subprocess.run(command, input=context.getvalue(), capture_output=quiet, check=True)
    except FileNotFoundError as exc:
        raise ServiceMissing("there is no `docker` command: apt-get install docker.io") from exc
    except subprocess.CalledProcessError as exc:
        printed = ((exc.stdout or b"") + (exc.stderr or b"")).decode(errors="replace").strip()
        raise ServiceMissing(f"the image {tag!r} cannot be built\n{printed}"[:20_000].rstrip()) from exc


def _undated(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Keep what changes a layer only when the files do; samples and notes are no part of the image."""
    if member.name in ("./samples", "./README.md", "./executor.toml"):
        return None
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
