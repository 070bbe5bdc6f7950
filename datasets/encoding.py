"""Encodes the columns of a table as arrays: one way for datasets and for the rows that are predicted."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.values import dates, numbers
from heliostat.datasets.values.missing import gaps, is_text, trimmed
from heliostat.datasets.values.narrow import LARGEST, narrowed
from heliostat.datasets.values.words import hashed_words, hashes

if TYPE_CHECKING:
    from heliostat.datasets.signature import Column

MISSING, UNKNOWN = -1, -2
BUCKETS = 4096
TRUE, FALSE = ("true", "yes", "y", "t", "on", "1"), ("false", "no", "n", "f", "off", "0")
SHOWN = 3
Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass
class Values:
    """A column as arrays."""

    array: Array
    """float32 (rows, width), NaN is missing; or of a category int32 (rows,)."""
    exact: Array
    """uint64 (rows,): what a value is, or a hash of it, whatever the signature says of the column."""
    missing: int = 0
    unknown: int = 0
    least: float | None = None
    most: float | None = None
    outside: int = 0
    """How many are below the least or above the most of the signature."""
    bad: int = 0
    examples: tuple[str, ...] = ()
    """How many are not of the column's kind, and some of them."""


@dataclass
class Present:
    """The values of a column that are not missing."""

    array: Array
    exact: Array
    good: Mask | None = None
    """Which are of the column's kind; None if all are."""
    plain: Array | None = None
    """As numbers before they are narrowed, for the range."""


@dataclass
class Rows:
    """The values of a column in their rows."""

    array: Array
    exact: Array
    gone: Mask | None
    """Which are missing; None if none is."""
    bad: Mask | None
    """Which are not of the column's kind; None if all are."""
    plain: Array | None
    """As numbers before they are narrowed; NaN where there is none."""

    def take(self, places: Array) -> "Rows":
        """The rows at some places."""
        parts = (each if each is None else each[places] for each in (self.gone, self.bad, self.plain))
        return Rows(self.array[places], self.exact[places], *parts)


def encode_column(column: "Column", values: pa.Array | pa.ChunkedArray) -> Values:
    """Encodes the values of a column, as texts or with any type of Arrow."""
    values = decoded(values)
    if is_text(values.type) and (column.kind in ("category", "date", "boolean") or column.unit or column.decimal == ","):
        coded = values.dictionary_encode(null_encoding="encode")
        # Most texts come again and again, and are read once.
        if 2 * len(coded.dictionary) <= len(values):
            return _counted(column, _encode(column, coded.dictionary).take(np.asarray(coded.indices)), values)
    return _counted(column, _encode(column, values), values)


def _encode(column: "Column", values: pa.Array) -> Rows:
    present, gone = _split(column, values)
    try:
        found = KINDS[column.kind](column, present)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # a type of which no value is of this kind
        found = _all_bad(column, present)
    return _scattered(column, found, gone)


def _counted(column: "Column", rows: Rows, values: pa.Array) -> Values:
    result = Values(rows.array, rows.exact)
    result.missing = 0 if rows.gone is None else int(rows.gone.sum())
    if rows.bad is not None and rows.bad.any():
        odd = values.filter(pa.array(rows.bad))[:100].to_pylist()
        result.bad, result.examples = int(rows.bad.sum()), tuple(dict.fromkeys(map(str, odd)))[:SHOWN]
    if column.kind == "category":
        result.unknown = int((rows.array == UNKNOWN).sum())
    if rows.plain is None or not len(rows.plain):
        return result
    least, most = float(np.fmin.reduce(rows.plain)), float(np.fmax.reduce(rows.plain))
    if math.isnan(least):
        return result
    result.least, result.most = least, most
    low = -np.inf if column.least is None else column.least
    high = np.inf if column.most is None else column.most
    if not low <= least <= most <= high:
        result.outside = int(((rows.plain < low) | (rows.plain > high)).sum())
    return result


def decoded(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of plain values: without a dictionary, decimals as floating-point numbers."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_decimal(values.type):
        return pc.cast(pc.cast(values, pa.string()), pa.float64())  # pyarrow 26.0.1 casts 4.27 to 4.2700000000000005
    if pa.types.is_float16(values.type):
        return pc.cast(values, pa.float64())
    return pc.cast(values, pa.string()) if is_text(values.type) and values.type != pa.string() else values


def _split(column: "Column", values: pa.Array) -> tuple[pa.Array, Mask | None]:
    """The values that are there, and which are missing; None if none is."""
    if column.kind == "number" and is_text(values.type) and column.decimal == "." and not column.markers:
        # Most columns of a CSV file are numbers without a gap: reading them is faster than looking for gaps.
        whole = numbers.plain(values, ("int64", "double") if column.whole else ("double",))
        values = values if whole is None else whole
    values = trimmed(values) if is_text(values.type) else values
    gone = gaps(values, column.markers)
    if not pc.any(gone).as_py():
        return values, None
    return values.filter(pc.invert(gone)), np.asarray(gone)


def _scattered(column: "Column", found: Present, gone: Mask | None) -> Rows:
    """The values in their rows, with what stands for a missing one in the others."""
    bad = None if found.good is None or found.good.all() else ~found.good
    plain = found.plain
    if bad is not None:
        if column.kind != "category":
            found.array[bad] = np.nan
        plain = plain if plain is None else np.where(bad, np.nan, plain)
    exact = found.exact.view(np.uint64)
    if gone is None:
        return Rows(found.array, exact, None, bad, plain)
    there = ~gone
    empty = MISSING if column.kind == "category" else np.nan
    return Rows(
        _spread(there, found.array, empty),
        _spread(there, exact, np.iinfo(np.uint64).max),
        gone,
        bad if bad is None else _spread(there, bad, False),
        plain if plain is None else _spread(there, plain, np.nan),
    )


def _spread(there: Mask, values: Array, empty: Any) -> Array:
    """Values in the rows where there are some."""
    whole = np.full((len(there), *values.shape[1:]), empty, values.dtype)
    whole[there] = values
    return whole


def _all_bad(column: "Column", values: pa.Array) -> Present:
    shape = (len(values),) if column.kind == "category" else (len(values), column.width)
    array = np.zeros(shape, np.int32 if column.kind == "category" else np.float32)
    return Present(array, np.zeros(len(values), np.uint64), np.zeros(len(values), bool))


# --- the kinds ------------------------------------------------------------------------------------------------


def _number(column: "Column", values: pa.Array) -> Present:
    good: Mask | None = None
    if is_text(values.type):
        plain = numbers.plain(values, ("int64", "double") if column.whole else ("double",)) if column.decimal == "." else None
        if plain is None:
            array, good = numbers.parse(values, column.decimal, column.unit)
        else:
            array = np.asarray(plain)
    elif pa.types.is_boolean(values.type):
        array = np.asarray(pc.cast(values, pa.int8()))
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        array = np.asarray(values)
    else:
        return _all_bad(column, values)
    wide = array.astype(np.float64)
    finite = np.abs(wide) <= LARGEST
    if not finite.all():
        good = finite if good is None else good & finite
    # Whole numbers above 2**53 are told apart by their own bits; others have the same whatever their type is.
    exact = (wide + 0.0).view(np.uint64)
    if array.dtype.kind in "iu" and column.whole:
        exact = np.where(np.abs(wide) < 2**53, exact, array.astype(np.uint64))
    return Present(narrowed(array, column.offset)[:, None], exact, good, wide)


def exact_numbers(column: "Column", values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """The numbers of a column in 64 bits; NaN where one is missing or none."""
    present, gone = _split(column, decoded(values))
    found = _number(column, present)
    plain = _scattered(column, found, gone).plain
    return np.full(len(values), np.nan) if plain is None else plain


def _boolean(column: "Column", values: pa.Array) -> Present:
    if pa.types.is_boolean(values.type):
        array, good = np.asarray(values).astype(np.float64), None
    elif is_text(values.type):
        lower = pc.utf8_lower(values)
        truths, untruths = (np.asarray(pc.is_in(lower, value_set=pa.array(words))) for words in (TRUE, FALSE))
        array, good = truths.astype(np.float64), truths | untruths
    else:
        array = np.asarray(pc.cast(values, pa.float64()))
        good = (array == 0) | (array == 1)
    return Present(array.astype(np.float32)[:, None], array, good, array)


def _category(column: "Column", values: pa.Array) -> Present:
    coded = category_texts(column.type, values).dictionary_encode()
    places, found = np.asarray(coded.indices), hashes(coded.dictionary)
    if column.buckets:
        codes = (found % np.uint64(column.buckets)).astype(np.int32)
    else:
        listed = pc.index_in(coded.dictionary, value_set=pa.array(column.categories, pa.string()))
        codes = np.asarray(pc.fill_null(listed, UNKNOWN)).astype(np.int32)
    return Present(codes[places], found[places])


def category_texts(kind: str, values: pa.Array) -> pa.Array:
    """Values as the texts of their categories; in a column of numbers 1, 1.0 and "1" are the same, as True and "true"."""
    if kind == "bool":
        texts = pc.cast(values, pa.string())
        lower = pc.utf8_lower(texts)
        false = pc.if_else(pc.is_in(lower, value_set=pa.array(["false", "0"])), "False", texts)
        return pc.if_else(pc.is_in(lower, value_set=pa.array(["true", "1"])), "True", false)
    if not is_numeric(kind):
        return pc.cast(values, pa.string())
    if is_text(values.type):
        found = numbers.plain(values)
        if found is None:  # each by itself: one that is no number must not change what the others are
            coded = values.dictionary_encode()
            texts = [numbers.plain(coded.dictionary[at : at + 1]) for at in range(len(coded.dictionary))]
            known = [old if new is None else category_texts(kind, new)[0].as_py()
                     for old, new in zip(coded.dictionary.to_pylist(), texts, strict=True)]  # fmt: skip
            return pa.array(known, pa.string()).take(coded.indices)
        values = found
    texts = pc.cast(values, pa.string())
    if not pa.types.is_floating(values.type):
        return texts
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**53))
    return pc.if_else(whole, pc.cast(pc.cast(values, pa.int64(), safe=False), pa.string()), texts)


def is_numeric(kind: str) -> bool:
    """Whether a type of Arrow, by its name, is one of numbers."""
    return kind.startswith(("int", "uint", "float", "double", "halffloat"))


def _date(column: "Column", values: pa.Array) -> Present:
    good: Mask | None = None
    time = column.parts == ("hour",)
    if is_text(values.type) or pa.types.is_integer(values.type):  # of which 20240131 may be a date
        values = pc.cast(values, pa.string())
        seconds, good, _ = dates.parse(values, column.format or "year-month-day")
        if not good.all() and not time and column.format != "year-month-day":
            other, iso, _ = dates.parse(values, "year-month-day")  # as JSON has dates
            seconds, good = np.where(good, seconds, other), good | iso
    elif pa.types.is_temporal(values.type) and pa.types.is_time(values.type) == time:  # no other number is a date
        seconds, _ = dates.of_arrow(values)
    else:
        return _all_bad(column, values)
    if time:
        return Present((seconds / 3600).astype(np.float32)[:, None], seconds, good, seconds)
    split = dates.parts(seconds, timed="hour" in column.parts)
    since = narrowed(seconds, column.offset)
    return Present(np.column_stack([split, since]).astype(np.float32), seconds, good, seconds)


def _list(column: "Column", values: pa.Array) -> Present:
    if is_text(values.type):
        values = lists(values)
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return _all_bad(column, values)
    good = np.asarray(pc.fill_null(pc.equal(pc.list_value_length(values), column.width), False))
    flat = pc.cast(pc.list_flatten(values.filter(pa.array(good))), pa.float64())
    numbers_of = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, column.width)
    array = np.zeros((len(values), column.width), np.float32)
    array[good] = numbers_of
    finite = ~np.isinf(array).any(axis=1)
    rows = np.ascontiguousarray(array)
    exact = hashes(pa.array([row.tobytes() for row in rows], pa.binary()))
    return Present(array, exact, good & finite)


def lists(texts: pa.Array) -> pa.Array:
    """Lists of numbers from their texts, such as [1, 2.5]; null from what is none."""
    return pa.array([_json_list(text) for text in texts.to_pylist()], pa.list_(pa.float64()))


def _json_list(text: str) -> list[float] | None:
    try:
        found = json.loads(text)
        return [float("nan") if each is None else float(each) for each in found] if isinstance(found, list) else None
    except (ValueError, TypeError):
        return None


def _text(column: "Column", values: pa.Array) -> Present:
    texts = pc.cast(values, pa.string())
    return Present(hashed_words(texts, column.width), hashes(texts))


KINDS: dict[str, Callable[["Column", pa.Array], Present]] = {
    "number": _number,
    "boolean": _boolean,
    "category": _category,
    "date": _date,
    "list": _list,
    "text": _text,
}
