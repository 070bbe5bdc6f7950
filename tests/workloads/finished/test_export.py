"""Exported models: loaded without Heliostat, they predict what the run predicts, or nothing is written."""

import copy
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from heliostat.cli import main
from heliostat.errors import UserError
from heliostat.workloads.export.compare import largest_difference
from heliostat.workloads.export.export import check_free, export, outputs_of, prepared
from heliostat.workloads.export.graph import Predictions, trace, without_refusals
from heliostat.workloads.export.loader import Model, encode
from heliostat.workloads.inference import load_run
from heliostat.workloads.task import Task, create
from tests.workloads.training.test_loop import config, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``cars`` on a table with every kind of column, whose classes have a threshold."""
    place = tmp_path_factory.mktemp("exports")
    notes, colours = ["fine old car", "as new, one owner", "needs repair"], ["red", "green", "", "NA"]
    ages, rows = [row * 7 % 61 for row in range(300)], []
    for row, age in enumerate(ages):
        day, note, sold = f"2024-{row % 12 + 1:02}-{row % 28 + 1:02}", f"{notes[row % 3]} {row}", "yes" if age > 30 else "no"
        rows.append(f'{age if row % 5 else ""},{row % 23},{colours[row % 4]},{day},"{note}",{row % 2 == 0},{sold}')
    (place / "cars.csv").write_text("\n".join(["age,km,colour,day,note,abs,sold", *rows]))
    options = {"path": str(place / "cars.csv"), "target": "sold", "columns": {"km": {"fill": "refuse"}}}
    found = config(
        place, name="cars", task="tabular-classification", dataset={"source": "table", "options": options}, steps=30,
        global_batch=32, model={"threshold": {"yes": 0.2}, "members": 2, "hidden": 16},
    )  # fmt: skip
    train(found)
    return place


ROWS: list[dict[str, Any]] = [
    {"age": 40, "km": 5, "colour": "red", "day": "2024-05-06", "note": "as new", "abs": True},
    {"age": "12.5", "km": "6", "colour": "pink", "day": None, "note": "", "abs": "no"},
    {"colour": "NA", "km": 7.5},
]


def test_a_program_predicts_raw_rows_as_the_run_does_without_heliostat(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "cars-torch"
    done = export(str(runs / "cars"), "torch", str(out))
    wanted = load_run(str(runs / "cars")).predict(ROWS).to_pylist()
    found = Model(out).predict(ROWS)  # by itself, the export has run it in a process of its own
    assert [row["prediction"] for row in found] == [row["prediction"] for row in wanted]
    assert [row["probability_yes"] for row in found] == pytest.approx([row["probability_yes"] for row in wanted], abs=1e-5)
    assert done["difference"] < 1e-5
    with pytest.raises(ValueError, match="column 'km' has None, but each value must be a number"):
        Model(out).predict([{"age": 40}])
    assert Model(out).predict([]) == []
    gap = {name: values[:1] for name, values in encode(Model(out).signature, ROWS).items()}
    gap["features"][0, 1] = np.nan
    assert np.isnan(Model(out).run(gap)["probabilities"]).all(), "a graph cannot refuse"
    assert "Accuracy there" in done["compared"]
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out, check=True)
    card = (out / "README.md").read_text()
    assert "| accuracy |" in card
    assert done["compared"] in card
    assert str(runs) not in "".join(path.read_text() for path in out.glob("*.*") if path.suffix in (".json", ".md"))


def test_weights_are_those_of_the_run_and_another_folder_is_not_overwritten(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weights"
    command = ["model", "export", str(runs / "cars"), "--to", "safetensors", "--output", str(out)]
    assert main(command) == 0
    check_free(str(out), load_run(str(runs / "cars")), "safetensors")  # an earlier export of the same run is replaced
    (out / "signature.json").write_text("{}")
    capsys.readouterr()
    assert main(command) == 2
    assert "exists with something else" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]


@pytest.mark.parametrize(
    ("to", "says"), [("lightgbm", "gradient boosting"), ("hf", "transformers"), ("onnx", "heliostat[onnx]")]
)
def test_a_format_that_a_model_does_not_have_is_refused(runs: Path, tmp_path: Path, to: str, says: str) -> None:
    with pytest.raises(UserError, match="--to") as refused:
        export(str(runs / "cars"), to, str(tmp_path / "out"))
    assert says in str(refused.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", ["resnet", "ft-transformer"])
def test_the_other_networks_of_tables_have_a_graph_for_any_number_of_rows(runs: Path, kind: str) -> None:
    run = load_run(str(runs / "cars"))
    task = create("tabular-classification", {"kind": kind, "hidden": 8, "heads": 2}, run.index)
    source, samples = prepared(replace(run, task=task, model=task.model()))
    program = trace(Predictions(task, without_refusals(copy.deepcopy(source.model))), source.batch, ()).module()
    for size in (1, 9):
        batch = {name: values[:size] for name, values in samples.batch.items()}
        torch.testing.assert_close(program(batch), outputs_of(Predictions(task, source.model), batch))


class Part(nn.Module):
    """A module that cannot be exported, in one of several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.kind:
            case "branch" if x.sum() > 0:
                return x * 2
            case "array":
                return torch.from_numpy(x.numpy() * 2)
            case "constant":
                return x + torch.ones(2, 4)
        return x


class Net(Task):
    def __init__(self) -> None:
        self.index: Any = type("Index", (), {"classes": []})

    def predict(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y": model(batch["x"])}


@pytest.mark.parametrize(
    ("kind", "operator", "line"),
    [
        ("branch", "Tensor.__bool__", "x.sum() > 0"),
        ("array", "Tensor.numpy", "x.numpy()"),
        ("constant", "Tensor.add", "x + torch.ones"),
    ],
)
def test_a_model_that_cannot_be_exported_names_operator_module_and_line(kind: str, operator: str, line: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"part": Part(kind)})["part"])
    with pytest.raises(UserError, match="cannot be exported") as refused:
        trace(Predictions(Net(), model.eval()), {"x": torch.randn(2, 4)}, ())
    assert f"operator {operator} in module 1 (Part), in test_export.py" in str(refused.value)
    assert line in str(refused.value)


def test_other_outputs_than_the_run_has_are_an_error() -> None:
    wanted = {"p": torch.tensor([0.5, 1.0]), "class": torch.tensor([0, 1])}
    assert largest_difference(wanted, {"p": np.array([0.5, 1.00001]), "class": np.array([0, 1])}) == pytest.approx(1e-5)
    with pytest.raises(UserError, match=r"p differs by 1\.0e-02 of its largest value; 1 of 2 values of class differ"):
        largest_difference(wanted, {"p": np.array([0.5, 1.01]), "class": np.array([0, 0])})
