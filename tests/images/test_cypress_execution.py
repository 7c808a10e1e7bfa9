"""What the image of `cypress-execution` says of submissions, beyond the verdicts of its samples."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trial import Ending, Trial, a_trial

KEY = "cypress-execution"
BUILDING_S = 900
"""Seconds for the first test, which builds the image: 300 MB are fetched, where they are not cached."""
PASSES = "it('passes', () => {})\n"

pytestmark = pytest.mark.timeout(BUILDING_S)


@pytest.fixture(scope="module")
def folder(built: Callable[[str], Path]) -> Path:
    return built(KEY)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Trial]:
    with a_trial(tmp_path_factory.mktemp("node")) as trial:
        yield trial


@pytest.fixture
def ended(trial: Trial, tmp_path: Path) -> Callable[..., Ending]:
    def ended(files: dict[str, str]) -> Ending:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return trial.ended(KEY, tmp_path)

    return ended


def checks(ending: Ending) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ending.result["results/report.json"])["checks"]
    return found


def test_a_failure_has_a_place_a_reason_and_a_picture(trial: Trial, folder: Path) -> None:
    ending = trial.ended(KEY, folder / "samples" / "fail")

    failed, passed = sorted(checks(ending), key=lambda check: check["status"])
    assert (passed["name"], passed["status"]) == ("the shopping list > starts empty", "passed")
    assert (failed["name"], failed["status"]) == ("the shopping list > counts what is left to buy", "failed")
    assert (failed["file"], failed["line"]) == ("cypress/e2e/list.cy.js", 14)
    assert "to have text '2', but the text was '1'" in failed["message"]
    picture = "cypress/screenshots/list.cy.js/the shopping list -- counts what is left to buy (failed).png"
    content = ending.result[f"results/{picture}"]
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000
    report = ending.result["results/report.md"].decode()
    (shown,) = re.findall(r"!\[\]\((.+)\)", report)
    assert shown.replace("%20", " ").replace("%28", "(").replace("%29", ")") == picture


def test_the_output_is_plain_text_without_the_noise_of_a_browser(trial: Trial, folder: Path) -> None:
    ending = trial.ended(KEY, folder / "samples" / "fail-syntax-error")

    (output,) = (text.decode() for name, text in ending.result.items() if name.startswith("output_"))
    assert "Unexpected token" in output
    assert "FAIL: 0 of 1 checks passed" in output
    assert not re.findall(r"\x1b|dbus|DevTools|tput|node_bindings|/opt/cypress", output)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("setupNodeEvents(on) { on('before:spec', () => process.exit(0)) }", "remove process.exit() from it"),
        ("setupNodeEvents() { throw new Error('no such luck') }", "no such luck"),
        ("baseUrl: 'http://localhost:3000'", "could not verify that this server is running"),
        ("excludeSpecPattern: '**/a.*'", "told to leave it out"),
    ],
)
def test_a_configuration_that_keeps_specs_from_running_is_told_why(
    config: str, told: str, ended: Callable[..., Ending]
) -> None:
    files = {"cypress/e2e/a.cy.js": PASSES, "cypress/e2e/b.cy.js": PASSES}

    ending = ended({**files, "cypress.config.js": f"module.exports = {{ e2e: {{ {config} }} }}"})

    (failed,) = (check for check in checks(ending) if check["status"] == "failed")
    assert ending.word == "fail"
    assert told in failed["message"]


def test_a_configuration_may_be_a_module_and_serve_the_site(ended: Callable[..., Ending]) -> None:
    config = """
        import { createServer } from 'node:http'
        import { defineConfig } from 'cypress'

        createServer((request, response) => response.end('<h1>served</h1>')).listen(3000)
        export default defineConfig({ e2e: { baseUrl: 'http://localhost:3000' } })
    """

    ending = ended(
        {
            "package.json": '{"type": "module"}',
            "cypress.config.js": config,
            "cypress/e2e/a.cy.js": "it('visits it', () => { cy.visit('/'); cy.contains('h1', 'served') })",
        }
    )

    assert ending.word == "pass", ending.text


def test_a_shell_of_a_spec_s_is_not_the_judge_s_user_and_writes_nothing_of_the_result(
    ended: Callable[..., Ending],
) -> None:
    spec = """
    it('has a shell', () => {
      cy.exec('id -u').its('stdout').should('equal', '65533')
      cy.exec('touch /mnt/tests/results/passed.log', { failOnNonZeroExit: false }).its('code').should('equal', 1)
      cy.exec('mkdir -p cypress/screenshots && cd cypress/screenshots && touch first.png && ' +
        `python3 -c 'import os\nfor _ in range(1500): os.mkdir("d"); os.chdir("d")'`)
    })
    """

    ending = ended({"index.html": "", "cypress/e2e/a.cy.js": spec})

    assert ending.word == "pass", ending.text
    assert [name for name in ending.result if name.endswith(".png")] == ["results/cypress/screenshots/first.png"]


def test_the_source_of_a_spec_shows_which_tests_are_certain_to_run(folder: Path, tmp_path: Path) -> None:
    sources = {
        "groups.cy.js": """describe('a', () => {
                             context.skip('b', function () { it('c') })
                             it.only(`d`, { retries: 2 }, () => {})
                           })
                           xit('e', () => {})
                           // it('no', () => {})
                           it('f' + 1, () => {})""",
        "depends.cy.js": """if (true) it('no'); for (const n of [1]) { it('no') }
                            [1].forEach(() => it('no')); function later() { it('no') }
                            cy.it('no'); describe('no', tests)""",
        "typed.cy.ts": "const n: number = 1; specify('typed', () => { expect(n as number) })",
        "broken.cy.js": "it('a', () => { cy.visit( })",
        "deep.cy.js": f"it('a', () => {{ {'(' * 200_000}1{')' * 200_000} }})",
    }
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    names = [path.name for path in tmp_path.iterdir()]
    command = ["docker", "run", "--rm", "-i", "--network", "none", "--user", "0:0", "--volume", f"{tmp_path}:/specs:ro"]
    command += ["cypress-executor", "node", "/opt/cypress-execution/outline.cjs", "/specs"]

    told = subprocess.run(command, input=json.dumps(names).encode(), stdout=subprocess.PIPE, check=True).stdout

    outlines = {
        name: tests and [(test["titles"], test["line"]) for test in tests] for name, tests in json.loads(told).items()
    }
    assert outlines == {
        "groups.cy.js": [(["a", "b", "c"], 2), (["a", "d"], 3), (["e"], 5), ([None], 7)],
        "depends.cy.js": [],
        "typed.cy.ts": [(["typed"], 1)],
        "broken.cy.js": [(["a"], 1)],
        "deep.cy.js": None,
    }
