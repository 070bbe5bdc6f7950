"""Which trials keep their checkpoints."""

from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.trials import Trial, best, front


class Retention:
    """The best of the trials that are over; with several objectives, those that nothing else beats.

    Args:
        plan: of the sweep; with ``keep: all`` every trial keeps its checkpoints.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._plan = plan
        self._best: list[Trial] = []

    def update(self, trial: Trial) -> None:
        """Take in a trial that is over, and delete the checkpoints of whatever is not among the best now."""
        if self._plan.config.keep == "all":
            return
        candidates, objectives = [*self._best, trial], self._plan.objectives
        if len(objectives) > 1:
            self._best = front(candidates, objectives)
        else:
            found = best(candidates, self._plan.metric, self._plan.mode)
            self._best = [found] if found else []
        for other in candidates:
            if other not in self._best:
                (self._plan.folder / "trials" / other.name).delete("checkpoints")
