"""What `playwright-execution` says of a submission."""

import io
import json
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from trial import Trial, a_trial

IMAGE = "playwright-execution"
REQUIRE = "const { test, expect } = require('@playwright/test');\n"
PAGE = "<!doctype html><title>Basket</title><h1>Basket</h1>"
SECRET = "what the course will test next week"
TEACHERS = f"// {SECRET}\n"
TEACHERS += "test('has a heading', async ({ page }) => {\n  await page.goto('/');\n"
TEACHERS += "  await expect(page.getByRole('heading')).toHaveText('Basket');\n});\n"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Path]) -> Iterator[Trial]:
    """A node with `quick`, whose tests have 5 s, and `teacher`, which brings the specs."""
    shipped = (built(IMAGE) / "executor.toml").read_text()
    directory = tmp_path_factory.mktemp("node")
    specs = written(directory / "teacher-image" / "specs", {"page.spec.js": REQUIRE + TEACHERS})
    (specs.parent / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY specs /opt/specs\nENV SPECS_DIR=/opt/specs\n")
    subprocess.run(["docker", "build", "--tag", "ulos-test/teacher", specs.parent], check=True, capture_output=True)
    quick = shipped.replace(f'routing_key = "{IMAGE}"', 'routing_key = "quick"\nenvironment = { TEST_TIMEOUT_S = "5" }')
    teacher = shipped.replace(IMAGE, "teacher").replace('image = "', 'image = "ulos-test/')
    for name, descriptor in (("quick", quick), ("teacher", teacher)):
        written(directory / "executors" / name, {"executor.toml": descriptor})
    with a_trial(directory, ULOS_EXECUTORS_PATH=str(directory / "executors")) as trial:
        yield trial


def written(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def report(result: Mapping[str, bytes]) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(result["results/report.json"])["checks"]}


FORMS = {
    "forms.spec.js": """\
const { test: it, expect } = require('@playwright/test');
it('plain', () => {});
it.describe('group', () => {
  it('inside', { tag: '@quick' }, () => {});
  it.describe(() => { it('in a nameless group', function () {}); });
  it.describe.configure({ mode: 'parallel' });
});
it.describe.serial('one after the other', () => {
  it.beforeEach(() => {});
  it.skip(() => false, 'skips the group on a condition');
  it.skip(({ browserName }) => browserName === 'firefox', 'as well');
  it
    .skip('skipped', () => {});
  it.fixme('to be fixed', async ({ page }) => {});
  it.fail('fails', () => { throw new Error(); });
});
it('with steps', async () => {
  it.slow();
  it.skip(process.platform === 'plan9', 'no such browser');
  await it.step('a step', () => {});
  expect(/x/.test('x')).toBe(true);
});
for (const name of ['a', 'b']) it(`of ${name}`, () => {});
""",
    "deep/er/typed.test.ts": """\
import { test as base, expect, type Page } from '@playwright/test';
const test = base.extend<{ answer: number }>({ answer: async ({}, use) => use(42) });
const loggedIn = test.extend({});
enum Colour { Red }
@sealed class Basket<T> { constructor(private readonly page?: Page, public colour = <Colour>Colour.Red) {} }
function sealed(_: unknown, __?: unknown) {}
test('typed', async ({ answer }) => { expect(answer satisfies number).toBe(42); });
loggedIn('derived', () => {});
""",
    "component.spec.tsx": """\
import { test } from '@playwright/test';
test('with markup', () => { const element = <b>bold</b>; });
""",
    "no.specification.js": "test('not in a spec', () => {});",
    "node_modules/other/other.spec.js": "test('of somebody else', () => {});",
}


def test_the_tests_that_are_written_are_those_which_playwright_lists(
    built: Callable[[str], Path], tmp_path: Path
) -> None:
    built(IMAGE)
    specs = written(tmp_path / "specs", FORMS)
    inside = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--volume",
        f"{specs}:/specs:ro",
        "--env",
        "SPECS_DIR=/specs",
    ]
    command = "cd /opt/playwright && node_modules/.bin/playwright test --list --reporter json"

    outline = subprocess.run([*inside, IMAGE, "node", "/opt/playwright/outline.cjs", "/specs"], capture_output=True)
    listed = subprocess.run([*inside, IMAGE, "sh", "-c", command], capture_output=True)

    assert outline.returncode == 0, outline.stderr
    spec_files = json.loads(outline.stdout)
    assert [spec["error"] for spec in spec_files] == [None] * 3
    found = {(spec["file"], test["line"]) for spec in spec_files for test in spec["tests"]}
    assert found == {
        (f"/specs/{suite['file']}", line) for suite in json.loads(listed.stdout)["suites"] for line in lines(suite)
    }
    titles = [test["title"] for spec in spec_files for test in spec["tests"]]
    assert "one after the other \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} skipped" in titles
    assert "of ${…}" in titles


def lines(suite: Mapping[str, Any]) -> Iterator[int]:
    yield from (spec["line"] for spec in suite["specs"])
    for inner in suite.get("suites", []):
        yield from lines(inner)


def test_each_test_is_told_with_its_reason_and_its_place(trial: Trial, tmp_path: Path) -> None:
    spec = """\
test('passes', async ({ page }) => {
  await page.goto('/');
  await expect(page).toHaveTitle('Basket');
});
test('fails', async () => {
  await test.step('a step', async () => expect(2).toBe(3));
});
test('takes too long', async ({ page }) => {
  await page.goto('/');
  await page.getByText('never there').click();
});
test.skip('is skipped', () => {});
test('is skipped on a condition', () => test.skip(true, 'one'));
test.fail('must fail', () => expect(1).toBe(2));
test.fail('must fail and passes', () => expect(1).toBe(1));
test('compares nothing', () => console.log('nothing \\x1b[31mred'));
if (false) test('is not reached', () => {});
test('is no half \\ud83d', () => expect(1).toBe(1));
test('does not end', () => { while (true); });
test('ends its process', () => process.exit(0));
test('has no such page', async ({ page }) => {
  expect((await page.goto('/nowhere.html')).status()).toBe(404);
});
"""
    submission = written(
        tmp_path / "submission",
        {
            "tests/all.spec.js": REQUIRE + spec,
            "tests/none.spec.js": "console.log('loaded');",
            "index.html": PAGE,
            "playwright.config.js": "process.exit(0);",
            ".gitignore": "tests\n",
        },
    )

    ending = trial.ended("quick", submission)

    checks = report(ending.result)
    assert {name: (check["status"], check["line"]) for name, check in checks.items()} == {
        "configuration": ("warning", None),
        "each file has a test": ("failed", None),
        "passes": ("passed", 2),
        "fails": ("failed", 7),
        "takes too long": ("failed", 11),
        "is skipped": ("failed", 13),
        "is skipped on a condition": ("failed", 14),
        "must fail": ("warning", 15),
        "must fail and passes": ("failed", 16),
        "compares nothing": ("warning", 17),
        "is not reached": ("failed", 18),
        "is no half \N{REPLACEMENT CHARACTER}": ("passed", 19),
        "does not end": ("failed", 20),
        "ends its process": ("failed", 21),
        "has no such page": ("passed", 22),
    }
    assert checks["each file has a test"]["file"] == "tests/none.spec.js"
    assert checks["configuration"]["file"] == "playwright.config.js"
    for name, words in {
        "fails": "Expected: 3",
        "takes too long": "waiting for getByText('never there')",
        "is skipped": "test.skip",
        "is skipped on a condition": "test.skip",
        "must fail and passes": "test.fail()",
        "compares nothing": "expect()",
        "is not reached": "was not run",
        "does not end": "loop that does not end",
        "ends its process": "process.exit()",
    }.items():
        assert words in checks[name]["message"]
    pictures = [name for name in ending.result if name.endswith(".png")]
    assert [ending.result[name][:4] for name in pictures] == [b"\x89PNG"]
    assert f"]({pictures[0].removeprefix('results/')})" in ending.result["results/report.md"].decode()
    (output,) = (ending.result[name].decode() for name in ending.result if name.startswith("output_"))
    assert "✗ fails" in output
    assert "tests/all.spec.js:7: " in output
    assert output.index("✗ must fail and passes") < output.index("nothing ") < output.index("✓ compares nothing")


@pytest.mark.parametrize(
    ("files", "name", "words", "line"),
    [
        ({"a.spec.js": REQUIRE + "test('x', () => {\n"}, "the specs can be run", "Unexpected token", 3),
        ({"a.spec.js": "import { x } from './x';\n"}, "the specs can be run", "Cannot find module", 1),
        ({"a.spec.js": REQUIRE + "throw new Error('no');"}, "the specs can be run", "no", 2),
        ({"a.spec.js": REQUIRE + "while (true);"}, "the specs can be run", "loop that does not end", None),
        (
            {"a.spec.js": REQUIRE + "test('x', () => {});\ntest('x', () => {});"},
            "the specs can be run",
            "duplicate test title",
            3,
        ),
        (
            {"node_modules/@playwright/test/index.js": "throw Error('twice');", "a.spec.js": REQUIRE},
            "there is one Playwright",
            "Leave node_modules out",
            None,
        ),
    ],
    ids=["syntax", "import", "throw", "loop", "duplicate", "node_modules"],
)
def test_specs_that_cannot_be_run_are_told_with_the_reason(
    trial: Trial, tmp_path: Path, files: dict[str, str], name: str, words: str, line: int | None
) -> None:
    well = {"well.spec.js": REQUIRE + "test('well', () => {});"}

    ending = trial.ended("quick", written(tmp_path / "submission", {**files, **well}))

    checks = report(ending.result)
    assert checks[name]["status"] == "failed"
    assert words in checks[name]["message"]
    assert checks[name]["line"] == line
    assert "errors above" in checks["well"]["message"]


def test_a_process_that_outlives_its_tests_is_stopped_and_told(trial: Trial, tmp_path: Path) -> None:
    spec = "test('stays', () => process.on('exit', () => { while (true); }));"

    ending = trial.ended("quick", written(tmp_path / "submission", {"a.spec.js": REQUIRE + spec}))

    checks = report(ending.result)
    assert checks["stays"]["status"] == "warning"
    assert "loop that does not end" in checks["the specs can be run"]["message"]


GARBLED = {
    "duration": "duration: 'x'",
    "no duration": "duration: null",
    "no status": "status: undefined",
    "odd status": "status: ['passed']",
    "odd message": "errors: [{ message: {} }]",
    "odd place": "errors: [{ message: 'x', location: { file: 5, line: 'y' } }]",
    "far place": "errors: [{ message: 'x', location: { file: __filename, line: 0.5 } }]",
}
GARBLE = """\
const send = process.send.bind(process);
process.send = (message, ...others) => {
  if (message.params?.method === 'testEnd') Object.assign(message.params.params, changes);
  if (message.params?.method === 'attach') Object.assign(message.params.params, { path });
  return send(message, ...others);
};
let changes = {};
let path = 5;
"""


def test_what_no_playwright_would_say_of_a_test_is_its_failure(trial: Trial, tmp_path: Path) -> None:
    tests = "".join(f"test('{name}', () => {{ changes = {{ {change} }}; }});\n" for name, change in GARBLED.items())
    attaching = (
        "changes = {{}}; path = {}; await test.info().attach('x', {{ body: 'x' }}); throw new Error('as it is');"
    )
    for name, path in (("odd path", "{}"), ("no path", "'/tmp/submission/test-results/x\\0.png'")):
        tests += f"test('{name}', async () => {{ {attaching.format(path)} }});\n"
    tests += "test('ends it all', () => { changes = { errors: [null] }; });\n"
    submission = written(tmp_path / "submission", {"a.spec.js": REQUIRE + GARBLE + tests})

    ending = trial.ended("quick", submission)

    assert ending.word == "fail", ending.text
    checks = report(ending.result)
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(
        ["the specs can be run", *GARBLED, "odd path", "no path", "ends it all"], "failed"
    )
    assert "is no result" in checks["no status"]["message"]
    assert checks["no path"]["message"] == "Error: as it is"


@pytest.mark.parametrize(
    ("page", "word"), [(PAGE, "pass"), (PAGE.replace("h1", "h2"), "pass"), ("<h1>Bag</h1>", "fail")]
)
def test_an_image_can_bring_the_specs(trial: Trial, tmp_path: Path, page: str, word: str) -> None:
    own = REQUIRE + "test('says that all is well', () => {});"

    ending = trial.ended("teacher", written(tmp_path / "submission", {"index.html": page, "own.spec.js": own}))

    assert ending.word == word, ending.text
    assert [*report(ending.result)] == ["has a heading"]
    traces = [zipfile.ZipFile(io.BytesIO(content)) for name, content in ending.result.items() if name.endswith(".zip")]
    assert len(traces) == (word == "fail")
    contents = [*ending.result.values(), *(trace.read(name) for trace in traces for name in trace.namelist())]
    assert not [content for content in contents if SECRET.encode() in content]
