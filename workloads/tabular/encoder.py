"""The columns of a table as dense numbers: scaled, without gaps, categories as vectors; all statistics are buffers.

They come from the train split (`Index.stats`, `Index.train`), so a checkpoint has all that raw rows need.
"""

import torch
from torch import Tensor, nn

from heliostat.datasets import Index
from heliostat.datasets.signature import CATEGORIES, FEATURES, MISSING, Column, Signature, TrainStatistics
from heliostat.errors import UserError

Batch = dict[str, Tensor]
ONE_HOT = 16
"""The most categories of a column that are one-hot vectors; more are learnt vectors of `EMBEDDED` numbers."""
EMBEDDED = 8
NEGLIGIBLE = 1e-7
"""What a constant feature seems to vary by, as a share of its values: statistics are computed with rounding errors."""


class Encoder(nn.Module):
    """``features`` (samples, n) with NaN for gaps and ``categories`` (samples, m) -> (samples, ``width``) float32.

    Raises:
        UserError: the index has no signature; in ``forward``, a gap in a column with ``fill: refuse``.
    """

    def __init__(self, index: Index) -> None:
        super().__init__()
        signature, train = described(index)
        self.numbers = Numbers(signature, train, index.stats) if signature.numeric else None
        categories = [
            Category(counts, None if column.codes <= ONE_HOT else EMBEDDED)
            for column, counts in zip(signature.categorical, train.counts, strict=True)
        ]
        # Not a list of modules: those of a model are its blocks, which are sharded and compiled one by one.
        self.categories = nn.Sequential(*categories)
        self.width = sum(category.width for category in categories)
        self.width += self.numbers.width if self.numbers else 0

    def forward(self, batch: Batch) -> Tensor:
        parts = [*self.numbers(batch[FEATURES])] if self.numbers else []
        return torch.cat(parts + self.vectors(batch), 1)

    def vectors(self, batch: Batch) -> list[Tensor]:
        """Each category column's vectors."""
        return [category(batch[CATEGORIES][:, at]) for at, category in enumerate(self.categories)]


def described(index: Index) -> tuple[Signature, TrainStatistics]:
    """The signature of a table's dataset, and the statistics of its train split.

    Raises:
        UserError: it has none.
    """
    if not index.signature or not index.train:
        raise UserError(
            "the dataset does not describe the columns of a table: it is none, or was built by an older version",
            "build it again from the table",
        )
    return index.signature, index.train


class Numbers(nn.Module):
    """(samples, features) with NaN for gaps -> scaled (samples, features), and indicators (samples, columns) of gaps.

    A gap becomes what the column's ``fill`` says. Numbers are scaled by median and interquartile range and clipped smoothly
    to (-3, 3), so that heavy tails neither dominate nor are lost (Holzmüller et al. 2024, "Better by default"). A feature that
    is constant in training is ignored. Only columns with gaps in training have an indicator: others would not be trained.
    """

    fill: Tensor
    centre: Tensor
    scale: Tensor
    gaps: Tensor
    refused: Tensor

    def __init__(self, signature: Signature, train: TrainStatistics, stats: dict[str, dict[str, list[float]]]) -> None:
        super().__init__()
        self.names = signature.feature_names
        columns = [column for column in signature.numeric for _ in range(column.width)]
        mean, std = (torch.tensor(stats[FEATURES][key], dtype=torch.float64).nan_to_num() for key in ("mean", "std"))
        quantiles = torch.tensor(train.quantiles, dtype=torch.float64).nan_to_num()
        least, median, most = (quantiles[:, round(level * (quantiles.shape[1] - 1))] for level in (0.25, 0.5, 0.75))
        fills = [_fill(*values) for values in zip(columns, mean.tolist(), median.tolist(), strict=True)]
        self.register_buffer("fill", torch.tensor(fills, dtype=torch.float32))
        self.register_buffer("centre", median.float())
        self.register_buffer("scale", _inverse(most - least, _inverse(std, torch.zeros_like(std), mean), median).float())
        first = [at for at, column in enumerate(columns) if not at or columns[at - 1] is not column]
        self.register_buffer("gaps", torch.tensor([at for at in first if train.missing[at]], dtype=torch.int64))
        refused = [at for at in first if columns[at].fill == "refuse"]
        self.register_buffer("refused", torch.tensor(refused, dtype=torch.int64))
        self.features, self.width = len(columns), len(columns) + len(self.gaps)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        missing = features.isnan()
        if len(self.refused) and (found := missing[:, self.refused].any(0)).any():
            names = ", ".join(repr(self.names[at]) for at in self.refused[found].tolist())
            raise UserError(f"a value of {names} is missing", "give it; the column has fill: refuse")
        x = (torch.where(missing, self.fill, features) - self.centre) * self.scale
        return x / (1 + (x / 3).square()).sqrt(), missing[:, self.gaps].to(x.dtype)


def _fill(column: Column, mean: float, median: float) -> float:
    """The number, as features have it, that stands for a gap."""
    if isinstance(column.fill, int | float):
        return column.fill - column.offset
    return {"mean": mean, "median": median, "zero": -column.offset, "refuse": mean}[column.fill]


def _inverse(spread: Tensor, otherwise: Tensor, values: Tensor) -> Tensor:
    return torch.where(spread > NEGLIGIBLE * values.abs(), 1 / spread, otherwise)


class Category(nn.Module):
    """Codes (samples,) -> (samples, width): one-hot vectors, or learnt ones of ``width`` numbers; missing is a category.

    What training had no row of, also -2, gets the mean vector of the train split: no weight of it would be trained.
    """

    share: Tensor
    weight: Tensor

    def __init__(self, counts: tuple[int, ...], width: int | None) -> None:
        super().__init__()
        rows = torch.tensor(counts, dtype=torch.float64)
        self.register_buffer("share", (rows / rows.sum().clamp(min=1)).float())
        self.width = width or len(counts)
        if width:
            self.weight = nn.Parameter(torch.randn(len(counts), width) / width**0.5)
        else:
            self.register_buffer("weight", torch.eye(len(counts)))

    def forward(self, codes: Tensor) -> Tensor:
        place = torch.where(codes == MISSING, len(self.share) - 1, codes.clamp(min=0)).long()
        known = (codes >= MISSING) & (self.share[place] > 0)
        return torch.where(known[:, None], self.weight[place], self.share @ self.weight)
