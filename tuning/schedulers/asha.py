"""Asynchronous successive halving (Li et al., MLSys 2020), and HyperBand as several brackets of it."""

import math

import numpy as np

from heliostat.tuning.config import Mode
from heliostat.tuning.schedulers.base import Scheduler
from heliostat.tuning.trials import Decision, Trial

TOLERANCE = 1e-9
"""For rounding: 1/9 divided by 3 is not exactly 1/27."""


class Asha(Scheduler):
    """Stops a trial at a rung unless it is among the best 1/reduction of the trials that have reached it.

    A trial is compared by its best report so far, not by the one at the rung: the outcome of a trial is its best checkpoint,
    and on small validation splits the loss of a good trial is noisy. One without any finite value is the worst.

    Rungs are at 1/reduction, 1/reduction^2, ... of a whole run, down to grace: shares, so that runs of different lengths
    compare, and counted from the end, so that no trial is stopped shortly before its end.
    No trial waits for another, so there is no deadlock, and the resources of a stopped trial are free at once.

    With ``brackets``, trials are assigned to brackets whose grace is 1, reduction, reduction^2, ... times as long, in the
    proportions of HyperBand (Li et al., 2018): some trials are compared early, some late, in case early reports say little.
    """

    def __init__(self, metric: str, mode: Mode, grace: float, reduction: float, brackets: bool = False) -> None:
        self._metric, self._sign, self._reduction = metric, 1.0 if mode == "max" else -1.0, reduction
        rungs = [1 / reduction]
        while rungs[0] / reduction >= grace * (1 - TOLERANCE):
            rungs.insert(0, rungs[0] / reduction)
        rungs[0] = max(rungs[0], grace)
        # For each bracket its rungs, the highest first, and the trials that have reached them: trial -> (progress, value).
        first = range(len(rungs)) if brackets else range(1)
        self._brackets: list[list[tuple[float, dict[int, tuple[float, float]]]]] = [
            [(at, {}) for at in reversed(rungs[s:])] for s in first
        ]
        sizes = [int(np.ceil(len(rungs) / (len(rungs) - s) * reduction ** (len(rungs) - 1 - s))) for s in first]
        self._deal = np.cumsum(sizes)

    def report(self, trial: Trial) -> Decision:
        last = trial.reports[-1]
        for rung, reached in self._brackets[self.bracket(trial.number)]:
            if last.progress >= rung * (1 - TOLERANCE):
                if reached.get(trial.number, (last.progress,))[0] != last.progress:
                    break  # an earlier report was compared at this rung
                value = max((self._sign * value for _, value in trial.curve(self._metric)), default=np.nan)
                others = [other for number, (_, other) in reached.items() if number != trial.number]
                reached[trial.number] = last.progress, value
                return Decision.STOP if self._worse(value, others) else Decision.CONTINUE
        return Decision.CONTINUE

    def _worse(self, value: float, others: list[float]) -> bool:
        """Whether a value is below the best 1/reduction; NaN is below all numbers, and ranks with the lowest of them."""
        finite = [other for other in others if not math.isnan(other)]
        if not finite:
            return False
        ranked = [min(finite) if math.isnan(other) else other for other in others]
        return not value >= np.percentile(ranked, (1 - 1 / self._reduction) * 100)

    def bracket(self, number: int) -> int:
        """The bracket of a trial."""
        return int(np.searchsorted(self._deal, number % self._deal[-1], side="right")) if len(self._brackets) > 1 else 0
