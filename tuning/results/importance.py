"""Importance of the parameters: PED-ANOVA (Watanabe et al., IJCAI 2023), by Optuna."""

import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from heliostat.tuning.config import Mode
from heliostat.tuning.space import Parameter, Space
from heliostat.tuning.trials import Trial

LEAST, MOST = 8, 2000
"""Fewer trials are not enough for an estimate; more only make it slower."""


def importance(trials: list[Trial], space: Space, metric: str, mode: Mode) -> dict[str, float]:
    """Parameter -> importance, the largest first, summing to 1; empty where there are too few trials."""
    trials = trials[:: max(1, len(trials) // MOST)]
    if len(trials) < LEAST or len({trial.values[metric] for trial in trials}) == 1:
        return {}
    distributions = {name: distribution(parameter) for name, parameter in space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        for trial in trials:
            active = {name: distributions[name] for name in trial.params}
            study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=active, value=trial.values[metric]))
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return dict(shares)


def distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter as a distribution of Optuna."""
    if parameter.choice is not None:
        return CategoricalDistribution(parameter.choice)
    values, log = parameter.values, parameter.logarithmic
    if isinstance(values, range):
        return IntDistribution(low=values[0], high=values[-1], step=values.step, log=log)
    low, high, *step = parameter.range
    return FloatDistribution(low, high, log=log, step=step[0] if step else None)
