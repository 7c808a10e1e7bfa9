"""The folder of a new executor: every key is in its descriptor, and only names that work are taken."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from world import ulos

from ulos_stream.errors import ConfigurationError
from ulos_stream.executors.descriptor import ContainerDescriptor, ProcessDescriptor, read_descriptor
from ulos_stream.scaffold import Kind, described, scaffold


def keys(model: type[BaseModel]) -> set[str]:
    """The keys of a descriptor, those in its tables by their full names."""
    tables = {name: info.default for name, info in model.model_fields.items() if isinstance(info.default, BaseModel)}
    inner = {f"{name}.{key}" for name, table in tables.items() for key in type(table).model_fields}
    return {*model.model_fields} - {*tables, "environment"} | inner


@pytest.mark.parametrize("model", [ContainerDescriptor, ProcessDescriptor])
def test_a_new_descriptor_shows_every_key_below_its_meaning_with_its_true_default(
    model: type[ContainerDescriptor | ProcessDescriptor],
) -> None:
    [kind] = (word for word in ("container", "process") if word in model.__name__.lower())

    text = described(model, {"routing_key": "a", "kind": kind, "image": "i", "command": ["./run"]})

    shown = tomllib.loads(re.sub(r"(?m)^#(?=\w)", "", text))
    flat = {name: value for name, value in shown.items() if not isinstance(value, dict)}
    flat |= {f"sandbox.{name}": value for name, value in shown["sandbox"].items()}
    assert flat.keys() == keys(model)
    assert flat.pop("routing_key_prefix")  # a descriptor has one of the two
    given = {name: value for name, value in shown.items() if name != "routing_key_prefix"}
    read = model.model_validate(given)
    least = {name: shown[name] for name in ("routing_key", "kind", "image", "command") if name in model.model_fields}
    default = model.model_validate(least)
    examples = {"working_dir", "environment", "device", "at_once"}
    assert read.model_dump(exclude={*examples, "sandbox"}) == default.model_dump(exclude={*examples, "sandbox"})
    assert read.sandbox.model_dump(exclude={"runtime"}) == default.sandbox.model_dump(exclude={"runtime"})
    for line, before in zip(text.splitlines()[2:], text.splitlines()[1:], strict=False):
        assert before.startswith("# ") or not re.match(r"#?\w+ = (?!\"500\")", line), f"{line!r} says not what it is"


@pytest.mark.parametrize("kind", ["container", "process"])
def test_a_new_descriptor_is_right_as_it_is(tmp_path: Path, kind: Kind) -> None:
    folder = scaffold("word-count", kind, tmp_path)

    descriptor = read_descriptor(folder / "executor.toml")

    assert (descriptor.routing_key, descriptor.kind) == ("word-count", kind)
    assert descriptor.passes == ("both" if kind == "container" else "exit-code")
    assert descriptor.description == "Passes submissions whose report.txt says something."
    assert "{{" not in "".join(file.read_text() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("Word-Count", "container", "take lower-case letters, digits and single hyphens, like word-count"),
        ("word_count", "process", "take lower-case letters"),
        ("../word-count", "process", "take lower-case letters"),
        ("word--count", "inline", "take lower-case letters"),
        ("1st", "container", "take lower-case letters"),
        ("", "container", "take lower-case letters"),
        ("a" * 61, "container", "60 at most"),
        ("skip", "container", "is a mock's"),
        ("class", "inline", "is Python's own"),
        ("json", "inline", "is Python's own"),
    ],
)
def test_a_name_that_would_not_work_is_refused(tmp_path: Path, name: str, kind: Kind, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        scaffold(name, kind, tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["container", "process", "inline"])
def test_nothing_is_overwritten(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "word-count").mkdir()

    with pytest.raises(ConfigurationError, match="word-count is there already; remove it"):
        scaffold("word-count", kind, tmp_path)

    assert list((tmp_path / "word-count").iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="file/word-count cannot be written: Not a directory"):
        scaffold("word-count", "process", tmp_path / "file")


async def test_the_command_names_what_it_wrote(tmp_path: Path) -> None:
    ended = await ulos("executor", "new", "word-count", "--kind", "process", "--into", str(tmp_path))

    folder = tmp_path / "word-count"
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == sorted(str(path) for path in folder.rglob("*") if path.is_file())
    assert f"{folder}/samples/pass-a-report/report.txt" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Word",), "ulos: 'Word' will not do: take lower-case letters"),
        (("word", "--kind", "odd"), "'odd' is not one of 'container', 'process', 'inline'"),
        (("word", "--into", "/no/such/place"), "'/no/such/place' does not exist"),
    ],
)
async def test_what_is_wrong_ends_the_command_with_2(arguments: tuple[str, ...], said: str) -> None:
    ended = await ulos("executor", "new", *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in " ".join(ended.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This package as a wheel leaves it, byte code included."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    subprocess.run([*pip, site, Path(__file__).parent.parent], check=True, capture_output=True)
    return site


@pytest.mark.parametrize("kind", ["container", "process", "inline"])
async def test_an_installed_package_writes_the_same(installed: Path, tmp_path: Path, kind: Kind) -> None:
    scaffold("word-count", kind, tmp_path)
    (tmp_path / "again").mkdir()

    arguments = ("executor", "new", "word-count", "--kind", kind, "--into", str(tmp_path / "again"))
    ended = await ulos(*arguments, PYTHONPATH=str(installed), PYTHONSAFEPATH="1")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert files(tmp_path / "again" / "word-count") == files(tmp_path / "word-count")


def files(folder: Path) -> dict[str, tuple[str, bool]]:
    return {
        str(file.relative_to(folder)): (file.read_text(), os.access(file, os.X_OK))
        for file in folder.rglob("*")
        if file.is_file()
    }
