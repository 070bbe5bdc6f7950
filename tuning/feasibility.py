"""Whether the points of a search space are valid train configs, tried before any trial starts."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from heliostat.config import validate
from heliostat.errors import UserError
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.space import Parameter, Params, assign, draw, get, sample
from heliostat.workloads import task
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.nodes import Nodes, resolve_resources

POINTS = 200
"""Points that are drawn at random; equal ones count once."""
VALUES, CHOICES = 1000, 20
"""For the fix: the most values of one parameter that are tried one by one, and that it lists."""


@dataclass(frozen=True)
class Explored:
    """How many points of a space were tried, and the reason for each that makes no valid config."""

    tried: int
    impossible: list[tuple[Params, UserError]]

    @property
    def mostly_impossible(self) -> bool:
        return 2 * len(self.impossible) > self.tried

    def __str__(self) -> str:
        if not self.impossible:
            return f"none of {self.tried} points tried"
        params, error = self.impossible[0]
        shown = ", ".join(f"{name} {value}" for name, value in params.items())
        return f"{len(self.impossible)} of {self.tried} points tried, such as {shown}: {error.what}"


@dataclass(frozen=True)
class Feasibility:
    """Tries the points of a sweep's space.

    Args:
        config: the sweep.
        base: the train config that all trials start from.
        nodes: see `heliostat.tuning.plan.plan_sweep`.
    """

    config: SweepConfig
    base: Mapping[str, Any]
    nodes: Nodes | None

    def check_ends(self) -> None:
        """Raise a UserError if an end of a range, or a choice, makes no valid train config, for any parameter alone."""
        for name, parameter in self.config.space.items():
            for value in parameter.ends:
                if error := self._alone(name, parameter, value):
                    searched = "not a known key" in error.what or name.partition(".")[0] in error.what
                    if get(self.base, name) is None and not searched:
                        raise error
                    fix = self._in_whole_numbers(name, parameter) or error.fix
                    raise UserError(f"space.{name} has {value!r}: {error.what}", fix)

    def check_mostly_possible(self) -> None:
        """Raise a UserError if most points make no valid train config; its fix is a space in which they do."""
        found = self.explore()
        if found.mostly_impossible:
            raise UserError(f"space: most trials are impossible, {found}", self.fix())

    def explore(self) -> Explored:
        """Try points that are drawn at random."""
        source = random.Random(self.config.seed)
        drawn = [sample(self.config.space, self.base, lambda _, parameter: draw(parameter, source)) for _ in range(POINTS)]
        points = list({repr(point): point for point in drawn}.values())
        return Explored(len(points), self.impossible(points))

    def impossible(self, points: list[Params]) -> list[tuple[Params, UserError]]:
        """The points that make no valid train config, each with its error."""
        return [(point, error) for point in points if (error := self._error(point))]

    def fix(self) -> str:
        """What to change in the space so that most of its points are possible."""
        space = self.config.space
        narrower = {name: found for name, parameter in space.items() if (found := self._narrowed(name, parameter))}
        left = replace(self, config=self.config.model_copy(update={"space": {**space, **narrower}})).explore()
        if not narrower or left.mostly_impossible:
            return "narrow the space to values that fit together, or search one of them only `when` they do"
        return " and ".join(f"set space.{name} to {{{found.kind}: {found.range}}}" for name, found in narrower.items())

    def _narrowed(self, name: str, parameter: Parameter) -> Parameter | None:
        """The whole numbers that are possible with the base config, if some are not."""
        values = parameter.values
        if not isinstance(values, range) or len(values) > VALUES:
            return None
        possible = [value for value in values if not self._alone(name, parameter, value)]
        if not possible or len(possible) == len(values):
            return None
        steps = {after - before for before, after in pairwise(possible)}
        if len(steps) == 1:
            return Parameter(integer=[possible[0], possible[-1], *steps], when=parameter.when)
        return Parameter(choice=possible[:CHOICES], when=parameter.when)

    def _in_whole_numbers(self, name: str, parameter: Parameter) -> str | None:
        """The fix for a range of floating-point numbers where whole ones are valid."""
        ends = parameter.ends if parameter.choice is None else []
        if not ends or not all(isinstance(end, float) and end.is_integer() for end in ends):
            return None
        if self._alone(name, parameter, int(ends[0])):
            return None
        return f"set space.{name} to {{{'logint' if parameter.logarithmic else 'integer'}: {[int(end) for end in ends]}}}"

    def _alone(self, name: str, parameter: Parameter, value: Any) -> UserError | None:
        """What is wrong with one value of one parameter, with the values of others that it needs to be active."""
        conditions = {key: wanted[0] if isinstance(wanted, list) else wanted for key, wanted in parameter.when.items()}
        return self._error({**conditions, name: value})

    def _error(self, params: Params) -> UserError | None:
        """What is wrong with the train config of a point, as far as that is known without its data."""
        try:
            config = validate(assign(self.base, params), TrainConfig)
            validate(config.model, task.find(config.task).Options, "model")
            resolve_resources(config.resources, config.least_workers, self.nodes)
        except UserError as error:
            return error
        return None
