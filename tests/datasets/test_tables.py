"""Tables as people have them: what they hold is learnt as it is meant, or refused with all columns concerned."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from heliostat.datasets import Dataset, build
from heliostat.datasets.index import SPLITS
from heliostat.datasets.sources import open_source
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


NO_FEATURES: dict[str, tuple[list[Any], str]] = {
    "empty texts": (repeated("DE", "", "US"), "100 empty values"),
    "blank texts": (repeated("DE", "  ", "US"), "100 empty values"),
    "missing numbers": (repeated(1.5, None, 2.5), "100 empty values"),
    "markers in numbers": (repeated(1, "?", 2, "-", 3, "NA"), "150 empty values (also written '-', '?', 'NA')"),
    "markers in texts": (repeated("a", "null", "b", "None", "N/A"), "180 empty values (also written 'N/A', 'None', 'null')"),
    "thousands": (repeated("1,234", "12,345", "999"), "separators or units, such as '1,234', '12,345'"),
    "thousands by points": (repeated("1.234.567", "12.345.678"), "separators"),
    "thousands by blanks": (repeated("1 234", "12 345"), "separators"),
    "decimal commas": (repeated("0,5", "1,25", "3"), "separators or units, such as '0,5', '1,25'"),
    "per cent": (repeated("10%", "12.5 %"), "such as '10%', '12.5 %'"),
    "money": (repeated("$5", "$1,200.50", "-$3"), "separators"),
    "euros": (repeated("1.234,50 €", "2,00 €"), "separators"),
    "negative in parentheses": (repeated("(1,200)", "5"), "separators"),
    "units": (repeated("5 kg", "7 kg", "12.5 kg"), "separators or units, such as '5 kg'"),
    "numbers and words": ([*map(str, range(20, 60)), *["old"] * (ROWS - 40)], "has numbers, but also 'old'"),
    "dates": (repeated("2024-01-31", "2024-02-28"), "has dates or times, such as '2024-01-31'"),
    "German dates": (repeated("31.1.2024", "28.2.2024"), "has dates"),
    "American dates": (repeated("1/31/24", "2/28/24"), "has dates"),
    "dates with months": (repeated("Jan 31, 2024", "Feb 28, 2024"), "has dates"),
    "times": (repeated("12:30", "9:15"), "has dates or times"),
    "moments": (repeated("2024-01-31T12:30:00Z", "2024-02-28T12:30:00Z"), "has dates"),
    "zip codes": (repeated("01234", "80331"), "leading zeros, such as 01234"),
    "ids above 2^64": (repeated("123456789012345678901", "123456789012345678902"), "64 bits do not hold"),
    "ids above 2^53 among decimals": (repeated("12345678901234567", "1.5"), "64 bits do not hold"),
    "case": (repeated("Red", "red", "blue"), "differ only in case or blanks: 'Red' and 'red'"),
    "inner blanks": (repeated("New York", "New  York", "Rome"), "differ only in case or blanks"),
    "accents": (repeated("caf\u00e9", "cafe\u0301", "tea"), "differ only in case or blanks"),
    "truths in two ways": (repeated("yes", "no", "1"), "has '1', 'no', 'yes' for true and false"),
    "a mark in numbers": (repeated(1.5, -999, 3), "100 values of -999, which stands for a missing one"),
    "hashes": ([hash((row, 1.5)) for row in range(ROWS)], "has identifiers, such as"),
    "many texts": ([f"customer {row}" for row in range(ROWS)], "300 different texts"),
    "the target": (LABELS, "is equal to the target in every row"),
    "infinity": (repeated(1.0, float("inf"), 2.0), "100 values that are NaN, infinite or above 3.4e38"),
    "beyond 32 bits": (repeated(1e39, 2e39), "300 values that are NaN, infinite or above 3.4e38"),
    "below 32 bits": (repeated(1e-42, 2e-42), "values that differ by 5.0e-43 only"),
}


@pytest.mark.parametrize("kind", NO_FEATURES)
def test_what_is_no_feature_as_it_is_written_is_refused(tmp_path: Path, kind: str) -> None:
    values, says = NO_FEATURES[kind]
    message = refusal(tmp_path, written(tmp_path, {"odd": values}))
    assert "column 'odd' " in message
    assert says in message
    assert built(tmp_path, str(tmp_path / "t.csv"), drop=["odd"]).index.meta["feature_names"] == ["x"]


def test_all_columns_with_a_problem_are_in_one_message(tmp_path: Path) -> None:
    columns = {kind: values for kind, (values, _) in NO_FEATURES.items()}
    message = refusal(tmp_path, written(tmp_path, columns, "csv"))
    assert [kind for kind in columns if f"column {kind!r}" not in message] == []
    names = [kind if " " not in kind else repr(kind) for kind in columns]
    assert message.endswith(f"correct all of them, or leave out columns with drop: [{', '.join(names)}]")
    assert built(tmp_path, str(tmp_path / "t.csv"), drop=list(columns)).index.meta["feature_names"] == ["x"]


@pytest.mark.parametrize("kind", ["missing numbers", "blank texts", "thousands", "per cent", "dates", "case", "many texts"])
def test_parquet_is_held_to_the_same(tmp_path: Path, kind: str) -> None:
    values, says = NO_FEATURES[kind]
    assert says in refusal(tmp_path, written(tmp_path, {"odd": values}, "parquet"))


def test_types_of_parquet_that_are_no_features_are_listed(tmp_path: Path) -> None:
    when = pd.date_range("2024-01-01", periods=ROWS)
    path = written(tmp_path, {"when": list(when), "list": [[1]] * ROWS, "code": repeated("1.5", "2")}, "parquet")
    message = refusal(tmp_path, path)
    assert all(
        text in message for text in ("'when' is of type timestamp", "'list' is of type list", "'code' has numbers as texts")
    )


@pytest.mark.parametrize(
    "name", ["id", "customer_id", "CustomerID", "userId", "zip", "home_zip", "ZIP code", "postcode", "plz", "CUSTOMERID"]
)
def test_identifiers_are_no_quantities(tmp_path: Path, name: str) -> None:
    assert f"column {name!r} has identifiers, such as 10115" in refusal(
        tmp_path, written(tmp_path, {name: repeated(10115, 80331, 20095)})
    )


def test_names_that_only_look_like_identifiers_are_quantities(tmp_path: Path) -> None:
    names = ["paid", "covid", "void", "grid", "index", "humidity", "number", "COVID", "GRID", "BID"]
    flags = {name: repeated(0, 1) for name in ("FLAG_PHONE", "has_phone", "has_id")}
    path = written(tmp_path, {**{name: repeated(3, 5, 8) for name in names}, **flags})
    assert built(tmp_path, path).index.meta["feature_names"] == ["x", *names, *flags]


CATEGORIES = {
    "truths": (repeated("true", "False"), ["odd"]),
    "yes and no": (repeated("yes", "no"), ["odd=no", "odd=yes"]),
    "ordinals": (repeated("1st", "2nd", "3rd"), ["odd=1st", "odd=2nd", "odd=3rd"]),
    "late ordinals": (repeated("4th", "5th", "6th"), ["odd=4th", "odd=5th", "odd=6th"]),
    "drives": (repeated("2WD", "4WD"), ["odd=2WD", "odd=4WD"]),
    "income": (repeated("<=50K", ">50K"), ["odd=<=50K", "odd=>50K"]),
    "sizes": (repeated("S", "38", "M", "40"), ["odd=38", "odd=40", "odd=M", "odd=S"]),
    "ranges": (repeated("0-9", "10-19"), ["odd=0-9", "odd=10-19"]),
    "none of them": (repeated("none", "aspirin"), ["odd=aspirin", "odd=none"]),
    "versions": (repeated("v1.2.3", "v2.0.0"), ["odd=v1.2.3", "odd=v2.0.0"]),
    "blanks at the ends": (repeated("a", " b", "b "), ["odd=a", "odd=b"]),
    "signed numbers": (repeated("+5", "-3", " 4"), ["odd"]),
    "cold": (repeated(-999, -5, 3), ["odd"]),
    "constant": (repeated(7), ["odd"]),
    "fuels": (repeated("E5", "E10"), ["odd=E10", "odd=E5"]),
    "codes": (repeated(*(f"E{n}" for n in range(1, 18))), sorted(f"odd=E{n}" for n in range(1, 18))),
    "decimals": (repeated("1e3", ".5", "5."), ["odd"]),
}


@pytest.mark.parametrize("kind", CATEGORIES)
def test_ordinary_columns_stay_what_they_are(tmp_path: Path, kind: str) -> None:
    values, features = CATEGORIES[kind]
    assert built(tmp_path, written(tmp_path, {"odd": values})).index.meta["feature_names"] == ["x", *features]


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


def test_a_column_that_may_be_an_index_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(ROWS), "arm": LABELS}, index=pd.Index([f"p{n}" for n in range(ROWS)], name="patient"))
    frame.to_parquet(tmp_path / "named.parquet")
    assert "column 'patient' is the row index of pandas" in refusal(tmp_path, str(tmp_path / "named.parquet"))
    frame.assign(row=range(1, ROWS + 1), invoice_no=range(ROWS + 700, 700, -1)).to_csv(tmp_path / "row.csv")
    message = refusal(tmp_path, str(tmp_path / "row.csv"))
    assert "column 'patient' has 300 different texts" in message
    assert "column 'row' counts the rows" in message
    assert "column 'invoice_no' counts the rows" in message
    pd.concat([frame.reset_index(drop=True)[:150]] * 2).to_csv(tmp_path / "twice.csv")
    assert "column '' has no name of its own" in refusal(tmp_path, str(tmp_path / "twice.csv"))


@pytest.mark.parametrize("name", ["Unnamed: 0.1", "...1", "_c0"])
def test_the_row_index_under_another_name_is_no_feature(tmp_path: Path, name: str) -> None:
    assert built(tmp_path, written(tmp_path, {name: list(range(ROWS))})).index.meta["feature_names"] == ["x"]
    assert f"column {name!r} has no name of its own" in refusal(tmp_path / "again", written(tmp_path, {name: repeated(1.5, 2)}))


def test_columns_of_which_none_has_a_name_are_features(tmp_path: Path) -> None:
    path = written(tmp_path, {"_c0": random.Random(0).sample(range(1000), ROWS), "_c1": repeated(1.5, 2)})
    assert built(tmp_path, path).index.meta["feature_names"] == ["x", "_c0", "_c1"]


def test_columns_that_count_the_rows_are_refused(tmp_path: Path) -> None:
    names = ["RowNumber", "row_number", "rownum", "Serial No.", "serial_number", "S.No.", "SNo", "Sr. No", "instant"]
    message = refusal(tmp_path, written(tmp_path, {name: list(range(1, ROWS + 1)) for name in names}))
    assert [name for name in names if f"column {name!r} counts the rows" not in message] == []
    assert (
        built(tmp_path, written(tmp_path, {name: repeated(3, 5, 8) for name in names})).index.meta["feature_names"][1:] == names
    )


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
        first = task.model()[0](torch.from_numpy(samples(dataset)))  # type: ignore[index]
        assert first.std().item() == pytest.approx(1, abs=0.1)
        read = task.read(f'{{"time": {values[500]!r}}}')["features"]
        assert task.read(f"[{values[500]!r}]")["features"] == read
        with pytest.raises(UserError, match="the input has 2 values, but must have 1"):
            task.read(f"[{values[500]!r}, 0]")
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
    dataset = built(
        tmp_path, written(tmp_path, {"far": [16_000_000 + row % 2 for row in range(ROWS)], "same": repeated(1e5 / 3)})
    )
    x, far, same = spread(dataset.index.stats["features"]).tolist()
    assert (far, same) == (pytest.approx(0.5, abs=0.01), float("inf"))
    assert x == pytest.approx(samples(dataset)[:, 0].std(), rel=0.1)


def test_a_number_as_target_keeps_what_its_values_differ_by(tmp_path: Path) -> None:
    path = written(tmp_path, {"y": [1e9 + row / 4 for row in range(ROWS)]})
    assert "target 'y' has values that 32 bits cannot tell apart" in refusal(tmp_path, path, "y")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (repeated("a", "", "b"), "column 'y' has 100 empty values"),
        (repeated("a", "NA", "b"), "column 'y' has 100 empty values (also written 'NA')"),
        (repeated(1, "?", 0), "column 'y' has 100 empty values (also written '?')"),
        (repeated("None", "mild"), "or if they are a class, write it otherwise, such as none"),
        (repeated("Yes", "yes", "no"), "target 'y' has texts that differ only in case or blanks: 'Yes' and 'yes'"),
        (repeated("1,200", "1,300"), "target 'y' has numbers with signs, separators or units"),
        (repeated("10%", "20%"), "target 'y' has numbers with"),
        (repeated("2024-01-31", "2024-02-28"), "target 'y' has dates"),
        ([100 + row // 2 for row in range(ROWS)], "target 'y' has 150 different whole numbers"),
        ([f"name {row}" for row in range(ROWS)], "target 'y' has 300 classes in 300 rows"),
        (repeated("one"), "target 'y' has 1 classes"),
    ],
)
def test_what_is_no_target_is_refused(tmp_path: Path, values: list[Any], says: str) -> None:
    assert says in refusal(tmp_path, written(tmp_path, {"y": values}), "y")


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
    ],
)
def test_classes_are_named_as_in_the_file(tmp_path: Path, values: list[Any], classes: list[str]) -> None:
    dataset = built(tmp_path, written(tmp_path, {"y": values}), "y", drop=["arm"])
    assert dataset.index.classes == classes
    assert "label" in dataset.index.fields


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_named(tmp_path: Path, separator: str) -> None:
    (tmp_path / "t.csv").write_text(f"x{separator}arm\n" + "".join(f"{row}{separator}a\n" for row in range(9)))
    assert f"has {separator!r} between its columns" in refusal(tmp_path, str(tmp_path / "t.csv"))


def test_blanks_after_commas_are_no_part_of_a_name_or_a_value(tmp_path: Path) -> None:
    lines = [f"{row}, {'red' if row % 3 else 'blue'}, {LABELS[row]}" for row in range(ROWS)]
    (tmp_path / "t.csv").write_text("x, colour, arm\n" + "\n".join(lines))
    for target in ("arm", " arm"):
        meta = built(tmp_path, str(tmp_path / "t.csv"), target).index.meta
        assert meta == {"classes": ["a", "b"], "feature_names": ["x", "colour=blue", "colour=red"]}


def test_what_drop_lists_must_be_columns(tmp_path: Path) -> None:
    path = written(tmp_path, {"odd": repeated("1%")})
    assert "drop lists 'ood', which is no column: did you mean odd?" in refusal(tmp_path, path, drop=["ood"])
    assert "lists 'arm', which is the target" in refusal(tmp_path, path, drop=["arm"])


def test_units_do_not_matter_and_a_feature_that_is_constant_in_training_is_ignored() -> None:
    for factor in (1e-12, 1e-7, 1.0, 1e9):
        assert spread({"mean": [3 * factor], "std": [2 * factor]}).tolist() == pytest.approx([2 * factor])
    divisor = spread({"mean": [5.0, 0.0, 1e5], "std": [0.0, 0.0, 1e-4]})
    assert (torch.tensor([7.0, 1.0, 9e5]) / divisor).tolist() == [0, 0, 0]
