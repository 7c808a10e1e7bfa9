"""Without Helm nothing here can run: skipped locally, failed in CI."""

import os

import pytest
from chart import helm


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    if helm() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no helm; `make test-chart` gets it")
