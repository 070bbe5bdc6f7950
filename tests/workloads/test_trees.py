"""Gradient boosting in runs: the trees that LightGBM grows, resumed to the bit, on any number of workers."""

import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import psutil
import pytest
import torch

from heliostat.datasets import Field, Index, Shard
from heliostat.datasets.arrow import encode
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import task
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import evaluate, load_run, predict
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.record import RunRecord
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop, Outcome
from heliostat.workloads.training.start import begin, preview
from heliostat.workloads.trees.boosting import Options
from heliostat.workloads.trees.model import matrix
from tests.conftest import ROOT, Command, Head, wait_for
from tests.workloads.group import in_group

SPLITS = {"train": (0, 250, 600), "validation": (600, 750), "test": (750, 900)}
"""Where shards begin and end."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a worker has; threads of OpenMP that wait for each other on a busy machine take many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_a_run_grows_the_trees_that_lightgbm_grows_by_itself(tmp_path: Path, classes: int) -> None:
    """With gaps and categories, and with a target that needs more than 32 bits."""
    data = table(tmp_path / "data", classes)
    best = train(config(data)).best_step
    run = load_run(tmp_path / "run")
    split = {name: run.dataset.take(name, np.arange(run.dataset.index.rows(name))) for name in ("train", "test")}
    x, y = matrix(split["train"]), split["train"]["label" if classes else "target"]
    center, scale = (0.0, 1.0) if classes else (y.mean(), y.std())
    kind = {0: "regression", 2: "binary", 3: "multiclass"}[classes]
    grown = lightgbm.train(
        {
            "objective": kind,
            "num_class": 3 if classes > 2 else 1,
            "verbosity": -1,
            "deterministic": True,
            "force_col_wise": True,
        },
        lightgbm.Dataset(x, (y - center) / scale, categorical_feature=[5, 6]),
        best or 0,
    )
    theirs = np.asarray(grown.predict(matrix(split["test"])))
    output = run.task.predict(run.model, {name: torch.from_numpy(values) for name, values in split["test"].items()})
    if classes == 0:
        assert output["prediction"].numpy() == pytest.approx(theirs * scale + center, rel=1e-12)
        assert evaluate(tmp_path / "run")["metrics"]["r2"] > 0.7
    else:
        theirs = theirs if classes > 2 else np.stack([1 - theirs, theirs], 1)
        assert output["probabilities"].numpy() == pytest.approx(theirs, abs=1e-6)
        assert evaluate(tmp_path / "run")["metrics"]["accuracy"] > 0.7


def test_after_a_crash_at_any_round_the_same_trees_follow_to_the_last_bit(tmp_path: Path) -> None:
    """Also the samples and columns that a round sees; and a run that becomes longer has the trees of one of that length."""
    data = table(tmp_path / "data", 3)
    options: dict[str, Any] = {"model": {"subsample": 0.7, "colsample": 0.6}, "checkpoint_every": 4}
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
    with pytest.raises(UserError, match="7 columns and 1 outputs, but those of this dataset have 7 and 3"):
        preview(others)


def test_balanced_classes_find_more_of_the_rare_one(tmp_path: Path) -> None:
    data = table(tmp_path / "data", 2, rare=0.93)
    found = []
    for number, weights in enumerate((None, "balanced", {"class 1": 13})):
        train(config(data, f"weights-{number}", steps=5, model={"class_weights": weights}))
        confusion = json.loads((tmp_path / f"weights-{number}" / "evaluation.json").read_text())["confusion"]
        found.append(confusion[1][1] / sum(confusion[1]))
    assert found[0] < 0.5 < min(found[1:])
    with pytest.raises(UserError, match="'class1' is no class: did you mean class 1"):
        preview(prepare(config(data, "wrong", model={"class_weights": {"class1": 2}})))


def _worker(rank: int, folder: str, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    """Trains the runs; in the last one, rank 1 dies in the third round."""
    for number, (run, record) in enumerate(jobs, 1):
        loop = Loop(Folder.at(run), RunRecord.model_validate(record), Ranks.of_this_process(), time.time())
        if number == len(jobs):
            _die_after(loop, 2 if rank else 1000)
        try:
            loss = loop.run().metrics["validation"]["loss"]
            note = f"{hashlib.sha256(bytes(loop.model.get_extra_state().numpy())).hexdigest()} {loss}"
        except RuntimeError as error:
            note = f"after {loop.progress.step}: {error}"
        Path(folder, f"{number}-{rank}").write_text(note)


def _die_after(loop: Loop, steps: int) -> None:
    step = loop._step

    def dying(batch: Any) -> None:
        if loop.progress.step >= steps:
            os._exit(1)
        step(batch)

    loop._step = dying  # type: ignore[method-assign]


def test_workers_grow_the_same_trees_together_and_a_lost_one_is_an_error_of_the_others(tmp_path: Path) -> None:
    data = table(tmp_path / "data", 2)
    alone = train(config(data, "alone")).metrics["validation"]["loss"]
    plans = [prepare(config(data, name, workers=[1, 5])) for name in ("together", "lost")]
    jobs = [(str(plan.folder), plan.commit()[0].model_dump(mode="json")) for plan in plans]
    in_group(_worker, 2, str(tmp_path), jobs, may_die=True)
    notes = {path.name: path.read_text().split() for path in tmp_path.glob("?-?")}
    assert notes["1-0"][0] == notes["1-1"][0], "the same trees"
    assert float(notes["1-0"][1]) == pytest.approx(alone, rel=0.1)
    assert "2-1" not in notes
    assert notes["2-0"][:2] == ["after", "2:"]
    assert any("Connection" in word for word in notes["2-0"]), notes["2-0"]


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
    assert documented == {name: "null" if value is None else str(value) for name, value in defaults.items()}


def test_a_missing_extra_is_one_message_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if "workloads.trees" in name or "gradient_boosting" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(UserError, match=r"needs LightGBM, which is not installed(.|\n)*pip install 'heliostat\[trees\]'"):
        task.find("gradient-boosting")


def test_two_workers_on_ray_go_on_with_one_fewer_after_a_kill(on_ray: Command, shared_ray: Head) -> None:
    data = table(on_ray.cwd / "data", 2)
    text = f"task: gradient-boosting\ndataset: {{path: {data}}}\nworkers: [1, 2]\nsteps: 150\nmodel: {{learning_rate: 0.05}}\n"
    (on_ray.cwd / "boost.yaml").write_text(text + "log_every: 10\ncheckpoint_every: 20\n")
    run = on_ray.cwd / "runs/boost"
    process = on_ray.start("train", "boost.yaml", "--json")

    def records(name: str) -> list[dict[str, Any]]:
        lines = (run / name).read_text().splitlines(keepends=True) if (run / name).exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    wait_for(lambda: any(r["step"] >= 30 for r in records("metrics.jsonl")) or process.poll() is not None, "step 30")
    born = next(e for e in records("events.jsonl") if e["event"] == "start")["workers"][1]["born"]
    (worker,) = [p for p in psutil.process_iter(["create_time"]) if abs(p.info["create_time"] - born) < 2e-3]
    worker.kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["step"] == 150
    assert result["metrics"]["test"]["accuracy"] > 0.8
    starts = [e for e in records("events.jsonl") if e["event"] == "start"]
    assert len(starts) > 1
    assert starts[1]["step"] >= 20
    assert (
        lightgbm.Booster(model_str=trees(config(data, "boost", storage=str(run.parent), steps=150)).decode()).num_trees() == 150
    )
