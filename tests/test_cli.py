"""The `ulos` command as a whole: its help is golden, its completion works, and it starts quickly."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from generated import refresh
from world import ulos

from ulos_stream.cli import app
from ulos_stream.commands import one_line, plain

GOLDEN = Path(__file__).parent / "golden" / "cli.txt"


def commands() -> list[list[str]]:
    """Every command, by the words that call it."""
    own = [[command.name or command.callback.__name__] for command in app.registered_commands if command.callback]
    groups = [(group.name or "", group.typer_instance) for group in app.registered_groups]
    inner = [
        [name, command.name or command.callback.__name__]
        for name, group in groups
        if group is not None
        for command in group.registered_commands
        if command.callback
    ]
    return [[], *own, *([name] for name, _ in groups), *inner]


async def test_the_help_of_every_command_is_as_written_down() -> None:
    text = ""
    for words in commands():
        helped = await ulos(*words, "--help", COLUMNS="100", NO_COLOR="1")
        assert helped.returncode == 0, helped.stderr
        text += f"$ {' '.join(['ulos', *words, '--help'])}\n\n{helped.stdout}\n\n"

    refresh(GOLDEN, text)


async def test_the_version_is_told_without_loading_what_the_commands_need() -> None:
    heavy = ("aio_pika", "aiodocker", "aioftp", "faststream", "pydantic", "rich", "structlog")
    program = f"import sys, ulos_stream.cli; print([name for name in {heavy} if name in sys.modules])"

    told = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True)

    assert told.stdout == "[]\n"


async def test_a_shell_is_offered_commands_and_options() -> None:
    offered = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", "import sys; sys.argv[0] = 'ulos'; from ulos_stream.cli import main; main()"],
        env={"PATH": os.environ["PATH"], "_ULOS_COMPLETE": "complete_bash", "COMP_WORDS": "ulos do", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
    )

    assert offered.stdout.split() == ["doctor"]


async def test_an_unknown_command_ends_with_2() -> None:
    ended = await ulos("observe")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "No such command 'observe'" in ended.stderr


def test_text_of_others_is_harmless() -> None:
    assert plain("a\x1b[2J\x07\nb\u202e\ud800") == "a\\x1b[2J\\x07\nb\\u202e\\ud800"
    assert one_line("a\n\t b\r") == "a b\\r"
