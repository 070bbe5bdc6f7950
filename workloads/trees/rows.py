"""The train split as LightGBM's own dataset: on each worker its share of the rows, with the same bins on all.

In memory are a byte a value of the share (two with more than 256 bins), its targets and scores, and during the start the sample
that the bins are computed of.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets import Dataset
from heliostat.datasets.signature import CATEGORIES
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.trees.library import lightgbm
from heliostat.workloads.trees.model import Matrix, Trees, matrix

if TYPE_CHECKING:
    from heliostat.workloads.training.distributed import Ranks

SAMPLE, LEAST_SAMPLE, SAMPLE_VALUES = 200_000, 10_000, 1 << 25
"""Rows that the bins are computed of, as in LightGBM; fewer of wide tables, so that they are about that many values."""
CHUNK_VALUES = 1 << 20
"""Values that are read at once."""


class Rows(lightgbm.Sequence):
    """This worker's share of the train split, read in chunks; the shares are contiguous, so that each reads few shards.

    Raises:
        UserError: there are more workers than rows.
    """

    def __init__(self, dataset: Dataset, ranks: "Ranks", columns: int) -> None:
        total = dataset.index.rows("train")
        if ranks.world > total:
            raise UserError(
                f"workers is {ranks.world}, but the train split has {counted(total, 'sample')}", f"set workers to {total}"
            )
        self._dataset, self._ranks = dataset, ranks
        self.total, self.columns = total, columns
        self.first, self.last = ranks.share(total)
        self.batch_size = max(1, CHUNK_VALUES // columns)

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, place: Any) -> Matrix:
        return self._read(np.arange(len(self))[place] + self.first)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of single values."""
        parts, start = [], 0
        for number, shard in enumerate(self._dataset.index.splits["train"]):
            first, last = max(self.first - start, 0), min(self.last - start, shard.rows)
            if first < last:
                parts.append(self._dataset.columns("train", number)[name][first:last])
            start += shard.rows
        return np.concatenate(parts)

    def scores(self, model: Trees) -> npt.NDArray[np.float64]:
        """The scores of a model: (rows, outputs)."""
        starts = range(0, len(self), self.batch_size)
        return np.concatenate([model.scores(self[start : start + self.batch_size]) for start in starts])

    def binned(self, label: npt.NDArray[np.float64], params: dict[str, Any], **more: Any) -> lightgbm.Dataset:
        """LightGBM's dataset of these rows.

        The bins are those of a sample of the whole split, spread evenly over it, so that they, and with them the trees, do not
        depend on the number of workers.
        """
        size = min(self.total, SAMPLE, max(LEAST_SAMPLE, SAMPLE_VALUES // self.columns))
        ids = np.arange(size) * self.total // size
        mine = self._read(ids[(ids >= self.first) & (ids < self.last)])
        sample = np.concatenate(self._ranks.all_gather_object(mine))
        categories = self._dataset.index.fields.get(CATEGORIES)
        width = categories.shape[0] if categories else 0
        options = {**params, "bin_construct_sample_cnt": size}
        codes = [*range(self.columns - width, self.columns)]
        bins = lightgbm.Dataset(sample, params=options, categorical_feature=codes).construct()
        return lightgbm.Dataset(
            self, label=label, reference=bins, params=options, categorical_feature=codes, **more
        ).construct()

    def _read(self, ids: npt.NDArray[np.int64]) -> Matrix:
        return matrix(self._dataset.take("train", ids))
