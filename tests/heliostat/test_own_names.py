"""A project whose modules have the names of ours and of the standard library's works with every command."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment, gone

OURS = ("cluster", "tuning", "heliostat_notes")
STANDARD = ("types", "queue", "logging", "statistics", "yaml", "ray", "torch")
TASK = """
import datasets, workloads
from heliostat.workloads.tasks.tabular_classification import TabularClassification

assert datasets.MINE and workloads.MINE


class Mine(TabularClassification):
    pass
"""
CONFIG = """
task: mine:Mine
dataset: {source: table, options: {path: rows.csv, target: side}}
global_batch: 32
epochs: 1
"""
SWEEP = """
train: {task: "mine:Mine", dataset: {source: table, options: {path: rows.csv, target: side}}, global_batch: 32, epochs: 1}
space: {optimizer.lr: {loguniform: [1e-3, 1e-1]}}
trials: 2
algorithm: random
"""
PROFILE = """
platform: local
head: {cpu: 1, memory: 2Gi, price_per_hour: 0}
groups: [{name: gpu, gpu: 1, cpu: 1, memory: 2Gi, max: 1, idle_seconds: 60, price_per_hour: 0}]
storage: {uri: .}
idle_shutdown_seconds: null
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run a command in the project, by an installed program: without the working directory on Python's own path."""
    project = tmp_path / "project"
    # Without what forks processes in the tests, which imports their package.
    env = {**clean_environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    for package in ("datasets", "workloads", "tests"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").write_text("MINE = True\n")
    for name in (*OURS, *STANDARD):
        (project / f"{name}.py").write_text("raise RuntimeError('a module of the user is loaded instead of the real one')\n")
    (project / "mine.py").write_text(TASK)
    (project / "mine.yaml").write_text(CONFIG)
    (project / "many.yaml").write_text(SWEEP)
    (project / "rows.csv").write_text("x,y,side\n" + "\n".join(f"{i % 9},{i % 4},{i % 2}" for i in range(200)))
    (project / "near.yaml").write_text(PROFILE)

    def done(*args: str) -> str:
        command = [sys.executable, "-P", "-m", "heliostat", *args]
        ended = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    yield done
    gone(env)


def test_every_command_works_here_and_on_a_cluster(run: Run) -> None:
    here = json.loads(run("train", "mine.yaml", "--json"))["metrics"]["test"]
    assert json.loads(run("evaluate", "mine", "--json"))["metrics"] == pytest.approx(here)
    assert "class" in run("predict", "mine", '{"x": 1, "y": 2}')
    assert "mine" in run("runs")
    run("up", "near.yaml")
    try:
        there = json.loads(run("train", "mine.yaml", "--on", "near.yaml", "--set", "name=there", "--json"))
        assert there["metrics"]["test"] == pytest.approx(here)
        assert json.loads(run("sweep", "many.yaml", "--on", "near.yaml", "--json"))["values"]
    finally:
        run("down", "near.yaml", "--yes")
