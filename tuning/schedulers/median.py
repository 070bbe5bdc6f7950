"""The median stopping rule (Golovin et al., Google Vizier, KDD 2017)."""

import numpy as np

from heliostat.tuning.config import Mode
from heliostat.tuning.schedulers.base import Scheduler
from heliostat.tuning.trials import Decision, Report, Trial


class Median(Scheduler):
    """Stops a trial whose best value so far is worse than the median of the other trials' mean values up to the same step.

    Only trials that have reached that step with a finite value count; with fewer than ``samples`` of them nothing is stopped.
    A trial without any finite value is worse than all that have one.
    """

    def __init__(self, metric: str, mode: Mode, grace: float, samples: int) -> None:
        self._metric, self._sign, self._grace, self._samples = metric, 1.0 if mode == "max" else -1.0, grace, samples
        self._reports: dict[int, list[Report]] = {}

    def report(self, trial: Trial) -> Decision:
        self._reports[trial.number] = trial.reports
        here = trial.reports[-1].progress
        if here < self._grace:
            return Decision.CONTINUE
        means = [self._mean(reports, here) for number, reports in self._reports.items()
                 if number != trial.number and reports[-1].progress >= here]  # fmt: skip
        means = [mean for mean in means if np.isfinite(mean)]
        if len(means) < self._samples:
            return Decision.CONTINUE
        best = max((self._sign * value for _, value in trial.curve(self._metric)), default=-np.inf)
        return Decision.STOP if best < np.median(means) else Decision.CONTINUE

    def _mean(self, reports: list[Report], until: float) -> float:
        values = [self._sign * r.value(self._metric) for r in reports if self._grace <= r.progress <= until]
        values = [value for value in values if np.isfinite(value)]
        return float(np.mean(values)) if values else np.nan
