"""Rows that several models can be compared on: those that none has learnt from, as each model takes them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from heliostat.datasets import Dataset, Index
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL, MISSING, TARGET, UNKNOWN, Column, Signature
from heliostat.errors import UserError, some

Arrays = dict[str, npt.NDArray[Any]]
Key = Callable[[Index, Arrays], npt.NDArray[np.uint64]]
LEARNT_FROM = ("train", "validation")
CHUNK = 1024
MEANING = ("tokenizer", "vocabulary", "files", "white", "feature_names", "offsets")
"""What of a dataset's ``meta`` says what its arrays mean."""


def key_of(indexes: Sequence[Index]) -> Key:
    """A function that hashes rows (without their target), so that the same row of any of these datasets has the same hash.

    Of a table it takes the columns that all of the datasets keep alike, and of categories what all list. So different rows may
    have the same hash, and are left out without need, but the same row is never taken for another.

    Raises:
        UserError: the datasets have no column in common.
    """
    signatures = [index.signature for index in indexes if index.signature]
    if signatures and len(signatures) < len(indexes):
        raise UserError(
            "of the datasets of both models, one has a signature of its columns and another has none",
            "build the older one again, and train on it",
        )
    return _key_of_tables(signatures) if signatures else _key_of_arrays(indexes)


def chunks(dataset: Dataset, split: str) -> Iterator[tuple[npt.NDArray[np.int64], Arrays]]:
    """The numbers and the arrays of the rows of a split, some at a time."""
    total = dataset.index.rows(split)
    for start in range(0, total, CHUNK):
        ids = np.arange(start, min(start + CHUNK, total))
        yield ids, dataset.take(split, ids)


def unseen(dataset: Dataset, learnt: Sequence[Dataset]) -> npt.NDArray[np.int64]:
    """The test rows of a dataset that are in no train and no validation split of the others."""
    key = key_of([dataset.index, *(each.index for each in learnt)])
    seen = [key(each.index, arrays) for each in learnt for split in LEARNT_FROM for _, arrays in chunks(each, split)]
    known = np.unique(np.concatenate(seen)) if seen else np.empty(0, np.uint64)
    return np.concatenate([ids[~np.isin(key(dataset.index, arrays), known)] for ids, arrays in chunks(dataset, "test")])


def translation(own: Index, other: Index, inputs: Sequence[str]) -> Callable[[Arrays], tuple[Arrays, npt.NDArray[np.bool_]]]:
    """A function that makes of the arrays of one dataset those that a model of another takes; and which rows it can.

    A row cannot be translated if its dataset does not list a category that the other may.

    Raises:
        UserError: the model takes what the dataset does not have, or keeps differently; all of it is listed.
    """
    if own.signature and other.signature:
        return _translated_table(own.signature, other.signature)
    problems = [f"meta.{name}" for name in MEANING if own.meta.get(name) != other.meta.get(name)]
    problems += [f"field {name}" for name in inputs if own.fields.get(name) != other.fields.get(name)]
    if problems:
        raise _cannot(problems)
    return lambda arrays: (arrays, np.ones(len(next(iter(arrays.values()))), bool))


def _cannot(problems: Sequence[str]) -> UserError:
    return UserError(
        f"the champion cannot take the rows of this run's dataset, which differ in {some(problems)}",
        "build the dataset with what the champion takes, or give another --name",
    )


def _alike(columns: Sequence[Column]) -> bool:
    first = columns[0]
    same = {(c.kind, c.width, c.buckets, c.parts, c.unit) for c in columns}
    # Of other offsets, 32 bits round the same number to another one.
    return len(same) == 1 and (first.kind == "date" or len({column.offset for column in columns}) == 1)


def _key_of_tables(signatures: Sequence[Signature]) -> Key:
    named = [{column.name: column for column in each.columns} for each in signatures]
    shared = [name for name in named[0] if all(name in each for each in named)]
    kept = [name for name in shared if _alike([each[name] for each in named])]
    if not kept:
        raise UserError("the datasets of both models have no column in common", "compare models of the same data")
    listed = {name: set.intersection(*(set(each[name].categories) for each in named)) for name in kept}

    def key(index: Index, arrays: Arrays) -> npt.NDArray[np.uint64]:
        assert index.signature is not None, "all have one"
        return _hashes([_identifying(index.signature, name, listed[name], arrays) for name in kept])

    return key


def _identifying(signature: Signature, name: str, listed: set[str], arrays: Arrays) -> npt.NDArray[Any]:
    """The values (rows, width) by which rows are recognized in a column."""
    column = next(each for each in signature.columns if each.name == name)
    if column.kind == "category":
        codes = arrays[CATEGORIES][:, signature.categorical.index(column)]
        places = {text: place for place, text in enumerate(sorted(listed))}
        return codes[:, None] if column.buckets else _recoded(codes, column.categories, places)[:, None]
    values = _numbers(signature, column, arrays)
    if column.kind == "date" and len(column.parts) > 1:
        values = values[:, [part != "seconds" for part in column.parts]]  # whose offset is that of its dataset
    return np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0))


def _numbers(signature: Signature, column: Column, arrays: Arrays) -> npt.NDArray[Any]:
    start = sum(each.width for each in signature.numeric[: signature.numeric.index(column)])
    return arrays[FEATURES][:, start : start + column.width]


def _recoded(codes: npt.NDArray[Any], categories: Sequence[str], places: dict[str, int]) -> npt.NDArray[np.int32]:
    """Codes by other places of the same texts; what has none is unknown."""
    table = np.array([*(places.get(text, UNKNOWN) for text in categories), UNKNOWN], np.int32)
    return np.where(codes == MISSING, np.int32(MISSING), table[np.where(codes < 0, len(categories), codes)])


def _key_of_arrays(indexes: Sequence[Index]) -> Key:
    first = indexes[0].fields
    kept = [name for name in first if name not in (LABEL, TARGET) and all(e.fields.get(name) == first[name] for e in indexes)]
    if not kept:
        raise UserError("the datasets of both models have no field in common", "compare models of the same data")
    return lambda index, arrays: _hashes([arrays[name] for name in kept])


def _hashes(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.uint64]:
    """A hash (rows,) of the bytes of each row."""
    rows = [np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8) for values in columns]
    data = np.concatenate(rows, 1)
    return np.array([xxhash.xxh3_64_intdigest(row) for row in data], np.uint64)


def _translated_table(own: Signature, other: Signature) -> Callable[[Arrays], tuple[Arrays, npt.NDArray[np.bool_]]]:
    named = {column.name: column for column in own.columns}
    problems = [f"column {c.name!r}" for c in other.columns if c.name not in named or not _translatable(named[c.name], c)]
    if problems:
        raise _cannot(problems)

    def translate(arrays: Arrays) -> tuple[Arrays, npt.NDArray[np.bool_]]:
        numbers = [_moved(column, named[column.name], _numbers(own, named[column.name], arrays)) for column in other.numeric]
        codes, good = list[npt.NDArray[Any]](), np.ones(len(next(iter(arrays.values()))), bool)
        for column in other.categorical:
            mine = named[column.name]
            found = arrays[CATEGORIES][:, own.categorical.index(mine)]
            if not column.buckets:
                if set(column.categories) - set(mine.categories):
                    good &= found != UNKNOWN
                found = _recoded(found, mine.categories, {text: place for place, text in enumerate(column.categories)})
            codes.append(found)
        made = {FEATURES: np.concatenate(numbers, 1)} if numbers else {}
        return {**made, **({CATEGORIES: np.stack(codes, 1)} if codes else {})}, good

    return translate


def _translatable(mine: Column, theirs: Column) -> bool:
    return all(getattr(mine, name) == getattr(theirs, name) for name in ("kind", "width", "buckets", "parts", "unit"))


def _moved(theirs: Column, mine: Column, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Numbers without the other's offset instead of their own; of a date the seconds alone have one."""
    if theirs.offset == mine.offset:
        return np.asarray(values, np.float32)
    shift = np.array(
        [mine.offset - theirs.offset if not mine.parts or part == "seconds" else 0.0 for part in mine.parts or ("",)]
    )
    return np.asarray(values.astype(np.float64) + shift, np.float32)
