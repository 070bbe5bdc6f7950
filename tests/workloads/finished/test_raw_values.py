"""What a value of a raw row means: the same as in the table, whatever stands in other rows and columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heliostat.datasets import Dataset, build
from heliostat.datasets.encoding import category_texts
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import load_run
from heliostat.workloads.prediction.rows import table_of
from heliostat.workloads.prediction.tables import open_tables
from tests.workloads.training.test_trees import train


def built(folder: Path, values: dict[str, list[Any]], **options: Any) -> Dataset:
    """The dataset of a table with these columns, repeated to 120 rows, between semicolons, a number x and two classes."""
    lines = [[*values, "x", "y"]]
    for row in range(120):
        cells = [str(column[row % len(column)]) for column in values.values()]
        lines.append([*cells, str(row * 37 % 101), "ab"[row // 7 % 2]])
    (folder / "t.csv").write_text("\n".join(map(";".join, lines)))
    return build(open_source("table", {"path": str(folder / "t.csv"), "target": "y", **options}), str(folder / "data"))


def encoded(dataset: Dataset, rows: Any) -> dict[str, Any]:
    signature = dataset.index.signature
    assert signature
    return signature.encode(table_of(rows, signature, dataset.index.read))[0]


def test_a_renamed_column_is_read_by_its_name_in_the_files_not_from_another_that_is_called_so_there(tmp_path: Path) -> None:
    dataset = built(tmp_path, {"age": [30, 40, 51]}, columns={"age": {"rename": "years"}})
    for rows in ([{"age": 40, "years": 2, "x": 5}], pa.table({"years": [2], "age": [40], "x": [5]})):
        assert encoded(dataset, rows)["features"].tolist() == [[40, 5]]


def test_decimal_points_in_a_file_to_predict_are_no_thousands(tmp_path: Path) -> None:
    """The dataset has decimal commas, with which 94.647 would be 94647."""
    dataset = built(tmp_path, {"n": ["94,64", "8,5", "1.234,5"], "m": ["1,5", "2,5"]})
    (tmp_path / "new.csv").write_text("n,m,x\n94.647,1.5,1\n8.53,2.25,2\n")
    (table,) = open_tables(str(tmp_path / "new.csv"), dataset.index).read()
    assert dataset.index.signature
    features = dataset.index.signature.encode(table)[0]["features"]
    assert features == pytest.approx(np.array([[94.647, 1.5, 1], [8.53, 2.25, 2]]))


@pytest.mark.parametrize("other", ["none", 2.5, True, None, "7"])
def test_a_value_of_a_json_row_is_the_same_beside_any_other_row(tmp_path: Path, other: Any) -> None:
    values = {"code": [10115, 20095, 80331], "big": [9007199254740993, 9007199254740995]}
    dataset = built(tmp_path, values, columns={"code": {"type": "category"}, "big": {"type": "category"}})
    row = {"code": 10115, "big": 9007199254740993}
    alone = encoded(dataset, [row])["categories"][0].tolist()
    assert alone == [0, 0]
    for rows in ([row, {"code": other, "big": other}], [{"code": other, "big": other}, row]):
        assert encoded(dataset, rows)["categories"][rows.index(row)].tolist() == alone, other


def test_a_text_that_is_no_truth_is_unknown_not_false(tmp_path: Path) -> None:
    assert category_texts("bool", pa.array(["True", "false", "1", "maybe"])).to_pylist() == ["True", "False", "True", "maybe"]
    dataset = built(tmp_path, {"member": ["yes", "no"], "n": [1, 2, 3]})
    with pytest.raises(UserError, match=r"'member' has 'maybe', but each value must be true or false"):
        encoded(dataset, [{"member": "maybe", "n": 1}])


def test_a_gap_that_trees_have_not_seen_is_what_the_column_says(tmp_path: Path) -> None:
    """LightGBM would take it for 0, which is on the other side of each split."""
    lines = [f"{100 + number % 60},{'a' if number % 60 < 20 else 'b'}" for number in range(240)]
    (tmp_path / "t.csv").write_text("\n".join(["n,y", *lines]))
    options = {"path": str(tmp_path / "t.csv"), "target": "y", "columns": {"n": {"fill": "median"}}}
    train(
        TrainConfig.model_validate({
            "task": "gradient-boosting", "model": {"min_samples": 5}, "steps": 5, "name": "run", "storage": str(tmp_path),
            "dataset": {"source": "table", "options": options},
        })
    )  # fmt: skip
    run = load_run(tmp_path / "run")
    low, gap, median = run.predict([{"n": 100}, {"n": None}, {"n": 130}])["probability_b"].to_pylist()
    assert gap == median > low
