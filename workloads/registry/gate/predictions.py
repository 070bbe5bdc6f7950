"""The predictions of two exported models on the same rows, and how long and how large they are."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heliostat.datasets import Index
from heliostat.datasets.signature import LABEL, TARGET
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.export.loader import Model
from heliostat.workloads.registry.gate.rows import Arrays
from heliostat.workloads.registry.gate.statistics import Resampled
from heliostat.workloads.tabular.bootstrap import Formulas, values
from heliostat.workloads.tabular.metrics import class_formulas, number_formulas, rarer

CALLS, WARM_UP = 200, 20
"""One-row calls of each model, of which the 95th percentile is taken, and before them."""


@dataclass(frozen=True)
class Outputs:
    """What a model predicts for some rows."""

    answer: Tensor
    """Probabilities (rows, classes) of the classes of both models, or numbers (rows,)."""
    chosen: Tensor | None
    """The classes (rows,) that are decided for; None for numbers."""

    def at(self, places: Tensor) -> "Outputs":
        """Those of a part of the rows."""
        return Outputs(self.answer[places], None if self.chosen is None else self.chosen[places])


@dataclass(frozen=True)
class Exported:
    """A model in a local folder, as `heliostat model export` has written it."""

    what: str
    """What messages call it."""
    model: Model
    size: int
    """Bytes of the files that it is run with."""

    @classmethod
    def open(cls, folder: Path, what: str) -> "Exported":
        """Loads it.

        Raises:
            UserError: its format has nothing that runs it, or a package is missing; ``what`` begins the message.
        """
        try:
            model = Model(folder)
        except ValueError as error:
            raise UserError(f"{what} cannot be run: {error}", "add it again with --to torch, or onnx") from None
        except ImportError as error:
            raise UserError(f"{what} needs {error.name}, which is not installed", f"pip install {error.name}") from None
        return cls(what, model, sum(path.stat().st_size for path in folder.glob("model*") if path.is_file()))

    @property
    def inputs(self) -> list[str]:
        return [*self.model.signature["inputs"]]

    @property
    def kind(self) -> str:
        """``classes`` or ``numbers``; empty for other outputs, which have no truth to compare them with."""
        outputs = self.model.signature["outputs"]
        if {"probabilities", "class"} <= outputs.keys() and self.classes:
            return "classes"
        return "numbers" if outputs.get("prediction", {}).get("shape") == ["batch"] else ""

    @property
    def classes(self) -> list[str]:
        return list(self.model.signature.get("classes", []))

    def predict(self, arrays: Arrays, classes: Sequence[str]) -> Outputs:
        """Its predictions for rows; the probabilities of the given classes, 0 of those that it does not have.

        Raises:
            UserError: one is NaN or infinite.
        """
        found = {name: torch.from_numpy(np.asarray(array)) for name, array in self.model.run(arrays).items()}
        values = found["prediction" if self.kind == "numbers" else "probabilities"]
        if bad := int((~values.isfinite()).reshape(len(values), -1).any(1).sum()):
            raise UserError(
                f"{self.what} predicts NaN or infinity for {bad:,} of {counted(len(values), 'test row')}",
                "look at these rows: a column may lack values that the model needs",
            )
        if self.kind == "numbers":
            return Outputs(found["prediction"].double(), None)
        places = torch.tensor([classes.index(name) for name in self.classes])
        answer = torch.zeros(len(found["class"]), len(classes))
        answer[:, places] = found["probabilities"].float()
        return Outputs(answer, places[found["class"].long()])


def truth_of(index: Index, arrays: Arrays, classes: Sequence[str]) -> Tensor:
    """The classes (rows,) among those of both models, or the numbers."""
    if LABEL in index.fields:
        return torch.tensor([classes.index(name) for name in index.classes])[torch.from_numpy(arrays[LABEL]).long()]
    return torch.from_numpy(arrays[TARGET]).double()


def formulas_of(index: Index, classes: Sequence[str]) -> Formulas:
    """The metrics that the predictions have, by name."""
    return _formulas(index, classes, None)


def resampled(index: Index, classes: Sequence[str], name: str, outputs: Outputs, truth: Tensor) -> Resampled:
    """A metric of the predictions as a function of weights (resamples, rows)."""
    formulas = {name: _formulas(index, classes, outputs.chosen)[name]}
    return partial(_value, formulas, name, outputs.answer, truth)


def _value(formulas: Formulas, name: str, answer: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return values(formulas, (answer, truth), weights)[name]


def _formulas(index: Index, classes: Sequence[str], chosen: Tensor | None) -> Formulas:
    if LABEL not in index.fields:
        return number_formulas()
    positive = classes.index(index.classes[rarer(index)]) if len(index.classes) == 2 else 0
    # The decisions are the exported model's own, with its threshold.
    found = class_formulas(len(classes), positive, lambda probabilities: probabilities.argmax(1) if chosen is None else chosen)
    return {**found, "loss": found["log_loss"]}


def latencies(models: Mapping[str, tuple[Exported, Sequence[Arrays]]]) -> dict[str, float]:
    """The 95th percentile of the milliseconds for one row, by model; they take turns, so that both meet the same load."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for call in range(WARM_UP + CALLS):
        for name, (exported, rows) in models.items():
            began = time.perf_counter()
            exported.model.run(rows[call % len(rows)])
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: float(np.quantile(times[WARM_UP:], 0.95)) for name, times in taken.items()}


def single(arrays: Arrays, at: int) -> Arrays:
    """One row of arrays."""
    return {name: np.ascontiguousarray(each[at : at + 1]) for name, each in arrays.items()}
