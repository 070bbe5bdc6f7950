"""Bootstrap intervals of metrics, and their values for a constant prediction."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from heliostat.workloads.tabular.formulas import Formula

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
MOST = 5_000
"""Samples that are resampled; of a larger split so many, spread evenly over it, as often as the whole split has samples."""
CHUNK = 1_000_000
"""Weights that are computed at once, 8 MB."""
Formulas = Mapping[str, tuple[Formula, Callable[[Tensor], Tensor] | None]]


def values(formulas: Formulas, tensors: tuple[Tensor, ...], weights: Tensor | None = None) -> dict[str, Tensor]:
    """Each metric of samples (samples, ...) with weights (resamples, samples), by default one resample of equal weights."""
    if weights is None:
        weights = torch.ones(1, len(tensors[0]), dtype=torch.float64)
    return {name: _value(*formula, tensors, weights) for name, formula in formulas.items()}


def intervals(
    formulas: Formulas, tensors: tuple[Tensor, ...], samples: int, measured: Mapping[str, float]
) -> dict[str, list[float]]:
    """The percentile intervals of metrics (Efron, Tibshirani 1993), from 1,000 resamples with a fixed seed.

    A split with more than `MOST` samples is represented by a part of it, which is resampled to the size of the split (one bag
    of the bag of little bootstraps, Kleiner et al. 2014); the interval is moved from the part's value to the measured one.

    Args:
        formulas: by metric, of the same definition as the measured ones: one that differs gets no interval.
        tensors: what the formulas take, of the split or of a part of it.
        samples: of the whole split.
        measured: the metrics of the whole split.
    """
    size, random = len(tensors[0]), np.random.default_rng(SEED)
    wanted = {name: formula for name, formula in formulas.items() if np.isfinite(measured.get(name, np.nan))}
    resampled: dict[str, list[Tensor]] = {name: [] for name in wanted}
    step = max(1, CHUNK // size)
    for first in range(0, RESAMPLES, step):
        drawn = random.multinomial(samples, np.full(size, 1 / size), min(step, RESAMPLES - first))
        for name, found in values(wanted, tensors, torch.from_numpy(drawn).double()).items():
            resampled[name].append(found)
    result = {}
    for name, estimate in values(wanted, tensors).items():
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        low, high = np.nanquantile(torch.cat(resampled[name]).numpy(), tails).tolist()
        apart = measured[name] - float(estimate)
        # A part's value differs from the split's by more than the interval is wide.
        tolerance = 1e-3 * abs(measured[name]) + 1e-6 + 2 * (high - low) * max(samples / size - 1, 0) ** 0.5
        if abs(apart) <= tolerance:
            moved = apart if samples > size else 0.0
            result[name] = [low + moved, high + moved]
    return result


def _value(formula: Formula, whole: Callable[[Tensor], Tensor] | None, tensors: tuple[Tensor, ...], weights: Tensor) -> Tensor:
    found = formula(*tensors, weights)
    return whole(found) if whole else found
