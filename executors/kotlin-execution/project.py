"""The student's project: built as the student, and what has come of it."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from judge import Check, Judge, walk

HANDED_ON = ("ANDROID_HOME", "ANDROID_SDK_ROOT", "GRADLE_RO_DEP_CACHE", "JAVA_HOME")
"""Variables of the image that a build needs."""
TASK = "--no-daemon --console=plain assembleDebug"
MOST_MISTAKES = 20
MOST_KEPT_BYTES = 4 * 1024 * 1024
"""Of what the build prints, the end."""
PREPARE = r"""
rm -rf "$0"
[ ! -f local.properties ] || sed -i '/^sdk[.]dir/d' local.properties
[ ! -f gradlew ] || sed -i 's/\r$//' gradlew
exec $BUILD
"""
"""What shipped as the build's result is none; where the SDK is on the student's machine is no use here; and a script
that Windows has been at would not start."""
MISTAKE = re.compile(
    r"^(?:e: |ERROR: ?)?(?:file://)?(?P<file>/\S+\.\w+):(?: \()?(?P<line>\d+)(?:[:,] ?\d+)?\S* "
    r"(?P<message>(?!warning:).+)$",
    re.MULTILINE,
)
"""A line of Kotlin (`e: file:///a.kt:1:2 …`, before 1.9 `e: /a.kt: (1, 2): …`), Java or the resource compiler."""
WENT_WRONG = re.compile(r"^\* What went wrong:\n(.+?)\n\n", re.MULTILINE | re.DOTALL)
"""Gradle's own summary."""


class Project:
    """A Gradle project in the student's copy of the submission.

    Args:
        judge: Who runs it.
        folder: Where it is in the submission; empty for the top.
        apk: What its build makes, from its folder.
    """

    def __init__(self, judge: Judge, folder: str, apk: str) -> None:
        self._judge = judge
        self._path = judge.copy / folder
        self.apk = self._path / apk

    def problem(self) -> str | None:
        """Why there is nothing to build; None if there is."""
        if any(self._path.glob("settings.gradle*")) or any(self._path.glob("build.gradle*")):
            return None
        found = sorted(path.parent for path in self._below(self._judge.copy) if path.match("settings.gradle*"))
        where = str(self._path.relative_to(self._judge.copy))
        expected = "at the top of the archive" if where == "." else f"in {where}/"
        hint = f" There is one in {found[0]}/." if found else ""
        return f"No settings.gradle or build.gradle {expected}.{hint} Pack the project's own folder."

    def build(self) -> list[Check]:
        """Build it as the student, to the end of all that the build starts; returns what is wrong."""
        given = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        kept = bytearray()
        with self._judge.start(
            ["sh", "-c", PREPARE, str(self.apk)],
            environment={**given, "BUILD": self._command()},
            cwd=self._path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            following = threading.Thread(target=_follow, args=(process.stdout, kept))
            following.start()
            exit_code = process.wait()
            self._judge.end()  # Gradle's daemon has the output open, too
            following.join()
        if exit_code == 0:
            return []
        printed = kept.decode(errors="replace")
        return list(self._mistakes(printed)) or [Check("the project builds", False, _summary(printed, exit_code))]

    def _command(self) -> str:
        wrapper = self._path / "gradle" / "wrapper" / "gradle-wrapper.jar"
        own = wrapper.is_file() and (self._path / "gradlew").is_file()
        return os.environ.get("BUILD") or f"{'sh gradlew' if own else 'gradle'} {TASK}"

    def _mistakes(self, printed: str) -> Iterator[Check]:
        seen: set[tuple[str, str, str]] = set()
        for found in MISTAKE.finditer(printed):
            place = found["file"].removeprefix(f"{self._judge.copy}/")
            if len(seen) < MOST_MISTAKES and (mistake := (place, found["line"], found["message"])) not in seen:
                seen.add(mistake)
                yield Check("the project builds", False, found["message"], place, int(found["line"]))

    def apk_problem(self) -> str | None:
        """Why there is no APK that can be installed; None if there is one."""
        expected = self.apk.relative_to(self._judge.copy)
        try:
            if self.apk.resolve(strict=True) == self._judge.copy.resolve() / expected and self.apk.is_file():
                with self.apk.open("rb") as file:
                    return None if file.read(2) == b"PK" else f"{expected} is no APK."
        except PermissionError:
            return f"{expected} cannot be read: the build gives it, or its folder, to nobody else."
        except (OSError, RuntimeError):  # none, or links in a circle
            pass
        others = sorted(path for path in self._below(self._path) if re.search(r"/outputs/apk/.*\.apk$", str(path)))
        hint = f" It made {others[0]}." if others else " Does the module apply com.android.application?"
        return f"The build made no {expected}.{hint}"

    def find(self, name: str | None) -> str | None:
        """The source file of that name, from the top of the submission."""
        found = sorted(path for path in self._below(self._judge.copy) if path.name == name)
        return str(found[0]) if found else name

    def _below(self, folder: Path) -> Iterator[Path]:
        """The files in a folder, from the top of the submission."""
        return (path.relative_to(self._judge.copy) for path in walk(folder))


def _follow(output: IO[bytes], kept: bytearray) -> None:
    """Print what a build prints, and keep the end of it."""
    while chunk := os.read(output.fileno(), 65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
        kept += chunk
        del kept[:-MOST_KEPT_BYTES]


def _summary(printed: str, exit_code: int) -> str:
    if exit_code == 127 and not shutil.which("gradle"):
        return (
            "There is no gradlew with gradle/wrapper/gradle-wrapper.jar, and the image has no gradle. Add both files."
        )
    if wrong := WENT_WRONG.search(printed):
        return wrong[1]
    return f"The build ended with exit code {exit_code}:\n" + "\n".join(printed.splitlines()[-20:])
