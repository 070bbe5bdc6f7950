"""Tables as people have them: what they hold is learnt as it is meant, or refused with all columns concerned."""

import json
import math
import random
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.datasets import Dataset, build
from heliostat.datasets.decoding import decode
from heliostat.datasets.encoding import encode_column
from heliostat.datasets.index import SPLITS
from heliostat.datasets.signature import Column
from heliostat.datasets.sources import encoder, open_source, survey
from heliostat.datasets.sources.formats import delimited
from heliostat.errors import UserError
from heliostat.workloads.task import create, spread

ROWS = 300
LABELS = [random.Random(row).choice("ab") for row in range(ROWS)]


def repeated(*values: Any) -> list[Any]:
    return [values[row % len(values)] for row in range(ROWS)]


def written(folder: Path, columns: dict[str, list[Any]], kind: str = "csv") -> str:
    """A file with these columns, and a column ``arm`` if they have none, as pandas writes it."""
    columns = {"x": [row / 7 for row in range(ROWS)], **columns, **({} if "arm" in columns else {"arm": LABELS})}
    path = str(folder / f"t.{kind}")
    frame = pd.DataFrame(columns)
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
    return path


def built(folder: Path, path: str, target: str = "arm", **options: Any) -> Dataset:
    return build(open_source("table", {"path": path, "target": target, **options}), str(folder / "out"))


def refusal(folder: Path, path: str, target: str = "arm", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        built(folder, path, target, **options)
    assert not (folder / "out").exists()
    return str(caught.value)


def samples(dataset: Dataset, name: str = "features") -> np.ndarray:
    return np.concatenate([dataset.take(split, np.arange(dataset.index.rows(split)))[name] for split in SPLITS])


REFUSED: dict[str, tuple[list[Any], str]] = {
    "numbers and words": ([*map(str, range(20, 60)), *["old"] * (ROWS - 40)], "has numbers, but also 'old'"),
    "dates and words": (
        [*(f"2024-01-{day:02}" for day in range(1, 29)), *["soon"] * (ROWS - 28)],
        "has dates, but also 'soon'",
    ),
    "day or month": (repeated("1/2/24", "2/3/24"), "day and month cannot be told apart, such as '1/2/24', '2/3/24'"),
    "currencies": (repeated("$5", "€7", "$8"), "different units: $, €"),
    "ids above 2^53 among decimals": (repeated("12345678901234567", "1.5"), "64 bits do not hold, such as 12345678901234567"),
    "case": (repeated("Red", "red", "blue"), "differ only in case or blanks: 'Red' and 'red'"),
    "two decimal signs": (
        repeated("1,119.50", "95,5", "8,886.50", "26,5"),
        "has numbers with a decimal point and with a comma: '1,119.50', '8,886.50', but also '95,5', '26,5'",
    ),
    "two words for yes": (
        repeated("Yes", "No", "Y"),
        "several words for the same: 'Y' and 'Yes'",
    ),
    "inner blanks": (repeated("New York", "New  York", "Rome"), "differ only in case or blanks"),
    "accents": (repeated("caf\u00e9", "cafe\u0301", "tea"), "differ only in case or blanks"),
    "a mark in numbers": (repeated(1.5, -999, 3), "100 values of -999, which stands for a missing one"),
    "a mark beside negative numbers": (repeated(-999, -5, 3), "100 values of -999, which stands for a missing one"),
    "some units": (repeated("5 kg", "7", "9"), "has numbers with and without kg: '5 kg', but also '7', '9'"),
    "two formats": (repeated("2024-01-31", "31.01.2024"), "has dates in different formats, such as '2024-01-31', '31.01.2024'"),
    "zones by name": (repeated("2024-01-31 12:00 EST", "2024-02-28 12:00 EST"), "looks like dates, but cannot be read"),
    "days first": (repeated("2024-31-01", "2024-28-02"), "looks like dates, but cannot be read, such as '2024-31-01'"),
    "months in German": (repeated("31. Januar 2024", "28. Mai 2024"), "looks like dates, but cannot be read"),
    "digits": (repeated(20240131, 20240228, 20230301), "look like dates, such as 20240131"),
    "durations": (repeated("0 days 02:17:00", "1 days 03:00:00"), "has durations, such as '0 days 02:17:00'"),
    "durations of a clock": (repeated("75:10", "3:05", "104:53"), "has durations, such as '75:10'"),
    "durations with units": (repeated("2h 30m", "45m 10s", "1h 5m"), "has durations, such as '2h 30m'"),
    "the target": (LABELS, "is equal to the target in every row"),
    "infinity": (repeated(1.0, float("inf"), 2.0), "100 values that are infinite or above 3.4e38"),
    "beyond 32 bits": (repeated(1e39, 2e39), "300 values that are infinite or above 3.4e38"),
    "below 32 bits": (repeated(1e-42, 2e-42), "values that differ by 5.0e-43 only"),
    "lengths": (repeated("[1, 2]", "[1]"), "has lists of different lengths, such as 1, 2"),
    "unnamed: 0": (repeated(1.5, 2), "has no name of its own"),
}


def test_what_would_be_learnt_otherwise_than_it_is_meant_is_refused_with_one_message(tmp_path: Path) -> None:
    message = refusal(tmp_path, written(tmp_path, {kind: values for kind, (values, _) in REFUSED.items()}))
    lines = message.splitlines()
    assert [
        kind
        for kind, (_, says) in REFUSED.items()
        if not any(f"{kind!r} {says}" in line or (f"{kind!r} has" in line and says in line) for line in lines)
    ] == []
    names = [kind if " " not in kind and ":" not in kind else repr(kind) for kind in REFUSED]
    assert message.endswith(f"correct all of them, or leave out columns with drop: [{', '.join(names)}]")
    assert built(tmp_path, str(tmp_path / "t.csv"), drop=list(REFUSED)).index.meta["feature_names"] == ["x"]


def test_a_few_values_of_another_kind_late_in_a_long_column_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (survey, "LISTED", 20), (encoder, "LEAST_SAMPLED", 2), (encoder, "SAMPLED", 2),
        (delimited, "BLOCK", 1000), (delimited, "BLOCK_OF_A_COLUMN", 1),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    dates = [f"2024-{row // 28 % 12 + 1:02}-{row % 28 + 1:02}" for row in range(ROWS)]
    path = written(tmp_path, {"day": [*dates[:-9], "soon", *dates[-8:]], "ok": dates})
    message = refusal(tmp_path, path)
    assert "column 'day' has 1 value that is not a date, year-month-day, such as 'soon'" in message
    assert "'ok'" not in message


NAN = float("nan")
DAY = 86_400
READ: dict[str, tuple[list[Any], dict[str, Any], list[list[float]]]] = {
    # The values, what the signature says, and the numbers (or codes) of the first rows.
    "gaps": (repeated(1.5, None, 2), {"kind": "number"}, [[1.5], [NAN], [2]]),
    "markers": (repeated(1, "?", 2, "-", 3, "NA"), {"kind": "number", "whole": True}, [[1], [NAN], [2]]),
    "thousands": (repeated("1,234", "12,345", "999"), {"kind": "number", "unit": None}, [[1234], [12345], [999]]),
    "points": (repeated("1.234.567", "12.345.678"), {"kind": "number", "decimal": ","}, [[1234567], [12345678]]),
    "blanks": (repeated("1 234", "12 345"), {"kind": "number"}, [[1234], [12345]]),
    "commas": (repeated("0,5", "1,25", "3"), {"kind": "number", "decimal": ","}, [[0.5], [1.25], [3]]),
    "per cent": (repeated("10%", "12.5 %"), {"kind": "number", "unit": "%"}, [[10], [12.5]]),
    "money": (repeated("$5", "$1,200.50", "-$3"), {"kind": "number", "unit": "$"}, [[5], [1200.5], [-3]]),
    "euros": (repeated("1.234,50 €", "2,00 €"), {"kind": "number", "unit": "€"}, [[1234.5], [2]]),
    "brackets": (repeated("(1,200)", "5"), {"kind": "number"}, [[-1200], [5]]),
    "weight": (repeated("5 kg", "7 kg", "12.5 kg"), {"kind": "number", "unit": "kg"}, [[5], [7], [12.5]]),
    "signs": (repeated("+5", "-3", " 4"), {"kind": "number"}, [[5], [-3], [4]]),
    "decimals": (repeated("1e3", ".5", "5."), {"kind": "number"}, [[1000], [0.5], [5]]),
    "cold": (repeated(-999, -5, 3), {"kind": "number"}, [[-999], [-5], [3]]),
    "marked": (repeated(1.5, -999, 3), {"kind": "number"}, [[1.5], [NAN], [3]]),
    "told": (repeated("1.5", "unknown", "3"), {"kind": "number"}, [[1.5], [NAN], [3]]),
    "truths": (repeated("true", "False"), {"kind": "boolean"}, [[1], [0]]),
    "yes": (repeated("yes", "no", ""), {"kind": "boolean"}, [[1], [0], [NAN]]),
    "mixed truths": (repeated("yes", "no", "1"), {"kind": "boolean"}, [[1], [0], [1]]),
    "iso": (repeated("2024-01-31", "2024-02-28"), {"format": "year-month-day"}, [[2024, 1, 31, 2], [2024, 2, 28, 2]]),
    "german": (repeated("3.1.2024", "28.2.2024"), {"format": "day-month-year"}, [[2024, 1, 3, 2], [2024, 2, 28, 2]]),
    "american": (repeated("1/31/24", "2/28/24"), {"format": "month-day-year"}, [[2024, 1, 31, 2], [2024, 2, 28, 2]]),
    "british": (repeated("1/2/24", "2/3/24"), {"format": "day-month-year"}, [[2024, 2, 1, 3], [2024, 3, 2, 5]]),
    "names": (repeated("Jan 31, 2024", "Feb 28, 2024"), {"format": "name-day-year"}, [[2024, 1, 31, 2], [2024, 2, 28, 2]]),
    "digits": (repeated(20240131, 20240228, 20230301), {"format": "digits"}, [[2024, 1, 31, 2], [2024, 2, 28, 2]]),
    "mail": (repeated("Wed, 31 Jan 2024 12:30:00 +0100", ""), {"kind": "date"}, [[2024, 1, 31, 2, 11.5], [NAN] * 5]),
    "moments": (repeated("2024-01-31T12:30Z", "1969-12-31 23:00"), {}, [[2024, 1, 31, 2, 12.5], [1969, 12, 31, 2, 23]]),
    "times": (repeated("12:30", "9:15 pm"), {"kind": "date", "parts": ("hour",)}, [[12.5], [21.25]]),
    "list": (repeated("[1, 2.5]", "[3, -4]", ""), {"kind": "list", "width": 2}, [[1, 2.5], [3, -4], [NAN, NAN]]),
    "empty": (repeated("DE", "", "US"), {"categories": ("DE", "US")}, [[0], [-1], [1]]),
    "null": (repeated("a", "null", "b", "None", "N/A"), {"categories": ("a", "b")}, [[0], [-1], [1], [-1], [-1]]),
    "codes": (repeated("01234", "80331"), {"categories": ("01234", "80331"), "type": "string"}, [[0], [1]]),
    "city_id": (repeated(10115, 80331, 20095), {"categories": ("10115", "20095", "80331")}, [[0], [2], [1]]),
    "ordinals": (repeated("1st", "2nd", "3rd"), {"categories": ("1st", "2nd", "3rd")}, [[0], [1], [2]]),
    "drives": (repeated("2WD", "4WD"), {"categories": ("2WD", "4WD")}, [[0], [1]]),
    "income": (repeated("<=50K", ">50K"), {"categories": ("<=50K", ">50K")}, [[0], [1]]),
    "sizes": (repeated("S", "38", "M", "40"), {"categories": ("38", "40", "M", "S")}, [[3], [0], [2], [1]]),
    "ranges": (repeated("0-9", "10-19"), {"categories": ("0-9", "10-19")}, [[0], [1]]),
    "none": (repeated("none", "aspirin"), {"categories": ("aspirin", "none")}, [[1], [0]]),
    "versions": (repeated("v1.2.3", "v2.0.0"), {"categories": ("v1.2.3", "v2.0.0")}, [[0], [1]]),
    "ends": (repeated("a", " b", "b "), {"categories": ("a", "b")}, [[0], [1], [1]]),
    "fuels": (repeated("E5", "E10"), {"categories": ("E10", "E5")}, [[1], [0]]),
    "class": (repeated(1, 2, 3), {"categories": ("1", "2", "3")}, [[0], [1], [2]]),
    "stars": (repeated(1.5, 2, None), {"categories": ("1.5", "2"), "type": "double"}, [[0], [1], [-1]]),
    "gap only": (repeated(7, None), {"kind": "number"}, [[7], [NAN]]),
    "years": (repeated(30, 40), {"kind": "number", "source": "age", "fill": "median"}, [[30], [40]]),
    "words": ([f"the {'good' if row % 2 else 'bad'} film no {row}" for row in range(ROWS)], {"kind": "text", "width": 64}, []),
    "many": ([f"c{row % 200}" for row in range(ROWS)], {"kind": "category"}, []),
}  # fmt: skip
COLUMNS = {
    "cold": {"type": "number"}, "marked": {"missing": [-999]}, "told": {"missing": ["unknown"]},
    "british": {"type": "day-month-year"}, "digits": {"type": "date"},
    "class": {"type": "category"}, "stars": {"type": "category"}, "age": {"rename": "years", "fill": "median"},
}  # fmt: skip
LEFT_OUT: dict[str, tuple[list[Any], str]] = {
    "id": (list(range(1000, 1000 + ROWS)), "names the rows: each has another value, such as 1000"),
    "hash": ([hash((row, 1.5)) for row in range(ROWS)], "names the rows: each has another value"),
    "customer": ([f"customer {row}" for row in range(ROWS)], "names the rows: each has another text, such as 'customer 0'"),
    "row_no": (list(range(1, ROWS + 1)), "counts the rows"),
    "same": (repeated(7), "is 7 in all rows"),
    "same text": (repeated("a"), "is a in all rows"),
    "nothing": (repeated(None), "has no value"),
    "Unnamed: 0": (list(range(ROWS)), "is the row index of pandas"),
    "secret": (LABELS, "is dropped"),
}


@pytest.fixture(scope="module", params=["csv", "parquet"])
def everything(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Dataset]:
    """A table with a column of each kind, and its dataset."""
    folder = tmp_path_factory.mktemp("everything")
    values: dict[str, list[Any]] = {}
    for name, (column, _, _) in READ.items():
        values["age" if name == "years" else name] = column
    for name, (column, _) in LEFT_OUT.items():
        values[name] = column
    if request.param == "parquet":  # whose columns have one type
        for name in ("markers", "signs"):
            values[name] = [None if value is None else str(value) for value in values[name]]
    path = written(folder, values, request.param)
    return path, built(folder, path, drop=["secret"], columns=COLUMNS)


def test_each_column_has_a_meaning(everything: tuple[str, Dataset]) -> None:
    """And in each row the values that the file has, in the order of the column x."""
    _, dataset = everything
    signature = dataset.index.signature
    assert signature
    assert [column.name for column in signature.columns] == ["x", *READ]
    order = np.argsort(samples(dataset)[:, 0])
    features, categories = samples(dataset)[order], samples(dataset, "categories")[order]
    at = {name: number for number, name in enumerate(signature.feature_names)}
    codes = {column.name: number for number, column in enumerate(signature.categorical)}
    for column in signature.columns[1:]:
        _, says, rows = READ[column.name]
        found = column.model_dump()
        assert {key: found[key] for key in says} == says, column.name
        if column.kind == "category":
            got = categories[: len(rows), codes[column.name], None]
        else:
            first = at[column.feature_names[0]]
            got = features[: len(rows), first : first + (len(rows[0]) if rows else 0)]
        np.testing.assert_array_equal(got, np.array(rows, np.float32).reshape(got.shape), column.name)


def test_encoded_rows_are_shown_as_they_can_be_read_again(everything: tuple[str, Dataset]) -> None:
    """But for texts, of which only hashes are kept."""
    _, dataset = everything
    signature = dataset.index.signature
    assert signature
    columns = dataset.take("test", np.arange(12))
    shown = decode(signature, columns)
    assert {row["words"] for row in shown} == {"(not kept)"}
    assert {row["empty"] for row in shown} == {"DE", "", "US"}
    assert {row["iso"] for row in shown} == {"2024-01-31", "2024-02-28"}
    assert {row["moments"] for row in shown} == {"2024-01-31 12:30", "1969-12-31 23:00"}
    again, odd = signature.encode(pa.Table.from_pylist(shown))
    kept = [not name.startswith("words[") for name in signature.feature_names]
    np.testing.assert_allclose(again["features"][:, kept], columns["features"][:, kept], rtol=1e-6)
    np.testing.assert_array_equal(again["categories"], columns["categories"])
    assert not odd.unknown


def test_columns_that_say_nothing_are_left_out_and_named(everything: tuple[str, Dataset]) -> None:
    signature = everything[1].index.signature
    assert signature
    assert signature.left_out.keys() == LEFT_OUT.keys()
    assert [name for name, (_, why) in LEFT_OUT.items() if not signature.left_out[name].startswith(why)] == []


def test_raw_rows_as_texts_as_json_and_as_typed_values_are_those_of_the_dataset(everything: tuple[str, Dataset]) -> None:
    path, dataset = everything
    signature = dataset.index.signature
    assert signature
    names = [column.source or column.name for column in signature.columns]
    order = np.argsort(samples(dataset)[:, 0])
    wanted = {name: samples(dataset, name)[order] for name in ("features", "categories")}
    if path.endswith("parquet"):
        typed = pq.read_table(path)
        texts = {name: [None if value is None else str(value) for value in typed[name].to_pylist()] for name in names}
    else:
        typed = pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types={"codes": pa.string()}))
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)[names].to_dict("list")
    forms = {
        "texts": pa.table(texts),
        "json": pa.Table.from_pylist(json.loads(json.dumps(typed.select(names).to_pylist(), default=str))),
        "typed": typed.select(names),
    }
    for form, rows in forms.items():
        for part in (rows, rows.slice(7, 1), rows.slice(0, 0)):
            first, count = (7, 1) if part.num_rows == 1 else (0, part.num_rows)
            encoded, odd = signature.encode(part)
            for name, array in encoded.items():
                np.testing.assert_array_equal(array, wanted[name][first : first + count], form)
            assert not odd.unknown
            assert not odd.beyond
        assert signature.encode(rows)[1].missing["gaps"] == 100
        with pytest.raises(UserError, match="there is no column 'thousands'"):
            signature.encode(rows.drop_columns(["thousands"]))
        assert signature.encode(rows.rename_columns({"age": "years"}))[0].keys() == wanted.keys()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e38, 1e38) | st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1))
def test_a_number_is_the_same_as_text_and_as_value(values: list[float | None]) -> None:
    column = Column(name="n", kind="number", type="double", offset=1e9)
    texts = pa.array([None if value is None else repr(value) for value in values], pa.string())
    typed = pa.array([None if value is None else float(value) for value in values], pa.float64())
    one, two = encode_column(column, texts), encode_column(column, typed)
    np.testing.assert_array_equal(one.array, two.array)
    np.testing.assert_array_equal(one.exact, two.exact)
    assert (one.missing, one.least, one.most) == (values.count(None), two.least, two.most)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), min_size=1), st.sampled_from(["T", " "]))
def test_a_moment_is_the_same_as_text_and_as_value(moments: list[datetime], between: str) -> None:
    parts = ("year", "month", "day", "weekday", "hour", "seconds")
    column = Column(name="d", kind="date", type="string", format="year-month-day", parts=parts, width=6)
    texts = pa.array([moment.isoformat(between) for moment in moments])
    one, two = encode_column(column, texts), encode_column(column, pa.array(moments, pa.timestamp("us")))
    np.testing.assert_allclose(one.array, two.array, rtol=1e-6)
    wanted = [(m.year, m.month, m.day, m.weekday()) for m in moments]
    assert one.array[:, :4].tolist() == [list(map(float, each)) for each in wanted]


def test_odd_values_of_raw_rows_are_answered_and_counted_or_refused(everything: tuple[str, Dataset]) -> None:
    signature = everything[1].index.signature
    assert signature
    row = {(column.source or column.name): None for column in signature.columns}
    odd_row = {**row, "empty": "Atlantis", "weight": "900 kg", "thousands": 1e6, "iso": "1890-01-01", "city_id": 10115.0}
    arrays, odd = signature.encode(pa.Table.from_pylist([odd_row, row]))
    assert (odd.unknown, odd.beyond) == ({"empty": 1}, {"weight": 1, "thousands": 1, "iso": 1})
    assert odd.missing["empty"] == 1
    assert odd.missing["gaps"] == 2
    codes = {column.name: number for number, column in enumerate(signature.categorical)}
    assert arrays["categories"][:, codes["empty"]].tolist() == [-2, -1]
    assert arrays["categories"][0, codes["city_id"]] == 0, "1.0 and 1 are the same"
    bad = {"weight": "5 lb", "iso": "soon", "list": "[1]", "yes": "perhaps", "gaps": "1e99", "commas": "much"}
    with pytest.raises(UserError) as caught:
        signature.encode(pa.Table.from_pylist([{**row, **bad}]))
    says = (
        "'weight' has '5 lb', but each value must be a number in kg",
        "'soon'",
        "a list of 2 numbers",
        "'perhaps'",
        "'1e99'",
        "'much'",
    )
    assert [text for text in says if text not in str(caught.value)] == []


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("keep", [None, "half"])
def test_the_row_index_of_pandas_is_no_feature(tmp_path: Path, kind: str, keep: str | None) -> None:
    frame = pd.DataFrame({"x": range(ROWS), "arm": sorted(LABELS)}).sample(frac=0.5 if keep else 1, random_state=0)
    path = str(tmp_path / f"i.{kind}")
    frame.to_csv(path) if kind == "csv" else frame.to_parquet(path)
    assert built(tmp_path, path).index.meta["feature_names"] == ["x"]
    if kind == "csv":
        again = str(tmp_path / "again.csv")
        pd.read_csv(path).to_csv(again, index=False)  # now it is called "Unnamed: 0"
        assert open_source("table", {"path": again, "target": "arm"}).meta()["feature_names"] == ["x"]


def test_a_named_index_is_left_out_and_a_column_without_a_name_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(ROWS), "arm": LABELS}, index=pd.Index([f"p{n % 9}" for n in range(ROWS)], name="patient"))
    frame.to_parquet(tmp_path / "named.parquet")
    signature = open_source("table", {"path": str(tmp_path / "named.parquet"), "target": "arm"}).signature()
    assert signature
    assert signature.left_out == {"patient": "is the row index of pandas"}
    pd.concat([frame.reset_index(drop=True)[:150]] * 2).to_csv(tmp_path / "twice.csv")
    assert "column '' has no name of its own" in refusal(tmp_path, str(tmp_path / "twice.csv"))


@pytest.mark.parametrize("name", ["Unnamed: 0.1", "...1", "_c0"])
def test_the_row_index_under_another_name_is_no_feature(tmp_path: Path, name: str) -> None:
    assert built(tmp_path, written(tmp_path, {name: list(range(ROWS))})).index.meta["feature_names"] == ["x"]
    assert f"column {name!r} has no name of its own" in refusal(tmp_path / "again", written(tmp_path, {name: repeated(1.5, 2)}))


def test_columns_of_which_none_has_a_name_are_features(tmp_path: Path) -> None:
    path = written(tmp_path, {"_c0": random.Random(0).sample(range(1000), ROWS), "_c1": repeated(1.5, 2)})
    assert built(tmp_path, path).index.meta["feature_names"] == ["x", "_c0", "_c1"]


def test_columns_that_count_the_rows_are_left_out(tmp_path: Path) -> None:
    names = ["RowNumber", "row_number", "rownum", "Serial No.", "serial_number", "S.No.", "SNo", "Sr. No", "instant"]
    path = written(tmp_path, {name: list(range(1, ROWS + 1)) for name in names})
    assert built(tmp_path, path).index.signature.left_out == dict.fromkeys(names, "counts the rows")  # type: ignore[union-attr]
    quantities = written(tmp_path, {name: repeated(3, 5, 8) for name in names})
    assert built(tmp_path / "again", quantities).index.meta["feature_names"][1:] == names


def test_the_index_that_r_has_written_is_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"X": range(1, ROWS + 1), "size": [row / 7 for row in range(ROWS)], "arm": LABELS})
    frame.to_csv(tmp_path / "r.csv", index=False)
    assert built(tmp_path, str(tmp_path / "r.csv")).index.signature.left_out == {"X": "counts the rows"}  # type: ignore[union-attr]


TIMES = [1_700_000_000 + row for row in range(857)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("scale", ["seconds", "nanoseconds", "decimals", "small units"])
def test_values_that_32_bits_cannot_tell_apart_are_told_apart(tmp_path: Path, kind: str, scale: str) -> None:
    factor = {"seconds": 1, "nanoseconds": 10**9, "decimals": 1e-3, "small units": 1e-20}[scale]
    values = [time * factor for time in TIMES]
    labels = ["ab"[row % 2] for row in range(857)]
    path = str(tmp_path / f"t.{kind}")
    frame = pd.DataFrame({"time": values, "arm": labels})
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    dataset = built(tmp_path, path)
    assert len(np.unique(samples(dataset))) == 857
    task = create("tabular-classification", {}, dataset.index)
    with torch.no_grad():
        scaled = task.encoder()({"features": torch.from_numpy(samples(dataset))})
        assert scaled.std().item() == pytest.approx(0.6, abs=0.1), "by the interquartile range"
        read = task.rows(pa.table({"time": values[500:501]}))[0]["features"]
    assert read.item() in samples(dataset), "the same row is the same to predict"


def test_values_beside_a_frequent_one_that_32_bits_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    draw = random.Random(0).random
    lost = [0.0 if row % 5 < 3 else 1.7e9 + draw() * 100 for row in range(ROWS)]
    fine = [0.0 if row % 5 < 3 else draw() * 100 for row in range(ROWS)]
    rounded = [(0.3, 0.1 + 0.2, 0.30000000000000004 + 5e-17, 0.7, 0.7 - 1e-16, 0.7 + 1e-16)[row % 6] for row in range(ROWS)]
    message = refusal(tmp_path, written(tmp_path, {"lost": lost, "fine": fine, "rounded": rounded}))
    assert "column 'lost' has 120 different numbers, of which 32 bits hold 3" in message
    assert "fine" not in message
    assert "rounded" not in message


def test_an_offset_that_changes_with_more_rows_moves_no_sample(tmp_path: Path) -> None:
    def times(rows: int) -> dict[str, set[float]]:
        pq.write_table(pa.table({"time": TIMES[:rows], "arm": ["a", "b"] * (rows // 2)}), tmp_path / f"{rows}.parquet")
        source = open_source("table", {"path": str(tmp_path / f"{rows}.parquet"), "target": "arm"})
        dataset, offset = build(source, str(tmp_path / f"d{rows}")), source.meta()["offsets"]["time"]
        return {s: set(dataset.take(s, np.arange(dataset.index.rows(s)))["features"][:, 0] + offset) for s in SPLITS}

    few, many = times(400), times(800)
    assert all(few[split] <= many[split] for split in SPLITS)


def test_numbers_in_32_bits_are_unchanged(tmp_path: Path) -> None:
    source = np.random.RandomState(0)
    columns = {"normal": source.randn(ROWS), "heavy": np.exp(3 * source.randn(ROWS)), "year": source.randint(1990, 2025, ROWS)}
    dataset = built(tmp_path, written(tmp_path, {name: list(values) for name, values in columns.items()}))
    assert "offsets" not in dataset.index.meta
    for at, values in enumerate(columns.values(), 1):
        assert set(samples(dataset)[:, at]) == set(np.asarray(values, np.float32))


def test_whole_numbers_that_differ_little_are_standardized(tmp_path: Path) -> None:
    dataset = built(tmp_path, written(tmp_path, {"far": [16_000_000 + row % 2 for row in range(ROWS)]}))
    x, far = spread(dataset.index.stats["features"]).tolist()
    assert far == pytest.approx(0.5, abs=0.01)
    assert x == pytest.approx(samples(dataset)[:, 0].std(), rel=0.1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            repeated("a", "", "b"),
            "target 'y' has no value in 100 of 300 rows\n  fix: fill them, or leave these rows out with without",
        ),
        (repeated("a", "NA", "b"), "target 'y' has no value in 100 of 300 rows (also written 'NA')"),
        (repeated("None", "mild"), "if they are a class, write it otherwise, such as none"),
        (repeated("Yes", "yes", "no"), "target 'y' has texts that differ only in case or blanks: 'Yes' and 'yes'"),
        (repeated("yes", "No", "N"), "target 'y' has several words for the same: 'N' and 'No'"),
        (repeated("2024-01-31", "2024-02-28"), "target 'y' has dates"),
        ([f"name {row}" for row in range(ROWS)], "target 'y' has 300 classes in 300 rows"),
        (repeated("one"), "target 'y' has 1 class,"),
        (repeated(1.5, float("inf")), "target 'y' has 150 values that are infinite"),
    ],
)
def test_what_is_no_target_is_refused(tmp_path: Path, values: list[Any], says: str) -> None:
    assert says in refusal(tmp_path, written(tmp_path, {"y": values}), "y")


def test_a_marked_label_that_has_a_type_is_missing_too(tmp_path: Path) -> None:
    values = repeated(1.5, -1.0, 2.5)
    pq.write_table(pa.table({"x": [row / 7 for row in range(ROWS)], "y": values}), tmp_path / "t.parquet")
    options: dict[str, Any] = {"without_label": "drop", "columns": {"y": {"missing": [-1]}}}
    dataset = built(tmp_path, str(tmp_path / "t.parquet"), "y", **options)
    assert sorted(samples(dataset, "target")) == sorted(value for value in values if value != -1)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([1e9 + row / 4 for row in range(ROWS)], {}),
        ([100 + row // 2 for row in range(ROWS)], {}),
        (repeated(3, 1, 2), {"target_type": "number"}),
        (repeated("10 %", "20 %", "30.5 %"), {}),
        ([f"$1,{row:03}" for row in range(ROWS)], {}),
        (repeated(1.5, None, 2.5), {"without_label": "drop"}),
        (repeated(1.5, -1, 2.5), {"without_label": "drop", "columns": {"y": {"missing": [-1]}}}),
    ],
)
def test_a_target_of_many_numbers_is_one_in_64_bits(tmp_path: Path, values: list[Any], options: dict[str, Any]) -> None:
    dataset = built(tmp_path, written(tmp_path, {"y": values}), "y", drop=["arm"], **options)
    index, texts = dataset.index, [str(value).strip("$ %").replace(",", "") for value in values if value not in (None, -1)]
    assert (str(index.fields["target"]), index.classes) == ("float64", [])
    assert sorted(samples(dataset, "target")) == sorted(map(float, texts))
    signature, train = index.signature, index.train
    assert signature
    assert train
    assert (signature.target.least, signature.target.most) == (min(map(float, texts)), max(map(float, texts)))
    found = dataset.take("train", np.arange(index.rows("train")))["target"]
    assert train.target[:2] == pytest.approx((found.mean(), found.std()))
    assert train.target[2:] == pytest.approx(np.quantile(found, np.linspace(0, 1, 65)))


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (repeated(0.0, 1.0), ["0", "1"]),
        (repeated(" a", "b "), ["a", "b"]),
        (repeated("01", "10"), ["01", "10"]),
        (repeated(True, False), ["False", "True"]),
        (repeated(3, -1), ["-1", "3"]),
        (repeated("1", "2", "many"), ["1", "2", "many"]),
        (repeated(*(f"{n} star" for n in range(1, 6))), [f"{n} star" for n in range(1, 6)]),
        (repeated("E1", "E2"), ["E1", "E2"]),
        (repeated("none", "mild"), ["mild", "none"]),
        (repeated(10, 9, 1), ["1", "9", "10"]),
        (repeated("yes", "no"), ["no", "yes"]),
    ],
)
def test_classes_are_named_as_in_the_file(tmp_path: Path, values: list[Any], classes: list[str]) -> None:
    dataset = built(tmp_path, written(tmp_path, {"y": values}), "y", drop=["arm"])
    assert dataset.index.classes == classes
    assert "label" in dataset.index.fields


def test_blanks_after_commas_are_no_part_of_a_name_or_a_value(tmp_path: Path) -> None:
    lines = [f"{row}, {'red' if row % 3 else 'blue'}, {LABELS[row]}" for row in range(ROWS)]
    (tmp_path / "t.csv").write_text("x, colour, arm\n" + "\n".join(lines))
    for target in ("arm", " arm"):
        index = built(tmp_path, str(tmp_path / "t.csv"), target).index
        assert index.meta == {"classes": ["a", "b"], "feature_names": ["x"]}
        assert [column.categories for column in index.signature.categorical] == [("blue", "red")]  # type: ignore[union-attr]


def test_what_options_name_must_be_columns(tmp_path: Path) -> None:
    path = written(tmp_path, {"odd": repeated("1%", "2%")})
    message = refusal(tmp_path, path, drop=["ood"], columns={"ax": {}, "odd": {"rename": "x"}})
    assert "drop lists 'ood', which is no column: did you mean odd?" in message
    assert "columns lists 'ax', which is no column: did you mean x?" in message
    assert "columns would give 2 columns the name 'x'" in message
    assert "lists 'arm', which is the target" in refusal(tmp_path, path, drop=["arm"])
    assert "no column to learn from but the target\n    'x' is dropped\n    'odd' is dropped" in refusal(
        tmp_path, path, drop=["x", "odd"]
    )


def test_more_than_a_thousand_categories_are_hashed(tmp_path: Path) -> None:
    rows = 3000
    pq.write_table(
        pa.table({"shop": [f"s{n % 1200}" for n in range(rows)], "y": ["a", "b"] * (rows // 2)}), tmp_path / "t.parquet"
    )
    dataset = built(tmp_path, str(tmp_path / "t.parquet"), "y")
    signature = dataset.index.signature
    assert signature
    assert (signature.columns[0].buckets, signature.columns[0].codes) == (4096, 4096)
    assert 1000 < len(np.unique(samples(dataset, "categories"))) <= 1200
    codes, odd = signature.encode(pa.table({"shop": ["s5", "s5", "new", None]}))
    assert (codes["categories"][0], codes["categories"][3], odd.unknown) == (codes["categories"][1], -1, {})


def test_statistics_of_the_train_split_leave_out_what_is_missing(tmp_path: Path) -> None:
    values = {"gap": [None if row % 3 else float(row) for row in range(ROWS)], "colour": repeated("a", "", "b", "a")}
    dataset = built(tmp_path, written(tmp_path, values))
    index, train = dataset.index, dataset.take("train", np.arange(dataset.index.rows("train")))
    gap = train["features"][:, 1]
    assert index.train
    assert index.stats["features"]["mean"][1] == pytest.approx(np.nanmean(gap))
    assert index.stats["features"]["std"][1] == pytest.approx(np.nanstd(gap))
    assert index.train.missing == pytest.approx((0, np.isnan(gap).mean()))
    assert index.train.quantiles[1] == pytest.approx(np.nanquantile(gap, np.linspace(0, 1, 65)))
    assert index.train.counts == (tuple(int((train["categories"] == code).sum()) for code in (0, 1, -1)),)
    assert index.train.target == tuple(np.bincount(train["label"]))


def test_the_types_of_arrow_are_read_or_refused_by_name(tmp_path: Path) -> None:
    day, moment = date(2024, 1, 31), datetime(2024, 1, 31, 5, 30)
    read = {
        "far": pa.array([2**63 + row for row in range(ROWS)], pa.uint64()), "tiny": pa.array(repeated(1, 2, 3), pa.int8()),
        "price": pa.array(repeated(Decimal("1.50"), Decimal("2"))), "half": pa.array(np.array(repeated(1.5, 2), np.float16)),
        "dictionary": pa.array(repeated(1, 2)).dictionary_encode(), "truth": pa.array(repeated(True, None, False)),
        "text": pa.array(repeated("a", "b"), pa.large_string()), "number": pa.array(repeated("1.5", "2")),
        "day": pa.array(repeated(day, None), pa.date64()), "zone": pa.array(repeated(moment, None), pa.timestamp("ns", "UTC")),
        "time": pa.array(repeated(time(5, 30), time(6, 0)), pa.time32("s")),
        "vector": pa.array(repeated([1, 2], None), pa.list_(pa.float32(), 2)),
        "list": pa.array(repeated([1.0, None], [2.0, 3.0])),
    }  # fmt: skip
    refused = {
        "duration": (pa.array(repeated(timedelta(1), timedelta(2))), "is of type duration"),
        "bytes": (pa.array(repeated(b"a", b"b")), "binary"),
        "ragged": (pa.array(repeated([1], [1, 2])), "lists of different lengths, such as 1, 2"),
        "words": (pa.array(repeated(["a"])), "has lists of string"), "struct": (pa.array(repeated({"a": 1})), "of type struct"),
    }  # fmt: skip
    table = pa.table({"x": np.arange(ROWS) / 7, **read, "arm": LABELS})
    pq.write_table(table, tmp_path / "read.parquet")
    signature = built(tmp_path, str(tmp_path / "read.parquet")).index.signature
    assert signature
    kinds = [
        "number",
        "number",
        "number",
        "number",
        "number",
        "boolean",
        "category",
        "number",
        "date",
        "date",
        "date",
        "list",
        "list",
    ]
    assert dict(zip(read, kinds, strict=True)) == {column.name: column.kind for column in signature.columns[1:]}
    features = signature.encode(table)[0]["features"]
    assert len(np.unique(features[:, 1])) == ROWS
    signature.encode(pa.Table.from_pylist([dict.fromkeys(table.column_names)]))
    for name in refused:
        table = table.append_column(name, refused[name][0])
    pq.write_table(table, tmp_path / "all.parquet")
    message = refusal(tmp_path / "again", str(tmp_path / "all.parquet"))
    assert [name for name, (_, says) in refused.items() if says not in message] == []
    pq.write_table(pa.table({"infinite": repeated([1.0], [math.inf]), "arm": LABELS}), tmp_path / "infinite.parquet")
    assert "has 150 values that are not a list of 1 number, such as '[inf]'" in refusal(
        tmp_path / "again", str(tmp_path / "infinite.parquet")
    )


def test_units_do_not_matter_and_a_feature_that_is_constant_in_training_is_ignored() -> None:
    for factor in (1e-12, 1e-7, 1.0, 1e9):
        assert spread({"mean": [3 * factor], "std": [2 * factor]}).tolist() == pytest.approx([2 * factor])
    divisor = spread({"mean": [5.0, 0.0, 1e5], "std": [0.0, 0.0, 1e-4]})
    assert (torch.tensor([7.0, 1.0, 9e5]) / divisor).tolist() == [0, 0, 0]
