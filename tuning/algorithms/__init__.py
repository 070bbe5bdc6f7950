"""The search algorithms, one a file, with two methods: `ask` for the next trial, `tell` its outcome."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from heliostat.folder import Folder
from heliostat.tuning.config import Mode, SweepConfig
from heliostat.tuning.space import Params
from heliostat.tuning.trials import Trial


class Algorithm(Protocol):
    """Suggests the parameters of trials."""

    def ask(self, number: int) -> Params | None:
        """The parameters of the trial with that number, counted from 0; None if the search space is exhausted."""

    def left(self, number: int, most: int) -> int:
        """How many trials there are from that number on, counted up to ``most``."""

    def tell(self, trial: Trial) -> None:
        """Report a trial that is done."""


def open_algorithm(
    config: SweepConfig, base: Mapping[str, Any], objectives: Mapping[str, Mode], folder: Folder, trials: Sequence[Trial]
) -> Algorithm:
    """The algorithm of a sweep, with the state that earlier trials have led to.

    Args:
        config: the sweep.
        base: the train config that all trials start from.
        objectives: metric -> mode.
        folder: the sweep's folder.
        trials: the trials of earlier sessions, in the order of their numbers.
    """
    if config.algorithm == "random":
        from heliostat.tuning.algorithms.random import Random

        return Random(config, base)
    if config.algorithm == "grid":
        from heliostat.tuning.algorithms.grid import Grid

        return Grid(config, base)
    from heliostat.tuning.algorithms.optuna import Optuna

    return Optuna(config, base, objectives, folder, trials)
