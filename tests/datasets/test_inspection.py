"""What ``dataset info`` says of a table: its columns, and leaks, copies of rows, an uneven or constant target."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from heliostat.cli import main
from heliostat.datasets import Dataset, build
from heliostat.datasets.inspection import Finding, auc, inspect
from heliostat.datasets.sources import open_source
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare


def table(folder: Path, columns: dict[str, list[Any]], **options: Any) -> str:
    """The dataset of a csv file with these columns, of which ``y`` is the target."""
    rows = zip(*columns.values(), strict=True)
    (folder / "t.csv").write_text("\n".join(",".join(map(str, row)) for row in (columns, *rows)))
    build(open_source("table", {"path": str(folder / "t.csv"), "target": "y", **options}), str(folder / "data"))
    return str(folder / "data")


def findings(folder: Path, columns: dict[str, list[Any]], **options: Any) -> list[Finding]:
    return inspect(Dataset.open(table(folder, columns, **options)))


def noise(count: int = 600, seed: int = 1) -> list[Any]:
    draw = random.Random(seed)
    return [round(draw.gauss(50, 9), 4) for _ in range(count)]


def classes(count: int = 600, share: float = 0.5) -> list[Any]:
    draw = random.Random(0)
    return ["yes" if draw.random() < share else "no" for _ in range(count)]


def test_a_column_that_gives_the_target_away_is_named_by_numbers_categories_and_gaps(tmp_path: Path) -> None:
    y = classes()
    draw = random.Random(2)
    leaks: dict[str, list[Any]] = {
        "number": [draw.gauss(3 * (each == "yes"), 0.6) for each in y],
        "status": [f"{'closed' if each == 'yes' else 'open'}{draw.randint(0, 2)}" for each in y],
        "ended": [draw.random() if each == "yes" else "" for each in y],
    }
    for name, leak in leaks.items():
        (tmp_path / name).mkdir()
        found = findings(tmp_path / name, {"a": noise(seed=3), name: leak, "b": noise(seed=4), "y": y})
        assert [(each.kind, each.column) for each in found] == [("leak", name)]
        assert f"column {name!r} alone predicts the target with AUC" in found[0].text
        assert f"drop: [{name}]" in found[0].text


def test_a_number_that_is_another_one_in_other_units_is_named(tmp_path: Path) -> None:
    y = noise()
    (found,) = findings(tmp_path, {"fahrenheit": [each * 1.8 + 32 for each in y], "a": noise(seed=3), "y": y})
    assert (found.kind, found.column) == ("leak", "fahrenheit")
    assert found.value == pytest.approx(0.98, abs=0.02)


def test_the_columns_of_a_target_that_is_easy_are_not_named(tmp_path: Path) -> None:
    """Of the bundled table a third of the columns have an AUC above 0.9."""
    build(open_source("breast-cancer", {}), str(tmp_path / "data"))
    assert inspect(Dataset.open(str(tmp_path / "data"))) == []


def test_copies_of_rows_a_rare_class_and_a_target_with_one_value_are_said(tmp_path: Path) -> None:
    y, a, b = classes(share=0.03), noise(seed=3), noise(seed=4)
    (tmp_path / "rare").mkdir()
    uneven, copies = findings(tmp_path / "rare", {"a": a + a[:40], "b": b + b[:40], "y": y + y[:40]})
    assert uneven.kind == "imbalance"
    assert "of the train split is of class 'no'" in uneven.text
    assert copies.text == "40 of 640 rows (6.2%) repeat others, none in another split"
    row = 2  # which the content puts into another split
    (one,) = findings(tmp_path, {"a": a, "b": b, "y": [7.5] * row + [8.25] + [7.5] * (599 - row)}, target_type="number")[:1]
    assert one.text == "target 'y' is always 7.5 in the train split: there is nothing to learn"


def test_info_shows_each_column_and_train_says_the_same_warnings_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    y = classes()
    columns: dict[str, list[Any]] = {
        "id": [f"c{row}" for row in range(600)],
        "rent": [f"{each:.2f} $" if row % 10 else "" for row, each in enumerate(noise())],
        "town": [("Bonn", "Köln", "Jena")[row % 3] for row in range(600)],
        "since": [1_700_000_000 + 600 * (row % 10 == 0) for row in range(600)],
        "leak": [each.upper() + str(row % 2) for row, each in enumerate(y)],
        "y": y,
    }
    data = table(tmp_path, columns, drop=["id"])
    assert main(["dataset", "info", data]) == 0
    said = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert any(line.startswith("rent number string") and "$ 10.0% a number; missing: mean" in line for line in lines), said
    assert "town category string Bonn, Jena, Köln none one of 3 codes" in lines
    assert "since number int64 1700000000 to 1700000600 none a number" in lines
    assert any(line.startswith("left out id: ") for line in lines)
    assert "by content" in said
    warning = "column 'leak' alone predicts the target with AUC 1.00"
    assert f"warning {warning}" in " ".join(said.split())
    assert main(["dataset", "info", data, "--json"]) == 0
    assert [each["kind"] for each in json.loads(capsys.readouterr().out)["warnings"]] == ["leak", "duplicates"]
    keys = {
        "name": "r",
        "storage": str(tmp_path / "runs"),
        "task": "tabular-classification",
        "dataset": {"path": data},
        "steps": 1,
    }
    plan = prepare(TrainConfig.model_validate(keys))
    plan.commit()
    assert warning in "\n".join(plan.notes)


def test_auc_counts_ties_half() -> None:
    import numpy as np

    assert auc(np.array([1.0, 1, 2, 3]), np.array([0.0, 1, 0, 1])) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
