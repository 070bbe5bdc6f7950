"""Deletes the checkpoints of trials that are no longer the best."""

from collections.abc import Callable
from contextlib import suppress

from heliostat.retry import UNAVAILABLE
from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.trials import Trial, best, pareto_front


class Retention:
    """Keeps the checkpoints of the best trial, or with several objectives of the Pareto front.

    Args:
        plan: of the sweep; with ``keep: all`` every trial keeps its checkpoints.
        note: writes a record to the journal, so that a resumed sweep does not delete them again.
    """

    def __init__(self, plan: SweepPlan, note: Callable[..., None]) -> None:
        self._plan, self._note = plan, note
        self._best: list[Trial] = []
        self._obsolete: list[Trial] = []

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
        self._obsolete += [other for other in candidates if other not in self._best and not other.dropped]
        with suppress(*UNAVAILABLE):  # deleted after the next trial
            self._delete(once=True)

    def finish(self) -> None:
        """Delete what could not be deleted while storage was unavailable."""
        self._delete(once=False)

    def _delete(self, once: bool) -> None:
        while self._obsolete:
            trial = self._obsolete[-1]
            folder = self._plan.folder / "trials" / trial.name
            (folder.once if once else folder).delete("checkpoints")
            self._obsolete.pop()
            self._note(lazily=True, event="dropped", trial=trial.number)
