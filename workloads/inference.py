"""Evaluation and prediction with the best model of a run."""

import sys
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from heliostat.config import nearest
from heliostat.datasets import Dataset, Index
from heliostat.datasets.index import SPLITS
from heliostat.datasets.signature import Oddities
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.requirements import provide
from heliostat.workloads.prediction.files import Summary
from heliostat.workloads.prediction.model import Predictor, check_outputs, levels
from heliostat.workloads.prediction.rows import any_table, parse_row, table_of
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.checkpoint import Checkpoint, State
from heliostat.workloads.run.code import find_task
from heliostat.workloads.run.journal import finite
from heliostat.workloads.run.record import RunRecord, open_dataset, read_index, read_record, read_result
from heliostat.workloads.task import Task, create
from heliostat.workloads.training.assessment import assess
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure
from heliostat.workloads.training.parallel import Apply

BATCH = 256
NO_SIGNATURE = "give one input after the other to heliostat.predict; a table gets a signature when its dataset is built again"


@dataclass(frozen=True)
class Trained:
    """The best checkpoint of a run, loaded."""

    folder: Folder
    record: RunRecord
    index: Index
    """That of its dataset, which may be gone."""
    task: Task
    model: nn.Module
    step: int
    ranks: Ranks
    notes: tuple[str, ...] = ()
    """Why better checkpoints were not used, and that the task's code is not the current one."""

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset that it was trained on, opened.

        Raises:
            UserError: it is missing, or has changed.
        """
        return open_dataset(self.folder, self.record)

    @property
    def takes_texts(self) -> bool:
        """Whether its task reads rows of texts itself, which have no signature."""
        return self.index.signature is None and self.task.reads_rows

    @property
    def predictor(self) -> Predictor:
        """The model, for chunks of raw rows."""
        return Predictor(self.task, self.model, self.ranks.device)

    def predict(self, rows: Any) -> pa.Table:
        """The predictions for raw rows of a table, a row for each, as an Arrow table (``.to_pandas()``, ``.to_pylist()``).

        Classes have the columns ``prediction`` and ``probability_CLASS``, numbers ``prediction`` and ``quantile_LEVEL``.

        Args:
            rows: a list of dictionaries, in which a column that is left out is missing; or a DataFrame or an Arrow table.

        Warns:
            UserWarning: categories that the run has not seen, and values out of the range of its data, by column.

        Raises:
            UserError: the run was trained on no table; rows lack columns, or have unknown ones, or values of another kind.
        """
        if self.takes_texts:
            return self.predictor(any_table(rows))[0]
        if self.index.signature is None:
            raise UserError(f"run {self.folder} was not trained on a table with a signature", NO_SIGNATURE)
        predictions, odd = self.predictor(table_of(rows, self.index.signature, self.index.read))
        if odd.unknown or odd.beyond:
            summary = Summary()
            summary.add(len(predictions), Oddities(unknown=odd.unknown, beyond=odd.beyond))
            warnings.warn(f"the run has not seen all of this: {summary}", stacklevel=3)  # where the user calls the interface
        return predictions


def load_run(folder: Folder | str | Path) -> Trained:
    """Loads the best checkpoint of a run, or the last if none was evaluated, with the code of its task that is kept with it.

    If it is damaged, not finite or missing, the next best is loaded, which standard error and `Trained.notes` say.

    Args:
        folder: the run folder, or its path or URI.

    Raises:
        UserError: there is no run, or it has no checkpoint that can be used; a run of an earlier version, whose folder has no
            copy of the dataset's index, also if the dataset is missing or has changed.
    """
    folder = folder if isinstance(folder, Folder) else Folder.at(folder)
    record = read_record(folder)
    checkpoints = checkpoint.all_checkpoints(folder)
    if not checkpoints:
        raise UserError(f"run {folder} has no checkpoint yet", "let it train longer")
    index = read_index(folder, record)
    provide(record.config.requirements)
    beside = [each for key, each in record.config.own_code.items() if key != "task"]
    cls, note = find_task(folder, record.config.task, record.code, beside)
    task = create(record.config.task, record.config.model, index, cls, record.config.metric)
    ranks = Ranks.of_this_process()
    model = task.model()
    found, state, skipped = _best_intact(folder, checkpoints, task, model)
    notes = [note] * bool(note) + [f"{reason}; step {found.step} is used instead" for reason in skipped]
    for each in notes:
        print(f"heliostat: {each}", file=sys.stderr)
    model.load_state_dict(state["model"])
    return Trained(folder, record, index, task, model.to(ranks.device).eval(), found.step, ranks, tuple(notes))


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


def evaluate(run: Trained | Folder | str | Path, split: str = "test") -> dict[str, Any]:
    """Evaluates a run's best checkpoint on a split: ``{"run", "step", "split", "samples", "metrics", "notes"}``.

    For classifiers and regression also ``intervals`` and ``baseline``, as in `heliostat.workloads.run.record.Result`. A metric
    that is NaN or infinite is None. If that is not the run's best checkpoint, ``notes`` say why.

    Raises:
        UserError: see `load_run`; the dataset is missing, or has changed; there is no such split; a metric cannot be used.
    """
    if split not in SPLITS:
        raise UserError(f"--split is {split!r}, which is not a split", nearest(split, SPLITS))
    run = run if isinstance(run, Trained) else load_run(run)
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
    """Predicts one input with a run, or the run in that folder: an image file, a text or a JSON row, as its task takes it.

    For classifiers the classes and their probabilities, the most probable first. Of a row ``odd`` has what the run has not
    seen, by column, if there is any. `Trained.predict` takes many rows at once.

    Raises:
        UserError: the input is not one that the task takes, or the task makes no predictions.
    """
    run = run if isinstance(run, Trained) else load_run(run)
    if not isinstance(value, str):
        raise UserError(
            f"the input is a {type(value).__name__}, but must be a text: a JSON row, a path or what the task reads",
            "give a text; of a table, load_run(run).predict(rows) takes dictionaries and a DataFrame",
        )
    result: dict[str, Any] = {"input": value}
    odd: dict[str, list[str]] = {}
    if run.index.signature and type(run.task).read is Task.read:
        signature, read = run.index.signature, run.index.read
        tensors, oddities = run.task.rows(table_of(parse_row(value, signature), signature, read))
        odd = {what: [*columns] for what, columns in vars(oddities).items() if columns}
    else:
        tensors = run.task.read(value)
    batch = {name: tensor.to(run.ranks.device) for name, tensor in tensors.items()}
    with torch.no_grad():
        outputs = {name: tensor.cpu() for name, tensor in run.task.predict(run.model, batch).items()}
    check_outputs(run.task, outputs)
    text = getattr(run.task, "text", None)
    if "probabilities" in outputs:
        pairs = zip(run.index.classes, outputs["probabilities"][0].tolist(), strict=True)
        ranked = dict(sorted(pairs, key=lambda pair: -pair[1]))
        result |= {"class": run.index.classes[int(run.task.decide(outputs["probabilities"])[0])], "probabilities": ranked}
    elif text and "tokens" in outputs:
        result |= {"text": text(outputs["tokens"][0])}
    else:
        result |= {name: tensor[0].tolist() for name, tensor in outputs.items()}
        if "quantiles" in outputs:
            result["quantiles"] = dict(zip(levels(run.task, outputs["quantiles"]), result["quantiles"], strict=True))
    return {**result, "odd": odd} if odd else result
