"""``model:`` of the tasks of tables: the kinds of networks, and their options."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import nn

from heliostat.config import Config
from heliostat.datasets import Index
from heliostat.workloads.tabular.networks import MLP, ResNet, Transformer

HIDDEN = {"mlp": 128, "resnet": 128, "ft-transformer": 64}
"""Units of a hidden layer by default."""


class ModelOptions(Config):
    """A kind of network, and its size; null stands for what is good for the kind."""

    kind: Literal["mlp", "resnet", "ft-transformer"] = Field("mlp", description="mlp, resnet or ft-transformer")
    hidden: int | None = Field(
        None,
        ge=1,
        description="units of each hidden layer, of an ft-transformer a multiple of heads; null: 128, of an ft-transformer 64",
    )
    layers: int = Field(2, ge=0, description="hidden layers or blocks, at least 0 (0 of an mlp is a linear model)")
    dropout: float = Field(0.2, ge=0, lt=1, description="a share from 0 to below 1")
    members: int = Field(16, ge=1, description="networks of an mlp that share layers and are averaged, at least 1")
    bins: int = Field(16, ge=0, le=64, description="quantile bins of a number in an mlp and an ft-transformer, up to 64, or 0")
    heads: int = Field(4, ge=1, description="attention heads of an ft-transformer, at least 1")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := list(self.problems()):
            raise ValueError(f"{', and '.join(what for what, _ in found)}; {', and '.join(fix for _, fix in found)}")
        return self

    def problems(self) -> Iterator[tuple[str, str]]:
        """What does not fit together, and how to correct it."""
        hidden = self.hidden or HIDDEN[self.kind]
        if self.kind == "ft-transformer" and hidden % self.heads:
            yield f"{self.heads} heads do not divide hidden {hidden}", "set heads to a divisor of it"
        if self.kind == "ft-transformer" and self.bins == 0:
            yield "bins is 0, but a number's token has at least one", "leave bins out"


def network(options: ModelOptions, index: Index, outputs: int) -> nn.Module:
    """A new network: a batch -> (samples, members, outputs)."""
    hidden = options.hidden or HIDDEN[options.kind]
    size = index, outputs, hidden, options.layers, options.dropout
    match options.kind:
        case "mlp":
            return MLP(*size, members=options.members, bins=options.bins)
        case "resnet":
            return ResNet(*size)
        case "ft-transformer":
            return Transformer(*size, heads=options.heads, bins=options.bins)
