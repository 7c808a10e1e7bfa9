"""One Android device, reached by adb."""

import contextlib
import dataclasses
import os
import re
import subprocess
import time
from pathlib import Path

ANSWER_S = 60
"""Most seconds for a device to do what it is told."""
INSTALL_S = 180
BOOT_S = 120
MOST_SCREENSHOT_BYTES = 32 * 1024 * 1024
FRAME = re.compile(r"^\s+at (?P<method>[\w.$<>]+)\((?P<file>\w+\.(?:kt|java)):(?P<line>\d+)\)", re.MULTILINE)
"""A line of a stack trace."""


class Unusable(Exception):
    """The device is not there, or does not do what every device does; that is no fault of the app's."""


@dataclasses.dataclass(frozen=True)
class Crash:
    """An exception that has ended the app."""

    text: str
    file: str | None
    """Name of the app's own file in which it was raised, if the trace has one."""
    line: int | None


class Device:
    """A device, and the app on it that is ours.

    Args:
        host: Where its adb listens.
        port: And the port.
        app: What is launched: `package.Activity`; or `package/package.sub.Activity` if more than the last word differs.
        home: A directory for adb: its key, and the socket of its server. The usual port of that may belong to another
            server, for the network is the host's.
    """

    def __init__(self, host: str, port: str, app: str, *, home: Path) -> None:
        self.serial = f"{host}:{port}"
        self.package = app.partition("/")[0] if "/" in app else app.rpartition(".")[0]
        self._component = app if "/" in app else f"{self.package}/{app}"
        self._home = home
        self._crashes_before = ""

    def connect(self) -> None:
        """Have a device that has booted.

        Raises:
            Unusable: There is none, or it does not let us in.
        """
        _, said = self._adb("connect", self.serial)
        if not re.search(r"^(already )?connected to ", said, re.MULTILINE):
            raise Unusable(said)
        end = time.monotonic() + BOOT_S
        while self._shell("getprop", "sys.boot_completed") != (True, "1"):
            self._require()
            if time.monotonic() > end:
                raise Unusable(f"it has not booted for {BOOT_S} seconds")
            time.sleep(1)

    def name(self) -> str:
        """Model and release, for people."""
        _, model = self._shell("getprop", "ro.product.model")
        _, release = self._shell("getprop", "ro.build.version.release")
        return f"{model}, Android {release}"

    def install(self, apk: Path) -> str | None:
        """Install the app as if it had never been there; returns why that fails, or None."""
        self._adb("uninstall", self.package)
        done, said = self._adb("install", "-r", "-t", str(apk), limit_s=INSTALL_S)
        if done and "Success" in said:
            return None
        self._require()
        reason = re.search(r"Failure \[(.+?)\]", said)
        if reason and "INSUFFICIENT_STORAGE" in reason[1]:
            raise Unusable("its storage is full")
        return f"The device refuses it: {reason[1] if reason else said}"

    def launch(self) -> str | None:
        """Start the app's activity; returns why that fails, or None."""
        self._crashes_before = self._crashes()
        done, said = self._shell("am", "start", "-W", "-n", self._component)
        error = re.search(r"^Error: (.+)", said, re.MULTILINE)
        if done and not error:
            return None
        self._require()
        return error[1] if error else said

    def crash(self) -> Crash | None:
        """The app's first crash since it was launched."""
        new = self._crashes().removeprefix(self._crashes_before)
        for text in re.split(r"^(?=FATAL EXCEPTION)", new, flags=re.MULTILINE):
            if f"Process: {self.package}," in text:
                own = next((found for found in FRAME.finditer(text) if found["method"].startswith(self.package)), None)
                return Crash(text.strip(), own["file"] if own else None, int(own["line"]) if own else None)
        return None

    def is_running(self) -> bool:
        """Whether the app has a process."""
        found, said = self._shell("pidof", self.package)
        if not found:
            self._require()
        return found and bool(said)

    def screenshot(self) -> bytes | None:
        """What the screen shows, as PNG."""
        shot = self._run("-s", self.serial, "exec-out", "screencap", "-p").stdout
        return shot if shot.startswith(b"\x89PNG") and len(shot) <= MOST_SCREENSHOT_BYTES else None

    def forget(self) -> None:
        """Leave the device without the app, and adb without the device."""
        with contextlib.suppress(Unusable):
            self._require()  # without a device, this adb would wait for one
            self._adb("uninstall", self.package)
        for command in (["disconnect", self.serial], ["kill-server"]):
            with contextlib.suppress(Unusable):
                self._adb(*command)

    def _crashes(self) -> str:
        """The device's log of crashes; that of native code has no exceptions, and is left out."""
        return self._shell("logcat", "-d", "-b", "crash", "-v", "raw", "-s", "AndroidRuntime:E")[1]

    def _require(self) -> None:
        """Something failed: that may only be laid to the app's charge if the device is there."""
        there, said = self._adb("get-state")
        if not there or said != "device":
            raise Unusable(said)

    def _shell(self, *command: str) -> tuple[bool, str]:
        return self._adb("shell", *command)

    def _adb(self, *command: str, limit_s: float = ANSWER_S) -> tuple[bool, str]:
        """Whether adb did it, and what it said."""
        told = [] if command[0] in ("connect", "disconnect", "kill-server") else ["-s", self.serial]
        done = self._run(*told, *command, limit_s=limit_s)
        return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace").replace("\r\n", "\n").strip()

    def _run(self, *arguments: str, limit_s: float = ANSWER_S) -> "subprocess.CompletedProcess[bytes]":
        command = ["adb", "-L", f"localfilesystem:{self._home}/adb.sock", *arguments]
        environment = {**os.environ, "HOME": str(self._home)}
        try:
            return subprocess.run(command, env=environment, capture_output=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise Unusable(f"`adb {' '.join(arguments)}` has no answer after {limit_s:g} seconds") from None
