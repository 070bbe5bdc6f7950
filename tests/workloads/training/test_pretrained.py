"""Pretrained weights of a task: read once, by a new run; what else a model needs is kept with the dataset and the run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from heliostat.datasets import build
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.inference import load_run
from heliostat.workloads.plan import prepare
from heliostat.workloads.training.preflight import try_task
from heliostat.workloads.training.start import preview
from tests.workloads.training.test_loop import config, losses, train

CODE = """
import torch
from torch import nn
from heliostat import Source, Task

class Points(Source):
    def __init__(self, words):
        self.meta = {"vocabulary": words}
    def rows(self):
        for number in range(200):
            yield {"features": [float(number % 7), float(number % 5)], "label": number % 2}

class Loads(Task):
    def model(self):
        return nn.Linear(2, len(self.index.meta["own"]["vocabulary"]))
    def pretrained(self, model):
        model.load_state_dict(torch.load("weights.pt", weights_only=True))
    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a task, a source and weights."""
    (tmp_path / "loads.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.full((2, 2), 0.5), "bias": torch.zeros(2)}, tmp_path / "weights.pt")
    return tmp_path


def changes(words: Any = ("a", "b")) -> dict[str, Any]:
    source = {"source": "loads:Points", "options": {"words": [*words] if isinstance(words, tuple) else words}}
    return {"task": "loads:Loads", "model": {}, "dataset": source, "steps": 8, "evaluate_every": 8, "checkpoint_every": 4}


def test_pretrained_weights_are_read_by_a_new_run_only(folder: Path) -> None:
    planned = prepare(config(folder, **changes()))
    assert "pretrained of the task has loaded 2 of the model's 2 tensors" in preview(planned).notes
    train(config(folder, **changes()))
    run = Folder.at(folder / "run")
    # Logits that are equal for both classes.
    assert losses(run)[1] == pytest.approx(0.6931, abs=1e-4)
    (folder / "weights.pt").unlink()
    train(config(folder, **{**changes(), "steps": 12}))
    assert max(losses(run)) == 12
    loaded = load_run(str(run))
    assert loaded.task.index.meta["own"] == {"vocabulary": ["a", "b"]}
    with pytest.raises(UserError, match="pretrained of task loads:Loads fails"):
        preview(prepare(config(folder, **{**changes(), "name": "other"})))


def test_what_a_source_keeps_must_be_plain(folder: Path) -> None:
    odd = "Points.__init__ = lambda self, words: setattr(self, 'meta', {'vocabulary': {1, 2}})"
    (folder / "loads.py").write_text(f"{CODE}\n{odd}\n")
    plan = prepare(config(folder, **changes()))
    assert plan.source
    with pytest.raises(UserError, match="loads:Points': meta is not plain"):
        build(plan.source, plan.dataset_uri)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"backbone": "resnet18"}, ("model.backbone is 'resnet18'", "write torchvision:NAME or timm:NAME")),
        ({"backbone": "timm:resnet10t"}, ("timm is not installed", "pip install 'heliostat[vision]'")),
        ({"backbone": "timm:resnet10t", "width": 64}, ("has width, which the backbone decides",)),
        ({"weights": "w.pt"}, ("has weights, but no backbone",)),
    ],
)
def test_a_backbone_that_cannot_be_made_is_refused(tmp_path: Path, model: dict[str, Any], words: tuple[str, ...]) -> None:
    digits = {"task": "image-classification", "dataset": {"source": "digits"}, "model": model}
    with pytest.raises(UserError) as refused:
        tried(config(tmp_path, **digits))
    assert all(word in str(refused.value) for word in words), refused.value


def tried(wanted: Any) -> None:
    plan = prepare(wanted)
    assert plan.source
    try_task(plan.config, build(plan.source, plan.dataset_uri))


def test_an_example_without_its_library_says_what_to_install(tmp_path: Path) -> None:
    name = "heliostat.workloads.examples.finetune_text"
    source = {"source": f"{name}:Texts", "options": {"path": "reviews.csv", "pretrained": "bert"}}
    with pytest.raises(UserError, match=r"needs (transformers|peft), which is not installed(.|\n)*heliostat\[transformers\]"):
        prepare(config(tmp_path, task=f"{name}:Classifier", model={}, dataset=source))


def test_a_bundled_task_on_texts_without_its_library_or_folder_says_what_to_do(tmp_path: Path) -> None:
    options = {"path": "reviews.csv", "pretrained": str(tmp_path), "label": "stars"}
    texts = {"task": "text-classification", "model": {"pretrained": str(tmp_path)}}
    with pytest.raises(UserError, match=r"there is no file .*config.json(.|\n)*save_pretrained"):
        tried(config(tmp_path, **texts, dataset={"source": "tokenized", "options": options}))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "reviews.csv").write_text("text,stars\nfine,5\n")
    found = {"source": "tokenized", "options": {**options, "path": str(tmp_path / "reviews.csv")}}
    with pytest.raises(UserError, match=r"need transformers, which is not installed(.|\n)*heliostat\[transformers\]"):
        tried(config(tmp_path, **texts, dataset=found))
    found["options"] = {**options, "path": str(tmp_path / "reviews.csv"), "label": "rating"}
    with pytest.raises(UserError, match=r"has no column 'rating'(.|\n)*name one of text, stars"):
        tried(config(tmp_path, **texts, dataset=found))
