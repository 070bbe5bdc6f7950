"""Deletes the checkpoints of trials that are no longer the best."""

from contextlib import suppress

from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE
from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.trials import Trial, best, pareto_front


class Retention:
    """Keeps the checkpoints of the best trial, or with several objectives of the Pareto front.

    Args:
        plan: of the sweep; with ``keep: all`` every trial keeps its checkpoints.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._plan = plan
        self._best: list[Trial] = []
        self._obsolete: list[Folder] = []

    def update(self, trial: Trial) -> None:
        """Add a trial that is done, and delete the checkpoints of those that are not among the best now."""
        if self._plan.config.keep == "all":
            return
        candidates, objectives = [*self._best, trial], self._plan.objectives
        if len(objectives) > 1:
            self._best = pareto_front(candidates, objectives)
        else:
            found = best(candidates, self._plan.metric, self._plan.mode)
            self._best = [found] if found else []
        for other in candidates:
            if other not in self._best:
                self._obsolete.append(self._plan.folder / "trials" / other.name)
        with suppress(*UNAVAILABLE):  # deleted after the next trial
            while self._obsolete:
                self._obsolete[-1].once.delete("checkpoints")
                self._obsolete.pop()

    def finish(self) -> None:
        """Delete what could not be deleted while storage was unavailable."""
        for folder in self._obsolete:
            folder.delete("checkpoints")
