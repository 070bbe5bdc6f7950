"""Assesses the predictions of a model on a split: what its metrics alone do not say.

How sure they are, what a constant prediction reaches, where the mistakes are, and how good it is for the values of a column.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from heliostat.datasets import Dataset, Index
from heliostat.errors import UserError
from heliostat.workloads.config import ReportConfig
from heliostat.workloads.run.journal import finite
from heliostat.workloads.tabular import curves
from heliostat.workloads.tabular.bootstrap import MOST, Formulas, intervals, values
from heliostat.workloads.tabular.metrics import Decide, class_formulas, most_probable, number_formulas, rarer
from heliostat.workloads.task import Batch, Task
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import eval_mode, first_sample, parts
from heliostat.workloads.training.groups import columns_of, of_columns
from heliostat.workloads.training.parallel import Apply

MISTAKES = 24
NOTHING = ReportConfig()
Kind = Literal["classes", "numbers"]


def kind_of(task: Task, outputs: Mapping[str, Tensor], rows: int) -> Kind | None:
    """What a task predicts that can be assessed; None if that is something else.

    Raises:
        UserError: the probabilities are not one for each sample and class.
    """
    index = task.index
    if "target" in index.fields and "prediction" in outputs:
        # Others may mean something else by the name.
        return "numbers" if outputs["prediction"].shape == (rows, *index.fields["target"].shape) == (rows,) else None
    if "label" not in index.fields or not index.classes or "probabilities" not in outputs:
        return None
    shape = tuple(outputs["probabilities"].shape)
    if shape != (rows, len(index.classes)):
        raise UserError(
            f"predict of task {type(task).__name__} returns probabilities of shape {shape}, but must return one for each "
            f"sample and class, here {(rows, len(index.classes))}",
            "return softmax(1) of the logits of all classes",
        )
    return "classes"


@torch.no_grad()
def assess(
    task: Task,
    apply: Apply,
    dataset: Dataset,
    split: str,
    ranks: Ranks,
    size: int,
    measured: Mapping[str, float],
    report: ReportConfig = NOTHING,
) -> dict[str, Any]:
    """Assesses the predictions; all workers must call it, and rank 0 gets the result. Empty for other tasks.

    Args:
        measured: the metrics of the split.
        report: the columns of a table for whose values the metrics are computed, and how many rows are ``worst``.

    Returns:
        ``intervals`` (by metric the least and the most of 95 %), ``baseline`` (by metric what the shares of the classes or the
        mean of the train split reach, if they are known), the points of the curves, ``by``, the ``worst`` rows if they are
        wanted; and of classes ``confusion`` (rows are the truth), the most confident ``mistakes``, and of two ``positive``, the
        class that is sought.
    """
    total, by = dataset.index.rows(split), report.by
    most = min(total, MOST)
    chosen = np.arange(most) * total // most
    kept: list[Batch] = []
    targets: list[Tensor] = []
    with eval_mode(apply):
        # All workers must decide the same, also one whose part is empty: they all predict the same sample.
        kind = kind_of(task, apply(task.predict, first_sample(dataset, split, ranks)), 1)
        if kind is None:
            return {}
        answer, truth = ("probabilities", "label") if kind == "classes" else ("prediction", "target")
        mistakes, worst = Mistakes(len(dataset.index.classes)), Worst(report.rows)
        for ids, batch, samples in parts(dataset, split, ranks, size):
            outputs = apply(task.predict, batch)
            if not samples:
                continue
            if kind == "classes":
                probabilities = outputs["probabilities"]
                guess = task.decide(probabilities)
                mistakes.add(ids, probabilities, guess, batch["label"])
                worst.add(ids, 1 - probabilities.gather(1, batch["label"][:, None]).squeeze(1), guess, batch["label"])
            else:
                error = outputs["prediction"].double() - batch["target"].double()
                worst.add(ids, error.abs(), outputs["prediction"], batch["target"])
                targets.append(batch["target"].double().cpu())
            here = torch.from_numpy(np.isin(ids, chosen))
            part = {"answer": outputs[answer], "truth": batch[truth], **columns_of(dataset.index, by, batch)}
            kept.append({name: value.cpu()[here] for name, value in part.items()})
    samples_of = {**(mistakes.everywhere(ranks) if kind == "classes" else {}), **worst.everywhere(ranks)}
    gathered = [part for each in ranks.gather_object(kept) for part in each]
    known = [part for each in ranks.gather_object(targets) for part in each]
    if ranks.rank:
        return {}
    sampled = {name: torch.cat([part[name] for part in gathered]) for name in gathered[0]}

    def decide(probabilities: Tensor) -> Tensor:
        return task.decide(probabilities.to(ranks.device)).cpu()

    found = _described(dataset.index, kind, sampled, total, measured, by, decide)
    # Of all samples, as the metrics beside it are; of classes, those of each are equal.
    if kind == "classes":
        counts = torch.tensor(samples_of["confusion"], dtype=torch.float64).sum(1)
        truth_of_all = torch.arange(len(counts))
    else:
        truth_of_all = torch.cat(known)
        counts = torch.ones_like(truth_of_all)
    baseline = _baseline(dataset.index, kind, truth_of_all, counts, found["intervals"])
    return {**samples_of, **found, "baseline": baseline}


def _described(
    index: Index, kind: Kind, sampled: Batch, total: int, measured: Mapping[str, float], by: Sequence[str], decide: Decide
) -> dict[str, Any]:
    """What follows from the sampled predictions and their truth."""
    answer, truth = sampled["answer"].float(), sampled["truth"]
    if kind == "classes":
        positive = rarer(index) if len(index.classes) == 2 else None
        drawn = {**curves.of_classes(answer, truth, index.classes, positive), "positive": positive}
    else:
        drawn, answer = curves.of_numbers(sampled["answer"], truth), sampled["answer"].double()
    formulas = _formulas(index, kind, decide)
    formulas = {name: formulas[name] for name in measured if name in formulas}
    found = intervals(formulas, (answer, truth), total, measured)
    # Of another definition than ours are those without an interval.
    formulas = {name: formulas[name] for name in found}
    groups = of_columns(index, by, sampled, lambda at: _numbers(values(formulas, (answer[at], truth[at]))))
    return {"intervals": found, **drawn, "by": groups}


def _formulas(index: Index, kind: Kind, decide: Decide) -> Formulas:
    if kind == "numbers":
        return number_formulas()
    found = class_formulas(len(index.classes), rarer(index), decide)
    return {"loss": found["log_loss"], **found}


def _numbers(found: Mapping[str, Tensor]) -> dict[str, float | None]:
    return finite({name: float(value) for name, value in found.items()})


def _baseline(index: Index, kind: Kind, truth: Tensor, counts: Tensor, names: Iterable[str]) -> dict[str, float | None]:
    """What the prediction reaches that does not look at the sample; empty where that is not known.

    It is the shares of the classes in the train split, of which the most frequent is chosen, or its mean target.

    Args:
        truth: of the samples (n,), equal ones also as one.
        counts: how many samples (n,) each stands for, float64.
    """
    known = torch.tensor(index.train.target if index.train else (), dtype=torch.float64)
    if not len(known):
        return {}
    constant = known[0].expand(len(truth)) if kind == "numbers" else (known / known.sum()).expand(len(truth), -1)
    formulas = _formulas(index, kind, most_probable)
    found = values({name: formulas[name] for name in names}, (constant, truth), counts[None])
    return finite({name: float(value) + 0.0 for name, value in found.items()})


class Mistakes:
    """The confusion matrix of a worker, and its most confident mistakes."""

    def __init__(self, classes: int) -> None:
        self._matrix = np.zeros((classes, classes))
        self._worst: list[dict[str, Any]] = []

    def add(self, ids: Any, probabilities: Tensor, guess: Tensor, truth: Tensor) -> None:
        """Adds the predictions of samples with these numbers."""
        confidence = probabilities.gather(1, guess[:, None]).squeeze(1)
        np.add.at(self._matrix, (truth.cpu().numpy(), guess.cpu().numpy()), 1)
        wrong = [
            {"id": int(ids[at]), "label": int(truth[at]), "guess": int(guess[at]), "confidence": float(confidence[at])}
            for at in (guess != truth).nonzero().flatten().tolist()
        ]
        self._worst = sorted([*self._worst, *wrong], key=lambda m: -m["confidence"])[:MISTAKES]

    def everywhere(self, ranks: Ranks) -> dict[str, Any]:
        """Those of all workers, on each."""
        total = ranks.all_gather(self._matrix.flatten().tolist()).sum(0).view(self._matrix.shape)
        worst = sorted((m for part in ranks.all_gather_object(self._worst) for m in part), key=lambda m: -m["confidence"])
        return {"confusion": total.long().tolist(), "mistakes": worst[:MISTAKES]}


class Worst:
    """The samples of a worker with the largest errors: of classes the probability of all others, of numbers the distance."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: list[dict[str, Any]] = []

    def add(self, ids: Any, errors: Tensor, guess: Tensor, truth: Tensor) -> None:
        """Adds the predictions of samples with these numbers."""
        if not self._most:
            return
        for at in errors.topk(min(self._most, len(errors))).indices.tolist():
            values = {"error": errors[at].item(), "prediction": guess[at].item(), "truth": truth[at].item()}
            self._found.append({"id": int(ids[at]), **values})
        self._found = self._largest(self._found)

    def everywhere(self, ranks: Ranks) -> dict[str, Any]:
        """Those of all workers, on each; empty if none are wanted."""
        if not self._most:
            return {}
        return {"worst": self._largest([each for part in ranks.all_gather_object(self._found) for each in part])}

    def _largest(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(found, key=lambda each: (-each["error"], each["id"]))[: self._most]
