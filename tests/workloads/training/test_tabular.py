"""The tasks of tables, in this process: what their models make of gaps and categories, what they learn, what is refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from heliostat.config import validate
from heliostat.datasets import Dataset, build
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import task
from heliostat.workloads.inference import load_run, predict
from heliostat.workloads.prediction.rows import table_of
from heliostat.workloads.tabular.losses import ordered, pinball
from heliostat.workloads.task import Task, create
from tests.workloads.training.test_loop import config, losses, train, train_with

ROWS = 400


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with gaps, categories, a constant and heavy tails; the classes are unbalanced, the number is large."""
    random.seed(0)
    lines = ["age,income,colour,always,sold,price"]
    for row in range(ROWS):
        age, colour = random.uniform(20, 80), random.choice(["red", "green", "blue"])
        effect = age / 30 + (colour == "red") + random.gauss(0, 0.1)
        gap = "" if row % 5 == 0 else f"{age:.2f}"
        lines.append(
            f"{gap},{random.lognormvariate(8, 2):.2f},{'' if row % 9 == 0 else colour},7,"
            f"{'yes' if effect > 2.9 else 'no'},{1_000_000 + 10 * effect:.4f}"
        )
    path = tmp_path_factory.mktemp("table") / "cars.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def source(table: Path, target: str, **options: Any) -> dict[str, Any]:
    other = "price" if target == "sold" else "sold"
    return {"source": "table", "options": {"path": str(table), "target": target, "drop": [other], **options}}


@pytest.fixture(scope="module")
def cars(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    columns = {"age": {"fill": "median"}, "income": {"fill": 1000.0}}
    options = source(table, "sold", columns=columns)["options"]
    return build(open_source("table", options), str(tmp_path_factory.mktemp("cars")))


def of(dataset: Dataset, *rows: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A batch of raw rows."""
    assert dataset.index.signature
    table = table_of(rows, dataset.index.signature)
    return create("tabular-classification", {}, dataset.index).rows(table)[0]


def test_an_encoder_fills_gaps_as_the_columns_say_and_marks_those_that_training_has(cars: Dataset) -> None:
    encoder = create("tabular-classification", {}, cars.index).encoder()
    assert cars.index.train
    median = cars.index.train.quantiles[0][32]
    gaps, filled = encoder(of(cars, {"colour": "red"}, {"age": median, "income": 1000, "colour": "red"}))
    different = (gaps != filled).nonzero().flatten().tolist()
    assert len(different) == 1, "only the indicator of age, which has gaps in training, unlike income"
    assert (gaps[different], filled[different]) == (1, 0)


def test_a_category_that_training_has_not_seen_counts_as_the_mean_of_those_that_it_has(cars: Dataset) -> None:
    encoder = create("tabular-classification", {}, cars.index).encoder()
    assert cars.index.train
    rows = [{"age": 40, "income": 9, "colour": colour} for colour in ("blue", "green", "red", None, "pink")]
    *known, unknown = encoder(of(cars, *rows))
    counts = torch.tensor(cars.index.train.counts[0], dtype=torch.float32)
    assert len({tuple(vector.tolist()) for vector in known}) == 4
    assert torch.allclose(unknown, (counts / counts.sum()) @ torch.stack(known), atol=1e-6)


def test_numbers_far_beyond_those_of_training_stay_small(cars: Dataset) -> None:
    encoder = create("tabular-classification", {}, cars.index).encoder()
    far, farther = encoder(of(cars, {"age": 40, "income": 1e30, "colour": "red"}, {"age": -1e30, "income": -1e30}))
    assert far.abs().max() <= 3
    assert farther.abs().max() <= 3


def test_a_gap_in_a_column_that_must_be_given_is_refused(table: Path, tmp_path: Path) -> None:
    options = source(table, "sold", columns={"income": {"fill": "refuse"}})["options"]
    dataset = build(open_source("table", options), str(tmp_path))
    made = create("tabular-classification", {}, dataset.index)
    with pytest.raises(UserError, match="'income' is missing"):
        made.predict(made.model().eval(), of(dataset, {"age": 30, "colour": "red"}))


KINDS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 32, "members": 4},
    "resnet": {"hidden": 32},
    "ft-transformer": {"hidden": 16, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_from_gaps_and_categories_and_predicts_raw_rows_from_its_checkpoint(
    table: Path, tmp_path: Path, kind: str
) -> None:
    model = {"kind": kind, "dropout": 0.0, **KINDS[kind]}
    changes = {
        "optimizer": {"lr": 0.01, "warmup_steps": 0},
        "steps": 50,
        "evaluate_every": 50,
        "activation_checkpointing": True,
    }
    outcome = train(config(tmp_path, task="tabular-classification", model=model, dataset=source(table, "sold"), **changes))
    assert (outcome.metrics["test"]["auc"] or 0) > 0.85
    run = load_run(Folder.at(tmp_path / "run"))
    old, young = (predict(run, json.dumps({"age": age, "income": 3000, "colour": "red"}))["probabilities"] for age in (78, 22))
    assert old["yes"] - young["yes"] > 0.2


def test_two_workers_that_share_a_model_have_the_curve_of_one(table: Path, tmp_path: Path) -> None:
    """Each kind, sharded by FSDP; its checkpoint opens here."""
    keys: dict[str, Any] = {"steps": 6, "evaluate_every": 6, "optimizer": {"lr": 0.01, "warmup_steps": 0}}
    made = {}
    for kind, options in KINDS.items():
        model = {"kind": kind, "dropout": 0.0, **options}
        name, data = "tabular-classification", source(table, "sold")
        if kind == "resnet":
            name, data, model["quantiles"] = "tabular-regression", source(table, "price"), [0.1, 0.5]
        made[kind] = {"task": name, "model": model, "dataset": data, **keys}
        train(config(tmp_path / "alone", name=kind, **made[kind]))
    shared = [config(tmp_path / "shared", name=kind, workers=2, parallelism="fsdp", **each) for kind, each in made.items()]
    for kind, curve in zip(made, train_with(2, shared), strict=True):
        assert curve == pytest.approx(losses(Folder.at(tmp_path / "alone" / kind)), rel=1e-3), kind
        assert predict(tmp_path / "shared" / kind, '{"age": 60, "income": 3000, "colour": "red"}')


def test_a_number_is_predicted_in_its_units_with_quantiles_that_do_not_cross(table: Path, tmp_path: Path) -> None:
    model = {"quantiles": [0.1, 0.5, 0.9], "hidden": 32, "members": 4, "dropout": 0.0}
    outcome = train(
        config(
            tmp_path, task="tabular-regression", model=model, dataset=source(table, "price"),
            optimizer={"lr": 0.02, "warmup_steps": 0}, steps=60, evaluate_every=60,
        )
    )  # fmt: skip
    assert (outcome.metrics["test"]["rmse"] or 99) < 5, "of a price near 1,000,000, whose standard deviation is 8"
    run = load_run(Folder.at(tmp_path / "run"))
    found = predict(run, '{"age": 50, "income": 3000, "colour": "blue"}')
    assert found["prediction"] == pytest.approx(1_000_000 + 10 * 50 / 30, abs=8)
    low, middle, high = found["quantiles"].values()
    assert low < middle == found["prediction"] < high


def test_quantiles_and_their_loss_are_those_of_the_definition() -> None:
    outputs = torch.randn(50, 2, 3)
    assert (ordered(outputs).diff() >= 0).all()
    levels, target, guess = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[2.0]]), torch.tensor([[1.0, 2.0, 4.0]])
    assert pinball(guess, target, levels).item() == pytest.approx((0.1 * 1 + 0 + 0.1 * 2) / 3)


def test_class_weights_weigh_samples_and_a_threshold_decides(cars: Dataset) -> None:
    assert cars.index.train
    no, yes = cars.index.train.target
    batch = of(cars, {"age": 30}, {"age": 70}) | {"label": torch.tensor([0, 1])}

    def loss(weights: Any) -> float:
        made = create("tabular-classification", {"class_weights": weights, "layers": 0, "bins": 0}, cars.index)
        torch.manual_seed(0)
        return made.loss(made.model(), batch).item()

    first, second = loss({"no": 2, "yes": 0}), loss({"no": 0, "yes": 2})
    total = no + yes
    assert loss("balanced") == pytest.approx(total / (4 * no) * first + total / (4 * yes) * second, rel=1e-5)
    assert loss(None) == pytest.approx((first + second) / 2, rel=1e-5)
    decide = create("tabular-classification", {"threshold": {"no": 0.9}}, cars.index).decide
    assert decide(torch.tensor([[0.95, 0.05], [0.8, 0.2]])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        ("tabular-classification", {"threshold": {"maybe": 0.2}}, "the classes are no, yes"),
        ("tabular-classification", {"class_weights": {"Yes": 2, "no": -1}}, "did you mean yes.*'no' has the weight -1"),
        ("tabular-classification", {"kind": "ft-transformer", "heads": 7, "bins": 0}, "7 heads do not.*, and bins is 0"),
        (
            "tabular-regression",
            {"quantiles": [0.9, 0.1], "loss": "mae"},
            r"quantiles is \[0.9, 0.1\].*without 0.5.*loss is mae",
        ),
    ],
)
def test_what_does_not_fit_the_target_is_refused_with_all_of_it(cars: Dataset, name: str, model: Any, says: str) -> None:
    with pytest.raises(UserError, match=f"(?s){says}"):
        task.find(name)(cars.index, validate(model, task.find(name).Options, "model"))


class Blind(Task):
    """Reads features alone, as a task from before there were categories."""


class Seeing(Task):
    takes = ("categories", "missing")


def test_a_task_that_would_ignore_columns_or_get_gaps_is_refused(cars: Dataset) -> None:
    with pytest.raises(UserError, match="categories in 'colour' and missing values in 'age', which task own:Blind") as error:
        task.check("own:Blind", Blind, cars.index.fields, cars.index.signature)
    assert "self.encoder()" in str(error.value)
    task.check("own:Seeing", Seeing, cars.index.fields, cars.index.signature)


def test_a_target_of_the_other_kind_leads_to_its_task(table: Path, tmp_path: Path) -> None:
    number, classes = source(table, "price"), source(table, "sold")
    for name, data, other, kind in (
        ("tabular-classification", number, "tabular-regression", "class"),
        ("tabular-regression", classes, "tabular-classification", "number"),
    ):
        with pytest.raises(UserError) as error:
            train(config(tmp_path, task=name, model={}, dataset=data))
        assert f"write task: {other}, or dataset.options.target_type: {kind}" in str(error.value)
