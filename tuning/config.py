"""The sweep config: the schema of the YAML files in ``tuning/configs``."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from heliostat.config import Config, config_path, digest, read_mapping
from heliostat.tuning.space import Nested, Parameter, flatten
from heliostat.workloads.config import Name
from heliostat.workloads.tracking_config import NOTIFY, TRACKING, Notified, Tracking

Mode = Literal["max", "min"]
Kind = Literal["none", "asha", "hyperband", "median", "pbt"]
MAY_CHANGE = {"trials", "seconds", "budget", "concurrency", "retries", "keep", "storage", "requirements", "tracking", "notify"}
"""Keys for limits and places, not for what is searched: they may change when a sweep is resumed."""
BASE = "base"


class SchedulerConfig(Config):
    """Which trials are stopped early, and when."""

    kind: Kind = Field("asha", description="one of none, asha, hyperband, median, pbt")
    grace: float = Field(0.1, gt=0, lt=1, description="the share of its run that no trial is stopped in, from 0 to 1")
    reduction: float = Field(3, gt=1, description="one of so many trials continues beyond a rung, a number above 1")
    samples: int = Field(3, ge=1, description="median: other trials that must have reached the same step, at least 1")
    every: int = Field(1, ge=1, description="pbt: evaluations between two exchanges, at least 1")
    quantile: float = Field(0.25, gt=0, le=0.5, description="pbt: the share of the population that copies, up to 0.5")
    resample: float = Field(0.25, ge=0, le=1, description="pbt: the probability of a new value instead of a changed one")


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


class SweepConfig(Config):
    """Everything that defines a sweep; keys with a default may be left out."""

    name: Name = Field(description="a folder's name, such as digits-sweep")
    train: dict[str, Any] = Field(description="keys of a train config; base: names the file to start from")
    space: Annotated[dict[str, Parameter], BeforeValidator(flatten, json_schema_input_type=Nested)] = Field(
        description="a mapping such as {optimizer.lr: {loguniform: [1e-4, 1e-1]}}"
    )
    metric: str | Annotated[dict[str, Mode], Field(min_length=1)] | None = Field(
        None, description="a metric of the task, or several with their modes: {accuracy: max, seconds: min}"
    )
    mode: Mode | None = Field(None, description="max or min")
    trials: int | None = Field(None, ge=1, description="a whole number of trials, at least 1")
    seconds: float | None = Field(None, gt=0, description="the time after which the sweep stops, in seconds")
    budget: float | None = Field(None, gt=0, description="the cost at which the sweep stops, in the prices' currency")
    concurrency: int | None = Field(None, ge=1, description="the most concurrent trials, by default as many as fit")
    algorithm: Literal["random", "grid", "tpe", "cmaes", "nsga2", "bohb"] = Field(
        "tpe", description="one of random, grid, tpe, cmaes, nsga2, bohb"
    )
    scheduler: Annotated[SchedulerConfig, BeforeValidator(_named, json_schema_input_type=Kind | SchedulerConfig)] = Field(
        SchedulerConfig(), description="none, asha, hyperband, median or pbt, or a mapping with kind and its options"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="a whole number, at least 0")
    retries: int = Field(1, ge=0, description="how often a failed trial is retried, at least 0")
    keep: Literal["best", "all"] = Field("best", description="whose checkpoints are kept: best or all")
    storage: str | None = Field(None, min_length=1, description="the folder or URI of the sweep, by default train's")
    requirements: list[str] | str | None = Field(None, description="packages that a cluster installs, by default train's")
    tracking: Tracking | None = Field(None, description=f"{TRACKING}; by default train's")
    notify: Notified | None = Field(None, description=f"{NOTIFY}; by default train's")

    @property
    def limits(self) -> dict[str, Any]:
        """The limits that end the sweep."""
        return self.model_dump(include={"trials", "seconds", "budget"})

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if not self.space:
            raise ValueError("space is empty; write space: {optimizer.lr: {loguniform: [1e-4, 1e-1]}}")
        if self.algorithm != "grid" and not (self.trials or self.seconds or self.budget):
            raise ValueError("a sweep needs a limit: trials, seconds or budget; set trials: 20")
        return self

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        kind = self.scheduler.kind
        if isinstance(self.metric, dict):
            if self.mode:
                raise ValueError("metric includes its modes; remove mode")
            if len(self.metric) > 1 and kind != "none":
                raise ValueError(f"scheduler is {kind}, but several metrics do not rank unfinished trials; set scheduler: none")
            if len(self.metric) > 1 and self.algorithm not in ("tpe", "nsga2", "random", "grid"):
                raise ValueError(f"algorithm is {self.algorithm}, which supports one metric; set algorithm: tpe, or nsga2")
        if self.algorithm == "bohb" and kind != "hyperband":
            raise ValueError(f"algorithm bohb needs scheduler hyperband, but got {kind}; set scheduler: hyperband")
        if kind == "pbt" and (self.algorithm != "random" or not self.trials):
            raise ValueError("scheduler pbt starts from a random population; set algorithm: random, and trials to its size")
        if self.algorithm in ("grid", "cmaes"):
            self._check_kinds()
        return self

    def _check_kinds(self) -> None:
        for name, parameter in self.space.items():
            if self.algorithm == "grid" and parameter.values is None:
                raise ValueError(
                    f"space.{name} is {parameter.kind}, which has infinitely many values, but algorithm grid needs finitely "
                    "many; use choice, integer, logint or quniform, or set algorithm: random"
                )
            if self.algorithm == "cmaes" and (parameter.choice is not None or parameter.when):
                raise ValueError(
                    f"space.{name} is a choice or has a condition, but algorithm cmaes searches only unconditional numbers; "
                    "set algorithm: tpe"
                )

    @property
    def identity(self) -> dict[str, Any]:
        """The keys that define what is searched: two sweeps of the same name must agree in them."""
        return self.model_dump(mode="json", exclude=MAY_CHANGE)

    @property
    def hash(self) -> str:
        return digest(self.identity)


def base_of(config: SweepConfig) -> dict[str, Any]:
    """The train config that all trials start from, as plain data: the file of ``train.base`` with train's own keys over it.

    What follows a training, `then`, is left out: a trial is no candidate for a model, but the best of them may become one.

    Raises:
        UserError: the file cannot be read.
    """
    own = {key: value for key, value in config.train.items() if key != BASE}
    base = config.train.get(BASE)
    data = read_mapping(config_path(str(base), "workloads/configs")) if base else {}
    given = config.model_dump(mode="json", include={"requirements", "tracking", "notify"}, exclude_none=True)
    found = {**_merged(data, own), **given, "name": config.name}
    return {key: value for key, value in found.items() if key != "then"}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
