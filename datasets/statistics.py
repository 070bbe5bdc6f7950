"""Statistics of the samples of a split, in one pass and with bounded memory."""

from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.arrow import Columns
from heliostat.datasets.permutation import STEP, mixed
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL, QUANTILES, TARGET, Signature, TrainStatistics

SAMPLED, SAMPLED_BYTES = 1 << 16, 32 << 20
"""Rows from which quantiles are computed, at most, and their bytes: exact for fewer rows."""


class Statistics:
    """Mean and standard deviation of each column over all axes but the first one of a sample, and what `TrainStatistics` has.

    Sums are of the differences from the first value: of large numbers that are near each other, squares have no digits left.
    Values that are NaN are missing, and left out.
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}
        self._counts: dict[str, list[npt.NDArray[np.int64]]] = {}
        self._rows = 0
        self._samples = {FEATURES: _Sample(), TARGET: _Sample()}

    def add(self, columns: Columns) -> None:
        for name, values in columns.items():
            if (values.ndim < 2 and name != TARGET) or name in ("tokens", CATEGORIES) or not len(values):
                continue
            flat = values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1, -1).astype(np.float64)
            self._sums.setdefault(name, _Sums(flat.shape[1])).add(flat)
        self._count(columns)
        for name, sample in self._samples.items():
            if name in columns and (name == TARGET or columns[name].dtype == np.float32):
                sample.add(columns[name].reshape(len(columns[name]), -1))
        self._rows += len(next(iter(columns.values())))

    def result(self) -> dict[str, dict[str, list[float]]]:
        return {name: sums.result() for name, sums in self._sums.items() if name != TARGET}

    def of_table(self, signature: Signature) -> TrainStatistics:
        counts = self._counts.get(CATEGORIES, [])
        codes = [column.codes for column in signature.categorical]
        # The last of a column is the count of the code -1.
        by_column = tuple((*_padded(each[1:], n), int(each[0])) for each, n in zip(counts, codes, strict=True))
        missing = tuple((1 - self._sums[FEATURES].counts / self._rows).tolist()) if FEATURES in self._sums else ()
        return TrainStatistics(
            missing=missing, quantiles=self._samples[FEATURES].quantiles(), counts=by_column, target=self._target(signature)
        )

    def _target(self, signature: Signature) -> tuple[float, ...]:
        if signature.target.kind == "class":
            return tuple(map(float, _padded(self._counts[LABEL][0][1:], len(signature.target.classes))))
        sums = self._sums[TARGET].result()
        return (sums["mean"][0], sums["std"][0], *self._samples[TARGET].quantiles()[0])

    def _count(self, columns: Columns) -> None:
        for name, axes in ((CATEGORIES, 2), (LABEL, 1)):
            if name in columns and columns[name].dtype.kind == "i" and columns[name].ndim == axes:
                codes = columns[name].reshape(len(columns[name]), -1)
                found = [np.bincount(codes[:, at] + 1, minlength=1) for at in range(codes.shape[1])]
                before = self._counts.get(name, [np.zeros(1, np.int64)] * codes.shape[1])
                self._counts[name] = [_sum(one, two) for one, two in zip(before, found, strict=True)]


class _Sums:
    def __init__(self, width: int) -> None:
        self.counts = np.zeros(width, np.int64)
        self._first = np.full(width, np.nan)
        self._total = np.zeros(width)
        self._squares = np.zeros(width)

    def add(self, flat: npt.NDArray[np.float64]) -> None:
        """Look at values (rows, width, any)."""
        there = ~np.isnan(flat)
        if not there.all():
            for at in np.flatnonzero(np.isnan(self._first)):
                found = flat[:, at][there[:, at]]
                self._first[at] = found[0] if len(found) else np.nan
            flat = np.where(there, flat - np.nan_to_num(self._first)[:, None], 0)
        else:
            self._first = np.where(np.isnan(self._first), flat[0, :, 0], self._first)
            flat = flat - self._first[:, None]
        self.counts += there.sum(axis=(0, 2))
        self._total = self._total + flat.sum(axis=(0, 2))
        self._squares = self._squares + (flat**2).sum(axis=(0, 2))

    def result(self) -> dict[str, list[float]]:
        """Mean and standard deviation; 0 of what is missing in all samples."""
        counts = np.maximum(self.counts, 1)
        mean = self._total / counts
        spread = np.sqrt(np.maximum(self._squares / counts - mean**2, 0))
        return {"mean": (np.nan_to_num(self._first) + mean).tolist(), "std": spread.tolist()}


class _Sample:
    """Rows that are chosen by a hash of their number: half as many of the hashes are below the bound after each step."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[Any]] = []
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._seen, self._level, self._kept = 0, 0, 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        hashes = mixed(np.arange(self._seen, self._seen + len(rows), dtype=np.uint64) + np.uint64(STEP))
        self._seen += len(rows)
        self._keep(hashes, rows)
        most = max(1, min(SAMPLED, SAMPLED_BYTES // max(1, rows[:1].nbytes)))
        while self._kept > most:
            self._level += 1
            parts = list(zip(self._hashes, self._parts, strict=True))
            self._hashes, self._parts, self._kept = [], [], 0
            for each, part in parts:
                self._keep(each, part)

    def _keep(self, hashes: npt.NDArray[np.uint64], rows: npt.NDArray[Any]) -> None:
        low = hashes >> np.uint64(64 - self._level) == 0 if self._level else np.ones(len(hashes), bool)
        if low.any():
            self._hashes.append(hashes[low])
            self._parts.append(rows[low])
            self._kept += int(low.sum())

    def quantiles(self) -> tuple[tuple[float, ...], ...]:
        """The values at even levels of each column, without missing ones; 0 if all are missing."""
        if not self._parts:
            return ()
        rows, levels = np.concatenate(self._parts).astype(np.float64), np.linspace(0, 1, QUANTILES)
        present = [column[~np.isnan(column)] for column in rows.T]
        return tuple(tuple((np.quantile(each, levels) if len(each) else np.zeros(QUANTILES)).tolist()) for each in present)


def _sum(one: npt.NDArray[np.int64], two: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    longer, shorter = (one, two) if len(one) >= len(two) else (two, one)
    result = longer.copy()
    result[: len(shorter)] += shorter
    return result


def _padded(counts: npt.NDArray[np.int64], size: int) -> tuple[int, ...]:
    return (*counts.tolist(), *[0] * (size - len(counts)))
