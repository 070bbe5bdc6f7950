"""Training of trees by rounds, on all workers together (Friedman 2001; Ke et al. 2017, LightGBM)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from heliostat.config import Config
from heliostat.datasets import Dataset
from heliostat.datasets.signature import LABEL, TARGET
from heliostat.errors import UserError
from heliostat.workloads.tabular import losses
from heliostat.workloads.tabular.losses import Loss, Quantiles
from heliostat.workloads.tabular.threshold import Threshold
from heliostat.workloads.tabular.weights import ClassWeights, Weights, balanced, checked
from heliostat.workloads.trees.library import Booster, put_before
from heliostat.workloads.trees.model import Trees
from heliostat.workloads.trees.network import Network
from heliostat.workloads.trees.rows import Rows

if TYPE_CHECKING:
    from heliostat.workloads.training.distributed import Ranks


class Options(Config):
    """How trees are grown; a step of the run is a round."""

    learning_rate: float = Field(0.1, gt=0, le=1, description="the weight of each tree, a number above 0 and at most 1")
    leaves: int = Field(31, ge=2, le=131072, description="the most leaves of a tree, at least 2")
    depth: int | None = Field(None, ge=1, description="the most levels of a tree, at least 1, or null")
    min_samples: int = Field(20, ge=1, description="the fewest samples of a leaf, at least 1")
    subsample: float = Field(1.0, gt=0, le=1, description="the share of the samples that a round sees, above 0 and at most 1")
    colsample: float = Field(1.0, gt=0, le=1, description="the share of the columns that a tree sees, above 0 and at most 1")
    l2: float = Field(0.0, ge=0, description="the L2 penalty of the leaves' values, a number, at least 0")
    bins: int = Field(255, ge=2, le=65535, description="bins of a column's numbers, from 2 to 65535")
    class_weights: ClassWeights = None
    threshold: Threshold = None
    loss: Loss = "mse"
    quantiles: Quantiles = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        loss = self.loss if "loss" in self.model_fields_set else None
        if found := list(losses.problems(self.quantiles, loss)):
            raise ValueError(f"{', and '.join(what for what, _ in found)}; {', and '.join(fix for _, fix in found)}")
        return self


class Boosting:
    """Grows the trees of a model, one round a call; the model can be used between the rounds.

    Args:
        model: has the trees to continue with, if any.
        dataset: the source of the train split.
        ranks: this worker's.
        options: how trees are grown.
        seed: of the samples and columns that a round sees.
        weights: of the classes; balanced ones give all the same total weight; None for none.
    """

    def __init__(
        self, model: Trees, dataset: Dataset, ranks: "Ranks", options: Options, seed: int, weights: Weights | None
    ) -> None:
        self._seed, self._rank = seed, ranks.rank
        self._network = Network(ranks.rank, ranks.world)
        rows = Rows(dataset, ranks, model.columns)
        self._samples = len(rows)
        self.rate = options.learning_rate
        self._samples_differ = options.subsample < 1 or options.colsample < 1
        before, scores = model.boosters, rows.scores(model) if model.boosters else None
        more: dict[str, Any] = {}
        if model.classes:
            label = rows.column(LABEL)
            if weights:
                by_class = _balanced(label, model.classes, ranks) if weights == "balanced" else np.array(weights)
                more["weight"] = by_class[label]
        else:
            label = rows.column(TARGET)
            if not before:
                _standardize(model, label, ranks)
            label = (label - model.center.item()) / model.scale.item()
        params = _params(options, model, ranks.world)
        data = rows.binned(label, params[0], **more)
        self._boosters = []
        for number, each in enumerate(params):
            if scores is not None:
                # Copied by the booster: those of several quantiles share the rows.
                data.set_init_score(scores if model.outputs > 1 else np.ascontiguousarray(scores[:, number]))
            with self._network.connected():
                self._boosters.append(Booster(each, data))
        for booster, first in zip(self._boosters, before, strict=False):
            put_before(booster, first)
        model.boosters = self._boosters

    def __call__(self, step: int) -> tuple[Tensor, int]:
        """Grows the trees of round ``step``, from 0; returns this worker's mean loss and its samples."""
        for booster in self._boosters:
            if self._samples_differ:
                booster.reset_parameter(_seeds(self._seed, step, self._rank))
            with self._network.connected():
                booster.update()
        losses_now = [booster.eval_train()[0][2] for booster in self._boosters]
        return torch.tensor(losses_now, dtype=torch.float64).mean(), self._samples


OBJECTIVES = {"mse": ("regression", "l2"), "mae": ("regression_l1", "l1"), "huber": ("huber", "huber")}
"""By loss LightGBM's objective and metric."""


def _params(options: Options, model: Trees, world: int) -> list[dict[str, Any]]:
    """LightGBM's parameters of each booster, https://lightgbm.readthedocs.io/en/stable/Parameters.html."""
    objective, metric = {0: OBJECTIVES[options.loss], 2: ("binary", "binary_logloss")}.get(
        model.classes, ("multiclass", "multi_logloss")
    )
    common = {
        "objective": objective,
        "metric": metric,
        "alpha": 1.0,  # where the Huber loss becomes linear, as PyTorch's
        "num_class": model.outputs,
        "learning_rate": options.learning_rate,
        "num_leaves": options.leaves,
        "max_depth": options.depth or -1,
        "min_data_in_leaf": options.min_samples,
        "bagging_fraction": options.subsample,
        "bagging_freq": SEEDED if options.subsample < 1 else 0,
        "feature_fraction": options.colsample,
        "lambda_l2": options.l2,
        "max_bin": options.bins,
        "feature_pre_filter": False,
        # The same trees for any number of threads: no choice by a measurement of time.
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
        **({"num_machines": world, "tree_learner": "data"} if world > 1 else {}),
    }
    levels = [{**common, "objective": "quantile", "metric": "quantile", "alpha": level} for level in model.levels]
    return levels or [common]


SEEDED = 1_000_000_000
"""A frequency of sampling that never comes: samples are drawn when the parameters are set."""


def _seeds(seed: int, step: int, rank: int) -> dict[str, int]:
    """Parameters that draw the columns, and of this worker the samples, of a round: a function of these arguments alone.

    LightGBM would go on with its random generators, whose state a model does not have. It makes new ones when the seed of the
    columns or, of the samples, the frequency has changed (``ColSampler::SetConfig``, ``ResetSampleConfig``, 4.7).
    """
    samples, columns = (
        int(np.random.SeedSequence(key).generate_state(1)[0] >> 2) for key in ((seed, step, 1 + rank), (seed, step))
    )
    return {"bagging_seed": samples, "feature_fraction_seed": columns, "bagging_freq": SEEDED + 1 + step % 2}


def check_target(options: Options, classes: Sequence[str]) -> None:
    """Raises a UserError that lists the options of numbers that are set although the target is a class."""
    if found := [name for name in ("loss", "quantiles") if classes and name in options.model_fields_set]:
        given = " and ".join(f"model.{name} is {getattr(options, name)}" for name in found)
        raise UserError(f"{given}, but the target has classes", "remove it: it is for a target of numbers")


def weights_of(options: Options, classes: Sequence[str]) -> Weights | None:
    """The weights of these classes.

    Raises:
        UserError: see `checked`; the target is a number.
    """
    if options.class_weights is not None and not classes:
        raise UserError(f"model.class_weights is {options.class_weights}, but the target is a number", "remove it")
    return checked(options.class_weights, classes)


def _balanced(label: npt.NDArray[np.int64], classes: int, ranks: "Ranks") -> npt.NDArray[np.float64]:
    """The balanced weights of the classes, by the samples of all workers."""
    return balanced(ranks.all_gather(np.bincount(label, minlength=classes).tolist()).sum(0)).numpy()


def _standardize(model: Trees, target: npt.NDArray[np.float64], ranks: "Ranks") -> None:
    """Sets the model's center and scale to the mean and the standard deviation of the targets of all workers."""
    count, total = ranks.all_gather([float(len(target)), float(target.sum())]).sum(0).tolist()
    mean = total / count
    squares = ranks.all_gather([float(np.square(target - mean).sum())]).sum().item()
    model.center.fill_(mean)
    model.scale.fill_((squares / count) ** 0.5 or 1.0)
