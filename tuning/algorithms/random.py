"""Random search: trial n is a pure function of (seed, n), so a resumed sweep suggests the same trials."""

import random
from collections.abc import Mapping
from typing import Any

from heliostat.tuning.config import SweepConfig
from heliostat.tuning.space import Params, draw, sample
from heliostat.tuning.trials import Trial


class Random:
    """Independent points of the space."""

    def __init__(self, config: SweepConfig, base: Mapping[str, Any]) -> None:
        self._config, self._base = config, base

    def ask(self, number: int) -> Params:
        source = random.Random(f"{self._config.seed}-{number}")
        return sample(self._config.space, self._base, lambda name, parameter: draw(parameter, source))

    def left(self, number: int, most: int) -> int:
        """The space has no end."""
        return most

    def tell(self, trial: Trial) -> None:
        """Ignored: the points do not depend on outcomes."""
