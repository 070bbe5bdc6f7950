"""The metrics of tables, exact for any number of workers and any batch size."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce

import torch
from torch import Tensor

from heliostat.datasets import Index
from heliostat.workloads.metric import Accumulator, Metric
from heliostat.workloads.tabular import formulas
from heliostat.workloads.tabular.formulas import Formula

CURVES = 20
"""The most classes for which AUC and average precision are computed: they keep the probabilities of all samples."""


class Summed(Metric):
    """A metric of sums over the samples, which are kept instead of the samples.

    Args:
        part: tensors (samples, ...) and weights (1, samples) -> sums (1, ...) in float64.
        whole: the sums of all samples -> (1,).
        merge: two sums -> those of both.
    """

    parts: list[Tensor]

    def __init__(
        self, part: Formula, whole: Callable[[Tensor], Tensor], merge: Callable[[Tensor, Tensor], Tensor] = torch.add
    ) -> None:
        super().__init__()
        self._part, self._whole, self._merge = part, whole, merge
        self.add_state("parts", [])

    def update(self, *values: Tensor) -> None:
        # One a worker: those of all are a list, too.
        self.parts = [reduce(self._merge, [*self.parts, formulas.of_predictions(self._part, *values, _ones(values[0])).cpu()])]

    def compute(self) -> Tensor:
        return self._whole(reduce(self._merge, self.parts))


Decide = Callable[[Tensor], Tensor]
"""Probabilities (samples, classes) -> classes (samples,)."""


def most_probable(probabilities: Tensor) -> Tensor:
    """The class with the highest probability."""
    return probabilities.argmax(1)


def of_classes(count: int, positive: int = 1, decide: Decide = most_probable) -> "dict[str, Accumulator]":
    """The metrics of classes, each of which takes probabilities (samples, count) and labels (samples,).

    Args:
        count: of the classes. With more than `CURVES` there are no AUC and no average precision.
        positive: of two classes that which F1, average precision and the calibration error are of, see `rarer`. Of more
            classes F1, AUC and average precision are means over the classes, and the calibration is that of the predicted one.
        decide: chooses the classes that accuracy, balanced accuracy and F1 are of, such as `Task.decide`.
    """
    return {name: _accumulator(*formula) for name, formula in class_formulas(count, positive, decide).items()}


def class_formulas(
    count: int, positive: int, decide: Decide = most_probable
) -> dict[str, tuple[Formula, Callable[[Tensor], Tensor] | None]]:
    """By metric the formula of its sums and of what they become; or of the metric itself, which needs all samples at once."""
    one = positive if count == 2 else None

    def counts(probabilities: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        # A function rather than a partial: an evaluation copies its metrics, which must not copy the task of `decide`.
        return formulas.counts(decide(probabilities), labels, weights, count)

    curves: dict[str, tuple[Formula, None]] = {
        "auc": (partial(formulas.auc, positive=one), None),
        "average_precision": (partial(formulas.average_precision, positive=one), None),
    }
    return {
        "log_loss": (formulas.log_losses, formulas.mean),
        "accuracy": (counts, formulas.accuracy),
        "balanced_accuracy": (counts, formulas.balanced_accuracy),
        "f1": (counts, partial(formulas.f1, positive=one)),
        **(curves if count <= CURVES else {}),
        "calibration_error": (partial(formulas.calibration, positive=one), formulas.calibration_error),
    }


def of_numbers(levels: Sequence[float] = ()) -> "dict[str, Accumulator]":
    """The metrics of numbers, each of which takes predictions and targets (samples,).

    Args:
        levels: of quantiles, such as 0.1 and 0.9. If there are any, the metrics take their predictions (samples, levels),
            too, and the mean pinball loss is one of them.
    """
    found = {name: _accumulator(*formula) for name, formula in number_formulas(levels).items()}
    # The target's mean is not known before all samples are.
    return {**found, "r2": Summed(formulas.moments, formulas.r2_of_moments, formulas.merged_moments)}


def number_formulas(levels: Sequence[float] = ()) -> dict[str, tuple[Formula, Callable[[Tensor], Tensor] | None]]:
    """As `class_formulas`, of numbers."""
    loss = {"pinball_loss": (partial(formulas.pinball, levels=tuple(levels)), formulas.mean)} if levels else {}
    return {
        "rmse": (formulas.errors, formulas.rmse),
        "mae": (formulas.errors, formulas.mae),
        "r2": (formulas.r2, None),
        **loss,
    }


def update(names: Iterable[str], *tensors: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """What a task's ``metrics`` returns for accumulators with these names, which all take the same tensors."""
    return dict.fromkeys(names, tensors)


def rarer(index: Index) -> int:
    """Of two classes the one with fewer samples in the train split; the second if that is not known."""
    counted = index.train.target if index.train else ()
    return int(len(counted) != 2 or counted[1] <= counted[0])


def _accumulator(formula: Formula, whole: Callable[[Tensor], Tensor] | None) -> "Accumulator":
    return Summed(formula, whole) if whole else partial(_at_once, formula)


def _at_once(formula: Formula, *values: Tensor) -> Tensor:
    return formulas.of_predictions(formula, *values, _ones(values[0]))[0]


def _ones(values: Tensor) -> Tensor:
    return torch.ones(1, len(values), dtype=torch.float64, device=values.device)
