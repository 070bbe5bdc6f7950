"""Exported models in ONNX Runtime and in transformers, in processes that cannot import Heliostat."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from heliostat.datasets.sources.text import encode
from tests.accept.conftest import overlay
from tests.conftest import ROOT, clean_environment

GPT2 = """
import transformers
from torch import nn
from heliostat import Task


class Small(Task):
    any_length = ("tokens",)

    def model(self):
        config = transformers.GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=64)
        return transformers.GPT2LMHeadModel(config)

    def loss(self, model, batch):
        tokens = batch["tokens"].long()
        return nn.functional.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())

    def predict(self, model, batch):
        return {"logits": model(batch["tokens"].long()).logits}


class Eigen(Task):
    def model(self):
        return nn.Sequential(nn.Linear(2, 4), Values())

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"])

    def predict(self, model, batch):
        return {"probabilities": model(batch["features"]).softmax(1)[:, :2]}


class Values(nn.Module):
    def forward(self, x):
        import torch
        return torch.linalg.eigvals((x[:, :, None] * x[:, None, :]).detach()).real + x
"""
ROWS: list[dict[str, Any]] = [{"x": 1.5, "kind": "a"}, {"x": "2", "kind": "new"}, {"kind": None}]
BLOCKED = "import json, sys; sys.modules['heliostat'] = None; sys.path.insert(0, sys.argv[1])\n"
TEXTS = ["def f\u00e9(x):\n", "  two  spaces, it's \t a tab ", "def f7(x): return x * 7 \U0001f600", "a . b !"]
RAW_ROWS = BLOCKED + "from loader import Model; print(json.dumps(Model().predict(json.loads(sys.argv[2]))))"
TEXT = (
    BLOCKED
    + """
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
ids = [tokenizer(text, return_tensors="pt").input_ids for text in json.loads(sys.argv[2])]
print(json.dumps([type(model).__name__, [each[0].tolist() for each in ids], [tokenizer.decode(each[0]) for each in ids],
                  model(ids[0]).logits[0, -1].tolist()]))
"""
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlay(tmp_path_factory.mktemp("export") / "venv", "-r", str(Path(__file__).with_name("export.txt")))


@pytest.fixture(scope="module")
def project(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on a table, on texts, and of tasks of one's own."""
    place = tmp_path_factory.mktemp("project")
    rows = [f"{row % 17},{'abc'[row % 3]},{'yes' if row % 17 > 8 else 'no'}" for row in range(300)]
    (place / "rows.csv").write_text("\n".join(["x,kind,y", *rows]))
    (place / "numbers.csv").write_text("\n".join(["a,b,y", *(f"{row % 17},{row % 5},{row % 2}" for row in range(300))]))
    (place / "texts").mkdir()
    for number in range(30):
        (place / "texts" / f"{number}.txt").write_text(f"def f{number}(x): return x * {number}\n" * 20)
    (place / "own.py").write_text(GPT2)
    table = "dataset: {source: table, options: {path: rows.csv, target: y}}\nsteps: 5"
    texts = "dataset: {source: text, options: {path: texts, length: 16}}\nsteps: 3"
    pairs = "dataset: {source: text, options: {path: texts, length: 16, tokens: bpe, vocabulary: 300}}\nsteps: 3"
    numbers = "dataset: {source: table, options: {path: numbers.csv, target: y}}\nsteps: 2"
    configs = {
        "classes": f"task: tabular-classification\n{table}",
        "lm": f"task: language-model\nmodel: {{width: 16, layers: 2, heads: 2}}\n{texts}",
        "bpe": f"task: language-model\nmodel: {{width: 16, layers: 2, heads: 2}}\n{pairs}",
        "gpt2": f'task: "own:Small"\n{texts}',
        "eigen": f'task: "own:Eigen"\n{numbers}',
    }
    for name, text in configs.items():
        (place / f"{name}.yaml").write_text(text)
        done = heliostat(programs, place, "train", f"{name}.yaml", "--in-process")
        assert done.returncode == 0, done.stderr
    return place


def heliostat(programs: Path, place: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    env: Mapping[str, str] = {**clean_environment(place / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command: list[str | Path] = [programs / "python", "-m", "heliostat", *args]
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=300)


def alone(programs: Path, program: str, *args: str | Path) -> Any:
    command: list[str | Path] = [programs / "python", "-I", "-c", program, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["classes", "lm"])
def test_onnx_runtime_computes_what_the_run_does(programs: Path, project: Path, name: str) -> None:
    done = heliostat(programs, project, "model", "export", name, "--to", "onnx", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["difference"] < 1e-4
    if name == "classes":
        wanted = heliostat(programs, project, "predict", name, *map(json.dumps, ROWS), "--json")
        found = alone(programs, RAW_ROWS, project / "classes-onnx", json.dumps(ROWS))
        for one, other in zip(json.loads(wanted.stdout), found, strict=True):
            assert one["class"] == other["prediction"]
            assert one["probabilities"]["yes"] == pytest.approx(other["probability_yes"], abs=1e-5)


@pytest.mark.parametrize("name", ["lm", "bpe"])
def test_transformers_loads_the_language_model_with_its_tokenizer(programs: Path, project: Path, name: str) -> None:
    done = heliostat(programs, project, "model", "export", name, "--to", "hf", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["difference"] < 1e-4
    architecture, ids, decoded, logits = alone(programs, TEXT, project / f"{name}-hf", json.dumps(TEXTS))
    meta = json.loads((project / "runs" / name / "index.json").read_text())["meta"]
    assert (architecture, decoded, len(logits)) == ("GPTNeoXForCausalLM", TEXTS, meta["vocabulary"])
    assert ids == [encode(text, meta["tokenizer"]) for text in TEXTS]
    assert name == "lm" or len(ids[2]) < len(TEXTS[2])


def test_a_model_of_transformers_own_is_saved_as_it_is(programs: Path, project: Path) -> None:
    done = heliostat(programs, project, "model", "export", "gpt2", "--to", "hf")
    assert done.returncode == 0, done.stderr
    assert json.loads((project / "gpt2-hf" / "config.json").read_text())["architectures"] == ["GPT2LMHeadModel"]


def test_an_operator_that_onnx_does_not_have_is_named_with_its_module(programs: Path, project: Path) -> None:
    done = heliostat(programs, project, "model", "export", "eigen", "--to", "onnx")
    assert done.returncode == 2
    assert "operator aten.linalg_eig" in done.stderr
    assert "in module 1 (Values)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "eigen-onnx").exists()
