"""The Python interface: the commands as functions, and runs and sweeps as objects."""

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import heliostat
from heliostat import TrainConfig, evaluate, load_run, load_sweep, predict, runs, sweep, train
from heliostat.config import Config, load
from heliostat.errors import HeliostatError, JobFailed, UserError
from heliostat.interface.cluster import Lines, away, reached
from heliostat.interface.notebook import caption, picture_of
from heliostat.interface.run import Run, history_of
from heliostat.interface.settings import inline, overrides_of
from heliostat.tuning.config import SweepConfig
from tests.conftest import ROOT

QUICK: dict[str, Any] = {"in_process": True, "quiet": True, "epochs": 2, "global_batch": 64}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run ``first`` and a sweep ``sweep`` in ``runs``."""
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(ROOT / "tests/fixtures/v0.1/storage/sweep", "runs/sweep")
        train("breast-cancer", ["optimizer.weight_decay=0.1"], name="first", optimizer={"lr": np.float64(0.01)}, **QUICK)
        yield folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_a_run_has_what_the_command_writes_and_its_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load_run("first")
    written = json.loads(Path("runs/first/result.json").read_text())
    assert (run.state, run.metrics, run.cost, run.report) == (
        "finished",
        written["metrics"],
        None,
        f"{here}/runs/first/report.html",
    )
    assert (run.config.optimizer.lr, run.config.optimizer.weight_decay) == (0.01, 0.1), "a mapping is merged"
    assert load_run("runs/first").run == load_run(here / "runs" / "first").run == run.run
    assert not run.model().training
    row = dict.fromkeys(run.trained.index.signature.feature_names, 1.0) if run.trained.index.signature else {}
    assert set(run.predict([row, row]).to_pandas()) >= {"prediction"}
    assert predict(run, json.dumps(row))["class"] == run.predict([row])["prediction"][0].as_py()
    assert evaluate(run)["metrics"]["accuracy"] == run.evaluate()["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert train("breast-cancer", ["optimizer.weight_decay=0.1"], name="first", optimizer={"lr": 0.01}, **QUICK).already
    assert capsys.readouterr().out == ""


def test_the_history_is_a_row_for_each_record(here: Path) -> None:
    history = load_run("first").history
    assert [*history.columns[:5]] == ["step", "epoch", "split", "time", "loss"]
    validation = history[history.split == "validation"]
    assert validation.step.is_monotonic_increasing
    assert validation.accuracy.iloc[-1] == load_run("first").metrics["validation"]["accuracy"]
    assert history[history.split == "train"].accuracy.isna().all()
    assert str(history.time.dtype).startswith("datetime64")
    empty = history_of([])
    assert [*empty.columns] == ["step", "epoch", "split", "time"]
    logged = {"kind": "logged", "step": 4, "time": 1.0, "metrics": {"accuracy": 0.5}}
    assert [*history_of([logged])["split"]] == ["logged"], "what a callback logs is no metric of the validation split"
    odd = history_of([{"kind": "eval", "step": 3, "time": 1.0, "metrics": {"step": 0.5, "loss": None}}])
    assert (odd["step"][0], odd["metric.step"][0], bool(odd["loss"].isna()[0])) == (3, 0.5, True)


def test_a_run_a_sweep_and_the_list_show_themselves(here: Path) -> None:
    run, found = load_run("first"), runs(sort="name")
    assert f"finished at step {run.step}" in repr(run)
    html = run._repr_html_()
    assert 'href="runs/first/report.html"' in html
    assert "95 % interval" in html
    assert [row.name for row in found] == ["first", "sweep"]
    assert found["first"].run == run.run  # type: ignore[union-attr]
    assert found.table.set_index("name").accuracy["first"] == run.metrics["test"]["accuracy"]
    assert "first" in repr(found)
    assert "<table" in found._repr_html_()
    assert (repr(runs(here / "nothing")), len(runs(state="failed"))) == ("no runs", 0)
    assert [row.name for row in runs(kind="sweep")] == ["sweep"]
    with pytest.raises(UserError, match=r"the kind is 'sweeps', but there are .*\n  fix: did you mean sweep"):
        runs(kind="sweeps")
    with pytest.raises(UserError, match="no run 'frist' in this list\n  fix: did you mean first"):
        found["frist"]


def test_the_trials_of_a_sweep_are_a_table_and_each_is_a_run(here: Path) -> None:
    found = load_sweep("sweep")
    assert isinstance(found.trials, pd.DataFrame)
    metric, mode = next(iter(found.objectives.items()))
    values = found.trials[metric]
    assert found.values[metric] == (values.max() if mode == "max" else values.min())
    assert found.trials.index[found.trials[metric] == found.values[metric]][0] == found.best
    assert found.trial().run == f"{here}/runs/sweep/trials/{found.best:04d}"
    assert "report" in found._repr_html_()
    with pytest.raises(UserError, match="there is no trial 7\n  fix: it has 3 trials, numbered from 0"):
        found.trial(7)


def test_opening_a_run_imports_neither_torch_nor_ray(here: Path) -> None:
    code = "import sys; from heliostat import load_run; r = load_run('first'); r.metrics, r.history, r.config, r._repr_html_()"
    check = "print([name for name in ('torch', 'ray') if name in sys.modules])"
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(here)}
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, env=env)
    assert done.stdout == "[]\n", done.stderr


def test_what_is_wrong_is_one_message_with_all_of_it_and_nothing_is_started(here: Path) -> None:
    with pytest.raises(
        UserError, match=r"2 problems:\n.*optimizer.lrr is not a known key.*\n.*epochz .*did you mean epochs"
    ) as error:
        train("breast-cancer", optimizer={"lrr": 1}, epochz=3, in_process=True)
    assert error.value._render_traceback_() == [f"UserError: {error.value}"], "a notebook shows the message, and no frames"
    calls: list[tuple[Any, str]] = [
        (lambda: train("breast-cancre"), "there is no config breast-cancre"),
        (lambda: train("digits", "name=a"), r"overrides is 'name=a', but must be a list"),
        (lambda: train("digits", seed=here.stat), "seed is .*, but must be a number, a text"),
        (lambda: train(3), "config is int, but must be a path, a dictionary or a TrainConfig"),  # type: ignore[arg-type]
        (lambda: train("digits", on="gpu", in_process=True), "leave one of them out"),
        (lambda: train("digits", on="ray://h:1"), r"which is an address.*\n  fix: connect first: ray.init\('ray://h:1'"),
        (lambda: sweep("digits", env=["A"]), "env is for a cluster"),
        (lambda: train("digits", on="gpu", env="A"), "env is 'A', but must be a list"),
        (lambda: load_run("frist"), "'frist' does not exist.*\n  fix: did you mean first"),
        (lambda: load_sweep("first"), r"'first' is a run\n  fix: open it with load_run\('first'\)"),
    ]
    for call, words in calls:
        with pytest.raises(UserError, match=words):
            call()
    assert {path.name for path in Path("runs").iterdir()} - {".datasets"} == {"first", "sweep"}


def test_keys_are_merged_as_set_does_and_a_dictionary_goes_to_a_cluster_as_one_line(tmp_path: Path) -> None:
    keys = {"optimizer": {"lr": np.float64(1e-5)}, "workers": (1, np.int64(4)), "storage": tmp_path, "early_stopping": None}
    given = {
        "name": "a",
        "task": "image-classification",
        "dataset": {"source": "digits"},
        "optimizer": {"lr": 1, "clip_norm": 2},
    }
    config = load(inline({**given, "steps": np.int32(7)}), TrainConfig, overrides_of(["seed=3"], keys))
    assert (config.optimizer.lr, config.optimizer.clip_norm, config.seed, config.steps) == (1e-5, 2, 3, 7)
    assert (config.workers, config.storage, config.early_stopping) == ([1, 4], str(tmp_path), None)


def test_a_run_that_only_its_cluster_can_read_has_its_result_and_the_command_that_brings_it(here: Path) -> None:
    there = load_run("first").result
    assert reached(there).history.equals(load_run("first").history)
    for other in (there.model_copy(update={"run": "/mnt/heliostat/runs/first"}), there.model_copy(update={"step": 5})):
        run = reached(other, "gpu")
        assert run.metrics == there.metrics
        assert "finished" in run._repr_html_()
        with pytest.raises(UserError, match=r"fix: heliostat runs pull first --on gpu, then load_run\(\"first\"\)"):
            run.history  # noqa: B018
    assert away("local", "runs")("x") is None
    assert "--storage old" in str(Run("old/x", elsewhere=away("gpu", "old")("x"))._elsewhere)


def test_the_document_at_the_end_of_a_job_is_not_shown() -> None:
    shown: list[str] = []
    write = Lines(shown.append)
    for piece in ("step 1\nst", "ep 2\n", '{\n  "name": "a"', "\n}\n"):
        write(piece)
    assert shown == ["step 1\n", "step 2\n"]


@pytest.mark.parametrize(
    ("code", "end", "kind", "words"),
    [
        (
            2,
            "heliostat: lr is 1 there,\n    2 now\n  fix: another name\n",
            UserError,
            "lr is 1 there,\n    2 now\n  fix: another name",
        ),
        (1, "heliostat: worker 0: ValueError\n  the same command\n", JobFailed, "worker 0: ValueError\n  the same command"),
        (137, "step 3\n", JobFailed, "job a ended"),
    ],
)
def test_a_job_that_fails_raises_what_the_command_in_it_says(code: int, end: str, kind: type, words: str) -> None:
    lines = Lines(lambda text: None)
    lines("heliostat: 3 rows are copies\nstep 1\n" + end)
    failed = JobFailed("job a ended")
    failed.exit_code = code
    error = lines.error(failed)
    assert (type(error), str(error), error.exit_code) == (kind, words, code)


def test_the_picture_of_a_run_has_its_step_and_newest_metrics() -> None:
    train_record = {"kind": "train", "step": 10, "loss": 0.5, "samples_per_second": 1234.5}
    records: list[dict[str, Any]] = [train_record, {"kind": "eval", "step": 10, "metrics": {"$loss_$": None, "accuracy": 0.75}}]
    assert (
        caption("a", records, 40)
        == "a: step 10 of 40  ·  loss 0.5000  1,234 samples/s  ·  validation $loss_$ NaN  accuracy 0.7500"
    )
    for shown in (records, records[:1], records[1:]):
        assert picture_of("a", shown)[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["train", "sweep", "runs", "load_run", "load_sweep", "evaluate", "predict"])
def test_help_describes_each_parameter_and_error_and_hides_no_key_of_a_config(name: str) -> None:
    function = getattr(heliostat, name)
    text, parameters = inspect.getdoc(function) or "", inspect.signature(function).parameters
    assert "Raises:\n    UserError:" in text
    assert name == "load_sweep" or all(f"{each}:" in text for each in parameters)
    assert all(each.annotation is not inspect.Parameter.empty for each in parameters.values())
    kinds: dict[str, type[Config]] = {"train": TrainConfig, "sweep": SweepConfig}
    assert name not in kinds or not set(parameters) & set(kinds[name].model_fields)
    assert issubclass(UserError, HeliostatError)
