"""The loader that goes with an exported model reads raw rows exactly as Heliostat does, whatever stands in them."""

import datetime
import json
import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heliostat.datasets.signature import Column, Signature, Target
from heliostat.datasets.values.dates import PATTERNS, Format
from heliostat.errors import UserError
from heliostat.workloads.export.loader.rows import encode
from heliostat.workloads.export.loader.xxh3 import xxh3
from heliostat.workloads.export.signature import of_rows
from heliostat.workloads.prediction.rows import table_of

EXAMPLES = int(os.environ.get("EXPORT_EXAMPLES", "80"))
NUMBERS = [
    Column(name="c", kind="number", type="double"),
    Column(name="c", kind="number", type="int64", whole=True, offset=1.7e18, markers=("-999", "x")),
    Column(name="c", kind="number", type="int64", whole=True),
    Column(name="c", kind="number", type="string", unit="kg", offset=1000.5),
    Column(name="c", kind="number", type="string", unit="$", decimal=",", markers=("-1",)),
    Column(name="c", source="file c", kind="boolean", type="bool"),
]
CATEGORIES = [
    Column(
        name="c", kind="category", type="string", categories=("a", "1", "true", "2024-01-31", "0.1", "\u00e9"), markers=("b",)
    ),
    Column(name="c", kind="category", type="int64", categories=("1", "2", "9007199254740993", "1.5", "1e+10", "True")),
    Column(
        name="c", kind="category", type="double", categories=("1", "-0.000001", "1e-7", "12345678901", "0.1"), markers=("7",)
    ),
    Column(name="c", kind="category", type="bool", categories=("False", "True")),
    Column(name="c", kind="category", type="string", buckets=1000),
]
FORMATS: list[Format | None] = [*(form for form in PATTERNS if form != "time"), None]
OTHERS = [
    Column(name="c", kind="list", type="list", width=2),
    Column(name="c", kind="text", type="string", width=64),
    *(
        Column(name="c", kind="date", type="string", width=len(parts) + 1, offset=1.7e9, parts=(*parts, "seconds"), format=form)
        for form in FORMATS
        for parts in [("year", "month", "day", "weekday"), ("year", "month", "day", "weekday", "hour")]
    ),
    Column(name="c", kind="date", type="string", parts=("hour",), format="time"),
]  # fmt: skip
ODD = [
    "", " ", "NA", "None", "none", "nan", "?", "-", "-999", "-999.00", "7", "7.0", "x", "b", "B", "True", "FALSE", "yes",
    "0", "off", "inf", "-inf", "1e400", "0x1F", "9223372036854775807", "9223372036854775808", "9007199254740993",
]  # fmt: skip
CLOCK = r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,7})?)?"
ZONE = r" ?([ap]\.?m|Z|UTC|[+-]0[0-9]:?[0-9]{2})?"
TEXTS = st.one_of(
    st.sampled_from(ODD),
    *(
        st.from_regex(rf"\A{pattern}\Z")
        for pattern in (
            r"[+-]?[0-9]{0,4}[.,]?[0-9]{0,4}(e[+-]?[0-9]{1,2})?",
            r"[(\u2212-]?[$\u20ac]?-?[1-9]{1,3}([,.' \u00a0][0-9]{3}){0,3}([.,][0-9]{1,3})? ?(kg|%|\$|EUR)?-?[)]?",
            rf"(19|20|00)?[0-9]{{2}}[-/.][0-9]{{1,2}}([-/.][0-9]{{1,4}})?([T ,]{{1,2}}{CLOCK})?{ZONE}",
            rf"{CLOCK}( ?[AaPp][Mm])?",
            r"(Mon, )?([0-9]{1,2}\.? )?(Jan|feb|SEPT|march|Dez)[., ]{1,2}([0-9]{1,2}, )?([0-9]{2}|[0-9]{4})( 12:30 pm)?",
            r"\[(-?[0-9]\.?[0-9]?|null|true|NaN|\"1\"), ?([0-9]|null)(, 1)?\]",
        )
    ),
    st.text(max_size=12),
    st.text("aAb\u00c9\u00e9\u0130\u03a3\u00df\u01c5 \t\u00a0.,-_1", max_size=20),
).map(lambda text: f" {text}" if len(text) % 3 == 0 else text)
PLAIN = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63),
    st.floats(width=64),
    st.sampled_from([0.1, 1e-7, 1e-6, 1e10, 1e9, 7.0, 12345678901.0]),
    st.booleans(),
)
EAST, UTC = datetime.timezone(datetime.timedelta(hours=-5)), datetime.UTC
MOMENTS = st.one_of(
    *(
        st.lists(st.one_of(each, each, st.none()), min_size=1, max_size=4)
        for each in (st.dates(), st.times(), st.datetimes(), *(st.datetimes(timezones=st.just(zone)) for zone in (EAST, UTC)))
    )
)
LISTS = st.lists(st.one_of(st.none(), st.integers(-9, 9), st.floats(width=32), st.just("1")), min_size=1, max_size=3)


def columns_of_values(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(values, values, values, st.none()), min_size=1, max_size=5)


VALUES = st.one_of(*map(columns_of_values, (TEXTS, PLAIN, st.integers(-3, 3), st.floats(), LISTS, st.booleans())))
MIXED = st.one_of(VALUES, columns_of_values(st.one_of(TEXTS, PLAIN, LISTS)))


def same(column: Column, values: Sequence[Any], read: dict[str, Any]) -> None:
    """Both read a column of values alike, or both refuse it."""
    signature = Signature(columns=(column,), target=Target(name="y", kind="number", type="double"))
    rows = [{column.source or "c": value} for value in values]
    document = json.loads(json.dumps(of_rows(signature, read)))
    try:
        wanted = signature.encode(table_of(rows, signature, read))[0]
    except UserError:
        with pytest.raises(ValueError, match="each value must be"):
            encode(document, rows)
        return
    found = encode(document, rows)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


READ = st.sampled_from([{}, {}, {"decimal": ","}, {"decimal": ".", "thousands": " "}, {"decimal": ",", "thousands": "."}])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(NUMBERS), MIXED, READ)
@example(NUMBERS[1], [1_700_000_000_000_000_001, "1700000000000000003", None], {})
@example(NUMBERS[1], ["1700000000000000001", "-999.0", "X"], {})
def test_numbers_and_booleans(column: Column, values: list[Any], read: dict[str, Any]) -> None:
    same(column, values, read)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(CATEGORIES), st.one_of(MIXED, MOMENTS), READ)
def test_categories(column: Column, values: list[Any], read: dict[str, Any]) -> None:
    same(column, values, read)


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(st.sampled_from(OTHERS), st.one_of(MIXED, MOMENTS, columns_of_values(TEXTS)))
def test_dates_lists_and_texts(column: Column, values: list[Any]) -> None:
    same(column, values, {})


@pytest.mark.parametrize("size", [*range(18), 32, 33, 64, 65, 128, 129, 240, 241, 1024, 1025, 1088, 1089, 3000])
def test_the_hash_is_xxh3(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert xxh3(data) == xxhash.xxh3_64_intdigest(data)
