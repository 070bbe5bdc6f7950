"""Evaluation and prediction with the best model of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heliostat.config import nearest
from heliostat.datasets import Dataset
from heliostat.datasets.index import SPLITS
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.requirements import provide
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import finite
from heliostat.workloads.run.record import RunRecord, open_dataset, read_record
from heliostat.workloads.task import Task, create
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure

BATCH = 256


@dataclass(frozen=True)
class Trained:
    """The best checkpoint of a run, loaded."""

    folder: Folder
    record: RunRecord
    dataset: Dataset
    task: Task
    model: nn.Module
    step: int
    ranks: Ranks


def load_run(folder: Folder | str | Path) -> Trained:
    """Loads the best checkpoint of a run, or the last if none was evaluated.

    Args:
        folder: the run folder, or its path or URI.

    Raises:
        UserError: there is no run, it has no checkpoint, or its dataset is missing or has changed.
        Damaged: the checkpoint differs from what was written.
    """
    folder = folder if isinstance(folder, Folder) else Folder.at(folder)
    record = read_record(folder)
    checkpoints = checkpoint.committed(folder)
    if not checkpoints:
        raise UserError(f"run {folder} has no checkpoint yet", "let it train longer")
    dataset = open_dataset(folder, record)
    provide(record.config.requirements)
    task = create(record.config.task, record.config.model, dataset.index)
    best = checkpoint.best(checkpoints, task.metric, task.better) or checkpoints[-1]
    ranks = Ranks.of_this_process()
    model = task.model()
    new = checkpoint.not_finite({"model": model.state_dict(), "optimizer": {}})
    model.load_state_dict(best.read(infinite=new, buffers={name for name, _ in model.named_buffers()})["model"])
    return Trained(folder, record, dataset, task, model.to(ranks.device).eval(), best.step, ranks)


def evaluate(folder: Folder, split: str = "test") -> dict[str, Any]:
    """Evaluates a run's best checkpoint on a split: ``{"run", "step", "split", "samples", "metrics"}``.

    A metric that is NaN or infinite is None.

    Raises:
        UserError: see `load_run`; there is no such split; a metric cannot be used.
    """
    if split not in SPLITS:
        raise UserError(f"--split is {split!r}, which is not a split", nearest(split, SPLITS))
    run = load_run(folder)
    return {
        "run": str(folder),
        "step": run.step,
        "split": split,
        "samples": run.dataset.index.rows(split),
        "metrics": finite(measure(run.task, run.model, run.dataset, split, run.ranks, BATCH)),
    }


def predict(run: Trained, value: str) -> dict[str, Any]:
    """Predicts one input; for classifiers the classes and their probabilities, the most probable first."""
    batch = {name: tensor.to(run.ranks.device) for name, tensor in run.task.read(value).items()}
    with torch.no_grad():
        outputs = {name: tensor[0].cpu() for name, tensor in run.task.predict(run.model, batch).items()}
    if not outputs:
        raise UserError(f"task {type(run.task).__name__} makes no predictions", "give the task a predict method")
    if "probabilities" in outputs:
        pairs = zip(run.dataset.index.classes, outputs["probabilities"].tolist(), strict=True)
        ranked = sorted(pairs, key=lambda pair: -pair[1])
        return {"input": value, "class": ranked[0][0], "probabilities": dict(ranked)}
    text = getattr(run.task, "text", None)
    if text and "tokens" in outputs:
        return {"input": value, "text": text(outputs["tokens"])}
    return {"input": value, **{name: tensor.tolist() for name, tensor in outputs.items()}}
