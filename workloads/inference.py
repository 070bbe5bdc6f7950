"""Evaluation and prediction with the best model of a run."""

import sys
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
from heliostat.workloads.run.checkpoint import Checkpoint, State
from heliostat.workloads.run.code import find_task
from heliostat.workloads.run.journal import finite
from heliostat.workloads.run.record import RunRecord, open_dataset, read_record, read_result
from heliostat.workloads.task import Task, create
from heliostat.workloads.training.assessment import assess
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure
from heliostat.workloads.training.parallel import Apply

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
    notes: tuple[str, ...] = ()
    """Why better checkpoints were not used, and that the task's code is not the current one."""


def load_run(folder: Folder | str | Path) -> Trained:
    """Loads the best checkpoint of a run, or the last if none was evaluated, with the code of its task that is kept with it.

    If it is damaged, not finite or missing, the next best is loaded, which standard error and `Trained.notes` say.

    Args:
        folder: the run folder, or its path or URI.

    Raises:
        UserError: there is no run, it has no checkpoint that can be used, or its dataset is missing or has changed.
    """
    folder = folder if isinstance(folder, Folder) else Folder.at(folder)
    record = read_record(folder)
    checkpoints = checkpoint.all_checkpoints(folder)
    if not checkpoints:
        raise UserError(f"run {folder} has no checkpoint yet", "let it train longer")
    dataset = open_dataset(folder, record)
    provide(record.config.requirements)
    cls, note = find_task(folder, record.config.task, record.code)
    task = create(record.config.task, record.config.model, dataset.index, cls, record.config.metric)
    ranks = Ranks.of_this_process()
    model = task.model()
    found, state, skipped = _best_intact(folder, checkpoints, task, model)
    notes = [note] * bool(note) + [f"{reason}; step {found.step} is used instead" for reason in skipped]
    for each in notes:
        print(f"heliostat: {each}", file=sys.stderr)
    model.load_state_dict(state["model"])
    return Trained(folder, record, dataset, task, model.to(ranks.device).eval(), found.step, ranks, tuple(notes))


def _best_intact(
    folder: Folder, checkpoints: list[Checkpoint], task: Task, model: nn.Module
) -> tuple[Checkpoint, State, list[str]]:
    """The best checkpoint that can be read, its state, and why better ones cannot."""
    new = checkpoint.not_finite({"model": model.state_dict(), "optimizer": {}})
    buffers = {name for name, _ in model.named_buffers()}
    result = read_result(folder)
    best = result.best_step if result else None
    ranked = checkpoint.ranked(checkpoints, task.metric, task.better)
    others = [c for c in reversed(checkpoints) if c not in ranked]
    # Without its manifest, the metric of a checkpoint is unknown: it may be the best.
    first = [c for c in checkpoints if c.step == best or c.damage]
    skipped = list[str]()
    for found in [*first, *(c for c in [*ranked, *others] if c not in first)]:
        try:
            state = found.read(infinite=new, buffers=buffers)
        except checkpoint.Damaged as error:
            skipped.append(str(error))
            continue
        if found.step == best:
            return found, state, []
        if best is not None and not any(c.step == best for c in checkpoints):
            skipped.insert(0, f"checkpoint {checkpoint.folder_of(folder, best)}, the best of the run, is missing")
        return found, state, skipped
    raise UserError(
        f"no checkpoint of run {folder} can be used:\n    " + "\n    ".join(skipped),
        "restore one of them, or train again under another name (--set name=...)",
    )


def evaluate(folder: Folder | str | Path, split: str = "test") -> dict[str, Any]:
    """Evaluates a run's best checkpoint on a split: ``{"run", "step", "split", "samples", "metrics", "notes"}``.

    For classifiers and regression also ``intervals`` and ``baseline``, as in `heliostat.workloads.run.record.Result`. A metric
    that is NaN or infinite is None. If that is not the run's best checkpoint, ``notes`` say why.

    Raises:
        UserError: see `load_run`; there is no such split; a metric cannot be used.
    """
    if split not in SPLITS:
        raise UserError(f"--split is {split!r}, which is not a split", nearest(split, SPLITS))
    run = load_run(folder)
    apply = Apply(run.model)
    measured = measure(run.task, apply, run.dataset, split, run.ranks, BATCH)
    detail = assess(run.task, apply, run.dataset, split, run.ranks, BATCH, measured)
    return {
        "run": str(run.folder),
        "step": run.step,
        "split": split,
        "samples": run.dataset.index.rows(split),
        "metrics": finite(measured),
        "intervals": detail.get("intervals", {}),
        "baseline": detail.get("baseline", {}),
        "notes": list(run.notes),
    }


def predict(run: Trained | str | Path, value: str) -> dict[str, Any]:
    """Predicts one input with a run, or the run in that folder.

    For classifiers the classes and their probabilities, the most probable first.
    """
    run = run if isinstance(run, Trained) else load_run(run)
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
