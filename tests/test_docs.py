"""The documentation site: it builds without a warning, needs no network, and does what it says.

Its blocks of commands are run as a reader would run them, page by page, but for those marked with what they need.
"""

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
import trustme
import yaml
from conftest import required
from test_asyncapi import run_node
from world import Proxy

from docs.generated import NEEDS, PARTS, entries, fill
from ulos_stream.errors import ServiceMissing
from ulos_stream.lab import Broker, FtpServer, Lab, pyftpd
from ulos_stream.settings import Node
from ulos_stream.tasks import Event

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "site" not in page.relative_to(DOCS).parts)
BLOCK = re.compile(r"^```(sh|python|text)(?: (\S+))?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SHELL = re.compile(
    r"^```sh(?: \S+)?\n(.*?)^```$|^ {4}((?:ulos|make|\.venv/bin/ulos) .*)$", flags=re.DOTALL | re.MULTILINE
)
LIMIT_S = 60
"""For the commands of one page."""
MAY_NEED = {
    "needs-cluster": {"helm", "kubectl"},
    "needs-registry": {"docker", "make"},
    "needs-root": {"apt-get", "install", "make", "systemctl", "useradd"},
    "needs-servers": {"rabbitmqctl", "ulos"},
}
"""Which programs a block with a mark may call: no others are spared from being run."""


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, mark and text of each block that is one of commands or shows what they print."""
    return [(language, mark, text) for language, mark, text in BLOCK.findall(page.read_text())]


RUN = [page for page in PAGES if any(language != "text" and not mark for language, mark, _ in blocks(page))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's folder, built as `make docs` does; warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--fail-on-warning", "--nitpicky", "--doctree-dir", str(folder / "doctrees")]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder / "site"


class Links(HTMLParser):
    """What a page refers to, and what it can be referred to by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value is not None}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a":
            self.links |= {values["href"]} if "href" in values else set()
        else:
            self.loads |= {values[name] for name in ("href", "src", "data", "action") if name in values}


def test_every_link_of_the_site_leads_to_something_in_it(site: Path) -> None:
    pages = {page: Links(page.read_text()) for page in site.rglob("*.html")}

    lost = [
        (page.relative_to(site).as_posix(), link)
        for page, found in pages.items()
        for link in found.links | found.loads
        if not leads(page, link, pages)
    ]

    assert len(pages) > 25
    assert lost == []


def leads(page: Path, link: str, pages: dict[Path, Links]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or link == "#":  # of another place, or the script's own
        return True
    target = Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page
    return target.exists() and (
        not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids
    )


def test_no_page_loads_anything_from_another_place(site: Path) -> None:
    loads = {
        (page.name, load)
        for page in site.rglob("*.html")
        for load in Links(page.read_text()).loads
        if urlsplit(load).scheme not in ("", "data")
    }
    styles = {
        (style.name, url)
        for style in site.rglob("*.css")
        for url in re.findall(r"url\(['\"]?(https?:[^)]+)", style.read_text())
    }

    assert loads == set()
    assert styles == set()


@pytest.fixture(scope="module")
def seen(site: Path) -> dict[str, Any]:
    """What a headless Chromium without a network saw of every page, by its path."""
    with required():
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            raise ServiceMissing("there is no Chromium to look at the site with: .ci/services.sh docs")
    return run_node("look-at-site.mjs", site, CHROMIUM=browser)


def test_a_browser_without_a_network_shows_every_page_and_complains_of_nothing(
    seen: dict[str, Any], site: Path
) -> None:
    assert len(seen["pages"]) == len([page for page in site.rglob("*.html") if page.parent.name != "asyncapi"])
    assert seen["outside"] == []
    assert seen["complaints"] == []


def test_no_page_is_wider_than_a_phone_or_a_desk(seen: dict[str, Any]) -> None:
    assert [(page, width) for page, widths in seen["pages"].items() for width, px in widths.items() if px > 0] == []


def test_the_search_finds_a_page_without_a_server(seen: dict[str, Any]) -> None:
    assert "Recover" in seen["found"]


def test_every_page_that_is_generated_in_part_says_something_there() -> None:
    assert [name for name, make in PARTS.items() if len(make()) < 200] == []


def test_the_page_of_events_has_all_of_them_in_order() -> None:
    table = (DOCS / "reference/events.md").read_text()

    told = [
        name for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]

    assert told == list(get_args(Event))


def test_the_storages_that_are_told_of_can_be_set() -> None:
    text = (DOCS / "reference/storage.md").read_text()

    urls = re.findall(r"^\| `(\w+://\S*?)`", text, flags=re.MULTILINE)

    assert len(urls) >= 3
    assert [Node(storage_url=url).storage_url for url in urls] == urls


def test_the_values_that_are_shown_fit_the_chart() -> None:
    [shown] = re.findall(r"```yaml\n# lab.yaml\n(.*?)```", (DOCS / "how-to/cluster.md").read_text(), flags=re.DOTALL)
    schema = json.loads((ROOT / "helm/ulos-stream/values.schema.json").read_text())
    defaults = yaml.safe_load((ROOT / "helm/ulos-stream/values.yaml").read_text())

    values = yaml.safe_load(shown)

    assert values.keys() <= defaults.keys()
    jsonschema.validate({**defaults, **{key: merged(defaults[key], value) for key, value in values.items()}}, schema)


def merged(default: Any, value: Any) -> Any:
    """As Helm lays values over the chart's own."""
    return {**default, **value} if isinstance(default, dict) else value


def test_a_table_of_names_becomes_a_list() -> None:
    table = "| key | takes | default | meaning |\n|---|---|---|---|\n"
    table += "| `a` | text \\| list |  | One. |\n| `b` |  | `1` | Two. |\n"

    listed = entries(table)

    assert listed == "`a` · text \\| list\n: One.\n\n`b` · default `1`\n: Two.\n\n"


def test_a_missing_heading_is_told() -> None:
    with pytest.raises(ValueError, match=r"README\.md has no heading 'Nowhere'"):
        fill("<!-- from README.md: Nowhere -->", "index")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_needs_what_its_mark_says(page: Path) -> None:
    wrong = []
    for language, mark, text in blocks(page):
        assert not mark or (language == "sh" and mark in NEEDS), f"{page}: {mark}"
        called = {line.split()[0] for line in text.replace("\\\n", " ").splitlines() if line.strip() and line[0] != "#"}
        wrong += sorted(called - MAY_NEED[mark]) if mark else []

    assert MAY_NEED.keys() == NEEDS.keys()
    assert wrong == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_ulos_command_that_is_shown_exists(page: Path) -> None:
    known = options()
    wrong = []
    for block, line in SHELL.findall(page.read_text()):
        for words in re.findall(r"(?:^|[;(|]|do|\$\()\s*ulos ([^\n|;)]*)", block or line, flags=re.MULTILINE):
            begins = (name for name in sorted(known, key=len, reverse=True) if f"{words} ".startswith(f"{name} "))
            name, given = next(begins, ""), re.findall(r"(?:^|\s)(--[a-z][a-z-]*)", words)
            is_group = "COMMAND [ARGS]" in known[name]  # which does nothing by itself
            wrong += [f"ulos {words}"] if is_group and not words.startswith("--") else []
            wrong += [f"ulos {name} {option}" for option in given if option not in known[name]]

    assert wrong == []


def options() -> dict[str, str]:
    """The help of each command, by the words that call it."""
    golden = (ROOT / "tests/golden/cli.txt").read_text()
    parts = re.split(r"^\$ ulos ?(.*?) ?--help$", golden, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@contextlib.asynccontextmanager
async def served(page: Path, broker: Broker, storage: FtpServer, folder: Path) -> AsyncIterator[Lab]:
    """What the page's reader has; both with certificates, by the authority `ca.pem`, for the page about those."""
    if page.stem != "tls":
        yield Lab(broker, storage)
        return
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate, context = authority.issue_cert("localhost"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    async with Proxy(broker.host, broker.port, context).listening() as proxy:
        with pyftpd(tls=certificate) as encrypted:
            encrypted.host = "localhost"
            yield Lab(dataclasses.replace(broker, host="localhost", port=proxy.port), encrypted)


@pytest.mark.parametrize("page", RUN, ids=name_of)
async def test_the_commands_of_a_page_do_what_it_says(
    page: Path, managed_broker: Broker, pyftpd_server: FtpServer, tmp_path: Path
) -> None:
    script = "".join(
        text if language == "sh" else f"python - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n"
        for language, mark, text in blocks(page)
        if language != "text" and not mark
    )
    shown = [line for language, _, text in blocks(page) if language == "text" for line in text.splitlines()]
    ours = {
        "ULOS_VIRTUAL_HOST": virtual_host(managed_broker),
        "ULOS_MANAGEMENT_URL": managed_broker.management_url or "",
    }
    for folder in ("samples", "executors"):
        (tmp_path / folder).symlink_to(ROOT / folder)

    async with served(page, managed_broker, pyftpd_server, tmp_path) as lab:
        node = lab.environment("processing-queue", **ours)
        (tmp_path / "node.env").write_text("".join(f"export {name}='{value}'\n" for name, value in node.items()))
        code, printed = await run_script(script, tmp_path)

    absent = [line for line in shown if not re.search(pattern(line), printed, flags=re.MULTILINE)]
    assert (code, absent) == (0, []), printed


async def run_script(script: str, folder: Path) -> tuple[int, str]:
    """Run it in a shell; returns its exit code and what it printed, once it and all it left behind have ended."""
    reads, writes = os.pipe()  # which ends when the last of those that have inherited it does
    output = folder / "printed.log"
    with output.open("wb") as file:
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-eu", "-o", "pipefail", "-c", script),
            cwd=folder,
            env={
                "HOME": str(folder),
                "TMPDIR": str(folder),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "COLUMNS": "200",
            },
            start_new_session=True,
            pass_fds=[writes],
            stdout=file,
            stderr=file,
        )
    os.close(writes)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(shell.wait(), LIMIT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
    await asyncio.to_thread(os.read, reads, 1)
    os.close(reads)
    return await shell.wait(), output.read_text()


def pattern(line: str) -> str:
    """A shown line as a regular expression: `…` stands for anything."""
    return "^" + ".*".join(re.escape(part) for part in line.split("…")) + "$"


def virtual_host(broker: Broker) -> str:
    """A new one, which a page has for itself."""
    name = f"docs-{secrets.token_hex(4)}"
    for path, body in (
        (f"vhosts/{name}", {}),
        (f"permissions/{name}/{broker.username}", {"configure": ".*", "write": ".*", "read": ".*"}),
    ):
        request = urllib.request.Request(f"{broker.management_url}/api/{path}", json.dumps(body).encode(), method="PUT")
        credentials = base64.b64encode(f"{broker.username}:{broker.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request).close()
    return name
