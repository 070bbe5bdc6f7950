"""Metrics of classes and of numbers as formulas of weighted samples: the same for a split and for its resamples.

Each takes weights (resamples, samples) and gives (resamples,) in float64, NaN where it is not defined. What a prediction that
is NaN makes of a metric is decided in `of_predictions`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BINS = 15
"""Of the calibration error, as wide as each other (Guo et al. 2017)."""
LEAST = torch.finfo(torch.float32).eps
"""The probability that a smaller one counts as in the log loss, as in scikit-learn."""
Formula = Callable[..., Tensor]


def of_predictions(formula: Formula, *values: Tensor) -> Tensor:
    """A formula of some values; NaN if one of these is: a class, a rank and a bin of NaN would look like those of a number."""
    found = formula(*values)
    return torch.full_like(found, torch.nan) if any(value.isnan().any() for value in values) else found


def grouped(weights: Tensor, group: Tensor, count: int) -> Tensor:
    """The sums of weights (resamples, samples) by the group 0, 1, ... (samples,) of each sample: (resamples, count)."""
    return weights.new_zeros(len(weights), count).index_add_(1, group, weights)


# --- classes: probabilities (samples, classes), labels (samples,) ---------------------------------------------


def counts(guess: Tensor, labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """(resamples, 3, classes): the samples of each class, those that are predicted as it (``guess``), and those of both."""
    rows = [
        grouped(weights, labels, classes),
        grouped(weights, guess, classes),
        grouped(weights * (guess == labels), labels, classes),
    ]
    return torch.stack(rows, 1)


def accuracy(counted: Tensor) -> Tensor:
    """The share of the samples whose class is predicted."""
    return counted[:, 2].sum(1) / counted[:, 0].sum(1)


def balanced_accuracy(counted: Tensor) -> Tensor:
    """The mean recall of the classes that occur."""
    return (counted[:, 2] / counted[:, 0]).nanmean(1)


def f1(counted: Tensor, positive: int | None) -> Tensor:
    """Of the class ``positive``, or the mean over the classes that occur or are predicted."""
    total = counted[:, 0] + counted[:, 1]
    scores = 2 * counted[:, 2] / total
    return scores.nanmean(1) if positive is None else scores[:, positive].masked_fill(total[:, positive] == 0, 0)


def log_losses(probabilities: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """(resamples, 2): the sum of the log losses, and of the weights."""
    chosen = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    return torch.stack([weights @ -chosen.clamp(LEAST, 1).log(), weights.sum(1)], 1)


def confidences(probabilities: Tensor, labels: Tensor, positive: int | None) -> tuple[Tensor, Tensor]:
    """A probability for each sample, and whether what it is the probability of holds, 0 or 1.

    That is the class ``positive``, or the class that is predicted.
    """
    if positive is not None:
        return probabilities[:, positive].double(), (labels == positive).double()
    best, guess = probabilities.max(1)
    return best.double(), (guess == labels).double()


def calibration(probabilities: Tensor, labels: Tensor, weights: Tensor, positive: int | None) -> Tensor:
    """(resamples, 3, `BINS`): by bin of the probability, the sums of the weights, the probabilities, and what is true."""
    confidence, true = confidences(probabilities, labels, positive)
    bins = (confidence.nan_to_num() * BINS).long().clamp(max=BINS - 1)
    return torch.stack([grouped(weights * part, bins, BINS) for part in (torch.ones_like(true), confidence, true)], 1)


def calibration_error(binned: Tensor) -> Tensor:
    """The mean distance between probability and truth over the bins, by their samples (ECE, Guo et al. 2017)."""
    return (binned[:, 1] - binned[:, 2]).abs().sum(1) / binned[:, 0].sum(1)


def auc(probabilities: Tensor, labels: Tensor, weights: Tensor, positive: int | None) -> Tensor:
    """The area under the ROC curve, equal to that of the Mann-Whitney statistic; ties count half."""

    def area(hits: Tensor, others: Tensor) -> Tensor:
        above = hits.cumsum(1) - hits / 2
        return (others * above).sum(1) / (hits.sum(1) * others.sum(1))

    return _one_versus_rest(area, probabilities, labels, weights, positive)


def average_precision(probabilities: Tensor, labels: Tensor, weights: Tensor, positive: int | None) -> Tensor:
    """The sum of the precisions at each threshold, by the recall that it adds, as in scikit-learn."""

    def mean(hits: Tensor, others: Tensor) -> Tensor:
        found, all_above = hits.cumsum(1), (hits + others).cumsum(1)
        precision = found / all_above.clamp(min=1e-300)
        return torch.where(others.sum(1) > 0, (precision * hits).sum(1) / hits.sum(1), torch.nan)

    return _one_versus_rest(mean, probabilities, labels, weights, positive)


def _one_versus_rest(
    area: Callable[[Tensor, Tensor], Tensor], probabilities: Tensor, labels: Tensor, weights: Tensor, positive: int | None
) -> Tensor:
    """An area from the weights of hits and others (resamples, thresholds), the highest probability first.

    Of the class ``positive``, or the mean over the classes that occur; NaN if only one does.
    """
    areas = []
    for cls in range(probabilities.shape[1]) if positive is None else [positive]:
        values, group = torch.unique(probabilities[:, cls], return_inverse=True)
        group = len(values) - 1 - group
        both = grouped(weights, 2 * group + (labels == cls), 2 * len(values))
        areas.append(area(both[:, 1::2], both[:, ::2]))
    return torch.stack(areas, 1).nanmean(1)


# --- numbers: predictions and targets (samples,), and if there are quantiles their predictions (samples, levels) ----


def errors(prediction: Tensor, target: Tensor, *rest: Tensor) -> Tensor:
    """(resamples, 3): the sums of the squared errors, of the absolute ones, and of the weights."""
    error, weights = prediction.double() - target.double(), rest[-1]
    return torch.stack([weights @ error.square(), weights @ error.abs(), weights.sum(1)], 1)


def rmse(summed: Tensor) -> Tensor:
    """The root of the mean squared error, from `errors`."""
    return (summed[:, 0] / summed[:, 2]).sqrt()


def mae(summed: Tensor) -> Tensor:
    """The mean absolute error, from `errors`."""
    return summed[:, 1] / summed[:, 2]


def r2(prediction: Tensor, target: Tensor, *rest: Tensor) -> Tensor:
    """The coefficient of determination; NaN if the target is constant."""
    return r2_of_moments(moments(prediction, target, *rest))


def moments(prediction: Tensor, target: Tensor, *rest: Tensor) -> Tensor:
    """(resamples, 4): the sum of the weights, the mean target, the sums of its squared deviations and of the squared errors."""
    target, weights = target.double(), rest[-1]
    total, middle = weights.sum(1), target.mean()
    shift = weights @ (target - middle) / total
    deviations = weights @ (target - middle).square() - total * shift.square()
    squares = weights @ (prediction.double() - target).square()
    return torch.stack([total, middle + shift, deviations.clamp(min=0), squares], 1)


def merged_moments(one: Tensor, other: Tensor) -> Tensor:
    """The moments of both, without the cancellation of sums of squares (Chan, Golub, LeVeque 1979)."""
    total, apart = one[:, 0] + other[:, 0], other[:, 1] - one[:, 1]
    middle = one[:, 1] + apart * other[:, 0] / total
    deviations = one[:, 2] + other[:, 2] + apart.square() * one[:, 0] * other[:, 0] / total
    return torch.stack([total, middle, deviations, one[:, 3] + other[:, 3]], 1)


def r2_of_moments(found: Tensor) -> Tensor:
    """The coefficient of determination, from `moments`; NaN if the target is constant."""
    # Less than float64 resolves of a constant is rounding.
    constant = found[:, 2] <= found[:, 0] * (4e-16 * found[:, 1]).square()
    return torch.where(constant, torch.nan, 1 - found[:, 3] / found[:, 2])


def pinball(prediction: Tensor, target: Tensor, quantiles: Tensor, weights: Tensor, levels: tuple[float, ...]) -> Tensor:
    """(resamples, 2): the sums of the pinball losses, as means over the levels, and of the weights."""
    error, level = target.double()[:, None] - quantiles.double(), quantiles.new_tensor(levels, dtype=torch.float64)
    losses = torch.maximum(level * error, (level - 1) * error).mean(1)
    return torch.stack([weights @ losses, weights.sum(1)], 1)


def mean(summed: Tensor) -> Tensor:
    """The mean of sums (resamples, 2) and weights."""
    return summed[:, 0] / summed[:, 1]
