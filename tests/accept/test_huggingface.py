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
    subprocess.run([*heliostat, "up", "hf.yaml"], cwd=project, env=dict(env), check=True, timeout=300)
    try:
        assert train(programs, project, env, "--on", "hf.yaml", "--set", "name=there") == pytest.approx(here)
        job = [*heliostat, "submit", "hf.yaml", "--", "python", "-m", "heliostat", "train", "tiny.yaml", "--set", "name=job"]
        subprocess.run(job, cwd=project, env=dict(env), check=True, timeout=400)
    finally:
        subprocess.run([*heliostat, "down", "hf.yaml", "--yes"], cwd=project, env=dict(env), check=True, timeout=100)


MADE = """
import datasets as d, numpy as np
from PIL import Image
N = range(120)
images = d.Dataset.from_dict(
    {"picture": [Image.fromarray(np.full((9, 5, 3), at, np.uint8)) for at in N], "label": [at % 2 for at in N]},
    features=d.Features({"picture": d.Image(), "label": d.ClassLabel(names=["cat", "dog"])}),
)
d.DatasetDict({"train": images.select(range(100)), "test": images.select(range(100, 120))}).save_to_disk("images")
d.Dataset.from_dict({"input_ids": [[at, at + 1, 3] for at in N]}).save_to_disk("tokens")
vector = d.Sequence(d.Value("float32"), length=3)
d.Dataset.from_dict(
    {"text": [f"film number {at} was {'good' if at % 2 else 'bad'} and long" for at in N],
     "stars": [at / 7 for at in N], "label": [at % 3 for at in N], "vector": [[at / 3, 1.0, 2.0] for at in N]},
    features=d.Features({"text": d.Value("string"), "stars": d.Value("float32"), "vector": vector,
                         "label": d.ClassLabel(names=["bad", "ok", "good"])}),
).save_to_disk("texts")
"""


@pytest.mark.parametrize(
    ("options", "fields", "classes", "test"),
    [
        (("path=images", "size=8"), {"image": [3, 8, 8], "label": []}, ["cat", "dog"], 20),
        (("path=tokens",), {"tokens": [3]}, [], None),
        (("path=texts", "tokens=byte", "length=16"), {"tokens": [16]}, [], None),
        (("path=texts",), {"features": [68], "label": []}, ["bad", "good", "ok"], None),
        (("path=texts", "target=stars"), {"features": [67], "categories": [1], "target": []}, [], None),
    ],
)
def test_what_the_library_has_saved_becomes_a_dataset(
    programs: Path, project: Path, env: Mapping[str, str],
    options: tuple[str, ...], fields: dict[str, list[int]], classes: list[str], test: int | None,
) -> None:  # fmt: skip
    subprocess.run([programs / "python", "-c", MADE], cwd=project, env=dict(env), check=True, timeout=300)
    settings = [part for option in options for part in ("--set", option)]
    done = subprocess.run(
        [programs / "python", "-m", "heliostat", "dataset", "build", "huggingface", "out", "--json", *settings],
        cwd=project, env=dict(env), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    index = json.loads(done.stdout)
    assert {name: field["shape"] for name, field in index["fields"].items()} == fields
    assert index["meta"].get("classes", []) == classes
    assert test is None or sum(shard["rows"] for shard in index["splits"]["test"]) == test
