"""The option ``threshold``: the probability from which on one of two classes is chosen."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from heliostat.errors import UserError, some

Threshold = Annotated[
    dict[str, float] | None,
    Field(description="the probability from which on one of two classes is chosen, such as {bad: 0.2}"),
]


def checked(given: Threshold, classes: Sequence[str]) -> tuple[int, float] | None:
    """The class with a threshold, and its least probability.

    Raises:
        UserError: it is not one of two classes, or no probability.
    """
    if given is None:
        return None
    known = len(classes) == 2 and len(given) == 1 and given.keys() <= {*classes}
    if not known or not all(0 < least < 1 for least in given.values()):
        what = f"the classes are {some([*classes], 8)}" if classes else "the target is a number"
        fix = "it is for two classes, and of more the most probable is chosen" if classes else "it is for two classes"
        raise UserError(
            f"model.threshold is {dict(given)}, and {what}",
            f"give one of two classes a probability above 0 and below 1, such as {{{classes[-1]}: 0.2}}"
            if len(classes) == 2
            else f"remove it: {fix}",
        )
    name, least = next(iter(given.items()))
    return classes.index(name), least


def decided(probabilities: Tensor, threshold: tuple[int, float] | None) -> Tensor:
    """The classes (samples,) of probabilities (samples, classes): the most probable ones, or of two as the threshold says."""
    if threshold is None:
        return probabilities.argmax(1)
    chosen, least = threshold
    return torch.where(probabilities[:, chosen] >= least, chosen, 1 - chosen)
