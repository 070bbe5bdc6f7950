"""Pretrained models of torchvision, timm and Hugging Face, whole and with LoRA, from files that are gone afterwards."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.accept.conftest import overlay
from tests.conftest import ROOT, clean_environment

MADE = """
import numpy as np, torch
from pathlib import Path
import timm, torchvision
from PIL import Image
torch.manual_seed(7)  # another than that of a run, whose new model would have the same weights
torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), "torchvision.pth")
torch.save(timm.create_model("resnet10t", num_classes=7).state_dict(), "timm.pth")
random = np.random.default_rng(0)
for name, level in (("dark", 60), ("light", 190)):
    Path("images", name).mkdir(parents=True)
    for number in range(60):
        pixels = np.clip(random.normal(level, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(f"images/{name}/{number}.png")
"""
MADE_TEXTS = """
import csv, torch, transformers
torch.manual_seed(7)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "was"]
config = transformers.BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                 intermediate_size=32, max_position_embeddings=32, num_labels=5)
transformers.BertForSequenceClassification(config).save_pretrained("bert")
from tokenizers import Tokenizer, models, pre_tokenizers, processors
inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
).save_pretrained("bert")
config = transformers.GPT2Config(vocab_size=len(words), n_embd=32, n_layer=2, n_head=2, n_positions=32, eos_token_id=3)
transformers.GPT2LMHeadModel(config).save_pretrained("gpt2")
transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token="[SEP]").save_pretrained("gpt2")
with open("reviews.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["text", "label"])
    for number in range(300):
        word = "good" if number % 2 else "bad"
        writer.writerow([f"the film {'a ' * (number % 9)}was {word} {'film ' * (number % 17)}", word])
"""
IMAGES = {"task": "image-classification", "dataset": {"source": "images", "options": {"path": "images", "size": 32}}}
TEXTS = {
    "task": "heliostat.workloads.examples.finetune_text:Classifier",
    "dataset": {
        "source": "heliostat.workloads.examples.finetune_text:Texts",
        "options": {"path": "reviews.csv", "pretrained": "bert", "length": 24},
    },
}
BERT = {"pretrained": "bert"}
TOKENS = {"path": "reviews.csv", "length": 24}
LORA = {"r": 4, "lora_alpha": 8}
BUNDLED: dict[str, dict[str, Any]] = {
    "text-classification": {
        "model": {**BERT, "lora": {**LORA, "target_modules": ["query", "value"]}},
        "dataset": {"source": "tokenized", "options": {**TOKENS, "pretrained": "bert", "label": "label"}},
        "optimizer": {"lr": 0.02},
    },
    "causal-language-model": {
        "model": {"pretrained": "gpt2", "generate": 4, "prompt": "the film"},
        "dataset": {"source": "tokenized", "options": {**TOKENS, "pretrained": "gpt2"}},
        "optimizer": {"lr": 0.003},
    },
}
LOADED = """
import sys, transformers
name = "AutoModelForSequenceClassification" if sys.argv[1] == "text-classification" else "AutoModelForCausalLM"
kind = getattr(transformers, name)
model, tokenizer = kind.from_pretrained("out"), transformers.AutoTokenizer.from_pretrained("out")
print(model(**tokenizer("the film was bad", return_tensors="pt")).logits.shape[-1], *model.config.id2label.values())
"""
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "torchvision": (
        {
            **IMAGES, "model": {"backbone": "torchvision:resnet18", "weights": "torchvision.pth"},
            "optimizer": {"lr": 0.003, "freeze": ["backbone.layer*"], "freeze_steps": 6},
        },
        "images/dark/1.png",
    ),
    "timm": ({**IMAGES, "model": {"backbone": "timm:resnet10t", "weights": "timm.pth"}}, "images/dark/1.png"),
    "whole": ({**TEXTS, "model": BERT, "optimizer": {"lr": 0.003}}, "the film was bad"),
    "lora": (
        {
            **TEXTS, "model": {**BERT, "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}},
            "optimizer": {"lr": 0.02},
        },
        "the film was bad",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlay(tmp_path_factory.mktemp("finetuning") / "venv", "-r", str(Path(__file__).with_name("finetuning.txt")))


@pytest.fixture
def env(programs: Path, tmp_path: Path) -> Mapping[str, str]:
    found = clean_environment(tmp_path / "home")
    return {**found, "PATH": f"{programs}:{found['PATH']}", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def project(programs: Path, env: Mapping[str, str], tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    subprocess.run([programs / "python", "-c", MADE + MADE_TEXTS], cwd=folder, env=dict(env), check=True, timeout=300)
    return folder


def run(programs: Path, project: Path, env: Mapping[str, str], *arguments: str) -> str:
    """What Python prints, of both streams."""
    done = subprocess.run(
        [programs / "python", *arguments], cwd=project, env=dict(env), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_a_pretrained_model_is_trained_resumed_and_predicts_without_its_files(
    programs: Path, project: Path, env: Mapping[str, str], name: str
) -> None:
    def heliostat(*arguments: str) -> str:
        return run(programs, project, env, "-m", "heliostat", *arguments)

    config, example = CASES[name]
    changes = {"global_batch": 16, "steps": 12, "evaluate_every": 6, "checkpoint_every": 6}
    (project / "run.yaml").write_text(json.dumps({**config, **changes}))
    said = heliostat("train", "run.yaml", "--dry-run")
    assert "pretrained of the task has loaded" in said
    heliostat("train", "run.yaml", "--in-process")
    for weights in ("torchvision.pth", "timm.pth", "bert/model.safetensors"):
        (project / weights).unlink()
    heliostat("train", "run.yaml", "--in-process", "--set", "steps=20")
    records = [json.loads(line) for line in (project / "runs/run/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "eval"][-1] == 20
    shutil.rmtree(project / "bert")
    shutil.rmtree(project / "runs/.datasets", ignore_errors=True)
    assert "bad" in heliostat("predict", "run", example, "--json") or "dark" in example


@pytest.mark.parametrize("task", BUNDLED)
def test_a_text_model_is_trained_predicts_rows_and_is_loaded_by_transformers(
    programs: Path, project: Path, env: Mapping[str, str], task: str
) -> None:
    def heliostat(*arguments: str) -> str:
        return run(programs, project, env, "-m", "heliostat", *arguments)

    lengths = {"global_batch": 16, "steps": 12, "evaluate_every": 6, "checkpoint_every": 6}
    (project / "run.yaml").write_text(json.dumps({"task": task, **BUNDLED[task], **lengths}))
    heliostat("train", "run.yaml", "--in-process")
    folder = project / BUNDLED[task]["model"]["pretrained"]
    (folder / "model.safetensors").unlink()
    heliostat("train", "run.yaml", "--in-process", "--set", "steps=20")
    shutil.rmtree(folder)
    heliostat("evaluate", "run")
    assert "film" in heliostat("predict", "run", "the film was bad")
    heliostat("predict", "run", "reviews.csv", "--out", "out.csv")
    assert (project / "out.csv").read_text().splitlines()[0].startswith('"text","label","prediction"')
    heliostat("model", "export", "run", "--to", "hf", "--output", "out")
    said = run(programs, project, env, "-c", LOADED, task).splitlines()
    assert ("2 bad good" if task == "text-classification" else "11 LABEL_0 LABEL_1") in said
