"""The option ``class_weights``: the weights of the classes in a loss."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from heliostat.config import nearest
from heliostat.errors import UserError

ClassWeights = Annotated[
    Literal["balanced"] | dict[str, float] | None,
    Field(description="balanced, or a weight a class such as {good: 1, bad: 5}, of its samples in the loss"),
]
Weights = Literal["balanced"] | list[float]


def checked(given: ClassWeights, classes: Sequence[str]) -> Weights | None:
    """The weights of these classes, 1 for those that have none; None without the option.

    Raises:
        UserError: a name is not that of a class, or a weight is negative or infinite.
    """
    if given is None or given == "balanced":
        return given
    wrong = [f"{name!r} is no class: {nearest(name, classes)}" for name in given if name not in classes]
    wrong += [f"{name!r} has the weight {weight}" for name, weight in given.items() if not 0 <= weight < math.inf]
    if wrong:
        raise UserError(f"model.class_weights: {'; '.join(wrong)}", "give classes of the target weights of at least 0")
    return [given.get(name, 1.0) for name in classes]


def balanced(counts: Tensor) -> Tensor:
    """A weight a class, of the samples (classes,) of each: all samples over the number of classes and the class's own."""
    return counts.sum() / (counts > 0).sum() / counts.clamp(min=1)
