"""checkov finds nothing in the manifests but what is accepted, with reasons, in accepted.yaml."""

import json
import subprocess
from pathlib import Path

import yaml
from chart import CI, read, run, tool

ACCEPTED = Path(__file__).parent / "accepted.yaml"


def findings(folder: Path) -> set[str]:
    """The checks that some manifest in the folder fails."""
    done = subprocess.run(
        [
            tool("checkov/bin/checkov"),
            "--directory",
            folder,
            "--framework",
            "kubernetes",
            "--skip-download",
            "--compact",
            "--output",
            "json",
        ],
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    return {check["check_id"] for check in report["results"]["failed_checks"]}


def test_it_finds_what_is_accepted_and_nothing_else(tmp_path: Path) -> None:
    for file in CI:
        (tmp_path / file.name).write_text(run("template", read(file)))
    accepted = yaml.load(ACCEPTED.read_text(), yaml.CSafeLoader)

    assert sorted(findings(tmp_path)) == sorted(accepted)
    assert all(len(reason) > 80 for reason in accepted.values())
