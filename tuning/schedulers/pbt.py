"""Population Based Training (Jaderberg et al., 2017), synchronous: all members train for an interval, then they exchange.

Each of the worst members copies weights and optimizer of one of the best, perturbs its hyperparameters, and continues.
An exchange is a pure function of the journal, so an interrupted one is repeated with the same outcome.
"""

import math
import random
from collections.abc import Callable
from typing import Any

from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.schedulers.base import Scheduler
from heliostat.tuning.space import Parameter, Params, draw
from heliostat.tuning.trials import Decision, Trial, Trials
from heliostat.workloads.run import checkpoint

FACTORS = (0.8, 1.25)
"""A number is multiplied with one of them; they are each other's inverse."""


class PopulationBasedTraining(Scheduler):
    """All trials are one population; they are paused for an exchange every ``scheduler.every`` evaluations."""

    in_rounds = True

    def __init__(self, plan: SweepPlan, trials: Trials, note: Callable[..., None]) -> None:
        self._config, self._plan, self._trials, self._note = plan.config, plan, trials, note

    def report(self, trial: Trial) -> Decision:
        """Pause a trial that has made the last report of its interval, unless it is the last of its run."""
        due = (trial.generation + 1) * self._config.scheduler.every
        return Decision.PAUSE if len(trial.reports) >= due and trial.reports[-1].progress < 1 else Decision.CONTINUE

    def next_round(self) -> list[Trial]:
        """Exchange weights and hyperparameters between the trials that are not over, and return those trials."""
        members = [trial for trial in self._trials.all if not trial.done]
        if not members:
            return []
        generation = self._trials.generations + 1
        source = random.Random(f"{self._config.seed}-{generation}")
        for member, donor in pairs(members, self._plan.metric, self._plan.mode, self._config.scheduler.quantile, source):
            params = {name: self._explored(name, donor.params, source) for name in donor.params}
            step = donor.reports[-1].step
            self._note(
                event="exchange", trial=member.number, donor=donor.number, params=params, generation=generation, step=step
            )
            self._copy(donor, member)
        self._note(event="exchanged", generation=generation)
        return members

    def _explored(self, name: str, params: Params, source: random.Random) -> Any:
        parameter = self._config.space[name]
        if source.random() < self._config.scheduler.resample:
            return draw(parameter, source)
        return perturbed(parameter, params[name], source)

    def _copy(self, donor: Trial, member: Trial) -> None:
        trials = self._plan.folder.for_work(self._plan.train.patience) / "trials"
        last = checkpoint.committed(trials / donor.name)[-1].folder
        checkpoints = trials / member.name / "checkpoints"
        checkpoints.delete()
        (checkpoints / last.name).copy_from(last)


def pairs(members: list[Trial], metric: str, mode: str, quantile: float, source: random.Random) -> list[tuple[Trial, Trial]]:
    """The exchange: each of the worst ``quantile`` of the members, with one of the best, drawn at random, which it copies.

    Members whose last value is not finite are among the worst, however many they are, and never among the best.
    """
    sign = 1 if mode == "max" else -1
    ranked = sorted(members, key=lambda trial: (_score(trial, metric, sign), -trial.number))
    broken = sum(not math.isfinite(_score(trial, metric, sign)) for trial in ranked)
    count = min(math.ceil(len(ranked) * quantile), len(ranked) // 2)
    best = ranked[max(len(ranked) - count, broken) :]
    return [(member, source.choice(best)) for member in ranked[: max(count, broken)]] if best else []


def perturbed(parameter: Parameter, value: Any, source: random.Random) -> Any:
    """A value near another: a neighbour in the list of values, or the number times one of `FACTORS`, within the range."""
    if parameter.logint:
        low, high = parameter.logint
        factor = source.choice(FACTORS)
        far = round(value * factor)
        # A small number times the factor is rounded to itself.
        return min(max(far if far != value else value + (1 if factor > 1 else -1), low), high)
    if (values := parameter.values) is not None:
        at = values.index(value) if value in values else 0
        return values[min(max(at + source.choice((-1, 1)), 0), len(values) - 1)]
    low, high = parameter.range
    return min(max(value * source.choice(FACTORS), low), high)


def _score(trial: Trial, metric: str, sign: int) -> float:
    value = sign * trial.reports[-1].value(metric) if trial.reports else math.nan
    return value if math.isfinite(value) else -math.inf
