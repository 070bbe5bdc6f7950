"""A run that is made longer, one that starts from the weights of another, and the code that is kept with a run."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from heliostat import own_code
from heliostat.cli import main
from heliostat.config import as_config
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.tuning.config import SweepConfig
from heliostat.workloads.config import StartFrom, TrainConfig
from heliostat.workloads.inference import evaluate, load_run
from heliostat.workloads.optimization.schedule import learning_rate
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint, code
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS, RESULT, Result, read_record
from heliostat.workloads.training.start import begin, preview
from tests.workloads.training.test_loop import config, losses, train


def finish(tmp_path: Path, **changes: Any) -> TrainConfig:
    """Train a run to its end, with its result as the driver writes it."""
    wanted = config(tmp_path, **changes)
    outcome = train(wanted)
    result = Result(name=wanted.name, run=str(tmp_path / wanted.name), **outcome.model_dump())
    (Folder.at(tmp_path) / wanted.name).write(RESULT, result.model_dump_json().encode())
    return wanted


def test_a_finished_run_is_trained_for_longer_with_the_schedule_of_the_new_length(tmp_path: Path) -> None:
    finish(tmp_path, optimizer={"warmup_steps": 4})
    longer = config(tmp_path, steps=30, evaluate_every=4, keep={"last": 3}, optimizer={"warmup_steps": 4})
    (note,) = preview(prepare(longer)).notes
    rates = [learning_rate(step, total, longer.optimizer) for step, total in ((19, 20), (20, 30))]
    assert "30 steps instead of 20" in note
    assert f"from step 20 on, where it is {rates[1]:.3g} instead of {rates[0]:.3g}" in note
    assert (tmp_path / "run" / RESULT).exists(), "a dry run changes nothing"
    assert train(longer).step == 30
    assert list(losses(Folder.at(tmp_path / "run"))) == list(range(1, 31))
    records = {r["step"]: r["lr"] for r in read_journal(Folder.at(tmp_path / "run"), METRICS) if r["kind"] == "train"}
    assert records[20] == learning_rate(19, 20, longer.optimizer)
    assert [records[step] for step in (21, 30)] == [learning_rate(step, 30, longer.optimizer) for step in (20, 29)]
    assert read_record(Folder.at(tmp_path / "run")).config.steps == 30


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"steps": 10},
            r"run 'run' has 20 steps, and cannot be made shorter: steps: 10 gives 10\n  fix: set steps: 20 or more",
        ),
        ({"steps": None, "epochs": 2}, "cannot be made shorter: epochs: 2 gives 18"),
        ({"steps": 30, "optimizer": {"lr": 0.1}, "seed": 3}, r"optimizer.lr: 0.001 there, 0.1 now\n    seed: 0 there, 3 now"),
        ({}, None),
        ({"evaluate_every": 3, "evaluate_samples": 9, "log_every": 2, "keep": {"best": 3}, "workers": 2}, None),
    ],
)
def test_a_dry_run_and_the_run_say_the_same_of_a_finished_one(
    tmp_path: Path, changes: dict[str, Any], says: str | None
) -> None:
    """The last two are finished, as they were."""
    finish(tmp_path)
    plan = prepare(config(tmp_path, **changes))
    if says is None:
        standing = preview(plan).standing
        assert standing
        assert standing.finished == plan.commit()[1]
        assert standing.finished
        return
    for check in (lambda: preview(plan), plan.commit):
        with pytest.raises(UserError, match=says):
            check()


def test_a_run_that_early_stopping_ended_goes_on_only_if_that_is_changed(tmp_path: Path) -> None:
    stopping: dict[str, Any] = {"steps": 90, "optimizer": {"lr": 0.1}, "evaluate_every": 4, "early_stopping": {"patience": 1}}
    finish(tmp_path, **stopping)
    with pytest.raises(UserError, match=r"ended by early_stopping at step \d+ of 90.*\n.*early_stopping to null"):
        prepare(config(tmp_path, **{**stopping, "steps": 300})).commit()
    assert train(config(tmp_path, **{**stopping, "early_stopping": None, "evaluate_every": 90})).step == 90


def started(tmp_path: Path, start: Any, **changes: Any) -> str:
    """Begin a run from weights; return the notes."""
    plan = prepare(config(tmp_path, name="new", start_from=start, **changes))
    with plan.claim() as (_, record, _):
        begin(plan, record)
    return "\n".join(plan.notes)


def test_a_run_starts_from_the_best_checkpoint_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path)
    best = load_run(tmp_path / "run")
    said = started(tmp_path, str(tmp_path / "run"))
    count = len(best.model.state_dict())
    assert f"starts from the best checkpoint, step {best.step}, of {tmp_path}/run" in said
    assert f": {count} of the model's {count} tensors" in said
    assert said in capsys.readouterr().err.replace("heliostat: ", "")
    (first,) = checkpoint.committed(Folder.at(tmp_path / "new"))
    assert first.step == 0
    assert all(torch.equal(first.read()["model"][name], tensor) for name, tensor in best.model.state_dict().items())
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert train(config(tmp_path, name="new", start_from=str(tmp_path / "run"))).step == 20
    assert losses(Folder.at(tmp_path / "new"))[1] < losses(Folder.at(tmp_path / "elsewhere"))[1]


def test_weights_that_do_not_fit_are_refused_or_left_out_by_name(tmp_path: Path) -> None:
    finish(tmp_path)
    changes = {"model": {"hidden": 24, "dropout": 0.0}}
    with pytest.raises(
        UserError, match=r"do not fit the model:\n    of other shapes: .* \(\[16, \d+\] there, \[24, \d+\] here\)"
    ):
        started(tmp_path, str(tmp_path / "run"), **changes)
    assert not (tmp_path / "new/config.yaml").exists()
    assert not (tmp_path / "new/checkpoints").exists()
    said = started(tmp_path, {"path": str(tmp_path / "run"), "strict": False}, **changes)
    assert re.search(r"[1-9]\d* of the model's \d+ tensors are loaded", said)
    assert "of other shapes: blocks.0.0.weight" in said
    with pytest.raises(UserError, match=r"nope is not a run: it has no config\.yaml"):
        started(tmp_path / "other", str(tmp_path / "nope"))


def test_a_run_starts_from_a_file_as_others_write_them(tmp_path: Path) -> None:
    finish(tmp_path)
    state = load_run(tmp_path / "run").model.state_dict()
    files: dict[str, Any] = {
        "plain.pt": lambda path: torch.save(state, path),
        "ddp.pth": lambda path: torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path),
        "w.safetensors": lambda path: save_file(state, path),
    }
    for name, write in files.items():
        write(tmp_path / name)
        plan = prepare(config(tmp_path, name=name.partition(".")[0], start_from=str(tmp_path / name)))
        with plan.claim() as (_, record, _):
            begin(plan, record)
        first = checkpoint.committed(plan.folder)[0].read()["model"]
        assert all(torch.equal(first[key], value) for key, value in state.items())
    torch.save(["a list"], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    refused = {"list.pt": "no dictionary of tensors", "text.pt": "cannot be used", "gone.pt": "there is no file"}
    for name, says in refused.items():
        with pytest.raises(UserError, match=says):
            started(tmp_path, str(tmp_path / name))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a task of the user's own and modules that it imports."""
    place = tmp_path / "project"
    (place / "parts").mkdir(parents=True)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "parts", "late")]:
        del sys.modules[name]  # those of another test
    monkeypatch.setattr(sys, "path", [*sys.path])  # which a command changes
    monkeypatch.chdir(place)
    (place / "mine.py").write_text(
        "from parts.net import hidden\n"
        "from heliostat.workloads.tasks.tabular_classification import TabularClassification\n"
        "class Mine(TabularClassification):\n"
        "    def model(self):\n"
        "        import late\n"
        "        return late.build(super().model(), hidden)\n"
    )
    (place / "parts/__init__.py").write_text("")
    (place / "parts/net.py").write_text("from .more import hidden\n")
    (place / "parts/more.py").write_text("import json\nhidden = 1\n")
    (place / "late.py").write_text(
        "import torch\n"
        "def build(model, hidden):\n"
        "    model.register_buffer('kept', torch.tensor(hidden), persistent=False)\n"
        "    return model\n"
    )
    (place / "unrelated.py").write_text("")
    yield place
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "parts", "late")]:
        del sys.modules[name]


def test_a_run_is_used_anywhere_with_the_code_that_it_was_trained_with(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, task="mine:Mine", model={})
    run = tmp_path / "run"
    kept = ["late.py", "mine.py", "parts/__init__.py", "parts/more.py", "parts/net.py"]
    assert sorted(str(path.relative_to(run / "code")) for path in (run / "code").rglob("*.py")) == kept
    before = evaluate(str(run))
    assert before["notes"] == []

    (project / "parts/more.py").write_text("hidden = 2\n")
    changed = load_run(run)
    assert changed.notes == ("the run's own parts/more.py is used, which differs from the current",)
    assert changed.model.kept == 1
    plan = prepare(config(tmp_path, task="mine:Mine", model={}, steps=40))
    assert "parts/more.py has changed since the run was started" in preview(plan).notes[-1]

    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "parts", "late")]:
        del sys.modules[name]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(project)])
    assert main(["evaluate", str(run), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["metrics"] == before["metrics"]
    assert "cannot be imported here" in printed.err
    assert "mine" not in sys.modules

    (run / "code/parts/net.py").write_text("hidden = 3\n")
    with pytest.raises(UserError, match="is not what the run was trained with"):
        load_run(run)


def test_a_config_may_be_a_dictionary_and_a_name_is_that_of_the_file(tmp_path: Path) -> None:
    keys = {"name": "d", "task": "digits", "dataset": {"source": "digits"}, "epochs": 1, "start_from": "runs/a"}
    made = as_config(keys, TrainConfig, ["optimizer.lr=0.5"])
    assert (made.name, made.optimizer.lr, made.start_from) == ("d", 0.5, StartFrom(path="runs/a"))
    assert as_config(made, TrainConfig) is made
    assert as_config(made, TrainConfig, ["epochs=3"]).epochs == 3
    with pytest.raises(UserError, match="2 problems"):
        as_config({"task": "digits"}, TrainConfig, ["epochs=1"])
    (tmp_path / "sw.yaml").write_text("train: {}\nspace: {seed: {choice: [1, 2]}}\ntrials: 1\n")
    assert as_config(tmp_path / "sw.yaml", SweepConfig, suffix="-sweep").name == "sw-sweep"


def test_a_module_that_a_notebook_writes_again_is_imported_again_with_what_it_imports(project: Path) -> None:
    """The run would else keep code that it was not trained with."""
    before = own_code.load("task", "mine:Mine", "mine")
    assert own_code.load("task", "mine:Mine", "mine") is before
    (project / "parts/more.py").write_text("hidden = 77\n")
    assert own_code.load("task", "mine:Mine", "mine").hidden == 77


def test_only_a_users_own_modules_are_kept(project: Path) -> None:
    assert code.own_files({}) == {}
    assert code.own_files({"task": "heliostat.workloads.examples.digits_task:Digits"}) == {}


SOURCE = """
import numpy as np, torch
from torch.utils.data import TensorDataset
from heliostat import Task

def points(count):
    x = torch.arange(count * 2.0).reshape(-1, 2) % 7
    return TensorDataset(x, (x.sum(1) > 6).long())

class Line(Task):
    needs = {"features": "float32/1", "label": "int64"}
    def model(self):
        return torch.nn.Linear(2, 2)
    def loss(self, model, batch):
        return torch.nn.functional.cross_entropy(model(batch["features"]), batch["label"])
"""


def test_a_run_with_a_source_of_ones_own_is_resumed_and_keeps_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file may have the same time and size
    Path("points.py").write_text(SOURCE)
    Path("c.yaml").write_text('task: points:Line\ndataset: {source: "points:points", options: {count: 90}}\nsteps: 4\n')
    command = ["train", "c.yaml", "--in-process", "--set"]
    try:
        assert main(["train", "c.yaml", "--dry-run"]) == 0
        assert "points-points-" in capsys.readouterr().out
        assert main([*command, "steps=4"]) == 0
        assert sorted(Path("runs/c/code").iterdir()) == [Path("runs/c/code/points.py")]
        # Another module, so another dataset, of the same content: the run continues, with a note.
        Path("points.py").write_text(SOURCE.replace("count * 2.0", "2.0 * count"))
        del sys.modules["points"]
        assert main([*command, "steps=8"]) == 0
        assert "points.py has changed since the run was started" in capsys.readouterr().err
        assert len([*Path("runs/.datasets").iterdir()]) == 2
        # Other data: refused.
        assert main([*command, "steps=8", "--set", "dataset.options.count=91"]) == 2
        Path("points.py").write_text(SOURCE.replace("% 7", "% 6"))
        del sys.modules["points"]
        assert main([*command, "steps=9"]) == 2
        assert "Traceback" not in capsys.readouterr().err
        Path("points.py").write_text(SOURCE)
        assert main(["evaluate", "c", "--json"]) == 0
    finally:
        sys.modules.pop("points", None)
