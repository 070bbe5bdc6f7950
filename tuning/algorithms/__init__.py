"""The search algorithms, one a file, behind two calls: `ask` for the next trial, `tell` how it ended."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from heliostat.folder import Folder
from heliostat.tuning.config import Mode, SweepConfig
from heliostat.tuning.space import Params
from heliostat.tuning.trials import Trial


class Algorithm(Protocol):
    """Placement the parameters of trials come from."""

    def ask(self, number: int) -> Params | None:
        """The parameters of the trial with that number, counted from 0; None if there are no more."""

    def tell(self, trial: Trial) -> None:
        """A trial has ended."""


def open_algorithm(
    config: SweepConfig, base: Mapping[str, Any], objectives: Mapping[str, Mode], folder: Folder, trials: Sequence[Trial]
) -> Algorithm:
    """The algorithm of a sweep, knowing the trials that there are already.

    Args:
        config: the sweep.
        base: the train config that all trials start from.
        objectives: metric -> mode.
        folder: the sweep's folder.
        trials: those of earlier sessions, in the order of their numbers.
    """
    if config.algorithm == "random":
        from heliostat.tuning.algorithms.random import Random

        return Random(config, base)
    if config.algorithm == "grid":
        from heliostat.tuning.algorithms.grid import Grid

        return Grid(config, base)
    from heliostat.tuning.algorithms.optuna import Optuna

    return Optuna(config, base, objectives, folder, trials)
