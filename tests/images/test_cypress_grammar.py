"""What the image says of specs: each mistake at its place, in words; and nothing about good ones."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Checks = list[dict[str, Any]]
Examine = Callable[..., tuple[int, str, Checks]]

GOOD = "it('works', () => { cy.visit('/') })\n"

MISTAKES = {
    "typo": ("it('a', () => {\n  cy.cick('#go')\n})", 2, ("line 2, column 6", "`cy.cick`", "`cy.get('…').click`")),
    "typo of a parent": ("it('a', () => cy.vist('/'))", 1, ("`cy.vist`", "mean `cy.visit`")),
    "typo in a chain": (
        "it('a', () => {\n  cy.get('a')\n    .find('b')\n    .clcik()\n})",
        4,
        ("line 4, column 6: `.clcik` is no Cypress command", "mean `.click`"),
    ),
    "typo of a custom command": ("it('a', () => cy.logn('ada'))", 1, ("mean `cy.login`",)),
    "another tool's command": ("it('a', () => cy.get('a').sendKeys('x'))", 1, ("`.sendKeys`", "`.type('…')`")),
    "a removed command": ("it('a', () => cy.route('/api'))", 1, ("`cy.route`", "cy.intercept")),
    "nobody's command": ("it('a', () => cy.frobnicate())", 1, ("`cy.frobnicate`", "`Cypress.Commands.add`")),
    "a name that objects have": ("it('a', () => cy.toString())", 1, ("`cy.toString`",)),
    "child first": ("it('a', () => {\n  cy.click('#go')\n})", 2, ("`cy.click`", "`cy.get('…').click(…)`")),
    "not called": ("it('a', () => {\n  cy.visit('/')\n  cy.reload;\n})", 3, ("`reload()`",)),
    "unclosed bracket": (
        "it('a', () => {\n  cy.get('#q'.type('tea')\n  cy.contains('Tea')\n})",
        3,
        ('The "(" of line 2, column 9 is not closed before the "}" of line 4.', "cy.contains('Tea')"),
    ),
    "brackets in texts": (
        "it('a', () => {\n  cy.contains('(').contains(/[(]\\/(/).contains(`{`) // ([{\n  /* { */\n",
        4,
        ('The "{" of line 1, column 15 is not closed.',),
    ),
    "one bracket too many": (f"{GOOD}}})", 2, ("line 2, column 1: Unexpected token.",)),
    "unclosed quote": ("it('a', () => {\n  cy.visit('/)\n})", 2, ("line 2, column 12: Unterminated string",)),
    "missing dot": ("it('a', () => {\n  cy visit('/')\n})", 2, ("line 2, column 5", "a dot, a comma")),
    "declared twice": (f"const a = 1\nconst a = 2\n{GOOD}", 2, ("Identifier 'a' has already been declared",)),
    "types in JavaScript": (f"const a: number = 1\n{GOOD}", 1, ("line 1, column 8",)),
    "empty": ("it('a', () => {\n  // cy.visit('/')\n  console.log('a')\n})", 1, ('"a" does nothing',)),
    "no body": ("it('a')", 1, ('"a" has no body',)),
    "bracket before the body": (
        "describe('a'), () => { it('b', () => cy.visit('/')) }",
        1,
        ("has no body", "brackets"),
    ),
    "no title": ("it(() => { cy.visit('/') })", 1, ("The test has no title.",)),
    "focused": (f"{GOOD}it.only('b', () => cy.visit('/'))", 2, ("`it.only` hides",)),
    "focused group": (f"describe.only('b', () => {{ {GOOD} }})", 1, ("`describe.only` hides",)),
    "Jest's test": ("test('a', () => { cy.visit('/') })", 1, ("no `test`", "Write `it`")),
    "no test": ("describe('a', () => { before(() => cy.visit('/')) })", None, ("No test in this file",)),
    "all skipped": (f"describe.skip('a', () => {{ {GOOD} }})", None, ("No test in this file",)),
    "nothing": ("", None, ("No test in this file",)),
    "imported cy": (f"import cy from 'cypress'\n{GOOD}", 1, ("line 1, column 8", "hides Cypress's own")),
    "own cy": (f"const {{ cy }} = require('cypress')\n{GOOD}", 1, ("hides Cypress's own",)),
    "Windows' lines": ("it('a', () => {\r\n  cy.visit('/')\r\n  cy.cick()\r\n})\r\n", 3, ("line 3, column 6",)),
    "byte order mark": ("\ufeffit('a', () => cy.cick())", 1, ("line 1, column 18",)),
    "deep": (f"it('a', () => cy.get({'(' * 100_000}1{')' * 100_000}))", None, ("nested too deeply",)),
    "long chain": (f"it('a', () => cy.get('a'){'.find(1)' * 50_000}.fnd(2))", 1, ("column 400027", "mean `.find`")),
    "long line": (f"it('a', () => {{ {'a;' * 200} cy.cick() }})", 1, ("… a;a;", " cy.cick() })")),
    "large": (f"{GOOD}//{'x' * 1024 * 1024}", None, ("larger than 1 MiB",)),
}
"""Name → a spec, the line of its mistake, and what the message must say."""

WARNINGS = {
    "fixed wait": ("it('a', () => { cy.visit('/').wait(5000) })", ("`wait(5000)`", "cy.intercept")),
    "await": ("it('a', async () => { await cy.visit('/') })", ("mixes `await` with `cy`",)),
    "await in a hook": (f"before(async () => {{ const a = await b(); cy.visit(a) }})\n{GOOD}", ("`await`",)),
    "skipped": (f"{GOOD}xit('b', () => {{}})", ('"b" never runs',)),
    "nested": (f"it('a', () => {{ cy.visit('/')\n{GOOD} }})", ('"works" is inside of another test',)),
    "cy in a callback": (f"{GOOD}it('a', () => cy.get('a').then((cy) => cy.nodes()))", ("`cy` is something else",)),
    "a test elsewhere": ("import { tests } from './shared'\ntests()", ("Perhaps what it imports",)),
    "a package's command": (
        f"import 'cypress-axe'\n{GOOD}it('a', () => cy.injectAxe())",
        ("`cy.injectAxe`", "cypress-axe"),
    ),
    "a computed command": (
        f"for (const name of names) Cypress.Commands.add(name, () => {{}})\n{GOOD}it('a', () => cy.frobnicate())",
        ("`cy.frobnicate`", "computed"),
    ),
}

SUPPORT = {
    "cypress/support/e2e.js": "import './commands'\n",
    "cypress/support/commands.js": """
        Cypress.Commands.add('login', { prevSubject: false }, (name) => { cy.visit('/').get('#user').type(name) })
        Cypress.Commands.addAll({ logout() { cy.contains('Log out').click() }, 'two': () => {} })
        Cypress.Commands.addQuery(`byTest`, (id) => () => null)
    """,
}
GOOD_SPECS = {
    "aliases": """
        describe('orders', function () {
          beforeEach(function () { cy.fixture('order').as('order'); cy.login('ada') })
          afterEach(() => cy.logout())
          it('has two', function () { cy.byTest('row').should('have.length', this.order.rows).and('be.visible') })
          it('waits', () => {
            cy.intercept('GET', '/api', (request) => request.reply({ delay: 50 })).as('api')
            cy.wait('@api').its('response.statusCode').should('eq', 200)
            cy.wait(50)
          })
        })
    """,
    "spies": """
        it('spies', { retries: 2 }, () => {
          const stub = cy.stub().returns(3).as('stub')
          cy.spy(console, 'log').withArgs('a').as('log')
          cy.clock(0).then((clock) => clock.tick(10))
          cy.tick(1000).invoke('restore')
          cy.on('window:confirm', stub).once('fail', () => false)
          expect(stub).to.not.be.called
        })
    """,
    "loops": """
        const sizes = ['iphone-6', [800, 600]]
        sizes.forEach((size) => {
          context(`at ${size}`, () => {
            it(`fits ${size}`, () => {
              Array.isArray(size) ? cy.viewport(...size) : cy.viewport(size)
              cy.visit('/')?.get('h1')
              cy['get']('a').anything()
              cy.get('li').each(($li, i) => { cy.wrap($li).within(() => { cy.get('b').contains(i) }) })
            })
          })
        })
        it(...['spread', () => cy.visit('/')])
        it('a function of its own', given)
        function given() { cy.visit('/') }
    """,
    "pages": """
        import { faker } from '@faker-js/faker'
        import { LoginPage } from '../pages/login'
        const page = new LoginPage()
        describe('login', () => {
          it('opens', () => { page.open() })
          it('rejects', () => { page.open().fill(faker.person.firstName()).cick() })
          it('throws', () => { expect(() => page.close()).to.throw('closed') })
          specify('arch', () => { expect(Cypress.arch).to.exist })
          it('calls back', (done) => { setTimeout(done, 10) })
          it('has a timeout', () => { cy.visit('/') }).timeout(5000)
        })
    """,
    "component": """
        import { mount } from 'cypress/react'
        import Button from '../../src/Button'
        it('is pressed', () => {
          const onPress = cy.stub()
          mount(<Button onPress={onPress}>Go</Button>)
          cy.mount(<><Button /></>)
          cy.contains('Go').click().then(() => { expect(onPress).to.have.been.calledOnce })
        })
    """,
    "asynchronous": """
        it('fetches first', async () => { const users = await fetch('/users'); expect(users.ok).to.be.true })
        it('resolves', () => new Promise((resolve) => cy.visit('/').then(resolve)))
        it('requests', () => cy.request({ url: '/', failOnStatusCode: false }).its('status').should('eq', 404))
    """,
    "graph": "it('draws', () => { cy.window().its('graph').then((graph) => { expect(graph.cy.size()).to.eq(3) }) })",
    "session": """
        it('visits another site', () => {
          cy.session(['ada', 1], () => cy.request('POST', '/login'), { validate() { cy.getCookie('id') } })
          cy.origin('https://example.org', { args: { a: 1 } }, ({ a }) => { cy.visit('/' + a); cy.press('Tab') })
          cy.scrollTo('bottom').screenshot().pause().debug().end()
          cy.get('x').selectFile({ contents: Cypress.Buffer.from('a'), fileName: 'a' }, { action: 'drag-drop' })
        })
    """,
    "top level await": "export {}\nit('is a module', () => { import('./x').then(() => cy.visit('/')) })",
}


@pytest.fixture(scope="module")
def examine(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Path]) -> Examine:
    """Runs the image on a submission; returns its exit code, what it printed, and the checks of its report."""
    built("cypress-grammar")

    def examine(files: Mapping[str, str | bytes], **environment: str) -> tuple[int, str, Checks]:
        work = tmp_path_factory.mktemp("work")
        for name, content in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content.encode() if isinstance(content, str) else content)
        subprocess.run(["chmod", "-R", "a+rwX", str(work)], check=True)
        sandbox = ["--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL", "--memory", "1g"]
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        command = ["docker", "run", "--rm", *sandbox, *variables, "-v", f"{work}:/mnt/tests", "cypress-grammar", "run"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert (work / "results" / "passed.log").exists() == (done.returncode == 0)
        report = work / "results" / "report.json"
        return done.returncode, done.stdout, json.loads(report.read_text())["checks"] if report.exists() else []

    return examine


@pytest.fixture(scope="module")
def found(examine: Examine) -> dict[str, Checks]:
    """What is said of each spec of `MISTAKES` and `WARNINGS`: one submission, for time's sake."""
    specs = {place(name): code for name, (code, *_) in {**MISTAKES, **WARNINGS}.items()}
    _, _, checks = examine({**SUPPORT, **specs})
    return {name: [check for check in checks if check["file"] == place(name)] for name in {**MISTAKES, **WARNINGS}}


def place(name: str) -> str:
    return f"cypress/e2e/{name.replace(' ', '-')}.cy.js"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_where_it_is(name: str, found: dict[str, Checks]) -> None:
    _, line, said = MISTAKES[name]

    told = [check for check in found[name] if check["status"] == "failed"]

    assert [check["line"] for check in told] == [line]
    assert all(words in told[0]["message"] for words in said), told[0]["message"]


def test_a_verdict_that_came_along_is_none(examine: Examine) -> None:
    exit_code, _, checks = examine({place("nothing"): "", "results/passed.log": "", "results/report.json": "{}"})

    assert exit_code == 1
    assert [check["file"] for check in checks] == [place("nothing")]


@pytest.mark.parametrize("name", WARNINGS)
def test_a_trap_is_told_and_fails_nothing(name: str, found: dict[str, Checks]) -> None:
    _, said = WARNINGS[name]

    told = [check for check in found[name] if check["status"] != "passed"]

    assert [check["status"] for check in told] == ["warning"]
    assert all(words in told[0]["message"] for words in said), told[0]["message"]


def test_nothing_is_said_against_good_specs(examine: Examine) -> None:
    exit_code, _, checks = examine({**SUPPORT, **{place(name): code for name, code in GOOD_SPECS.items()}})

    assert exit_code == 0
    assert {check["file"]: check["status"] for check in checks} == {place(name): "passed" for name in GOOD_SPECS}


def test_typescript_is_read_where_the_names_of_specs_say_so(
    examine: Examine,
) -> None:
    good = (
        "const name: string = 'ada' as const\ndeclare const cy: any\nit('a', (): void => { cy.get<A>(name)!.clear() })"
    )
    bad = "it('a', () => {\n  (cy.get('a') as any).clik()\n})"

    _, _, checks = examine({"tests/a.spec.ts": good, "tests/b.spec.ts": bad}, FILES_DIR="tests", FILE_EXT="spec.ts")

    assert [(check["file"], check["status"], check["line"]) for check in checks] == [
        ("tests/a.spec.ts", "passed", None),
        ("tests/b.spec.ts", "failed", 2),
    ]


def test_a_mistake_in_a_support_file_is_told_too(examine: Examine) -> None:
    support = {
        "cypress/support/e2e.js": "Cypress.Commands.add('a', () => cy.vist('/'))",
        "lib/b.js": "Cypress.Commands.add(",
    }

    _, _, checks = examine(
        {**support, place("good"): GOOD, "lib/c.js": "this is no script", "cypress/support/d.d.ts": "("}
    )

    failed = {check["file"] for check in checks if check["status"] == "failed"}
    assert failed == {"cypress/support/e2e.js", "lib/b.js"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"cypress/e2e/x.cy.js/readme.txt": "a folder"}, "no file `cypress/e2e/**/*.cy.js`"),
        ({"app/cypress/e2e/a.cy.js": GOOD}, "`app/cypress/e2e/a.cy.js` lies in another folder"),
        ({"cypress/e2e/login.js": GOOD}, "If `cypress/e2e/login.js` is one, let its name end in `.cy.js`"),
        ({"node_modules/a/cypress/e2e/a.cy.js": GOOD, "cypress/e2e/.a.cy.js": GOOD}, "no file"),
        ({f"cypress/e2e/{i}.cy.js": GOOD for i in range(1001)}, "1001 specs"),
        ({"cypress/e2e/a.cy.js": "import { all } from './all'\nall()"}, "No spec has a test"),
        ({"cypress/e2e/a.cy.js": b"it('caf\xe9', () => cy.visit('/'))"}, "UTF-8"),
        ({"cypress/e2e/a.cy.js": "it('a', () => cy.visit('/'))".encode("utf-16")}, "UTF-8"),
    ],
    ids=["folder", "misplaced", "misnamed", "hidden", "many", "all elsewhere", "Latin-1", "UTF-16"],
)
def test_a_submission_without_specs_that_can_be_read_fails(
    files: dict[str, str | bytes], said: str, examine: Examine
) -> None:
    exit_code, _, checks = examine(files)

    assert exit_code == 1
    assert said in " ".join(check["message"] for check in checks if check["status"] == "failed")


def test_more_than_anybody_reads_is_counted(examine: Examine) -> None:
    specs = {place(str(i)): f"it('a', () => {{ {'cy.cick();' * 30} }})" for i in range(100)}

    exit_code, _, checks = examine(specs)

    assert exit_code == 1
    assert len(checks) == 501
    assert {check["status"] for check in checks} == {"failed"}
    assert checks[-1]["message"] == "and 1600 more"


def test_the_densest_spec_fits_into_memory(examine: Examine) -> None:
    half = 1024 * 1024 // 2 - 30

    exit_code, printed, checks = examine(
        {place("a"): f"it('a', () => cy.get([{'a,' * half}]))", place("b"): "a " * half}
    )

    assert exit_code == 1, printed
    assert [check["status"] for check in checks] == ["passed", *["failed"] * 5]


def test_a_parser_that_dies_is_no_verdict(examine: Examine) -> None:
    exit_code, printed, checks = examine({place("good"): GOOD}, NODE_OPTIONS="--no-such-option")

    assert exit_code == 70
    assert "the executor itself failed; that says nothing about the work" in printed
    assert checks == []
