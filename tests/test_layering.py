"""The house has one direction: imports go down the layers, and every outside thing has one home."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ulos_stream"

LAYERS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"demo", "docs", "trial", "scaffold", "templates"},
    {"app"},
    {"parts"},
    {"http"},
    {"node"},
    {"asyncapi", "events", "readiness", "feed", "linting", "doctor"},
    {"publishing"},
    {"producer"},
    {"settings"},
    {"crashes"},
    {"topology"},
    {"pipeline"},
    {"lab"},
    {"workspace"},
    {"storage", "archive", "journal", "executors", "admission", "telemetry", "images"},
    {"retry"},
    {"routing"},
    {"tasks"},
    {"errors", "pages", "capacity"},
]
"""From top to bottom; a module may import from lower layers and from its own package."""

HOMES = {
    "faststream": {"app", "parts", "node", "events", "publishing", "producer", "topology"},
    "aiormq": {"node", "publishing", "producer", "topology"},
    "aio_pika": {"node", "producer", "topology", "demo"},
    "aioftp": {"storage"},
    "asyncssh": {"storage"},
    "obstore": {"storage"},
    "aiodocker": {"executors"},
    "pydantic_settings": {"settings"},
    "structlog": {"telemetry"},
    "opentelemetry": {"telemetry"},
    "prometheus_client": {"telemetry"},
    "aiohttp": {"http", "executors"},
    "lightkube": {"executors"},
    "httpx2": {"executors"},
    "pyftpdlib": {"lab"},
    "typer": {"cli", "commands"},
    "rich": {"demo", "commands"},
}
"""Which modules may import an outside package."""


def _level(room: str) -> int:
    return next(level for level, rooms in enumerate(LAYERS) if room in rooms)


def _room(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(module: Path) -> set[str]:
    found = set()
    for statement in ast.walk(ast.parse(module.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if _room(path) != "__init__"]
ROOMS = {_room(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_layers(module: Path) -> None:
    room = _room(module)

    rooms = {name.split(".")[1] for name in _imports(module) if name.startswith("ulos_stream.")}

    assert [other for other in rooms & ROOMS - {room} if _level(other) <= _level(room)] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_outside_package_is_imported_only_in_its_home(module: Path) -> None:
    room = _room(module)

    outside = {name.split(".")[0] for name in _imports(module)} & HOMES.keys()

    assert [package for package in outside if room not in HOMES[package]] == []
