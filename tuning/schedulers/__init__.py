"""The schedulers, one a file: each report of a running trial is answered with whether it goes on."""

from typing import Protocol

from heliostat.tuning.config import Mode, SweepConfig
from heliostat.tuning.trials import Trial


class Scheduler(Protocol):
    """Which trials stop early. It is fed the reports of all trials, of earlier sessions too, each possibly twice."""

    def report(self, trial: Trial) -> bool:
        """The trial has made its last report in ``trial.reports``; true if it must stop."""


class RunAll:
    """No trial is stopped."""

    def report(self, trial: Trial) -> bool:
        return False


def open_scheduler(config: SweepConfig, metric: str, mode: Mode) -> Scheduler:
    """The scheduler of a sweep; Population Based Training is not one of them, see `heliostat.tuning.schedulers.pbt`."""
    options = config.scheduler
    if options.kind in ("asha", "hyperband"):
        from heliostat.tuning.schedulers.asha import Asha

        return Asha(metric, mode, options.grace, options.reduction, brackets=options.kind == "hyperband")
    if options.kind == "median":
        from heliostat.tuning.schedulers.median import Median

        return Median(metric, mode, options.grace, options.samples)
    return RunAll()
