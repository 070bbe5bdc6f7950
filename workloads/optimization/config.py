"""The schema of ``optimizer:`` in a train config; docs/training.md describes it."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from heliostat.config import Config, nearest

TYPES: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": 0.05, "beta1": 0.9, "beta2": 0.99},
    "adam": {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99},
    "sgd": {"weight_decay": 0.0},
}
"""By type of optimizer the keys that it takes, with their defaults."""
OWN_TYPE: dict[str, Any] = {"weight_decay": None}
"""The same for ``module:Class``, whose constructor has the default."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"warmup_steps": 20, "final_lr": 0.05},
    "linear": {"warmup_steps": 20, "final_lr": 0.05},
    "constant": {"warmup_steps": 20},
    "one-cycle": {"final_lr": 4e-6},
    "warmup-stable-decay": {"warmup_steps": 20, "final_lr": 0.05},
}
"""By schedule the keys that it takes, with their defaults; ``module:function`` takes none."""


TORCH = {
    "CosineAnnealingLR": "cosine", "get_cosine_schedule_with_warmup": "cosine", "LinearLR": "linear", "LambdaLR": "linear",
    "get_linear_schedule_with_warmup": "linear", "ConstantLR": "constant", "constant_with_warmup": "constant",
    "OneCycleLR": "one-cycle", "wsd": "warmup-stable-decay", "warmup_stable_decay": "warmup-stable-decay",
}  # fmt: skip
"""Schedules of torch and transformers, and which of ours computes the like."""


def _one_of(known: Mapping[str, Any], what: str, own: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known and not re.fullmatch(r"[^:]+:\w+", value):
            like = nearest(TORCH.get(value, value), known)
            raise ValueError(f"{value!r} is not {what}; {like} (or write {own}, of a library or your own)")
        return value

    return AfterValidator(check)


class ParameterGroup(Config):
    """Parameters with another learning rate or weight decay than the others."""

    match: str = Field(min_length=1, description="a pattern of parameter names, such as 'backbone.*'")
    lr_scale: float = Field(1.0, gt=0, description="a factor of the learning rate, a number above 0")
    weight_decay: float | None = Field(
        None, ge=0, description="a number, at least 0, of all parameters that match; null: as for others"
    )

    @model_validator(mode="before")
    @classmethod
    def _factor(cls, data: Any) -> Any:
        if isinstance(data, dict) and "lr" in data:
            raise ValueError(f"a group has lr {data['lr']}, but takes a factor of optimizer.lr; write lr_scale")
        return data


class OptimizerConfig(Config):
    """How gradients become updates: by default AdamW with linear warm-up and cosine decay.

    Where a key is None, its default is that of the type or the schedule, or these do not take it.
    """

    type: Annotated[str, _one_of(TYPES, "an optimizer", "module:Class")] = Field(
        "adamw", description="adamw, adam, sgd, or module:Class, such as torch.optim:RMSprop"
    )
    options: dict[str, Any] = Field({}, description="other arguments of the optimizer, such as {momentum: 0.9}")
    lr: float = Field(1e-3, gt=0, description="the peak learning rate, a number above 0 such as 0.001")
    weight_decay: float | None = Field(
        None, ge=0, description="a number, at least 0 (adamw: 0.05, adam, sgd: 0); biases and norms are exempt"
    )
    beta1: float | None = Field(None, ge=0, lt=1, description="of adamw and adam, a number from 0 to below 1 (default: 0.9)")
    beta2: float | None = Field(None, ge=0, lt=1, description="of adamw and adam, a number from 0 to below 1 (default: 0.99)")
    schedule: Annotated[str, _one_of(SCHEDULES, "a schedule", "module:function")] = Field(
        "cosine", description="cosine, linear, constant, one-cycle, warmup-stable-decay, or module:function"
    )
    schedule_options: dict[str, Any] = Field({}, description="the schedule's own options, such as {decay_share: 0.1}")
    warmup_steps: int | None = Field(None, ge=0, description="a whole number of steps, at least 0 (default: 20)")
    final_lr: float | None = Field(None, ge=0, le=1, description="a share of lr, from 0 to 1 (default: 0.05)")
    clip_norm: float | None = Field(1.0, gt=0, description="the largest gradient norm, a number above 0, or null")
    clip_value: float | None = Field(None, gt=0, description="the largest absolute value in a gradient, above 0, or null")
    groups: list[ParameterGroup] = Field([], description="a list such as [{match: 'backbone.*', lr_scale: 0.1}]")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="a factor of the learning rate for each layer below the last, above 0 to 1, or null"
    )
    freeze: list[str] = Field([], description="patterns of the parameters that are not trained, such as ['backbone.*']")
    freeze_steps: int | None = Field(None, ge=1, description="steps after which freeze ends, at least 1; null: never")
    ema: float | None = Field(
        None, gt=0, lt=1, description="the decay of an average of the weights, such as 0.999, which is then evaluated; or null"
    )

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        taken = {
            "type": (self.type, TYPES.get(self.type, OWN_TYPE), TYPES),
            "schedule": (self.schedule, SCHEDULES.get(self.schedule, {}), SCHEDULES),
        }
        problems = [
            f"{key} is {getattr(self, key)}, which {kind} {name} does not take"
            for kind, (name, takes, others) in taken.items()
            for key in dict.fromkeys(key for each in others.values() for key in each)
            if key not in takes and getattr(self, key) is not None
        ]
        if self.freeze_steps and not self.freeze:
            problems.append(f"freeze_steps is {self.freeze_steps}, but freeze has no pattern")
        if problems:
            raise ValueError(f"{', and '.join(problems)}; remove {'them' if len(problems) > 1 else 'it'}")
        for _, takes, _ in taken.values():
            # Not by assignment: what the user has not set stays unset, so that another type can be chosen over this config.
            self.__dict__.update({key: value for key, value in takes.items() if getattr(self, key) is None})
            # Also those that a record or another config has written out.
            self.model_fields_set.difference_update(key for key, value in takes.items() if getattr(self, key) == value)
        return self
