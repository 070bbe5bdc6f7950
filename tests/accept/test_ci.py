"""The recipe of docs/ci.md: its commands, taken out of the page and run, with a ``gh`` that writes down what it is asked."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from heliostat.cli import main
from tests.conftest import clean_environment
from tests.heliostat.test_docs import recipe

HELIOSTAT = """#!/bin/sh
[ "$1" = train ] && set -- "$@" --in-process --set epochs=20
exec {python} -P -m heliostat "$@"
"""
GH = """#!/bin/sh
printf '%s ' "$@" > asked
cat gate.md >> asked
"""


def test_a_push_makes_a_champion_and_a_pull_request_is_compared_with_it(tmp_path: Path) -> None:
    job = YAML(typ="safe", pure=True).load(recipe())["jobs"]["model"]
    steps = {step["name"]: step for step in job["steps"] if "name" in step}
    (tmp_path / "bin").mkdir()
    for name, text in (("heliostat", HELIOSTAT.format(python=sys.executable)), ("gh", GH)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    assert main(["init", str(tmp_path / "churn")]) == 0
    assert job["env"]["RUN"].startswith("churn-${{")
    environment = {
        **clean_environment(tmp_path / "home"), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PR": "7",
        "STORAGE": str(tmp_path / "storage"),
    }  # fmt: skip

    def ran(event: str, commit: str) -> "subprocess.CompletedProcess[str]":
        script = "\n".join(step["run"] for step in steps.values() if event in step["if"])
        return bash(script, {**environment, "RUN": f"churn-{commit}"})

    def bash(script: str, variables: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # as GitHub runs them
            ["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path / "churn", env=variables, capture_output=True, text=True
        )

    pushed = ran("push", "a1")
    assert pushed.returncode == 0, pushed.stderr
    assert "churn@1, the champion" in pushed.stdout
    compared = ran("pull_request", "b2")
    assert compared.returncode == 0, compared.stderr
    assert bash(steps["comment"]["run"], environment).returncode == 0
    asked = (tmp_path / "churn" / "asked").read_text()
    assert asked.startswith("pr comment 7 --edit-last --create-if-none --body-file gate.md ### Gate passed: churn-b2 ")
    assert "By accuracy" in asked
