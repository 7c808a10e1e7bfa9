"""What is concluded from a report of Cypress's; the reports have the shape of `cypress.run()` of Cypress 14."""

from typing import Any

import pytest
from evidence import compare, specs_in
from judge import Check

SPEC = "cypress/e2e/list.cy.js"


def a_test(*title: str, state: str = "passed", error: str | None = None) -> dict[str, Any]:
    return {"title": list(title), "state": state, "displayError": error}


def a_run(*tests: dict[str, Any], spec: str = SPEC, error: str | None = None) -> dict[str, Any]:
    return {"spec": {"relative": spec}, "error": error, "tests": list(tests)}


def a_report(*runs: dict[str, Any], failed: int = 0) -> dict[str, Any]:
    return {"runs": list(runs), "totalFailed": failed}


def an_outline(*titles: str | None) -> list[dict[str, Any]]:
    """One test a line."""
    return [{"titles": [title], "line": line} for line, title in enumerate(titles, 1)]


def failures(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.status == "failed"]


def test_every_test_that_passed_is_a_check_with_its_line() -> None:
    report = a_report(a_run(a_test("a"), a_test("b")))

    checks = compare(report, {SPEC: an_outline("a", "b")})

    assert checks == [Check("a", True, "", SPEC, 1), Check("b", True, "", SPEC, 2)]


def test_a_failure_is_told_without_its_stack_where_the_spec_is_at_fault() -> None:
    error = (
        "AssertionError: expected 1 to equal 2\n"
        "    at Context.eval (webpack:///./cypress/support/e2e.js:7:3)\n"
        "    at Context.eval (webpack://name/./cypress/e2e/list.cy.js:12:5)"
    )

    (check,) = compare(a_report(a_run(a_test("list", "counts", state="failed", error=error))), {SPEC: []})

    assert check == Check("list > counts", False, "AssertionError: expected 1 to equal 2", SPEC, 12)


def test_a_failure_without_a_place_in_the_spec_is_told_where_its_test_begins() -> None:
    report = a_report(a_run(a_test("counts", state="failed", error="Error: no")))

    (check,) = compare(report, {SPEC: an_outline(None, "counts")})[:1]

    assert (check.file, check.line) == (SPEC, 2)


def test_a_spec_that_cannot_be_bundled_is_told_with_its_line() -> None:
    error = (
        "Oops...we found an error preparing this test file:\n\n  > cypress/e2e/list.cy.js\n\nThe error was:\n\n"
        "Error: Webpack Compilation Error\nModule build failed (from ../loader/index.js):\n"
        "SyntaxError: /tmp/submission/cypress/e2e/list.cy.js: Unexpected token (12:4)\n\n"
        "  11 | it(\n> 12 |    )\n    at handle (/opt/index.js:296:23)\n\n"
        "This occurred while Cypress was compiling and bundling your test code. This is usually caused by:\n"
    )

    (check,) = compare(a_report(a_run(error=error), failed=1), {SPEC: []})

    assert (check.passed, check.file, check.line) == (False, SPEC, 12)
    assert check.message == "SyntaxError: cypress/e2e/list.cy.js: Unexpected token (12:4)\n\n  11 | it(\n> 12 |    )"


def test_what_is_skipped_in_the_spec_is_a_warning() -> None:
    checks = compare(a_report(a_run(a_test("a"), a_test("b", state="pending"))), {SPEC: an_outline("a", "b")})

    assert [check.status for check in checks] == ["passed", "warning"]


@pytest.mark.parametrize(
    ("report", "outlines", "told"),
    [
        (a_report(a_run(a_test("a", state="skipped"))), {SPEC: []}, "a hook before it failed"),
        (a_report(a_run(a_test("a", state="pending"))), {SPEC: []}, "nothing was tested"),
        (a_report(a_run()), {SPEC: []}, "There is no test in it"),
        (a_report(a_run(a_test("a"))), {SPEC: an_outline("a", "b")}, "was not run"),
        (a_report(a_run(a_test("a"))), {SPEC: an_outline("a", "a")}, "was not run"),
        (a_report(a_run()), {SPEC: an_outline("a")}, "was not run"),
        (a_report(a_run(a_test("1"))), {SPEC: an_outline(None, None)}, "2 tests are in the spec, but 1 were run"),
        (a_report(a_run()), {SPEC: an_outline(None)}, "1 tests are in the spec, but 0 were run"),
        (a_report(a_run(a_test("a"))), {SPEC: None}, "nested too deeply"),
        (a_report(a_run(a_test("a"))), {}, "not part of the submission"),
        (a_report(), {SPEC: an_outline("a")}, "told to leave it out"),
        (a_report(a_run(a_test("a")), failed=3), {SPEC: an_outline("a")}, "3 failures"),
    ],
)
def test_what_does_not_add_up_is_one_failure(report: Any, outlines: Any, told: str) -> None:
    (failure,) = failures(compare(report, outlines))

    assert told in failure.message


def test_tests_that_code_makes_may_be_more_than_the_source_shows() -> None:
    report = a_report(a_run(a_test("size 1"), a_test("size 2"), a_test("a")))

    assert not failures(compare(report, {SPEC: an_outline("a", None)}))


@pytest.mark.parametrize(
    "report",
    [None, 1, "{}", [], {}, {"runs": 1}, {"runs": ["x"]}, {"runs": [{"spec": {"relative": []}}], "totalFailed": 0}]
    + [{"runs": [{"spec": {"relative": SPEC}, "error": None, "tests": tests}]} for tests in (1, [1], [{"title": [1]}])],
)
def test_what_is_no_report_raises_one_of_two(report: Any) -> None:
    with pytest.raises((KeyError, TypeError)):
        compare(report, {SPEC: []})


def test_specs_are_found_by_the_default_pattern_of_cypress() -> None:
    specs = ["cypress/e2e/a b[1]/ü.cy.jsx", "cypress/e2e/a.cy.js", "cypress/e2e/deep/er/b.cy.tsx"]
    others = ["cypress/e2e/a.js", "cypress/e2e/A.CY.JS", "cypress/a.cy.js", "x/cypress/e2e/a.cy.js", "a.cy.js"]
    hidden = [f"cypress/e2e/{name}" for name in (".cy.js", "._a.cy.js", ".b/a.cy.js", "node_modules/a.cy.js")]

    assert specs_in([*others, *hidden, *specs]) == specs
