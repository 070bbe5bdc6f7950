"""Whether the points of a search space are valid train configs, tried before any trial starts."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from heliostat.config import validate
from heliostat.errors import UserError
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.space import Parameter, Params, assign, draw, get, sample
from heliostat.wording import counted
from heliostat.workloads import task
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.nodes import Nodes, resolve_resources

POINTS = 200
"""Points that are drawn at random; equal ones count once."""
VALUES, CHOICES = 1000, 20
"""For the fix: the most values of one parameter that are tried one by one, and that it lists."""


@dataclass(frozen=True)
class Feasibility:
    """How many points of a space were tried, and the reason for each that makes no valid config."""

    tried: int
    impossible: list[tuple[Params, UserError]]

    @property
    def mostly_impossible(self) -> bool:
        return 2 * len(self.impossible) > self.tried

    def __str__(self) -> str:
        if not self.impossible:
            return f"none of {counted(self.tried, 'point')} tried"
        params, error = self.impossible[0]
        shown = ", ".join(f"{name} {value}" for name, value in params.items())
        return f"{len(self.impossible)} of {counted(self.tried, 'point')} tried, such as {shown}: {error.what}"


def explore(config: SweepConfig, base: Mapping[str, Any], nodes: Nodes | None) -> Feasibility:
    """Try points that are drawn at random from the space of a sweep."""
    source = random.Random(config.seed)
    drawn = [sample(config.space, base, lambda _, parameter: draw(parameter, source)) for _ in range(POINTS)]
    points = list({repr(point): point for point in drawn}.values())
    return Feasibility(len(points), impossible(points, base, nodes))


def impossible(points: list[Params], base: Mapping[str, Any], nodes: Nodes | None) -> list[tuple[Params, UserError]]:
    """The points that make no valid train config, each with its error."""
    return [(point, error) for point in points if (error := _error(assign(base, point), nodes))]


def check_mostly_possible(config: SweepConfig, base: Mapping[str, Any], nodes: Nodes | None) -> None:
    """Raise a UserError, with a space that is possible as its fix, if most points of a space make no valid train config."""
    found = explore(config, base, nodes)
    if found.mostly_impossible:
        raise UserError(f"space: most trials are impossible, {found}", fix_of(config, base, nodes))


def check_ends(config: SweepConfig, base: Mapping[str, Any], nodes: Nodes | None) -> None:
    """Raise a UserError if an end of a range, or a choice, makes no valid train config, for any parameter alone."""
    for name, parameter in config.space.items():
        for value in parameter.ends:
            if error := _error(_alone(name, parameter, value, base), nodes):
                known = get(base, name) is not None or "not a known key" in error.what or name.partition(".")[0] in error.what
                fix = _in_whole_numbers(name, parameter, base, nodes) or error.fix
                raise UserError(f"space.{name} has {value!r}: {error.what}", fix) if known else error


def _in_whole_numbers(name: str, parameter: Parameter, base: Mapping[str, Any], nodes: Nodes | None) -> str | None:
    """The fix for a range of floating-point numbers where whole ones are valid."""
    ends = parameter.ends if parameter.choice is None else []
    if not ends or not all(isinstance(end, float) and end.is_integer() for end in ends):
        return None
    if _error(_alone(name, parameter, int(ends[0]), base), nodes):
        return None
    kind = "logint" if parameter.logarithmic else "integer"
    return f"set space.{name} to {_written(kind, [int(end) for end in ends], parameter.when)}"


def fix_of(config: SweepConfig, base: Mapping[str, Any], nodes: Nodes | None) -> str:
    """What to change in a space so that most of its points are possible."""
    narrower = {name: found for name, parameter in config.space.items() if (found := _narrowed(name, parameter, base, nodes))}
    left = explore(config.model_copy(update={"space": {**config.space, **narrower}}), base, nodes)
    if not narrower or left.mostly_impossible:
        return "narrow the space to values that fit together, or search one of them only `when` they do"
    return " and ".join(
        f"set space.{name} to {_written(found.kind, found.range, found.when)}" for name, found in narrower.items()
    )


def _written(kind: str, values: list[Any], when: Mapping[str, Any]) -> str:
    """A parameter as in a sweep's config."""
    conditions = ", ".join(f"{key}: {wanted}" for key, wanted in when.items())
    return f"{{{kind}: {values}{f', when: {{{conditions}}}' if when else ''}}}"


def _narrowed(name: str, parameter: Parameter, base: Mapping[str, Any], nodes: Nodes | None) -> Parameter | None:
    """The whole numbers that are possible with the base config, if some are not."""
    values = parameter.values
    if not isinstance(values, range) or len(values) > VALUES:
        return None
    possible = [value for value in values if not _error(_alone(name, parameter, value, base), nodes)]
    if not possible or len(possible) == len(values):
        return None
    steps = {after - before for before, after in pairwise(possible)}
    if len(steps) == 1:
        return Parameter(integer=[possible[0], possible[-1], *steps], when=parameter.when)
    return Parameter(choice=possible[:CHOICES], when=parameter.when)


def _alone(name: str, parameter: Parameter, value: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """The train config with one value of one parameter, and the values of others that it needs to be active."""
    conditions = {key: wanted[0] if isinstance(wanted, list) else wanted for key, wanted in parameter.when.items()}
    return assign(base, {**conditions, name: value})


def _error(data: Mapping[str, Any], nodes: Nodes | None) -> UserError | None:
    """What is wrong with a train config, as far as that is known without its data: a key, or workers that fit on no node."""
    try:
        config = validate(data, TrainConfig)
        validate(config.model, task.find(config.task).Options, "model")
        resolve_resources(config.resources, config.least_workers, nodes)
    except UserError as error:
        return error
    return None
