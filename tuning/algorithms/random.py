"""Random search: trial n is a pure function of (seed, n), so a sweep that goes on asks for the same ones."""

import math
import random
from collections.abc import Mapping
from typing import Any

from heliostat.tuning.config import SweepConfig
from heliostat.tuning.space import Parameter, Params, sample
from heliostat.tuning.trials import Trial


class Random:
    """Independent points of the space."""

    def __init__(self, config: SweepConfig, base: Mapping[str, Any]) -> None:
        self._config, self._base = config, base

    def ask(self, number: int) -> Params:
        source = random.Random(f"{self._config.seed}-{number}")
        return sample(self._config.space, self._base, lambda name, parameter: draw(parameter, source))

    def tell(self, trial: Trial) -> None:
        """What came of a trial changes nothing."""


def draw(parameter: Parameter, source: random.Random) -> Any:
    """One value of a parameter."""
    if (values := parameter.values) is not None:
        return source.choice(values)
    low, high = parameter.range
    if parameter.loguniform:
        return min(max(math.exp(source.uniform(math.log(low), math.log(high))), low), high)
    return source.uniform(low, high)
