"""Whether one model is better than another on the same rows: one-sided tests, corrected for their number."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ALPHA, POWER = 0.025, 0.8
"""The level of each one-sided test, at which a two-sided 95 % interval ends; how often so many rows as `rows_needed` says would
decide. With 5 %, a bootstrap at its nominal level promotes more than 5 % of equal models in half of all simulations."""
QUANTILE_ALPHA, QUANTILE_POWER = 1.9600, 0.8416
"""Of the normal distribution at 97.5 % and 80 %."""
RESAMPLES, FEWEST, SEED = 2000, 200, 0
VALUES, CHUNK = 40_000_000, 1_000_000
"""Weights of a bootstrap: about so many in all, from which the resamples follow, and so many at once."""
LEAST = 30
"""Rows below which a bootstrap is not trusted."""
Resampled = Callable[[Tensor], Tensor]
"""Weights (resamples, rows) -> a metric (resamples,)."""


@dataclass(frozen=True)
class Comparison:
    """A candidate against a champion. ``gain`` is how much better the candidate is, in units of the metric."""

    method: str
    rows: int
    gain: float
    low: float
    high: float
    """The ends of the 95 % interval of the gain."""
    error: float
    """The standard error of the gain."""
    p_better: float
    """Of the hypothesis that the gain is at most minus the margin: a small one shows that it is more."""
    p_worse: float
    """Of the hypothesis that the gain is at least minus the margin: a small one shows that it is less."""
    trusted: bool = True
    """Whether there are rows enough for the method."""


def of_decisions(candidate: npt.NDArray[np.bool_], champion: npt.NDArray[np.bool_], margin: float = 0.0) -> Comparison:
    """Compares accuracies from whether each row (rows,) is decided rightly.

    Without a margin the exact McNemar test; with one the score test of Tango (1998), which is without one McNemar's own. The
    interval is that of Agresti and Min (2005).
    """
    rows = len(candidate)
    only_candidate, only_champion = int((candidate & ~champion).sum()), int((champion & ~candidate).sum())
    if margin:
        z = tango(only_champion, only_candidate, rows, margin)
        better, worse, method = normal(z), normal(-z), "score test for paired proportions (Tango)"
    else:
        better, worse = mcnemar(only_candidate, only_champion), mcnemar(only_champion, only_candidate)
        method = "exact McNemar test"
    gain = (only_candidate - only_champion) / rows
    more, total = only_candidate + only_champion + 1, rows + 2
    error = math.sqrt(max(more / total - ((only_candidate - only_champion) / total) ** 2, 0) / total)
    middle = (only_candidate - only_champion) / total
    return Comparison(
        method, rows, gain, middle - QUANTILE_ALPHA * error, middle + QUANTILE_ALPHA * error, error, better, worse
    )  # fmt: skip


def mcnemar(wins: int, losses: int) -> float:
    """The probability of at least so many wins of all rows that differ, if each is won with probability 1/2."""
    total = wins + losses
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(wins, total + 1)]
    return min(1.0, math.fsum(math.exp(each - total * math.log(2)) for each in logs))


def tango(losses: int, wins: int, rows: int, margin: float) -> float:
    """The score statistic of the hypothesis that the share of losses minus that of wins is the margin; low if it is less.

    Tango: Equivalence test and confidence interval for the difference in proportions for the paired-sample design. Statistics
    in Medicine 17 (1998), with the restricted maximum-likelihood estimate of the share of wins.
    """
    a = 2 * rows
    b = -losses - wins + (2 * rows - losses + wins) * margin
    c = -wins * margin * (1 - margin)
    share = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    return (losses - wins - rows * margin) / math.sqrt(rows * (2 * share + margin * (1 - margin)))


def of_resamples(candidate: Resampled, champion: Resampled, rows: int, higher: bool, margin: float = 0.0) -> Comparison | None:
    """Compares any metric by the paired bootstrap: the same resamples of the rows for both models.

    The shares of the resamples become p-values with the correction of Hesterberg (2015) for few rows: the bootstrap's
    distribution is too narrow by sqrt((n - 1) / n), and its tails are those of Student's t with n - 1 degrees of freedom.

    Returns:
        None if the metric is not defined on the rows, or there are fewer than two.
    """
    if rows < 2:
        return None
    sign = 1.0 if higher else -1.0
    gain = sign * float(candidate(_ones(rows)) - champion(_ones(rows)))
    random, drawn = np.random.default_rng(SEED), list[Tensor]()
    resamples = min(RESAMPLES, max(FEWEST, VALUES // rows))
    step = max(1, CHUNK // rows)
    for first in range(0, resamples, step):
        counts = random.multinomial(rows, np.full(rows, 1 / rows), min(step, resamples - first))
        weights = torch.from_numpy(counts).double()
        drawn.append(sign * (candidate(weights) - champion(weights)))
    gains = torch.cat(drawn).numpy()
    gains = gains[np.isfinite(gains)]
    if not math.isfinite(gain) or len(gains) < FEWEST:
        return None
    low, high = np.quantile(gains, [ALPHA, 1 - ALPHA]).tolist()
    below = float(((gains < -margin).sum() + 0.5 * (gains == -margin).sum()) / len(gains))
    return Comparison(
        "paired bootstrap", rows, gain, low, high, float(gains.std(ddof=1)),
        _corrected(below, rows, len(gains)), _corrected(1 - below, rows, len(gains)), rows >= LEAST,
    )  # fmt: skip


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979): at most `ALPHA` of all families have a false one below it."""
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = most
    return adjusted


def rows_needed(compared: Comparison, margin: float) -> int | None:
    """About how many rows would show a gain above minus the margin in `POWER` of all cases, if it is what it is here.

    None if the gain is not above minus the margin: then no number of rows would. With normal approximation.
    """
    distance = compared.gain + margin
    if distance <= 0:
        return None
    return math.ceil(compared.rows * ((QUANTILE_ALPHA + QUANTILE_POWER) * compared.error / distance) ** 2)


def normal(z: float) -> float:
    """The share of the standard normal distribution below ``z``."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _corrected(share: float, rows: int, resamples: int) -> float:
    """The p-value of a share of the resamples, see `of_resamples`."""
    share = min(max(share, 0.5 / resamples), 1 - 0.5 / resamples)
    z = _quantile(share) * math.sqrt((rows - 1) / rows)
    # The normal quantile of a quantile of Student's t (Wallace 1959).
    freedom = rows - 1
    narrowed = math.sqrt(freedom * math.log1p(z * z / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return normal(math.copysign(narrowed, z))


def _quantile(share: float) -> float:
    return float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))


def _ones(rows: int) -> Tensor:
    return torch.ones(1, rows, dtype=torch.float64)
