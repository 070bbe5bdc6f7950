"""A model that is made of trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from heliostat.datasets.signature import CATEGORIES, FEATURES
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.trees.library import Booster

BETWEEN = "\0"
Matrix = npt.NDArray[np.float32]


def matrix(columns: Mapping[str, npt.NDArray[Any]]) -> Matrix:
    """The numbers, then the categories of samples, as LightGBM takes them: (samples, columns) float32, missing ones as NaN.

    Categories that the signature does not list are missing to the trees.
    """
    parts = [columns[FEATURES].astype(np.float32, copy=False)] if FEATURES in columns else []
    if CATEGORIES in columns:
        codes = columns[CATEGORIES]
        parts.append(np.where(codes < 0, np.nan, codes).astype(np.float32))
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, 1)


class Trees(nn.Module):
    """Boosted trees; its state has LightGBM's text of them, so that a checkpoint is complete, whatever their number.

    Args:
        columns: of the matrix.
        classes: how many; 0 for a number.
        fill: (columns,), what a gap is in a column that had none in training, which LightGBM takes as 0; NaN for others.
        levels: of quantiles of a number, each of which has trees of its own.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, columns: int, classes: int, fill: Matrix | None = None, levels: Sequence[float] = ()) -> None:
        super().__init__()
        self.columns, self.classes, self.fill, self.levels = columns, classes, fill, tuple(levels)
        self.boosters: list[Booster] = []
        """One, or one a level of quantiles; none before the first round."""
        # What is boosted is (target - center) / scale, as LightGBM keeps targets in 32 bits.
        self.register_buffer("center", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    @property
    def booster(self) -> Booster | None:
        """LightGBM's model, of quantiles that of the first level; None before the first round."""
        return self.boosters[0] if self.boosters else None

    @property
    def outputs(self) -> int:
        """The trees of a round of a booster: one a class, or a single one for a number and for two classes."""
        return self.classes if self.classes > 2 else 1

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The logits (samples, classes) float32, or the numbers (samples,) or their quantiles (samples, levels) float64.

        Quantiles are sorted, so that they do not cross, which never makes them worse (Chernozhukov et al. 2010).
        """
        parts = {name: batch[name].cpu().numpy() for name in (FEATURES, CATEGORIES) if name in batch}
        scores = torch.from_numpy(self.scores(matrix(parts))).to(self.center.device)
        if not self.classes:
            return (scores.sort(1).values if self.levels else scores[:, 0]) * self.scale + self.center
        logits = scores if self.classes > 2 else torch.cat([torch.zeros_like(scores), scores], 1)
        return logits.float()

    def scores(self, rows: Matrix) -> npt.NDArray[np.float64]:
        """The sums of the trees' values: (samples, outputs), of quantiles (samples, levels)."""
        if not self.boosters:
            return np.zeros((len(rows), len(self.levels) or self.outputs))
        rows = rows if self.fill is None else np.where(np.isnan(rows), self.fill, rows)
        found = [np.asarray(each.predict(rows, raw_score=True), np.float64) for each in self.boosters]
        return np.column_stack([each.reshape(len(rows), self.outputs) for each in found])

    def gains(self) -> npt.NDArray[np.float64]:
        """What the splits of each column gain in all: (columns,)."""
        found = [np.asarray(each.feature_importance("gain"), np.float64) for each in self.boosters]
        return np.sum(found, 0) if found else np.zeros(self.columns)

    def get_extra_state(self) -> Tensor:
        """LightGBM's text of the trees: uint8, empty before the first round; those of several levels with a zero between."""
        text = BETWEEN.join(each.model_to_string() for each in self.boosters)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Replaces the trees.

        Raises:
            UserError: they are those of other columns, classes or quantiles.
        """
        texts = bytes(state.cpu().numpy()).decode().split(BETWEEN) if len(state) else []
        boosters = [Booster(model_str=text) for text in texts]
        wanted = (self.columns, (len(self.levels) or 1) * self.outputs)
        for each in boosters[:1]:
            found = each.num_feature(), len(boosters) * each.num_model_per_iteration()
            if found != wanted:
                raise UserError(
                    f"the trees have {counted(found[0], 'column')} and {counted(found[1], 'output')}, but those of this "
                    "dataset "
                    f"have {wanted[0]} and {wanted[1]}",
                    "use trees of a dataset with the same columns and classes, and with as many quantiles",
                )
        self.boosters = boosters
