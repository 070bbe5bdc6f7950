"""The schedulers, one a file: each decides at every report of a trial whether the trial continues."""

from collections.abc import Callable

from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.schedulers.base import Scheduler
from heliostat.tuning.trials import Trials


def open_scheduler(plan: SweepPlan, trials: Trials, note: Callable[..., None]) -> Scheduler:
    """The scheduler of a sweep.

    Args:
        plan: of the sweep.
        trials: all trials of the sweep, which the controller keeps up to date.
        note: writes a record to the sweep's journal and applies it to ``trials``.
    """
    options = plan.config.scheduler
    if options.kind in ("asha", "hyperband"):
        from heliostat.tuning.schedulers.asha import Asha

        return Asha(plan.metric, plan.mode, options.grace, options.reduction, brackets=options.kind == "hyperband")
    if options.kind == "median":
        from heliostat.tuning.schedulers.median import Median

        return Median(plan.metric, plan.mode, options.grace, options.samples)
    if options.kind == "pbt":
        from heliostat.tuning.schedulers.pbt import PopulationBasedTraining

        return PopulationBasedTraining(plan, trials, note)
    return Scheduler()
