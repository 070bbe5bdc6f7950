"""Hugging Face's `datasets`, `transformers` and `accelerate` in the same environment, in every way of running."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.accept.conftest import overlay
from tests.conftest import ROOT, clean_environment

TASK = '''
import accelerate
import datasets
import transformers
from torch import nn

from heliostat import Task


class Tiny(Task):
    """A transformer of Hugging Face's on the rows of a table, whose statistics come from their `datasets`."""

    metric, better = "accuracy", "higher"

    def model(self):
        rows = datasets.Dataset.from_dict({"x": [0.0, 1.0]})
        assert len(rows) == 2 and accelerate.__version__ and "site-packages" in datasets.__file__
        config = transformers.BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=8, num_labels=2
        )
        return Bert(config)

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"])

    def metrics(self, model, batch):
        right = model(batch["features"]).argmax(1) == batch["label"]
        return {"loss": self.loss(model, batch), "accuracy": right.float().mean()}


class Bert(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.encode = nn.Linear(2, 16)
        self.bert = transformers.BertForSequenceClassification(config)

    def forward(self, features):
        return self.bert(inputs_embeds=self.encode(features)[:, None]).logits
'''
CONFIG = """
task: tiny:Tiny
dataset: {source: table, options: {path: rows.csv, target: arm}}
epochs: 1
"""
PROFILE = """
name: hf
platform: local
groups: [{name: cpu, cpu: 2, memory: 2Gi, max: 1, idle_seconds: 60}]
storage: {uri: .}
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlay(tmp_path_factory.mktemp("hf") / "venv", "-r", str(Path(__file__).with_name("huggingface.txt")))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "tiny.py").write_text(TASK)
    (folder / "tiny.yaml").write_text(CONFIG)
    rows = "\n".join(f"{i % 7},{i % 5},{i % 2}" for i in range(300))
    (folder / "rows.csv").write_text(f"x,y,arm\n{rows}")
    (folder / "hf.yaml").write_text(PROFILE)
    return folder


@pytest.fixture
def env(programs: Path, tmp_path: Path) -> Mapping[str, str]:
    found = clean_environment(tmp_path / "home")
    return {**found, "PATH": f"{programs}:{found['PATH']}", "PYTHONPATH": str(ROOT)}


def train(programs: Path, project: Path, env: Mapping[str, str], *options: str) -> float:
    done = subprocess.run(
        [programs / "python", "-m", "heliostat", "train", "tiny.yaml", "--json", *options],
        cwd=project, env=dict(env), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy: float = json.loads(done.stdout)["metrics"]["test"]["accuracy"]
    return accuracy


def test_a_task_that_imports_all_three_trains_by_command_as_a_job_and_on_a_cluster_alike(
    programs: Path, project: Path, env: Mapping[str, str]
) -> None:
    here = train(programs, project, env)
    heliostat = [str(programs / "python"), "-m", "heliostat"]
    subprocess.run([*heliostat, "up", "hf.yaml"], cwd=project, env=dict(env), check=True, timeout=200)
    try:
        assert train(programs, project, env, "--on", "hf.yaml", "--set", "name=there") == pytest.approx(here)
        job = [*heliostat, "submit", "hf.yaml", "--", "python", "-m", "heliostat", "train", "tiny.yaml", "--set", "name=job"]
        subprocess.run(job, cwd=project, env=dict(env), check=True, timeout=400)
    finally:
        subprocess.run([*heliostat, "down", "hf.yaml", "--yes"], cwd=project, env=dict(env), check=True, timeout=100)
