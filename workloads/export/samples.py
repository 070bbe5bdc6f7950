"""Samples that a model is exported with and compared on: those of the test split, or random ones if the dataset is gone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heliostat.datasets import Field, Index
from heliostat.datasets.loader import tensors
from heliostat.datasets.signature import CATEGORIES, LABEL, TARGET
from heliostat.errors import UserError
from heliostat.workloads.inference import Trained
from heliostat.workloads.task import Batch

MOST, MOST_BYTES = 20_000, 32 << 20
"""Samples that a model is compared on, and bytes of them or of its outputs."""
WIDENED = ("uint16", "uint32", "uint64")
"""Types that few operators take; the exported model has int64 in their place."""


@dataclass(frozen=True)
class Samples:
    """Columns (samples, ...) as the exported model takes them, and those of the targets."""

    batch: Batch
    truth: Batch
    kind: str
    """What they are, such as ``test samples``."""

    @property
    def note(self) -> str:
        """How many of what."""
        return f"{len(next(iter(self.batch.values())))} {self.kind}"

    def thinned(self, most: int) -> "Samples":
        """About ``most`` of them, at least eight, spread evenly."""
        total = len(next(iter(self.batch.values())))
        step = max(1, -(-total // max(most, 8)))
        batch, truth = ({name: values[::step] for name, values in each.items()} for each in (self.batch, self.truth))
        return Samples(batch, truth, self.kind)


def samples_of(run: Trained) -> Samples:
    """Samples spread over the test split of a run, all of it if it is small; without the dataset, random ones."""
    size = sum(field.size for field in run.index.fields.values())
    most = max(2, min(MOST, MOST_BYTES // size))
    try:
        rows = run.dataset.index.rows("test")
        ids = np.arange(min(rows, most)) * rows // min(rows, most)
        found, kind = tensors(run.dataset, "test", ids), "test samples"
        truth = {name: found[name] for name in (LABEL, TARGET) if name in found}
    except UserError as error:
        random = np.random.default_rng(0)
        found = {name: _random(run.index, name, field, random, 64) for name, field in run.index.fields.items()}
        truth, kind = {}, f"random samples ({error.what})"
    inputs = {name: values for name, values in found.items() if name not in (LABEL, TARGET)}
    return Samples({name: as_taken(values, name in run.task.any_length) for name, values in inputs.items()}, truth, kind)


def as_taken(values: Tensor, is_sequence: bool) -> Tensor:
    """A column in the type that the exported model takes: sequences of tokens and unusual types as int64."""
    return values.long() if is_sequence or str(values.dtype).removeprefix("torch.") in WIDENED else values


def _random(index: Index, name: str, field: Field, random: np.random.Generator, count: int) -> Tensor:
    shape = (count, *field.shape)
    if field.dtype.startswith("float"):
        return torch.from_numpy(random.normal(size=shape).astype(field.dtype))
    if name == CATEGORIES and index.signature:
        codes = [random.integers(-2, column.codes, count) for column in index.signature.categorical]
        return torch.from_numpy(np.stack(codes, 1).astype(field.dtype))
    most: Any = (
        index.meta.get("vocabulary", 2) if name == "tokens" else index.meta.get("white", 255) + 1 if name == "image" else 2
    )
    return torch.from_numpy(random.integers(0, most, shape).astype(field.dtype))
