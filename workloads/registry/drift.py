"""How far the rows that a model is asked about, and its predictions, are from the data that it was trained on.

The population stability index (PSI) of two distributions over the same bins is the sum of ``(a - e) ln(a / e)``, with the
shares ``a`` of the new rows and ``e`` of the reference; below 0.1 is called stable, above 0.25 a major shift (Siddiqi,
Credit Risk Scorecards, 2006). Without any drift it is about ``(1/n + 1/m)`` times a chi-squared variable with one degree of
freedom less than there are bins, for n new rows and m of the reference (Yurdakul and Naranjo, Statistical properties of the
population stability index, Journal of Risk Model Validation 14(4), 2020). So a column has drifted if its PSI is above the
threshold, and above what chance explains: few rows show a large PSI, and nothing.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets import Dataset
from heliostat.datasets.signature import CATEGORIES, FEATURES, Signature
from heliostat.errors import UserError, combined, nearest
from heliostat.workloads.export.loader import encode, named
from heliostat.workloads.registry.gate.learnt import dataset_of
from heliostat.workloads.registry.gate.predictions import Exported
from heliostat.workloads.registry.registry import Registry

BINS = 10
"""Of numbers: between the deciles of the reference; and of rare categories."""
RARE = 0.01
"""Categories with a smaller share of the reference share bins."""
ALPHA = 0.001
"""How often, in all columns together, chance may pass for drift."""
REFERENCE = 20_000
"""Rows of the reference at most."""
Values = npt.NDArray[Any]
Document = dict[str, Any]


@dataclass(frozen=True)
class Shift:
    """How far a column is from the reference."""

    column: str
    psi: float
    chance: float
    """The PSI that chance explains at most."""
    drifted: bool


def drift(
    registry: Registry, reference: str, rows: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]],
    threshold: float, ignore: Sequence[str] = (),
) -> Document:  # fmt: skip
    """Compares rows and predictions with the data that a version was trained on.

    Inputs are compared with the train split, predictions with those for the other splits, from which the model has not learnt.

    Args:
        registry: of the model.
        reference: the version, such as ``churn@champion``.
        rows: raw rows of the table.
        predictions: what the version has answered to them.
        threshold: the PSI from which a column has drifted.
        ignore: columns that are left out, such as a date, which moves on by itself.

    Returns:
        ``version``, ``rows``, ``threshold``, ``drifted``, and a `Shift` for each of ``inputs`` and ``predictions``.

    Raises:
        UserError: the model takes no rows of a table; its dataset is missing; a row cannot be read; there is no such column.
    """
    if not 0 < threshold < math.inf:
        raise UserError(f"--threshold is {threshold:g}", "give a number above 0, such as 0.25")
    version = registry.resolve(reference)
    dataset = dataset_of(version, registry.storage)
    signature = dataset.index.signature
    if signature is None:
        raise UserError(f"{version} takes no rows of a table, so that it has no columns to compare", "look at its metrics")
    _check_columns(signature, ignore)
    with tempfile.TemporaryDirectory(prefix="heliostat-") as scratch:
        model = Exported.open(version.fetch(Path(scratch)), f"version {version}").model
        answered = named(model.signature, model.run(_of_splits(dataset, ("validation", "test"))))
        try:
            arrays = _encoded(model.signature, rows) if rows else {}
        except ValueError as error:
            raise UserError(f"rows of the sample cannot be read: {error}", "give rows that this version has answered") from None
    inputs, outputs = list[Shift](), list[Shift]()
    if rows:
        columns = [each for each in _columns(signature, arrays, _of_splits(dataset, ("train",))) if each[0] not in ignore]
        answers = [*_predicted(predictions, answered)]
        level = ALPHA / (len(columns) + len(answers))
        inputs = _largest([_shift(*each, threshold, level) for each in columns])
        outputs = _largest([_shift(*each, threshold, level) for each in answers])
    return {
        "version": str(version), "rows": len(rows), "threshold": threshold,
        "drifted": any(each.drifted for each in (*inputs, *outputs)),
        "inputs": [asdict(each) for each in inputs], "predictions": [asdict(each) for each in outputs],
    }  # fmt: skip


def psi(new: Values, old: Values) -> float:
    """The index of counts by bin; half a row is added to each, so that an empty bin has a logarithm."""
    a, e = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (new, old))
    return float(((a - e) * np.log(a / e)).sum())


def by_chance(bins: int, new: int, old: int, level: float) -> float:
    """The PSI that rows of the same distribution exceed with this probability."""
    return (1 / max(1, new) + 1 / max(1, old)) * _chi_squared(max(1, bins - 1), level)


def _chi_squared(degrees: int, level: float) -> float:
    """What chi-squared exceeds with this probability.

    Exact for 1 and 2 degrees of freedom, then by Wilson and Hilferty (1931), at a level of 1e-5 up to 6 % too high.
    """
    if degrees == 1:
        return NormalDist().inv_cdf(1 - level / 2) ** 2
    if degrees == 2:
        return -2 * math.log(level)
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + NormalDist().inv_cdf(1 - level) * math.sqrt(part)) ** 3)


def counted(new: Values, old: Values) -> tuple[Values, Values]:
    """Both by bin, those that have rows.

    Numbers are between the deciles of the old ones, below the least of them, or missing. Frequent codes have a bin each, rare
    ones are spread over bins of about the same size, and all that the old ones do not have are in the last.
    """
    if old.dtype.kind == "f":
        there = old[~np.isnan(old)]
        edges = np.unique([np.nextafter(there.min(), -np.inf), *np.quantile(there, np.linspace(0, 1, BINS + 1)[1:-1])]) if (
            len(there)
        ) else np.zeros(1)  # fmt: skip
        sides = [np.where(np.isnan(each), len(edges) + 1, np.searchsorted(edges, each)) for each in (new, old)]
        return _used(*(np.bincount(side, minlength=len(edges) + 2) for side in sides))
    codes = np.unique(np.concatenate([new, old]))
    found, known = (np.bincount(np.searchsorted(codes, each), minlength=len(codes)) for each in (new, old))
    rare = (known > 0) & (known < RARE * known.sum())
    place = np.where(known > 0, np.arange(len(codes)), len(codes) + BINS)
    place[rare] = len(codes) + np.cumsum(known[rare]) * BINS // (known[rare].sum() + 1)
    return _used(*(np.bincount(place, each).astype(int) for each in (found, known)))


def _used(new: Values, old: Values) -> tuple[Values, Values]:
    """Without the bins that neither has."""
    used = (new + old) > 0
    return new[used], old[used]


def _shift(name: str, new: Values, old: Values, threshold: float, level: float) -> Shift:
    found, known = counted(new, old)
    value, chance = psi(found, known), by_chance(len(known), len(new), len(old), level)
    return Shift(name, value, chance, value >= threshold and value > chance)


def _columns(
    signature: Signature, new: Mapping[str, Values], old: Mapping[str, Values]
) -> Iterator[tuple[str, Values, Values]]:
    """The name and both values of each input; a column of several numbers, such as a date, has one pair for each."""
    at = 0
    for column in signature.numeric:
        for place in range(at, at + len(column.feature_names)):
            yield column.name, new[FEATURES][:, place], old[FEATURES][:, place]
        at += len(column.feature_names)
    for place, column in enumerate(signature.categorical):
        yield column.name, new[CATEGORIES][:, place], old[CATEGORIES][:, place]


def _predicted(new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Values, Values]]:
    """The same for each output, such as ``prediction`` and ``probability_yes``."""
    for name in old[0]:
        yield name, np.array([each[name] for each in new]), np.array([each[name] for each in old])


def _largest(shifts: Sequence[Shift]) -> list[Shift]:
    """Of each column the one with the largest index, the largest first."""
    found: dict[str, Shift] = {}
    for each in shifts:
        if each.column not in found or (each.drifted, each.psi) > (found[each.column].drifted, found[each.column].psi):
            found[each.column] = each
    return sorted(found.values(), key=lambda each: -each.psi)


def _of_splits(dataset: Dataset, splits: Sequence[str]) -> dict[str, Values]:
    """The arrays of rows of the splits, evenly chosen if there are very many."""
    parts = []
    for split in splits:
        total = dataset.index.rows(split)
        parts.append(dataset.take(split, np.unique(np.linspace(0, total - 1, min(total, REFERENCE)).astype(np.int64))))
    return _joined(parts)


def _joined(parts: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _encoded(signature: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    """The arrays of rows, in any order, those of the same types together.

    Beside a value of another type, from another client, a value is read as a text: it may mean something else, or be refused.
    """
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
    mixed = [name for name, found in kinds.items() if len(found - {type(None)}) > 1]
    alike: dict[tuple[type, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(_kind(row.get(name)) for name in mixed), []).append(row)
    return _joined([encode(signature, each) for each in alike.values()])


def _kind(value: Any) -> type:
    """Of a value; whole numbers are read as other numbers are."""
    return float if type(value) is int else type(value)


def _check_columns(signature: Signature, ignore: Sequence[str]) -> None:
    known = [column.name for column in signature.columns]
    problems = [
        UserError(f"--ignore is {name!r}, which is no column", nearest(name, known)) for name in ignore if name not in known
    ]
    if problems:
        raise combined(problems, "--ignore")
