"""Grid search: every combination once, the last parameter changing first."""

from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.tuning.config import SweepConfig
from heliostat.tuning.space import Params, ordered, sample
from heliostat.tuning.trials import Trial


class Grid:
    """All points of a finite space; combinations that differ only in keys that are not there are one."""

    def __init__(self, config: SweepConfig, base: Mapping[str, Any]) -> None:
        self._config, self._base = config, base
        self._points = self._all({})
        self._asked: list[Params] = []

    def ask(self, number: int) -> Params | None:
        while len(self._asked) <= number:
            point = next(self._points, None)
            if point is None:
                return None
            self._asked.append(point)
        return self._asked[number]

    def tell(self, trial: Trial) -> None:
        """What came of a trial changes nothing."""

    def _all(self, fixed: Params) -> Iterator[Params]:
        """The points that have these values: the first parameter that is there and has none yet takes all of its own."""
        space = self._config.space
        there = sample(space, self._base, lambda name, _: fixed.get(name, _MISSING))
        free = next((name for name in ordered(space) if there.get(name) is _MISSING), None)
        if free is None:
            yield there
            return
        for value in space[free].values or []:
            yield from self._all({**fixed, free: value})


_MISSING = object()
