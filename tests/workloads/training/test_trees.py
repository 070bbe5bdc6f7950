"""Gradient boosting in runs: the trees that LightGBM grows, resumed to the bit, on any number of workers."""

import hashlib
import importlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without a stub

from heliostat.datasets import Field, Index, Shard
from heliostat.datasets.arrow import encode
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import task
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import evaluate, load_run, predict
from heliostat.workloads.plan import prepare
from heliostat.workloads.ray_train.broadcast import PREFIX
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, RunRecord
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from heliostat.workloads.training.progress import Outcome
from heliostat.workloads.training.start import begin, preview
from heliostat.workloads.trees.boosting import Options
from heliostat.workloads.trees.model import matrix
from tests.conftest import ROOT, Command, Head, processes_of, wait_for
from tests.workloads.group import in_group

SPLITS = {"train": (0, 250, 600), "validation": (600, 750), "test": (750, 900)}
"""Where shards begin and end."""


def table(folder: Path, classes: int, rare: float = 0.5) -> Path:
    """A dataset of 900 rows: five numbers with gaps, two categories, some of them missing or unknown; classes or a number."""
    random = np.random.default_rng(1)
    features = random.normal(size=(900, 5)).astype(np.float32)
    categories = random.integers(-2, 9, (900, 2)).astype(np.int32)
    score = features[:, 0] + (categories[:, 0] % 3 == 1) * 2 + 0.3 * random.normal(size=900)
    features[random.random(features.shape) < 0.1] = np.nan
    columns: dict[str, Any] = {"features": features, "categories": categories}
    if classes:
        cuts = np.quantile(score, [rare] if classes == 2 else np.linspace(0, 1, classes + 1)[1:-1])
        columns["label"] = np.searchsorted(cuts, score).astype(np.int64)
    else:
        columns["target"] = 1e9 + 1e3 * score
    fields = {name: Field(dtype=str(values.dtype), shape=values.shape[1:]) for name, values in columns.items()}
    folder.mkdir(parents=True)
    shards: dict[str, tuple[Shard, ...]] = {}
    for split, edges in SPLITS.items():
        parts = []
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            data = encode({name: values[first:last] for name, values in columns.items()}, fields)
            (folder / f"{split}-{number}.arrow").write_bytes(data)
            parts.append(Shard.of(f"{split}-{number}.arrow", last - first, data))
        shards[split] = tuple(parts)
    meta = {"classes": [f"class {number}" for number in range(classes)]} if classes else {}
    index = Index(fingerprint=f"{classes:032x}", fields=fields, splits=shards, stats={}, meta=meta, source={"name": "test"})
    (folder / "index.json").write_text(index.model_dump_json())
    return folder


def config(data: Path, name: str = "run", **changes: Any) -> TrainConfig:
    keys = {
        "task": "gradient-boosting", "dataset": {"path": str(data)}, "name": name, "storage": str(data.parent), "steps": 20,
        "log_every": 5, "evaluate_every": 5, "checkpoint_every": 5, **changes,
    }  # fmt: skip
    return TrainConfig.model_validate(keys)


def train(config: TrainConfig, report: Callable[[dict[str, float]], None] = lambda metrics: None) -> Outcome:
    plan = prepare(config)
    return Loop(plan.folder, plan.commit()[0], Ranks.of_this_process(), time.time(), report).run()


def trees(config: TrainConfig) -> bytes:
    """The trees of a run's last checkpoint."""
    state = checkpoint.committed(prepare(config).folder)[-1].read()["model"]
    return bytes(state["_extra_state"].numpy())


@pytest.mark.parametrize(
    ("classes", "model", "kinds"),
    [
        (0, {}, [{"objective": "regression"}]),
        (0, {"loss": "mae"}, [{"objective": "regression_l1"}]),
        (0, {"loss": "huber"}, [{"objective": "huber", "alpha": 1.0}]),
        (0, {"quantiles": [0.1, 0.5, 0.9]}, [{"objective": "quantile", "alpha": level} for level in (0.1, 0.5, 0.9)]),
        (2, {}, [{"objective": "binary"}]),
        (3, {}, [{"objective": "multiclass"}]),
    ],
)
def test_a_run_grows_the_trees_that_lightgbm_grows_by_itself(
    tmp_path: Path, classes: int, model: dict[str, Any], kinds: list[dict[str, Any]]
) -> None:
    """With gaps and categories, and with a target that needs more than 32 bits."""
    data = table(tmp_path / "data", classes)
    best = train(config(data, model=model)).best_step
    run = load_run(tmp_path / "run")
    split = {name: run.dataset.take(name, np.arange(run.dataset.index.rows(name))) for name in ("train", "test")}
    x, y = matrix(split["train"]), split["train"]["label" if classes else "target"]
    center, scale = (0.0, 1.0) if classes else (y.mean(), y.std())
    common = {"num_class": 3 if classes > 2 else 1, "verbosity": -1, "deterministic": True, "force_col_wise": True}
    rows = lightgbm.Dataset(x, (y - center) / scale, categorical_feature=[5, 6])
    grown = [lightgbm.train({**common, **kind}, rows, best or 0).predict(matrix(split["test"])) for kind in kinds]
    theirs = np.asarray(grown[0])
    output = run.task.predict(run.model, {name: torch.from_numpy(values) for name, values in split["test"].items()})
    measured = evaluate(tmp_path / "run")["metrics"]
    if "quantiles" in model:
        expected = np.sort(np.column_stack(grown), 1) * scale + center
        assert output["quantiles"].numpy() == pytest.approx(expected, rel=1e-12)
        assert (output["prediction"] == output["quantiles"][:, 1]).all()
        error = split["test"]["target"][:, None] - expected
        levels = np.array(model["quantiles"])
        assert measured["pinball_loss"] == pytest.approx(np.maximum(levels * error, (levels - 1) * error).mean())
        assert measured["loss"] == pytest.approx(measured["pinball_loss"] / scale)
    elif classes == 0:
        assert output["prediction"].numpy() == pytest.approx(theirs * scale + center, rel=1e-12)
        assert measured["r2"] > 0.7
        assert model.get("loss") != "mae" or measured["loss"] == pytest.approx(measured["mae"] / scale)
    else:
        theirs = theirs if classes > 2 else np.stack([1 - theirs, theirs], 1)
        assert output["probabilities"].numpy() == pytest.approx(theirs, abs=1e-6)
        assert measured["accuracy"] > 0.7


@pytest.mark.parametrize(("classes", "model"), [(3, {}), (0, {"quantiles": [0.3, 0.5]})])
def test_after_a_crash_at_any_round_the_same_trees_follow_to_the_last_bit(
    tmp_path: Path, classes: int, model: dict[str, Any]
) -> None:
    """Also the samples and columns that a round sees; and a run that becomes longer has the trees of one of that length."""
    data = table(tmp_path / "data", classes)
    options: dict[str, Any] = {"model": {"subsample": 0.7, "colsample": 0.6, **model}, "checkpoint_every": 4}
    train(config(data, "calm", **options))
    assert trees(config(data, "calm", **options)) != trees_of_another_seed(data, options)

    def crash(metrics: dict[str, float]) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(config(data, "crash", **options, steps=15), crash)
    assert [c.step for c in checkpoint.committed(prepare(config(data, "crash", **options)).folder)] == [4]
    train(config(data, "crash", **options, steps=15))
    train(config(data, "crash", **options))
    assert trees(config(data, "crash", **options)) == trees(config(data, "calm", **options))


def trees_of_another_seed(data: Path, options: dict[str, Any]) -> bytes:
    other = config(data, "other", **options, seed=1)
    train(other)
    return trees(other)


def test_a_run_can_start_from_the_trees_of_another(tmp_path: Path) -> None:
    data = table(tmp_path / "data", 2)
    first = train(config(data, "first", steps=10))
    start = {"path": str(tmp_path / "first")}
    plan = prepare(config(data, "second", start_from=start, steps=5))
    with plan.claim() as (_, record, _):
        begin(plan, record)
        Loop(plan.folder, record, Ranks.of_this_process(), time.time()).run()
    assert lightgbm.Booster(model_str=trees(plan.config).decode()).num_trees() == (first.best_step or 0) + 5
    others = prepare(config(table(tmp_path / "others" / "data", 3), "third", start_from=start))
    with pytest.raises(UserError, match="7 columns and 1 output, but those of this dataset have 7 and 3"):
        preview(others)


def test_balanced_classes_find_more_of_the_rare_one(tmp_path: Path) -> None:
    data = table(tmp_path / "data", 2, rare=0.93)
    found = []
    for number, weights in enumerate((None, "balanced", {"class 1": 13})):
        train(config(data, f"weights-{number}", steps=5, model={"class_weights": weights}))
        confusion = json.loads((tmp_path / f"weights-{number}" / "evaluation.json").read_text())["confusion"]
        found.append(confusion[1][1] / sum(confusion[1]))
    assert found[0] < 0.5 < min(found[1:])
    train(config(data, "threshold", steps=5, model={"threshold": {"class 1": 0.05}}))
    counted = json.loads((tmp_path / "threshold" / "evaluation.json").read_text())
    assert counted["confusion"][1][1] / sum(counted["confusion"][1]) > found[0]
    right = counted["confusion"][0][0] + counted["confusion"][1][1]
    assert counted["metrics"]["accuracy"] == right / np.sum(counted["confusion"]), "of the classes that it decides for"
    for wrong, says in (
        ({"class_weights": {"class1": 2}}, "'class1' is no class: did you mean class 1"),
        ({"threshold": {"class 1": 2}}, "model.threshold is {'class 1': 2"),
        ({"loss": "mae", "quantiles": [0.9, 0.1]}, "quantiles is .0.9, 0.1..*without 0.5.*loss is mae"),
        ({"loss": "mae"}, "model.loss is mae, but the target has classes"),
    ):
        with pytest.raises(UserError, match=f"(?s){says}"):
            preview(prepare(config(data, "wrong", model=wrong)))
    numbers = table(tmp_path / "numbers" / "data", 0)
    with pytest.raises(UserError, match=r"model.threshold is {'yes': 0.5}, and the target is a number\n  fix: remove it"):
        preview(prepare(config(numbers, "wrong", model={"threshold": {"yes": 0.5}})))


def _worker(rank: int, folder: str, jobs: list[tuple[str, dict[str, Any]]], killed: str) -> None:
    """Trains the runs; in the one that is ``killed``, rank 1 dies in the seventh round."""
    for run, record in jobs:
        loop = Loop(Folder.at(run), RunRecord.model_validate(record), Ranks.of_this_process(), time.time())
        if run == killed:
            _die_after(loop, 6 if rank == 1 else 1000)
        try:
            loss = loop.run().metrics["validation"]["loss"]
            note = f"{hashlib.sha256(bytes(loop.model.get_extra_state().numpy())).hexdigest()} {loss}"
        except RuntimeError as error:
            note = f"after {loop.progress.step}: {error}"
        Path(folder, f"{Path(run).name}-{rank}").write_text(note)


def _die_after(loop: Loop, steps: int) -> None:
    step = loop._step

    def dying(batch: Any) -> None:
        if loop.progress.step >= steps:
            os.kill(os.getpid(), signal.SIGKILL)
        step(batch)

    loop._step = dying  # type: ignore[method-assign]


def test_workers_grow_the_same_trees_together_and_a_run_goes_on_with_fewer_and_with_more(tmp_path: Path) -> None:
    """Three workers, of which one is killed: an error of the others; then one, which crashes; then three again."""
    data, numbers = table(tmp_path / "data", 2), table(tmp_path / "numbers", 0)
    made = {
        "together": config(data, "together", workers=[1, 5]),
        "levels": config(numbers, "levels", workers=[1, 5], model={"quantiles": [0.2, 0.5]}),
        "lost": config(data, "lost", workers=[1, 5], checkpoint_every=2),
    }
    alone = {name: train(config(each, f"alone-{name}", model=made[name].model)).metrics["validation"]["loss"]
             for name, each in (("together", data), ("levels", numbers))}  # fmt: skip
    plans = {name: prepare(each) for name, each in made.items()}
    jobs = [(str(plan.folder), plan.commit()[0].model_dump(mode="json")) for plan in plans.values()]
    in_group(_worker, 3, str(tmp_path), jobs, jobs[-1][0], may_die=True)
    notes = {path.name: path.read_text().split() for path in tmp_path.glob("*-?")}
    for name, loss in alone.items():
        assert notes[f"{name}-0"] == notes[f"{name}-1"] == notes[f"{name}-2"], "the same trees"
        assert float(notes[f"{name}-0"][1]) == pytest.approx(loss, rel=0.1)
    assert "lost-1" not in notes
    for rank in (0, 2):
        assert notes[f"lost-{rank}"][:2] == ["after", "6:"]
        assert any("Connection" in word for word in notes[f"lost-{rank}"]), notes[f"lost-{rank}"]

    def crash(metrics: dict[str, float]) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(made["lost"], crash)
    in_group(_worker, 3, str(tmp_path), jobs[-1:], "none")
    last = [(tmp_path / f"lost-{rank}").read_text().split() for rank in range(3)]
    assert last[0] == last[1] == last[2]
    assert float(last[0][1]) == pytest.approx(alone["together"], rel=0.1)
    starts = [e for e in read_journal(plans["lost"].folder, EVENTS) if e["event"] == "start"]
    assert [len(e["workers"]) for e in starts] == [3, 1, 3]
    assert 0 < starts[1]["step"] < starts[2]["step"]
    assert lightgbm.Booster(model_str=trees(made["lost"]).decode()).num_trees() == 20


def test_a_table_with_gaps_and_texts_ends_with_predictions_for_raw_rows_and_the_importance_of_its_columns(
    tmp_path: Path,
) -> None:
    from heliostat.workloads.ray_train.driver import execute  # here: the workers of other tests need not import Ray

    random = np.random.default_rng(2)
    lines = ["age,city,noise,churn"]
    for age, city, noise, luck in zip(*random.random((4, 400)).tolist(), strict=True):
        name = ("Rome", "Oslo", "Lima")[int(3 * city)]
        lines.append(
            f"{20 + int(60 * age) if luck > 0.1 else ''},{name},{noise},{'yes' if (name == 'Oslo') or age > 0.8 else 'no'}"
        )
    (tmp_path / "people.csv").write_text("\n".join(lines))
    source = {"source": "table", "options": {"path": str(tmp_path / "people.csv"), "target": "churn"}}
    made = config(tmp_path / "unused", dataset=source, steps=10)
    with prepare(made).claim() as (owner, record, _):
        execute(prepare(made), record, time.time(), owner, here=True)
    answers = [predict(tmp_path / "run", json.dumps({"city": city, "age": None, "noise": 0.5})) for city in ("Oslo", "Paris")]
    assert [answer["class"] for answer in answers] == ["yes", "no"]
    shares = json.loads((tmp_path / "run/evaluation.json").read_text())["importance"]
    assert [*sorted(shares, key=lambda name: -shares[name])] == ["city", "age", "noise"]
    assert sum(shares.values()) == pytest.approx(1)
    report = (tmp_path / "run/report.html").read_text()
    assert f'<td>city</td><td class="number">{shares["city"]:.1%}</td>' in report


def test_keys_of_batches_and_gradients_are_refused_all_at_once(tmp_path: Path) -> None:
    data = table(tmp_path / "data", 2)
    wrong: dict[str, Any] = {"optimizer": {"lr": 0.1}, "precision": "bf16", "steps": None, "epochs": 3, "resources": {"gpu": 1}}
    with pytest.raises(UserError) as raised:
        prepare(config(data, **wrong))
    for line in (
        "optimizer is lr 0.1, but each step of task gradient-boosting is a round over all samples: remove it; "
        "the learning rate is model.learning_rate",
        "precision is bf16, but",
        "epochs is 3, but each step of task gradient-boosting is a round over all samples: set steps instead",
        "resources.gpu is 1, but task gradient-boosting trains on CPUs: set it to 0",
    ):
        assert line in str(raised.value)
    assert prepare(config(data, workers=3)).config.resources.gpu == 0


def test_each_option_is_documented_with_its_default() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs/trees.md").read_text().splitlines() if line.startswith("| `")]
    documented = {name.strip("| `"): default for name, default, *_ in rows[1:]}
    defaults = {name: field.default for name, field in Options.model_fields.items()}
    assert documented == {
        name: "null" if value is None else "`[]`" if value == () else str(value) for name, value in defaults.items()
    }


def test_a_missing_extra_is_one_message_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if "workloads.trees" in name or "gradient_boosting" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(UserError, match=r"needs LightGBM, which is not installed(.|\n)*pip install 'heliostat\[trees\]'"):
        task.find("gradient-boosting")


def test_serving_needs_no_lightgbm_unless_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("workloads.trees", "gradient_boosting", "workloads.serve.servable")
    for name in [name for name in sys.modules if any(part in name for part in parts)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert importlib.import_module("heliostat.workloads.serve.servable").from_run


WAITS = """
import os, time
from heliostat import Callback

class Waits(Callback):
    "Step 51 is not over before there is a file; the checkpoint of step 20 counts by then."
    def on_step(self, run, loss):
        while run.step == 51 and not os.path.exists({file!r}):
            time.sleep(0.05)
"""


def test_two_workers_on_ray_go_on_with_one_fewer_after_a_kill(on_ray: Command, shared_ray: Head) -> None:
    data, killed = table(on_ray.cwd / "data", 2), on_ray.cwd / "killed"
    (on_ray.cwd / "waits.py").write_text(WAITS.format(file=str(killed)))
    text = f"task: gradient-boosting\ndataset: {{path: {data}}}\nworkers: [1, 2]\nsteps: 150\nmodel: {{learning_rate: 0.05}}\n"
    (on_ray.cwd / "boost.yaml").write_text(text + "log_every: 10\ncheckpoint_every: 20\ncallbacks: [waits:Waits]\n")
    run = on_ray.cwd / "runs/boost"
    process = on_ray.start("train", "boost.yaml", "--json")

    def records(name: str) -> list[dict[str, Any]]:
        lines = (run / name).read_text().splitlines(keepends=True) if (run / name).exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    wait_for(lambda: any(r["step"] >= 50 for r in records("metrics.jsonl")) or process.poll() is not None, "step 50")
    born = next(e for e in records("events.jsonl") if e["event"] == "start")["workers"][1]["born"]
    # Times of processes are in hundredths of a second: the other worker may have the same, but no process of another kind.
    next(p for p in processes_of(shared_ray.env, "RayTrainWorker") if abs(p.create_time() - born) < 2e-3).kill()
    killed.touch()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["step"] == 150
    assert result["metrics"]["test"]["accuracy"] > 0.8
    assert GcsClient(address=shared_ray.address).internal_kv_keys(PREFIX.encode(), None) == [], "a standing Ray keeps nothing"
    starts = [e for e in records("events.jsonl") if e["event"] == "start"]
    assert len(starts) > 1
    assert starts[1]["step"] >= 20
    assert (
        lightgbm.Booster(model_str=trees(config(data, "boost", storage=str(run.parent), steps=150)).decode()).num_trees() == 150
    )
