"""What a user should know of a table before a model is trained: leaks, copies of rows, an uneven or constant target."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.arrow import Columns
from heliostat.datasets.format import Dataset
from heliostat.datasets.index import SPLITS, Index, SplitName
from heliostat.datasets.permutation import mixed
from heliostat.wording import agreeing, counted

Floats = npt.NDArray[np.float64]
SAMPLE, CELLS = 50_000, 20_000_000
"""Rows of a split, and values in all, from which is learnt how well each column alone predicts the target."""
COUNTED = 256 << 20
"""Bytes of a dataset up to which copies of rows are counted."""
BINS = 32
SUSPICIOUS, SURE, AHEAD = 0.9, 0.99, 0.1
"""A column is named if its score is at least the first, and so far ahead of that of the column at a third of the ranks (the
target may be easy); from the second on in any case."""
UNEVEN, RARE = 0.9, 10
"""The share of the most frequent class, and the rows of the rarest one in the train split, that are worth a word."""
LEAST, LEAST_OF_A_CLASS = 20, 3
"""Validation rows, and those of a class, without which no column is judged."""


@dataclass(frozen=True)
class Finding:
    """A warning about a dataset."""

    kind: str
    """leak, duplicates, constant or imbalance."""
    text: str
    column: str | None = None
    value: float | None = None
    """The AUC or R2 of a leak; the number of copies; the share of a class."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def inspect(dataset: Dataset) -> list[Finding]:
    """What is suspicious in the dataset of a table; nothing for other datasets. Reads a sample of it, or all of a small one.

    A column is tested alone: the mean of the target in each of 32 bins (quantiles; categories as they are; missing values in
    one of their own) is learnt from the train split, and the validation split is predicted with it. With classes its score is
    the mean AUC of one class against the others, with a number R2.

    Raises:
        UserError: a shard cannot be read.
    """
    if dataset.index.signature is None:
        return []
    constant = list(_constant(dataset.index))
    return [*constant, *([] if constant else _leaks(dataset)), *_uneven(dataset.index), *_copies(dataset)]


def _constant(index: Index) -> Iterator[Finding]:
    assert index.signature is not None
    assert index.train is not None
    name, found = index.signature.target.name, index.train.target
    if index.signature.target.kind == "class":
        values = [each for each, count in zip(index.classes, found, strict=True) if count]
    else:
        values = [f"{found[0]:g}"] if found[1] == 0 else []
    if len(values) == 1:
        value = values[0]
        yield Finding("constant", f"target {name!r} is always {value} in the train split: there is nothing to learn", name)


def _uneven(index: Index) -> Iterator[Finding]:
    assert index.signature is not None
    assert index.train is not None
    if index.signature.target.kind != "class":
        return
    classes, counts = index.classes, np.array(index.train.target, np.int64)
    most, share = int(counts.argmax()), counts.max() / counts.sum()
    if UNEVEN <= share < 1:
        yield Finding(
            "imbalance",
            f"{share:.1%} of the train split is of class {classes[most]!r}: a model that always says so is as accurate; "
            "judge it by AUC or balanced accuracy",
            value=float(share),
        )
    rare = [f"{classes[at]!r} has {counts[at]}" for at in np.flatnonzero(counts < RARE)] if share < 1 else []
    if rare:
        more = f" and {counted(len(rare) - 5, 'more class')} {agreeing(len(rare) - 5, 'have')} few" if len(rare) > 5 else ""
        yield Finding("imbalance", f"few rows to learn from: class {', '.join(rare[:5])}{more}")


# --- leaks ------------------------------------------------------------------------------------------------------------


def _leaks(dataset: Dataset) -> Iterator[Finding]:
    scores = sorted(univariate_scores(dataset).items(), key=lambda item: -item[1])
    metric = "AUC" if "label" in dataset.index.fields else "R2"
    usual = scores[max(1, math.ceil(len(scores) / 3) - 1)][1] if len(scores) > 1 else 0.0
    for name, score in scores:
        if score >= SURE or (score >= SUSPICIOUS and score - usual >= AHEAD):
            yield Finding(
                "leak",
                f"column {name!r} alone predicts the target with {metric} {score:.2f}: if it is known only after the outcome, "
                f"leave it out (drop: [{name}])",
                name,
                score,
            )


def univariate_scores(dataset: Dataset) -> dict[str, float]:
    """How well each column of a table alone predicts the target, see `inspect`; empty if there are too few rows to say."""
    signature = dataset.index.signature
    assert signature
    train, validation = (_sample(dataset, split) for split in ("train", "validation"))
    learnt, truth = (_targets(columns, len(dataset.index.classes)) for columns in (train, validation))
    judged = [at for at in range(truth.shape[1]) if _is_judged(truth[:, at], "label" in dataset.index.fields)]
    if len(truth) < LEAST or not judged:
        return {}
    owners = [column.name for column in signature.numeric for _ in range(column.width)]
    scores = dict[str, float]()
    for at, name in enumerate(owners):
        codes = _bins(train["features"][:, at], validation["features"][:, at])
        scores[name] = max(scores.get(name, 0), _score(*codes, learnt[:, judged], truth[:, judged]))
    for at, column in enumerate(signature.categorical):
        codes = train["categories"][:, at] + 2, validation["categories"][:, at] + 2
        scores[column.name] = _score(*codes, learnt[:, judged], truth[:, judged])
    return scores


def _sample(dataset: Dataset, split: str) -> Columns:
    """Rows from all over a split."""
    rows, width = dataset.index.rows(split), sum(field.size for field in dataset.index.fields.values()) // 4
    count = min(rows, SAMPLE, max(LEAST, CELLS // width))
    return dataset.take(split, np.arange(count) * rows // count)


def _targets(columns: Columns, classes: int) -> Floats:
    """(rows, outputs): for each class whether it is that one, of two only for the second; or the number."""
    if "label" not in columns:
        return columns["target"].astype(np.float64)[:, None]
    numbers = np.arange(classes) if classes != 2 else np.array([1])
    found: Floats = (columns["label"][:, None] == numbers).astype(np.float64)
    return found


def _is_judged(truth: Floats, is_class: bool) -> bool:
    if is_class:
        return bool(LEAST_OF_A_CLASS <= truth.sum() <= len(truth) - LEAST_OF_A_CLASS)
    return bool(truth.std() > 0)


def _bins(train: npt.NDArray[Any], validation: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The bins of a column's values: between quantiles of the train split, and one for missing values."""
    present = train[~np.isnan(train)]
    edges = np.unique(np.quantile(present, np.linspace(0, 1, BINS + 1)[1:-1])) if len(present) else np.zeros(0)
    # An edge is the least value of its bin, so that a value that is frequent has a bin of its own.
    first, second = (
        np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))
        for values in (train, validation)
    )
    return first, second


def _score(train: npt.NDArray[Any], validation: npt.NDArray[Any], learnt: Floats, truth: Floats) -> float:
    """The mean AUC or R2 over the outputs of the means by bin, drawn to the mean of all as by one more row."""
    bins = int(max(train.max(), validation.max())) + 1
    rows = np.bincount(train, minlength=bins) + 1
    scores = []
    for at in range(learnt.shape[1]):
        means = (np.bincount(train, learnt[:, at], bins) + learnt[:, at].mean()) / rows
        guess, wanted = means[validation], truth[:, at]
        is_class = bool(np.isin(wanted, (0, 1)).all())
        scores.append(auc(guess, wanted) if is_class else 1 - ((guess - wanted) ** 2).mean() / wanted.var())
    return float(np.mean(scores))


def auc(score: Floats, truth: Floats) -> float:
    """The area under the ROC curve of scores (n,), truth 0 or 1 (n,): how often a 1 scores higher than a 0; ties count half."""
    _, level = np.unique(score, return_inverse=True)
    ones, zeros = np.bincount(level, truth), np.bincount(level, 1 - truth)
    below = np.cumsum(zeros) - zeros
    return float((ones * (below + zeros / 2)).sum() / (ones.sum() * zeros.sum()))


# --- copies of rows ---------------------------------------------------------------------------------------------------


def _copies(dataset: Dataset) -> Iterator[Finding]:
    pairs: tuple[tuple[SplitName, SplitName], ...] = (("validation", "train"), ("test", "train"), ("test", "validation"))
    size = sum(field.size for field in dataset.index.fields.values())
    total = sum(map(dataset.index.rows, SPLITS))
    if size * total > COUNTED:
        return
    hashes = {split: _hashes(dataset, split) for split in SPLITS}
    distinct = {split: np.unique(values) for split, values in hashes.items()}
    copies = total - len(np.unique(np.concatenate(list(distinct.values()))))
    if not copies:
        return
    between = [
        f"{count:,} of {split} {agreeing(count, 'are')} in {other}"
        for split, other in pairs
        if (count := int(np.isin(hashes[split], distinct[other]).sum()))
    ]
    shared = f", and {', '.join(between)}: their metrics are too good" if between else ", none in another split"
    yield Finding(
        "duplicates",
        f"{copies:,} of {counted(total, 'row')} ({copies / total:.1%}) {agreeing(copies, 'repeat')} others{shared}",
        value=copies,
    )


def _hashes(dataset: Dataset, split: str) -> npt.NDArray[np.uint64]:
    """A hash of 64 bits of all values of each row."""
    return np.concatenate([_hash(dataset.columns(split, shard)) for shard in range(len(dataset.index.splits[split]))])


def _hash(columns: Columns) -> npt.NDArray[np.uint64]:
    total = np.zeros(len(next(iter(columns.values()))), np.uint64)
    values = [each for name in sorted(columns) for each in columns[name].reshape(len(total), -1).T]
    for place, column in enumerate(values, 1):
        words = np.ascontiguousarray(column).view(f"u{column.itemsize}").astype(np.uint64)
        total += mixed(words + mixed(np.full(1, place, np.uint64)))
    return total
