"""Grid search: every combination once; the last parameter changes fastest."""

from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.tuning.config import SweepConfig
from heliostat.tuning.space import Params, ordered, sample
from heliostat.tuning.trials import Trial


class Grid:
    """All points of a finite space; combinations that differ only in inactive parameters count as one."""

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

    def left(self, number: int, most: int) -> int:
        return sum(self.ask(n) is not None for n in range(number, number + most))

    def tell(self, trial: Trial) -> None:
        """Ignored: the points do not depend on outcomes."""

    def _all(self, fixed: Params) -> Iterator[Params]:
        """The points with these values; the first active parameter without a value takes each of its values in turn."""
        space = self._config.space
        point = sample(space, self._base, lambda name, _: fixed.get(name, _MISSING))
        free = next((name for name in ordered(space) if point.get(name) is _MISSING), None)
        if free is None:
            yield point
            return
        for value in space[free].values or []:
            yield from self._all({**fixed, free: value})


_MISSING = object()
