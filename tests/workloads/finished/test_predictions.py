"""Predictions for raw rows: one or many, from JSON, files, standard input and Python, also when the dataset is gone."""

import io
import json
import random
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from heliostat import load_run, predict
from heliostat.cli import main
from heliostat.datasets import Dataset, Index, build
from heliostat.datasets.sources import open_source
from heliostat.datasets.sources.formats import delimited, records
from heliostat.environment import NODES
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import prediction_parts
from heliostat.workloads.prediction.tables import open_tables
from heliostat.workloads.prediction_parts import plan_job, predict_parts
from heliostat.workloads.run.record import Result, read_record
from tests.conftest import Command
from tests.workloads.training.test_loop import config, train

TASK = """
import torch
from torch import nn
from heliostat import Task


class Net(nn.Module):
    def __init__(self, width, codes):
        super().__init__()
        self.codes = nn.ModuleList(nn.Embedding(count + 2, 4) for count in codes)
        self.out = nn.Linear(2 * width + 4 * len(codes), 1)

    def forward(self, batch):
        gone = batch["features"].isnan()
        numbers = batch["features"].nan_to_num() / 100
        codes = [each(batch["categories"][:, at].long() + 2) for at, each in enumerate(self.codes)]
        return self.out(torch.cat([numbers, gone.float(), *codes], 1))


class Price(Task):
    takes = ("categories", "missing")

    class Options(Task.Options):
        quantiles: list[float] = [0.1, 0.9]

    def model(self):
        signature = self.index.signature
        return Net(len(signature.feature_names), [each.codes for each in signature.categorical])

    def loss(self, model, batch):
        return (model(batch).squeeze(1) - batch["target"].float() / 100).square().mean()

    def predict(self, model, batch):
        guess = model(batch) * 100
        return {"prediction": guess.squeeze(1), "quantiles": torch.cat([guess - 1, guess + 1], 1)}
"""


def rows_of(count: int) -> list[dict[str, Any]]:
    """Raw rows, some of them with gaps."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        age, country, member = draw.randint(18, 80), draw.choice(["DE", "FR", "CH"]), draw.random() < 0.5
        rows.append({
            "id": f"c{number}", "age": None if number % 9 == 4 else age, "income": round(draw.gauss(3000, 500), 2),
            "country": None if number % 11 == 5 else country, "member": member, "joined": f"2024-0{draw.randint(1, 9)}-11",
            "churn": "yes" if age + 30 * (country == "DE") > 60 else "no", "price": age * 2.5 + 0.125,
        })  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with rows.csv and the finished runs ``churn`` and ``price``."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        Path("tables_of_mine.py").write_text(TASK)
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows_of(300)), "rows.csv")
        for name, task, other in (("churn", "tabular-classification", "price"), ("price", "tables_of_mine:Price", "churn")):
            options = {"path": "rows.csv", "target": name, "drop": [other, "id"]}
            dataset = {"source": "table", "options": options}
            train(config(folder / "runs", name=name, task=task, model={}, dataset=dataset, evaluate_every=20))
        yield folder
    sys.modules.pop("tables_of_mine", None)


@pytest.fixture
def shop(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the working directory."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return place


def probabilities(table: pa.Table) -> Any:
    return np.stack([table[name].to_numpy() for name in ("probability_no", "probability_yes")], 1)


def test_raw_rows_are_predicted_as_the_same_rows_inside_of_the_dataset(shop: Path) -> None:
    run = load_run("runs/churn")
    inside = [run.dataset.take(split, np.arange(run.dataset.index.rows(split))) for split in ("train", "validation", "test")]
    expected = np.concatenate([
        run.task.predict(run.model(), {name: torch.from_numpy(values) for name, values in columns.items()})["probabilities"]
        .detach().numpy()
        for columns in inside
    ])  # fmt: skip
    found = probabilities(run.predict(rows_of(300)))
    assert np.sort(found[:, 1]) == pytest.approx(np.sort(expected[:, 1]), abs=1e-6)


def test_a_row_gives_the_same_answer_however_it_arrives_alone_or_with_others(shop: Path) -> None:
    run, rows = load_run("runs/churn"), rows_of(12)
    expected = probabilities(run.predict(rows))
    frame, texts = pd.DataFrame(rows), io.BytesIO()
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), texts)
    as_texts = pa.Table.from_pydict({name: [None if row[name] is None else str(row[name]) for row in rows] for name in rows[0]})
    for given in (frame, frame[["id", *frame.columns[:0:-1]]], pa.Table.from_pylist(rows), as_texts):
        assert probabilities(run.predict(given)) == pytest.approx(expected, abs=1e-6)
    alone = [predict(run, json.dumps(row)) for row in rows]
    assert [each["probabilities"]["yes"] for each in alone] == pytest.approx(expected[:, 1], abs=1e-6)
    assert [each["class"] for each in alone] == run.predict(rows)["prediction"].to_pylist()


def test_another_process_predicts_a_file_here_and_a_folder_on_ray_when_the_dataset_is_gone(shop: Path, on_ray: Command) -> None:
    expected = load_run("runs/churn").predict(rows_of(300))
    shutil.copytree(shop / "runs/churn", on_ray.cwd / "moved")
    (on_ray.cwd / "new").mkdir()
    shutil.copy(shop / "rows.csv", on_ray.cwd / "new/0.csv")
    shutil.copy(shop / "rows.csv", on_ray.cwd / "new/1.csv")
    config = on_ray.cwd / "moved/config.yaml"
    config.write_text(config.read_text().replace(str(shop / "runs/.datasets"), "/nowhere"))
    done = on_ray("predict", "./moved", "new/0.csv", "--columns", "id", "--out", "one.csv")
    assert done.code == 0, done.err
    assert "one.csv: 300 rows; missing values: age 33, country 27" in done.err
    written = pyarrow.csv.read_csv(on_ray.cwd / "one.csv")
    assert written.column_names == ["id", "prediction", "probability_no", "probability_yes"]
    assert written["id"].to_pylist() == [row["id"] for row in rows_of(300)]
    assert probabilities(written) == pytest.approx(probabilities(expected), abs=1e-6)

    done = on_ray("predict", "./moved", "new", "--columns", "id", "--out", "parts/", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["missing"] == {"age": 66, "country": 54}
    parts = pq.read_table(on_ray.cwd / "parts")
    assert parts["prediction"].to_pylist() == 2 * expected["prediction"].to_pylist()

    result = Result(name="churn", run="moved", state="finished", step=99, epoch=1, best_step=99)
    (on_ray.cwd / "moved/result.json").write_text(result.model_dump_json())
    in_a_job = replace(on_ray, env={**on_ray.env, NODES: "{}"})
    refused = in_a_job("evaluate", "./moved")
    assert (refused.code, "dataset /nowhere/" in refused.err) == (2, True)
    assert "the best of the run, is missing; step" in refused.err, "a worker's notes are shown"


def test_rows_on_standard_input_are_answered_on_standard_output(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    expected = load_run("runs/churn").predict(rows_of(300))
    lines = "\n".join(json.dumps(row) for row in rows_of(3)).encode()
    for data in (Path("rows.csv").read_bytes(), lines):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["predict", "churn", "-", "--columns", ""]) == 0
        piped = pyarrow.csv.read_csv(io.BytesIO(capsysbinary.readouterr().out))
        assert probabilities(piped) == pytest.approx(probabilities(expected.slice(0, len(piped))), abs=1e-6)


def test_python_warns_of_what_the_run_has_not_seen(shop: Path) -> None:
    run = load_run("runs/churn")
    with pytest.warns(UserWarning, match="2 rows; unknown categories: country 1; values out of range: age 1") as seen:
        run.predict([{"age": 999, "country": "Atlantis"}, {"age": 40, "country": "DE"}])
    (warning,) = seen
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.predict([{"age": None, "country": "DE"}])


def test_a_number_has_its_quantiles_and_the_formats_are_by_the_name(shop: Path, tmp_path: Path) -> None:
    expected = load_run("runs/price").predict(rows_of(300))
    assert expected.column_names == ["prediction", "quantile_0.1", "quantile_0.9"]
    for name in ("p.parquet", "p.jsonl"):
        assert main(["predict", "price", "rows.csv", "--out", str(tmp_path / name), "--columns", "id"]) == 0
    table = pq.read_table(tmp_path / "p.parquet")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert table.drop_columns("id").equals(expected)
    assert lines == table.to_pylist()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"agee": 4, "countri": "DE"}', ("2 problems", "'agee' is not a column: did you mean age?", "did you mean country?")),
        (
            '{"age": "old", "countri": "DE"}',
            ("2 problems", "did you mean country?", "column 'age' has 'old', but each value must be a number"),
        ),
        ('{"age": "old", "country": 5}', ("'age'", "'old'", "a number")),
        ('{"age": {"years": 3}}', ("'age' is", "no column has objects")),
        ('{"age": 3, "age": 4}', ("'age' twice",)),
        ('{"churn": "yes"}', ("none of the columns", '"age": ...')),
        ("[1, 2]", ("a list of 2 values", "a row has 5 columns")),
        ('{"age": 3', ("not a JSON row", "give an object such as")),
        ("nowhere.csv", ("'nowhere.csv' is neither a JSON row nor a file",)),
    ],
)
def test_what_is_no_row_is_refused_with_the_nearest_name(
    shop: Path, capsys: pytest.CaptureFixture[str], row: str, words: tuple[str, ...]
) -> None:
    assert main(["predict", "churn", row]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "\n  fix: " in said.err
    assert all(word in said.err for word in words), said.err


def test_what_a_row_lacks_or_the_run_has_not_seen_is_said_beside_the_answer(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "churn", '{"age": 900, "country": "XX", "member": true, "joined": null}']) == 0
    said = capsys.readouterr()
    assert "probability" in said.out
    assert "income, joined: missing" in said.err
    assert "country: an unknown category" in said.err
    assert "age: out of the range of the training data" in said.err


def test_a_file_that_lacks_a_column_or_has_one_of_the_predictions_leaves_nothing(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("rows.csv").read_text()
    for name, changed, words in (
        ("a.csv", text.replace("income", "incom").replace("age", "years"), ("lacks the column 'age'", "did you mean incom?")),
        ("b.csv", text.replace('"id"', '"prediction"'), ("have a column 'prediction'", "--columns age")),
        ("c.csv", text.replace('"2024-01-11"', '"soon"'), ("'joined'", "'soon'", "a date")),
        ("d.csv", text.splitlines()[0] + "\n", ("no rows to predict",)),
    ):
        (tmp_path / name).write_text(changed)
        assert main(["predict", "churn", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert all(word in said for word in words), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv", "c.csv", "d.csv"]
    assert main(["predict", "churn", "rows.csv", "--out", "x.xlsx"]) == 2
    assert main(["predict", "churn", "rows.csv", "--columns", "idd"]) == 2
    assert "no column 'idd'\n  fix: did you mean id?" in capsys.readouterr().err


def test_a_file_in_another_dialect_is_read_as_the_command_says(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without that it is refused with the keys to give: 3,125 may be 3125 or 3.125."""
    rows = rows_of(40)
    lines = ["age;income;country;member;joined"]
    for number, row in enumerate(rows):
        row["income"] = 3.125 + number
        values = (row["age"], f"{row['income']:.3f}".replace(".", ","), row["country"], row["member"], row["joined"])
        lines.append(";".join("" if value is None else str(value) for value in values))
    (tmp_path / "new.csv").write_text("\n".join(lines))
    place = str(tmp_path / "new.csv")
    assert main(["predict", "churn", place]) == 2
    said = capsys.readouterr().err
    assert "has numbers such as 1,234 in column 'income'" in said
    assert "set read.thousands or read.decimal to ','; keys of read are given as --set read.KEY=VALUE" in said
    out, parts = tmp_path / "p.csv", tmp_path / "parts"
    assert main(["predict", "churn", place, "--set", "read.decimal=,", "--out", str(out), "--columns", ""]) == 0
    assert main(["predict", "churn", place, "--set", "read.decimal=,", "--out", f"{parts}/", "--columns", ""]) == 0
    expected = probabilities(load_run("runs/churn").predict(rows))
    for found in (pyarrow.csv.read_csv(out), pq.read_table(parts)):
        assert probabilities(found) == pytest.approx(expected, abs=1e-6)
    other = ["--set", "read.decimal=,", "--set", "read.encoding=utf-8"]
    assert main(["predict", "churn", place, *other, "--out", f"{parts}/", "--columns", ""]) == 2
    assert "read.encoding: absent there, utf-8 now" in capsys.readouterr().err, "the parts are of another reading"
    for given, words in (
        (["read.decimal=;", "read.separater=;"], "2 problems"),
        (["separator=;"], "--set has separator, which predict does not take"),
        (["read=;"], "must be a mapping"),
    ):
        assert main(["predict", "churn", place, *(part for each in given for part in ("--set", each))]) == 2, given
        assert words in capsys.readouterr().err
    assert main(["predict", "churn", '{"age": 3}', "--set", "read.decimal=,"]) == 2
    assert "--set is for a file of rows" in capsys.readouterr().err


def test_what_is_carried_along_is_as_in_the_file_and_a_given_decimal_sign_decides(tmp_path: Path) -> None:
    def index(name: str, lines: list[str]) -> Index:
        (tmp_path / name).write_text("\n".join(lines))
        return build(open_source("table", {"path": str(tmp_path / name), "target": "y"}), str(tmp_path / f"{name}.data")).index

    def rows(text: str, of: Index, **given: str) -> pa.Table:
        (tmp_path / "new.csv").write_text(text)
        return pa.concat_tables(open_tables(str(tmp_path / "new.csv"), of, given).read())

    numbers = [f"{n % 40},{n % 89 + 10}" for n in range(300)]
    commas = index("commas.csv", ["x;y", *(f"{x};{n % 7},5" for n, x in enumerate(numbers))])
    assert rows("ref;x\n10.100;0,5\n12.500;0,7\n", commas).to_pydict() == {"ref": ["10.100", "12.500"], "x": ["0.5", "0.7"]}

    quoted = index("quoted.csv", ["x,y", *(f'"{x}",{n % 7}.5' for n, x in enumerate(numbers))])
    assert quoted.signature
    for text, given, values in (
        ("10.100\n12.5", {"decimal": "."}, [10.1, 12.5]), ('"10,100"\n"12,5"', {}, [10.1, 12.5]),
        ('"1,010.5"\n-2.25', {"decimal": "."}, [1010.5, -2.25]),
    ):  # fmt: skip
        found = quoted.signature.encode(rows(f"x\n{text}\n", quoted, **given))[0]
        assert found["features"][:, 0] + quoted.signature.columns[0].offset == pytest.approx(values)
    gap, oddities = quoted.signature.encode(rows("x\n10.5\nn.a.\n", quoted, decimal="."))
    assert (np.isnan(gap["features"][:, 0]).tolist(), oddities.missing) == ([False, True], {"x": 1})


def test_parts_are_continued_and_never_mixed_with_those_of_other_files(shop: Path, tmp_path: Path) -> None:
    run, rows = load_run("runs/churn").trained, rows_of(300)
    for number in range(3):
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows[number * 100 : number * 100 + 100]), tmp_path / f"{number}.csv")
    out = tmp_path.parent / "parts"
    job, tables = plan_job(run, str(tmp_path), str(out), ["id"])
    seen: list[tuple[int, int]] = []

    def fail_after_one(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_parts(job, tables, run, parallel=False, say=fail_after_one)
    first = (out / "part-00000.parquet").stat().st_mtime_ns
    summary = predict_parts(*plan_job(run, str(tmp_path), str(out), ["id"]), run, parallel=False)
    assert (out / "part-00000.parquet").stat().st_mtime_ns == first
    assert (summary.rows, summary.missing["age"]) == (300, 33)
    whole = pq.read_table(out)  # as others read a folder of parts
    assert whole["id"].to_pylist() == [row["id"] for row in rows]
    assert probabilities(whole) == pytest.approx(probabilities(run.predict(rows)), abs=1e-6)
    (tmp_path / "0.csv").write_text((tmp_path / "0.csv").read_text() * 1 + "\n")
    with pytest.raises(UserError, match=r"which has other predictions:\n    content: .*\n  fix: give a new folder"):
        plan_job(run, str(tmp_path), str(out), ["id"])


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_large_file_is_predicted_in_parts_in_the_order_of_its_rows(
    shop: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (prediction_parts, "PART", 3000), (delimited, "BLOCK", 1000), (delimited, "BLOCK_OF_A_COLUMN", 1),
        (delimited, "FIRST", 500), (records, "PIECE", 1000),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    run, rows, path = load_run("runs/churn").trained, rows_of(300), tmp_path / f"rows.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=50)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job, tables = plan_job(run, str(path), str(tmp_path / "out"), ["id"])
    summary = predict_parts(job, tables, run, parallel=False)
    assert job.parts > 2
    whole = pq.read_table(tmp_path / "out")
    assert (summary.rows, whole["id"].to_pylist()) == (300, [row["id"] for row in rows])
    assert probabilities(whole) == pytest.approx(probabilities(run.predict(rows)), abs=1e-6)


def test_the_run_keeps_the_index_of_its_dataset(shop: Path) -> None:
    folder = Folder.at("runs/churn")
    dataset = Dataset.open(read_record(folder).dataset.uri)
    assert folder.read("index.json") == dataset.folder.read("index.json")
