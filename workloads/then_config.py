"""The schema of `then`: what follows a training."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from heliostat.config import Config

Step = Literal["add", "gate", "promote"]
ALLOWED: list[list[Step]] = [["add"], ["gate"], ["gate", "promote"], ["add", "gate"], ["add", "gate", "promote"]]
"""A model is added before it is gated, whether that is written or not, and gated before it is promoted."""
NAME = re.compile(r"\w[\w.-]{0,99}")
"""Of a model."""


def _model(value: Any) -> Any:
    if isinstance(value, str) and not NAME.fullmatch(value):
        raise ValueError(f"{value!r} cannot be a model's name; use up to 100 letters, digits, '-', '_' and '.', a letter first")
    return value


def _against(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value != "champion" and not (value.isascii() and value.isdigit()):
        raise ValueError(f"{value!r} is no version; write champion or a number")
    return value


class Drift(Config):
    """When ``heliostat train --if-drift`` finds drift, see `heliostat.workloads.registry.drift`."""

    threshold: float = Field(0.25, gt=0, description="the population stability index from which a column has drifted, above 0")
    ignore: list[str] = Field([], description="columns that are left out, such as [date]")


class Then(Config):
    """What follows a training: its model becomes a version of a model, which is gated, and promoted if it passes."""

    steps: list[Step] = Field(["gate", "promote"], description="[add], [gate] or [gate, promote]")
    model: Annotated[str | None, BeforeValidator(_model)] = Field(
        None, description="the name of the model in the registry; null: that of the run"
    )
    against: Annotated[str, BeforeValidator(_against, json_schema_input_type=str | int)] = Field(
        "champion", description="what the gate compares with: champion, or the number of a version"
    )
    metric: str = Field("", description="the metric that decides; empty: that of the run")
    margin: float = Field(0.0, ge=0, description="how much worse it may be, at least 0; with 0 it must be better")
    by: list[str] = Field([], description="columns for none of whose values it may be worse, such as [country]")
    slower: float = Field(2.0, gt=0, description="the most times the p95 latency, above 0")
    larger: float = Field(2.0, gt=0, description="the most times the size, above 0")
    drift: Drift = Drift()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.steps not in ALLOWED:
            raise ValueError(
                f"steps is [{', '.join(self.steps)}], but must be [add], [gate] or [gate, promote]: "
                "only what has passed the gate is promoted"
            )
        return self


def _then(value: Any) -> Any:
    """A list is that of the steps, with the defaults of all else."""
    return {"steps": [value] if isinstance(value, str) else value} if isinstance(value, list | str) else value


Following = Annotated[Then | None, BeforeValidator(_then, json_schema_input_type=Then | list[Step] | None)]
THEN = "the steps that follow the training, such as [gate, promote], or {steps: [gate, promote], model: churn, margin: 0.01}"
