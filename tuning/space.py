"""Search spaces: the values that keys of the train config may take."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Self, overload

from pydantic import Field, model_validator
from typing_extensions import TypeAliasType

from heliostat.config import Config, nearest
from heliostat.errors import UserError, some

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Params = dict[str, Any]
"""Dotted key of the train config -> value."""


class Parameter(Config):
    """The values of one key, of exactly one kind, and the values of other keys under which it is active."""

    choice: Annotated[list[Any], Field(min_length=1)] | None = Field(None, description="a list of values, such as [16, 32]")
    uniform: Pair | None = Field(None, description="[low, high], any number between them")
    loguniform: Pair | None = Field(None, description="[low, high] above 0, uniform on a logarithmic scale")
    quniform: Annotated[list[float], Field(min_length=3, max_length=3)] | None = Field(
        None, description="[low, high, step], low plus a multiple of step; whole numbers if low and step are"
    )
    integer: Annotated[list[int], Field(min_length=2, max_length=3)] | None = Field(
        None, description="[low, high] or [low, high, step], a whole number, such as [8, 64, 8]"
    )
    logint: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="[low, high] from 1, a whole number, uniform on a logarithmic scale"
    )
    when: dict[str, Any] = Field({}, description="a mapping such as {model.stages: [2, 3]}: the key is searched only then")

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"has {' and '.join(kinds) or 'no kind'}, but needs exactly one of {', '.join(KINDS)}; "
                "write it as {loguniform: [1e-4, 1e-1]}"
            )
        if self.choice is not None:
            if any(self.choice.index(value) < at for at, value in enumerate(self.choice)):
                raise ValueError(f"choice is {self.choice}, which has a value twice; remove one")
            return self
        low, high = self.range[:2]
        if not low < high:
            fix = f"write {kinds[0]}: [{high}, {low}]" if low > high else "write two different ends"
            raise ValueError(f"{kinds[0]} is {self.range}, an empty range; {fix}")
        if (self.loguniform or self.logint) and low <= 0:
            even = "uniform" if self.loguniform else "integer"
            raise ValueError(
                f"{kinds[0]} is {self.range}, but a logarithm needs numbers above 0; raise the low end, or use {even}"
            )
        if self.range[2:] and not 0 < self.range[2] <= high - low:
            raise ValueError(f"{kinds[0]} is {self.range}, whose step does not fit between the ends; write [low, high, step]")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def range(self) -> list[Any]:
        """The value of the kind: [low, high], [low, high, step] or the choices."""
        found: list[Any] = getattr(self, self.kind)
        return found

    @property
    def ends(self) -> list[Any]:
        """The values to check to know that the type and the bounds are right: all choices, or both ends."""
        if self.choice is not None:
            return list(self.choice)
        return [values[0], values[-1]] if (values := self.values) else self.range[:2]

    @property
    def values(self) -> Sequence[Any] | None:
        """All values if there are finitely many, a ``range`` of whole numbers where they are evenly spaced, else None."""
        if self.choice is not None:
            return list(self.choice)
        if self.logint is not None:
            return range(self.logint[0], self.logint[1] + 1)
        if self.integer is not None:
            first, last, by = [*self.integer, 1][:3]
            return range(first, last + 1, by)
        if self.quniform is not None:
            low, high, step = self.quniform
            count = int((high - low) / step + 1e-9) + 1
            if low.is_integer() and step.is_integer():
                return range(int(low), int(low) + count * int(step), int(step))
            return Steps(low, step, count)
        return None

    @property
    def logarithmic(self) -> bool:
        return self.loguniform is not None or self.logint is not None


class Steps(Sequence[float]):
    """``low``, ``low + step`` and so on, computed in decimals when they are asked for: 0.3 and not 0.30000000000000004."""

    def __init__(self, low: float, step: float, count: int) -> None:
        self._low, self._step, self._count = Decimal(str(low)), Decimal(str(step)), count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, n: int) -> float: ...
    @overload
    def __getitem__(self, n: slice) -> list[float]: ...
    def __getitem__(self, n: int | slice) -> float | list[float]:
        found = range(self._count)[n]
        return float(self._low + self._step * found) if isinstance(found, int) else [self[each] for each in found]


KINDS = ("choice", "uniform", "loguniform", "quniform", "integer", "logint")
Space = Mapping[str, Parameter]
Nested = TypeAliasType("Nested", "dict[str, Parameter | Nested]")
"""A space as it may be written, see `flatten`."""
Suggest = Callable[[str, Parameter], Any]


def flatten(space: Any) -> Any:
    """``{optimizer: {lr: {uniform: ...}}}`` as ``{optimizer.lr: {uniform: ...}}``; anything else unchanged."""
    if not isinstance(space, dict):
        return space
    flat: dict[str, Any] = {}
    for name, inside in space.items():
        nested = isinstance(inside, dict) and inside and all(isinstance(value, dict) for value in inside.values())
        if nested and not set(inside) & {*KINDS, "when"}:
            flat.update({f"{name}.{key}": value for key, value in flatten(inside).items()})
        else:
            flat[str(name)] = inside
    return flat


def ordered(space: Space) -> list[str]:
    """The names in an order in which each comes after those that its ``when`` depends on.

    Raises:
        UserError: the conditions have a cycle.
    """
    order: list[str] = []
    left = list(space)
    while left:
        free = [name for name in left if not set(space[name].when) & set(left)]
        if not free:
            raise UserError(f"space: the conditions of {' and '.join(left)} depend on each other", "remove one `when`")
        order += free
        left = [name for name in left if name not in free]
    return order


def sample(space: Space, base: Mapping[str, Any], suggest: Suggest) -> Params:
    """One point of the space.

    Args:
        space: the parameters.
        base: the train config with the keys outside of the space.
        suggest: returns a value for a name and its parameter; called only for active parameters.
    """
    params: Params = {}
    for name in ordered(space):
        if all(_holds(wanted, params.get(key, None if key in space else get(base, key)))
               for key, wanted in space[name].when.items()):  # fmt: skip
            params[name] = suggest(name, space[name])
    return params


def _holds(wanted: Any, value: Any) -> bool:
    return value in wanted if isinstance(wanted, list) else bool(value == wanted)


def draw(parameter: Parameter, source: random.Random) -> Any:
    """One value of a parameter."""
    if parameter.logint:
        low, high = parameter.logint
        # Half a number on either side, so that the ends are as likely as their neighbours.
        return min(max(round(math.exp(source.uniform(math.log(low - 0.5), math.log(high + 0.5)))), low), high)
    if (values := parameter.values) is not None:
        return source.choice(values)
    low, high = parameter.range
    if parameter.loguniform:
        return min(max(math.exp(source.uniform(math.log(low), math.log(high))), low), high)
    return source.uniform(low, high)


def get(data: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    for part in key.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return None
        data = data[part]
    return data


def assign(data: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """A copy of a nested mapping with the values at those dotted keys."""
    result = dict(data)
    for key, value in params.items():
        first, dot, rest = key.partition(".")
        inside = result.get(first)
        result[first] = assign(inside if isinstance(inside, Mapping) else {}, {rest: value}) if dot else value
    return result


def check_conditions(space: Space, base: Mapping[str, Any]) -> None:
    """Raise a UserError if a ``when`` depends on a key that is neither searched nor in the train config."""
    for name, parameter in space.items():
        for key, wanted in parameter.when.items():
            if key not in space and get(base, key) is None:
                raise UserError(f"space.{name}.when depends on {key}, which the config does not set", nearest(key, space))
            if key not in space:
                continue
            possible, wanted = space[key].values, wanted if isinstance(wanted, list) else [wanted]
            if possible is None:
                raise UserError(
                    f"space.{name}.when needs {key} to be {some(map(repr, wanted))}: a number of a range never is",
                    f"search {key} by choice, or another key by its values",
                )
            if never := [value for value in wanted if value not in possible]:
                raise UserError(
                    f"space.{name}.when needs {key} to be {some(map(repr, never))}, but its values are those of "
                    f"{space[key].kind}: {space[key].range}",
                    "use one of those values",
                )
    ordered(space)
