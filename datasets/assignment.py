"""Assigns each sample to a split, see `heliostat.datasets.splits`: in a pass over the chunks of a source, with bounded memory.

Samples are hashed by their content, and groups by their value, so that neither moves when others are added.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.index import SPLITS
from heliostat.datasets.ranks import Bits, Whole, restored, select, sortable
from heliostat.datasets.sources import Chunk, Source, hashes_of
from heliostat.datasets.sources.spool import temporary_space
from heliostat.datasets.splits import By, Shares, Split
from heliostat.errors import UserError, combined
from heliostat.wording import counted

Codes = npt.NDArray[np.uint8]
TRAIN, VALIDATION, TEST = range(len(SPLITS))
BINS = 10
"""Quantile bins of a number as target, each of which is split with the same shares."""
SAMPLE = np.dtype([("value", np.uint64), ("hash", np.uint64)])
LOW, MIX = np.uint64(2**24 - 1), np.uint64(0x9E3779B97F4A7C15)
"""The bits of a sample's hash that are of its target, and 2^64 divided by the golden ratio."""
READ = 1 << 16
"""Records of a temporary file that are read at once."""


@dataclass
class _Notes:
    """What is found meanwhile: what is wrong, and what the dataset's metadata record."""

    problems: list[UserError] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, what: str, fix: str) -> None:
        self.problems.append(UserError(f"dataset.options.split: {what}", fix))


def assign(source: Source, kept: IO[bytes]) -> tuple[list[int], dict[str, Any]]:
    """Write the place in `SPLITS` of each sample of a source to a file, a byte each in their order.

    Returns:
        The samples of each split, and what of the result is worth to be recorded.

    Raises:
        UserError: all that is wrong: values that are no splits, missing ones, too few of a class, an empty split.
    """
    notes, rows = _Notes(), np.zeros(len(SPLITS), np.int64)
    for codes in MODES[source.split.by](source, notes):
        rows += np.bincount(codes, minlength=len(SPLITS))
        with temporary_space():
            kept.write(codes.data)
    if problems := notes.problems or empty_splits(source.split.by, rows.tolist()):
        raise combined(problems, "the split")
    kept.seek(0)
    return rows.tolist(), notes.facts


def by_content(chunk: Chunk, split: Split) -> Codes:
    """The places in `SPLITS` of a chunk's samples, by their content."""
    return hashed(chunk.hashes, split.shares)


def hashed(hashes: Bits, shares: Shares) -> Codes:
    """The place in `SPLITS` of each hash: a pure function of it, so that a sample never moves to another split."""
    uniform = hashes / 2.0**64
    return np.where(uniform < shares.test, TEST, np.where(uniform < shares.test + shares.validation, VALIDATION, TRAIN)).astype(
        np.uint8
    )


def empty_splits(by: By, rows: list[int]) -> list[UserError]:
    """An error for each split without samples."""
    fixes = {
        "column": "add rows of it, or map a value to it with values, or choose another mode, such as by: content",
        "group": "there are too few groups for a hash: add some, or give each its split in a column, with by: column",
        "content": "add data; if many samples are equal, which a split by content keeps together, set split: {by: stratified}",
        "files": "add rows to its files",
    }
    where = "the source has too few different samples" if by == "content" else "dataset.options.split"
    empty = [split for split, count in zip(SPLITS, rows, strict=True) if not count]
    return [UserError(f"{where}: the {split} split would be empty", fixes.get(by, "add data")) for split in empty]


# --- by a hash --------------------------------------------------------------------------------------------------


def _by_content(source: Source, notes: _Notes) -> Iterator[Codes]:
    return (by_content(chunk, source.split) for chunk in source.chunks())


def _by_group(source: Source, notes: _Notes) -> Iterator[Codes]:
    return (hashed(hashes_of(group.tobytes() for group in by), source.split.shares) for _, by in _divided(source))


def _by_places(source: Source, notes: _Notes) -> Iterator[Codes]:
    """As the column or the files say; the content decides on rows of which they do not, for what has no files of its own."""
    split, shares = source.split, source.split.shares
    free = shares.model_copy(update={name: 0.0 for name in ("validation", "test") if getattr(split, name)})
    return (np.where(by < 0, hashed(chunk.hashes, free), by).astype(np.uint8) for chunk, by in _divided(source))


def _divided(source: Source) -> Iterator[tuple[Chunk, npt.NDArray[Any]]]:
    for chunk in source.chunks():
        assert chunk.by is not None
        yield chunk, chunk.by


# --- by time ----------------------------------------------------------------------------------------------------


def _by_time(source: Source, notes: _Notes) -> Iterator[Codes]:
    """The past is for training: all of validation is after it, and all of the test later still; equal times stay together."""
    count, kind = 0, np.dtype(np.float64)
    with tempfile.TemporaryFile() as file:
        for _, by in _divided(source):
            count, kind = count + len(by), by.dtype
            _write(file, sortable(by))
        least = _least(file, len(SPLITS))
        if len(least) < len(SPLITS):
            notes.add(
                f"column {source.split.column!r} has {counted(len(least), 'different time')}, "
                "but equal times stay in one split",
                "choose a column with at least 3 different times, or another mode, such as by: content",
            )
            return
        first, second = _boundaries(file, count, source.split.shares, least)
        notes.facts |= {"validation_from": _shown(first, kind), "test_from": _shown(second, kind)}
        for times in _read(file, np.uint64):
            yield np.where(times >= second, TEST, np.where(times >= first, VALIDATION, TRAIN)).astype(np.uint8)


def _boundaries(file: IO[bytes], count: int, shares: Shares, least: Bits) -> tuple[np.uint64, np.uint64]:
    """The first times of validation and test: where the shares are, but so that no split is empty."""
    ranks = [int(count * share + 0.5) for share in (shares.train, shares.train + shares.validation)]
    (found,), _ = select(lambda: ((_zeros(times), times) for times in _read(file, np.uint64)), np.array([ranks]))
    second = max(found[1], least[2])
    before = max(below.max() for times in _read(file, np.uint64) if len(below := times[times < second]))
    return min(max(found[0], least[1]), before), second


def _shown(time: np.uint64, kind: npt.DTypeLike) -> Any:
    found = restored(int(time), kind)
    if np.dtype(kind).kind != "M":
        return found.item()
    return str(found.astype("datetime64[s]")).removesuffix("T00:00:00")


# --- by strata --------------------------------------------------------------------------------------------------


def _by_stratum(source: Source, notes: _Notes) -> Iterator[Codes]:
    """Each class, or quantile bin of a number, in its shares to within a row: in the order of the hashes of its samples.

    Of equal samples some may be on another side, where a boundary falls among them.
    """
    with tempfile.TemporaryFile() as file:
        for chunk in source.chunks():
            samples = np.empty(len(chunk.hashes), SAMPLE)
            is_class = "label" in chunk.columns
            samples["value"] = sortable(chunk.columns["label" if is_class else "target"])
            # Equal keys stay neighbours, but which of them come first must not depend on the order of the rows.
            samples["hash"] = chunk.hashes & ~LOW | (samples["value"] * MIX) >> np.uint64(40)
            _write(file, samples)
        edges = sortable(np.arange(1, len(source.meta()["classes"]))) if is_class else _quantiles(file)

        def strata() -> Iterator[tuple[Whole, Bits]]:
            return ((np.searchsorted(edges, read["value"], side="right"), read["hash"]) for read in _read(file, SAMPLE))

        sizes = np.zeros(len(edges) + 1, np.int64)
        for numbers, _ in strata():
            sizes += np.bincount(numbers, minlength=len(sizes))
        bounds = _bounds(sizes, source.split.shares)
        if is_class:
            _check_classes(source.meta()["classes"], sizes, bounds, notes)
        if notes.problems:
            return
        cuts, equal = select(strata, bounds)
        for numbers, hashes in strata():
            test, upto = (_below(numbers, hashes, cuts[:, side], equal[:, side]) for side in (0, 1))
            yield np.where(test, TEST, np.where(upto, VALIDATION, TRAIN)).astype(np.uint8)


def _quantiles(file: IO[bytes]) -> Bits:
    """The edges of the bins of a number; equal numbers are in one bin."""
    count = sum(len(read) for read in _read(file, SAMPLE))
    ranks = -(np.arange(1, BINS)[None] * -count // BINS)
    values = lambda: ((_zeros(read), read["value"]) for read in _read(file, SAMPLE))  # noqa: E731
    return np.unique(select(values, ranks)[0])


def _bounds(sizes: Whole, shares: Shares) -> Whole:
    """(strata, 2): how many are for the test, and how many for that or validation."""
    test, validation = (np.floor(sizes * share + 0.5) for share in (shares.test, shares.validation))
    found: Whole = np.stack([test, np.minimum(test + validation, sizes)], axis=1).astype(np.int64)
    return found


def _check_classes(names: list[str], sizes: Whole, bounds: Whole, notes: _Notes) -> None:
    for name, size, (test, upto) in zip(names, sizes.tolist(), bounds.tolist(), strict=True):
        rows = {"train": size - upto, "validation": upto - test, "test": test}
        if empty := [split for split, count in rows.items() if not count]:
            notes.add(
                f"class {name!r} has {counted(size, 'row')}, of which {' and '.join(empty)} would have none",
                "add rows of it, merge it with another class, or choose by: content",
            )


def _below(strata: Whole, hashes: Bits, cuts: Bits, equal: Whole) -> npt.NDArray[np.bool_]:
    """Which are below the cut of their stratum, and the next of those equal to it, as many as ``equal``, which is reduced."""
    found: npt.NDArray[np.bool_] = hashes < cuts[strata]
    for place in np.flatnonzero(hashes == cuts[strata]).tolist():
        if equal[strata[place]]:
            equal[strata[place]] -= 1
            found[place] = True
    return found


MODES: dict[By, Callable[[Source, _Notes], Iterator[Codes]]] = {
    "content": _by_content,
    "column": _by_places,
    "time": _by_time,
    "group": _by_group,
    "stratified": _by_stratum,
    "files": _by_places,
}


# --- temporary files --------------------------------------------------------------------------------------------


def _write(file: IO[bytes], records: npt.NDArray[Any]) -> None:
    with temporary_space():
        file.write(np.ascontiguousarray(records).data)


def _read(file: IO[bytes], kind: npt.DTypeLike) -> Iterator[npt.NDArray[Any]]:
    """The records from the beginning."""
    file.seek(0)
    while data := file.read(READ * np.dtype(kind).itemsize):
        yield np.frombuffer(data, kind)


def _zeros(records: npt.NDArray[Any]) -> Whole:
    return np.zeros(len(records), np.int64)


def _least(file: IO[bytes], most: int) -> Bits:
    """The lowest different numbers."""
    least = np.zeros(0, np.uint64)
    for numbers in _read(file, np.uint64):
        least = np.unique(np.concatenate([least, numbers]))[:most]
    return least
