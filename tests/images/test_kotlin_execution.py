"""What the image says of an Android project, on stand-ins for Gradle and adb: see `stand_ins/kotlin-execution`.

The real adb is asked once, where no device is.
"""

import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ulos_stream import shipped
from ulos_stream.executors.descriptor import ContainerDescriptor, read_descriptor
from ulos_stream.images import build

SOURCE = "app/src/main/java/com/example/budgetbuddy/MainActivity.kt"
DEBUG = "app/build/outputs/apk/debug"
APK = f"mkdir -p {DEBUG}; echo PK >{DEBUG}/app-debug.apk"


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    printed: str
    checks: list[dict[str, Any]]
    calls: list[str]
    results: set[str]

    def failed(self) -> tuple[str, str, str | None, int | None]:
        """Name, message, file and line of the one check that failed."""
        (check,) = (check for check in self.checks if check["status"] == "failed")
        return check["name"], check["message"], check["file"], check["line"]


@pytest.fixture
def project(tmp_path: Path, built: Callable[[str], Path]) -> Path:
    """A copy of the good sample."""
    return Path(shutil.copytree(built("kotlin-execution") / "samples" / "pass", tmp_path / "project"))


@pytest.fixture
def judged(tmp_path: Path, built: Callable[[str], Path]) -> Callable[..., Outcome]:
    """Runs the image on a project, as its descriptor says, but for the network."""
    descriptor = read_descriptor(built("kotlin-execution") / "executor.toml")
    assert isinstance(descriptor, ContainerDescriptor)

    def judged(project: Path, *, image: str = descriptor.image, **environment: str) -> Outcome:
        (tmp_path / "calls").mkdir()
        given = {
            "INNER_DIR": "",
            "APK_REL": "/app/build/outputs/apk/debug/app-debug.apk",
            "PACKAGE": "com.example.budgetbuddy.MainActivity",
            "ADB_HOST": "127.0.0.1",
            "ADB_PORT": "5555",
            "CALLS": "/calls/calls",
            **environment,
        }
        command = ["docker", "run", "--rm", "--init", "--network", "none", "--user", "0:0", "--cap-drop", "ALL"]
        command += ["--cap-add", "SETUID", "--cap-add", "SETGID", "-w", "/app", "-v", f"{tmp_path}/calls:/calls"]
        command += [f"--env={name}={value}" for name, value in given.items()]
        done = subprocess.run(
            [*command, "-v", f"{project}:/app", image, "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        calls = tmp_path / "calls" / "calls"
        report = project / "results" / "report.json"
        assert (project / "results" / "passed.log").exists() == (done.returncode == 0)
        return Outcome(
            done.returncode,
            done.stdout,
            json.loads(report.read_text())["checks"] if report.exists() else [],
            calls.read_text().splitlines() if calls.exists() else [],
            {path.name for path in (project / "results").iterdir()},
        )

    return judged


def change(project: Path, old: str, new: str) -> None:
    source = (project / SOURCE).read_text()
    assert old in source
    (project / SOURCE).write_text(source.replace(old, new))


def test_an_image_on_stand_ins_has_not_the_name_of_the_real_one(built: Callable[[str], Path]) -> None:
    tried, real = (
        read_descriptor(folder / "executor.toml")
        for folder in (built("kotlin-execution"), shipped("executors") / "kotlin-execution")
    )

    assert isinstance(tried, ContainerDescriptor)
    assert isinstance(real, ContainerDescriptor)
    assert tried.image.startswith("ulos-test/")
    assert tried.model_copy(update={"image": real.image}) == real


def test_a_good_app_is_built_installed_launched_and_taken_away(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project)

    assert outcome.exit_code == 0, outcome.printed
    assert [(check["name"], check["status"]) for check in outcome.checks] == [
        ("the project builds", "passed"),
        ("there is an APK", "passed"),
        ("the app can be installed", "passed"),
        ("the app can be launched", "passed"),
        ("the app lives for 5 seconds", "passed"),
    ]
    assert "on sdk_gphone64_x86_64, Android 15" in outcome.printed
    assert "BUILD SUCCESSFUL" in outcome.printed
    assert outcome.results == {"passed.log", "report.json", "report.md", "screenshot.png"}
    package = "com.example.budgetbuddy"
    assert f"-s 127.0.0.1:5555 shell am start -W -n {package}/{package}.MainActivity" in outcome.calls
    assert outcome.calls[-3:] == [f"-s 127.0.0.1:5555 uninstall {package}", "disconnect 127.0.0.1:5555", "kill-server"]


def test_what_does_not_compile_is_told_by_line(project: Path, judged: Callable[..., Outcome]) -> None:
    change(project, "spent.values", "spend.values")

    outcome = judged(project)

    assert outcome.exit_code == 1
    assert outcome.failed() == ("the project builds", "Unresolved reference 'spend'.", SOURCE, 12)
    assert not any("install -r" in call for call in outcome.calls)
    assert outcome.calls[-2:] == ["disconnect 127.0.0.1:5555", "kill-server"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("e: file:///tmp/submission/a/b.kt:12:5 Unresolved reference 'x'.", "Unresolved reference 'x'."),
        ("e: /tmp/submission/a/b.kt: (12, 5): Unresolved reference: x", "Unresolved reference: x"),
        ("/tmp/submission/a/b.kt:12: error: ';' expected", "error: ';' expected"),
        ("ERROR: /tmp/submission/a/b.kt:12:5-20: AAPT: error: not found.", "AAPT: error: not found."),
        ("ERROR:/tmp/submission/a/b.kt:12:5-20: AAPT: error: not found.", "AAPT: error: not found."),
    ],
    ids=["Kotlin 2", "Kotlin 1", "Java", "resources", "resources, older"],
)
def test_each_compiler_s_errors_are_read(
    line: str, message: str, project: Path, judged: Callable[..., Outcome]
) -> None:
    warnings = ["w: file:///tmp/submission/a/b.kt:1:1 Unused.", "/tmp/submission/a/b.kt:1: warning: [removal] x"]
    (project / "lie").write_text("\n".join(["cat <<'END'", *warnings, line, line, "END", "exit 1"]))

    outcome = judged(project, BUILD="sh lie")

    assert outcome.failed() == ("the project builds", message, "a/b.kt", 12)


def test_gradle_s_own_words_are_told_where_no_file_is_named(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, ANDROID_HOME="/nowhere")

    name, message, *_ = outcome.failed()
    assert name == "the project builds"
    assert message == "SDK location not found. Define a valid SDK location with ANDROID_HOME."


def test_a_crash_at_launch_is_told_with_its_trace_and_line(project: Path, judged: Callable[..., Outcome]) -> None:
    change(project, "spent.values.sum()", 'spent.getValue("travel")')

    outcome = judged(project)

    name, message, file, line = outcome.failed()
    assert outcome.exit_code == 1
    assert (name, file, line) == ("the app lives for 5 seconds", SOURCE, 12)
    assert message.startswith("FATAL EXCEPTION: main")
    assert "Key travel is missing" in message
    assert "Key old" not in message
    assert "screenshot.png" in outcome.results
    assert outcome.calls[-2:] == ["disconnect 127.0.0.1:5555", "kill-server"]


def test_an_app_that_ends_by_itself_is_not_alive(project: Path, judged: Callable[..., Outcome]) -> None:
    change(project, "super.onCreate", "finish(); super.onCreate")

    outcome = judged(project)

    assert outcome.failed()[:2] == (
        "the app lives for 5 seconds",
        "It has ended without an exception. Does something call finish() or exitProcess()?",
    )


def test_an_activity_that_is_not_there_cannot_be_launched(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, PACKAGE="org.example.other.MainActivity")

    name, message, *_ = outcome.failed()
    assert name == "the app can be launched"
    assert "Activity class {org.example.other/org.example.other.MainActivity} does not exist" in message


def test_an_activity_in_a_package_below_can_be_named(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, PACKAGE="com.example.budgetbuddy/com.example.budgetbuddy.ui.MainActivity")

    assert outcome.exit_code == 0
    assert any("-n com.example.budgetbuddy/com.example.budgetbuddy.ui.MainActivity" in call for call in outcome.calls)
    assert "-s 127.0.0.1:5555 uninstall com.example.budgetbuddy" in outcome.calls


def test_a_refused_app_fails_with_the_device_s_reason(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, STAND_IN="INSTALL_FAILED_OLDER_SDK")

    name, message, *_ = outcome.failed()
    assert name == "the app can be installed"
    assert message == "The device refuses it: INSTALL_FAILED_OLDER_SDK: as it was told"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refused", "failed to connect to '127.0.0.1:5555': Connection refused"),
        ("unauthorized", "failed to authenticate"),
        ("offline", "adb: device offline"),
        ("gone", "device '127.0.0.1:5555' not found"),
        ("INSTALL_FAILED_INSUFFICIENT_STORAGE", "its storage is full"),
    ],
)
def test_a_device_that_fails_is_no_verdict(
    fault: str, said: str, project: Path, judged: Callable[..., Outcome]
) -> None:
    outcome = judged(project, STAND_IN=fault)

    assert outcome.exit_code == 70
    assert re.search(f"The device at 127.0.0.1:5555 cannot be used: .*{re.escape(said)}", outcome.printed)
    assert "Traceback" not in outcome.printed
    assert outcome.checks == []
    assert outcome.calls[-2:] == ["disconnect 127.0.0.1:5555", "kill-server"]


def test_a_device_that_is_not_there_is_not_waited_for(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, STAND_IN="refused")

    assert not any("uninstall" in call for call in outcome.calls)


def test_a_device_that_boots_is_waited_for(project: Path, judged: Callable[..., Outcome]) -> None:
    assert judged(project, STAND_IN="boots").exit_code == 0


def test_a_missing_screenshot_fails_nothing(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, STAND_IN="blind")

    assert outcome.exit_code == 0
    assert outcome.checks[-1]["status"] == "warning"


def test_a_project_elsewhere_in_the_archive_is_named(
    project: Path, tmp_path: Path, judged: Callable[..., Outcome]
) -> None:
    above = tmp_path / "above"
    shutil.move(project, above / "mine")
    (above / "readme.txt").write_text("see mine/")

    outcome = judged(above)

    name, message, *_ = outcome.failed()
    assert name == "there is a project"
    assert "There is one in mine/" in message


def test_a_project_in_a_folder_is_built_there(project: Path, tmp_path: Path, judged: Callable[..., Outcome]) -> None:
    above = tmp_path / "above"
    shutil.move(project, above / "mine")

    outcome = judged(above, INNER_DIR="mine/")

    assert outcome.exit_code == 0, outcome.printed


def test_the_project_s_own_wrapper_is_used_even_with_the_line_ends_of_windows(
    project: Path, judged: Callable[..., Outcome]
) -> None:
    (project / "gradle" / "wrapper").mkdir(parents=True)
    (project / "gradle" / "wrapper" / "gradle-wrapper.jar").write_text("stands for the wrapper")
    (project / "gradlew").write_bytes(b'#!/bin/sh\r\necho "its own"\r\nexec gradle "$@"\r\n')
    (project / "local.properties").write_text("sdk.dir=C\\:\\\\Users\\\\ada\\\\Sdk\n")

    outcome = judged(project)

    assert outcome.exit_code == 0, outcome.printed
    assert "its own" in outcome.printed


def test_the_lab_can_say_how_to_build(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, BUILD="gradle --offline assembleDebug -Pa=b")

    assert outcome.exit_code == 0, outcome.printed


def test_a_build_elsewhere_is_hinted_at(project: Path, judged: Callable[..., Outcome]) -> None:
    outcome = judged(project, APK_REL="/mobile/build/outputs/apk/debug/mobile-debug.apk")

    name, message, *_ = outcome.failed()
    assert name == "there is an APK"
    assert message == (
        "The build made no mobile/build/outputs/apk/debug/mobile-debug.apk."
        " It made app/build/outputs/apk/debug/app-debug.apk."
    )


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "The build made no app/build"),
        ("mkdir -p app/build/outputs/apk/debug; echo no >app/build/outputs/apk/debug/app-debug.apk", "is no APK"),
        (
            "mkdir -p app/build/outputs/apk/debug; ln -s /etc/passwd app/build/outputs/apk/debug/app-debug.apk",
            "made no",
        ),
        (f"{APK}; chmod 600 {DEBUG}/app-debug.apk", "app-debug.apk cannot be read"),
        (f"{APK}; chmod 700 {DEBUG}", "app-debug.apk cannot be read"),
        (f"mkdir -p {DEBUG}; ln -s app-debug.apk {DEBUG}/app-debug.apk", "made no"),
        (
            'python3 -c \'import os\nfor _ in range(1500): os.mkdir("d"); os.chdir("d")\'',
            "The build made no app/build",
        ),
        ("for d in /app/results results; do mkdir -p $d; touch $d/passed.log; done", "The build made no app/build"),
        ("adb connect 127.0.0.1:5555; adb kill-server; kill -9 -1", "The build made no app/build"),
        ("cat /tmp/judge-*/* && touch /tmp/judge-*/stolen", "exit code 1"),
    ],
    ids=[
        "exits early",
        "no APK",
        "a link",
        "a closed file",
        "a closed folder",
        "a link to itself",
        "deep",
        "plants a verdict",
        "kills",
        "peeks",
    ],
)
def test_a_build_that_lies_passes_nothing(
    script: str, said: str, project: Path, judged: Callable[..., Outcome]
) -> None:
    (project / "lie").write_text(script)

    outcome = judged(project, BUILD="sh lie")

    assert outcome.exit_code == 1
    assert said in outcome.failed()[1]


def test_an_apk_that_came_along_is_none(project: Path, judged: Callable[..., Outcome]) -> None:
    (project / "app" / "build" / "outputs" / "apk" / "debug").mkdir(parents=True)
    (project / "app" / "build" / "outputs" / "apk" / "debug" / "app-debug.apk").write_bytes(b"PK")

    outcome = judged(project, BUILD="true")

    assert outcome.failed()[0] == "there is an APK"


def test_the_real_adb_finds_no_device_where_none_is(
    tmp_path: Path, project: Path, judged: Callable[..., Outcome], real: str
) -> None:
    outcome = judged(project, image=real, ADB_PORT="9")

    assert outcome.exit_code == 70
    assert "cannot be used" in outcome.printed
    assert "failed to connect to '127.0.0.1:9': Connection refused" in outcome.printed


@pytest.fixture(scope="session")
def real(built: Callable[[str], Path]) -> Iterator[str]:
    """The image on a base without a stand-in: with Debian's adb."""
    image = f"ulos-test/android-deployer-{secrets.token_hex(8)}"
    build(built("kotlin-execution"), image, base="ulos-debian")
    yield image
    subprocess.run(["docker", "rmi", image], capture_output=True, check=True)
