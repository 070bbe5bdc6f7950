"""Invalid input: one message with field, value and fix, exit code 2, no traceback, no files written."""

from pathlib import Path
from typing import Any

import pytest

from heliostat.cli import main
from heliostat.config import load, validate
from heliostat.errors import UserError
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.plan import plan_sweep
from heliostat.workloads.config import DatasetConfig, TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.run.record import RunRecord, write_record

GOOD = """
task: tabular-classification
dataset: {source: breast-cancer}
global_batch: 32
steps: 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a good config in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "c.yaml").write_text(GOOD)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run the command, which must be refused; return the message."""
    assert main(["train", "c.yaml", *args]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    phase, _, message = said.err.rpartition("heliostat: ")
    assert phase in ("", "checking the config, the task and the data\n")  # on a slow machine
    assert "\n  fix: " in message
    return message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimiser.lr=1", ("optimiser", "did you mean optimizer?")),
        ("optimizer.learning_rate=1", ("optimizer.learning_rate", "lr")),
        ("model.hiden=3", ("model.hiden", "3", "did you mean hidden?")),
        ("steps=many", ("steps", "'many'", "whole number")),
        ("optimizer.lr=.nan", ("optimizer.lr", "nan", "above 0")),
        ("optimizer.lr=-0.1", ("optimizer.lr", "-0.1", "above 0")),
        ("task=tabular-clasification", ("task", "'tabular-clasification'", "did you mean tabular-classification?")),
        ("task=nowhere:Mine", ("nowhere", "create nowhere.py")),
        ("task=__main__:Mine", ("another program", "%%writefile tasks.py", "tasks:Mine")),
        ("task=mine.py:Mine", ("is a path", "write it as mine:Mine")),
        ("task=src/mine:Mine", ("is a path", "write it as src.mine:Mine")),
        ("lr=3", ("lr is not a known key", "did you mean optimizer.lr?")),
        ("keep=3", ("keep is 3", "a mapping of last, best")),
        ("workers=two", ("workers is 'two'", "a whole number of workers, at least 1, or [least, most]")),
        ("storage=/proc/x", ("storage /proc/x", "cannot be written")),
        ("task=heliostat.workloads.tasks.language_model:Nope", ("Nope", "LanguageModel")),
        ("dataset.source=breast_cancer", ("dataset.source", "'breast_cancer'", "did you mean breast-cancer?")),
        ("dataset.path=data", ("dataset", "exactly one of path and source")),
        ("dataset={path: missing}", ("missing", "does not exist", "heliostat dataset build")),
        ("dataset={source: digits}", ("features", "image: uint8[1,8,8]", "choose a dataset")),
        ("global_batch=33", ("global_batch", "33", "2 workers", "set global_batch to 32")),
        ("micro_batch=5", ("global_batch", "16 samples", "micro_batch 5", "set global_batch to 30")),
        ("lanes=0", ("lanes", "0", "null")),
        ("workers=[1,33]", ("workers", "[1, 33]", "32")),
        ("workers=4096", ("workers", "4096")),
        ("resources.gpu=9", ("workers", "9 GPU", "give each worker 0 GPU")),
        ("epochs=3", ("epochs is 3 and steps is", "--set epochs=null")),
        ("name=a/b", ("name", "'a/b'", "letters")),
        ("name=..", ("name", "'..'")),
        ("name=.datasets", ("name", "'.datasets'")),
        (f"name={'n' * 300}", ("name", "up to 100")),
        ("name=2024-13-45", ("--set", "2024-13-45", "quotes")),
        ('storage="a\\0b"', ("null character",)),
        ("resources.gpu=two", ("resources.gpu is 'two'", "auto")),
        ("resources.gpu=-1", ("resources.gpu is -1", "auto")),
        ("name=''", ("name", "''")),
        ("storage=''", ("storage", "''")),
        ("storage=/dev/null/runs", ("storage", "/dev/null/runs", "Not a directory")),
        ("storage=floppy://a", ("floppy://a",)),
        ("steps=5.5", ("steps", "5.5")),
        ("precision=fp8", ("precision", "'fp8'")),
    ],
)
def test_a_wrong_value(folder: Path, capsys: pytest.CaptureFixture[str], change: str, words: tuple[str, ...]) -> None:
    many = [] if change.startswith("workers") else ["--set", "workers=2"]
    message = refused(capsys, *many, "--set", "global_batch=32", "--set", change)
    assert all(word in message for word in words), message
    assert [path.name for path in folder.iterdir()] == ["c.yaml"]


def test_a_key_that_is_there_twice_is_named_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "c.yaml").open("a") as file:
        file.write("seed: 1\nseed: 2\n")
    lines = (folder / "c.yaml").read_text().count("\n")
    assert f"config file c.yaml has the key 'seed' twice, again in line {lines}\n  fix: leave one out" in refused(capsys)


def test_more_workers_than_the_machine_has_says_how_many_there_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--set", "workers=4096", "--set", "global_batch=4096")
    assert "workers is 4096, each with 1 CPU" in message
    assert "set workers to" in message


def test_all_mistakes_of_a_config_are_in_one_message_each_with_its_fix(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("tsk=3", "optimizer.lr=-1", "steps=5.5", "early_stopping.pateince=2")
    message = refused(capsys, *(part for change in wrong for part in ("--set", change)))
    assert "the config has 5 problems:" in message
    for line in (
        "tsk is not a known key (value: 3): did you mean task?",
        "optimizer.lr is -1, but must be above 0: set optimizer.lr to",
        "steps is 5.5",
        "early_stopping.patience is missing",
        "did you mean patience?",
    ):
        assert line in message
    message = refused(capsys, "--set", "task=nowhere:Mine", "--set", "dataset.source=digit", "--set", "resources.gpu=9")
    assert "the config has 3 problems:" in message


def test_a_global_batch_larger_than_the_data_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "c.yaml", "--dry-run", "--set", "global_batch=100000"]) == 0
    note = "global_batch is 100000, but the train split has 409 samples: each step is a whole epoch, of 409"
    assert note in capsys.readouterr().out


def test_methods_of_other_frameworks_are_not_ignored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "lit.py").write_text(
        "from heliostat import Task\nclass Lit(Task):\n    def configure_optimizers(self):\n        return None\n"
    )
    assert "configure_optimizers: the optimizer is the config's" in refused(capsys, "--set", "task=lit:Lit")


def test_a_config_that_is_no_mapping_or_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "c.yaml").write_text("- task")
    assert "must be a mapping" in refused(capsys)
    (folder / "c.yaml").unlink()
    (folder / "d.yaml").write_text(GOOD)
    assert "did you mean d.yaml?" in refused(capsys)


def test_a_task_file_that_fails_to_import_shows_its_own_traceback_short(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken_task.py").write_text("from heliostat import Task\n\nvalue = 1 / 0\n")
    message = refused(capsys, "--set", "task=broken_task:Mine")
    assert 'broken_task.py", line 3' in message
    assert "ZeroDivisionError: division by zero" in message
    assert len(message.splitlines()) <= 8
    assert "importlib" not in message


def test_a_half_built_dataset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "build", "breast-cancer", "data"]) == 0
    capsys.readouterr()
    (folder / "data" / "index.json").unlink()
    message = refused(capsys, "--set", "dataset={path: data}")
    assert "data" in message
    assert "did not finish" in message


def test_a_dataset_smaller_than_a_batch_when_incomplete_batches_are_dropped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dataset", "build", "breast-cancer", "data"]) == 0
    capsys.readouterr()
    message = refused(capsys, "--set", "dataset={path: data}", "--set", "global_batch=512", "--set", "drop_last=true")
    assert "512" in message
    assert "409" in message


@pytest.mark.parametrize("kind", ["one file", "a folder"])
def test_data_that_changed_since_the_run_was_started(folder: Path, kind: str) -> None:
    """Between the start, in which the dataset is built, and the resume."""
    place = folder / ("t.csv" if kind == "one file" else "t")
    files = [place] if kind == "one file" else [place / "0.csv", place / "1.csv"]
    files[0].parent.mkdir(exist_ok=True)
    text = "x,y\n" + "".join(f"{row / 7},{'ab'[row % 2]}\n" for row in range(90))
    for file in files:
        file.write_text(text)
    options = {"path": str(place), "target": "y"}
    config = load("c.yaml", TrainConfig, (), {"name": "c"})
    config = config.model_copy(update={"dataset": DatasetConfig(source="table", options=options)})
    first, _ = prepare(config).commit()
    assert prepare(config).commit()[0].dataset == first.dataset
    files[-1].write_text(text.replace("a", "c"))
    with pytest.raises(UserError, match=f"dataset: {first.dataset.fingerprint} before"):
        prepare(config).commit()
    files[-1].write_text(text)
    assert prepare(config).commit()[0].dataset.fingerprint == first.dataset.fingerprint


def test_a_sweep_whose_data_changed_says_so_and_keeps_that_of_its_trials(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "x,y\n" + "".join(f"{row / 7},{'ab'[row % 2]}\n" for row in range(90))
    (folder / "t.csv").write_text(text)
    (folder / "c.yaml").write_text(
        GOOD.replace("{source: breast-cancer}", "{source: table, options: {path: t.csv, target: y}}")
    )
    (folder / "s.yaml").write_text("train: {base: c.yaml}\nspace: {optimizer.lr: {choice: [0.1, 0.2]}}\ntrials: 2\n")

    def trial() -> RunRecord:
        plan = plan_sweep(load("s.yaml", SweepConfig, (), {"name": "s"}))
        each = plan.trial(0, {"optimizer.lr": 0.1})
        record = plan.commit().record(each)
        write_record(each.folder, record)
        return record

    before = trial()
    plan = plan_sweep(load("s.yaml", SweepConfig, (), {"name": "s"}))
    with monkeypatch.context() as patch:
        patch.setattr("heliostat.workloads.plan.open_source", lambda *args: pytest.fail("the source is looked at for a trial"))
        assert plan.trial(1, {"optimizer.lr": 0.2}).dataset_uri == before.dataset.uri
    assert trial().dataset == before.dataset
    assert capsys.readouterr().err == ""
    (folder / "t.csv").write_text(text.replace("a", "c"))
    assert trial().dataset == before.dataset
    assert "the data has changed since this sweep was started" in capsys.readouterr().err


def test_a_large_table_that_does_not_fit_the_task_is_refused_once_it_is_built(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliostat.datasets.sources.table.CHECKED", 0)
    (folder / "t.csv").write_text("x,y\n" + "".join(f"{row / 7},{row / 3}\n" for row in range(90)))
    change = "dataset={source: table, options: {path: t.csv, target: y}}"
    for more in ([], ["--dry-run"]):  # a dry run builds it, too, in a temporary folder
        assert "learns classes, but the target 'y' is a number" in refused(capsys, *more, "--set", change)
    assert not (folder / "runs/c/config.yaml").exists()


def test_what_is_refused_when_the_run_begins_leaves_no_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "t.csv").write_text("x,y\n" + "".join(f"{row * 7 % 61},{'ab'[row % 2]}\n" for row in range(90)))
    changes = ["task=tabular-classification", "dataset={source: table, options: {path: t.csv, target: y}}", "report={by: [z]}"]
    said = refused(capsys, "--in-process", *(part for each in changes for part in ("--set", each)))
    assert "report.by has 'z', but the table has no such column" in said
    assert not (folder / "runs/c").exists()


def test_a_disk_that_is_full_before_anything_starts(folder: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small_disk / "ballast").write_bytes(bytes(2 << 20))
    message = refused(capsys, "--set", f"storage={small_disk}/runs")
    assert "No space left on device" in message
    assert [p for p in (small_disk / "runs").rglob("*") if p.is_file()] == []


def test_more_workers_than_the_profile_has_gpus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a run, a script and a trial of a sweep; nothing trains on CPUs unless it is asked to."""
    (folder / "s.py").touch()
    (folder / "s.yaml").write_text("train: {base: c.yaml, global_batch: 48}\nspace: {workers: {choice: [1, 12]}}\ntrials: 2\n")
    run = ["train", "c.yaml", "--set", "workers=12", "--set", "global_batch=48", "--on", "gpu", "--dry-run"]
    script, sweep = ["torchrun", "--on", "gpu", "--workers", "12", "s.py"], ["sweep", "s.yaml", "--on", "gpu", "--dry-run"]
    for argv, key in ((run, "resources.gpu"), (script, "--gpu"), (sweep, "resources.gpu")):
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert "workers is 12, each with 1 GPU, but there are 8 GPUs" in said
        assert f"fix: set workers to 8, or {key} to 0 to train on CPUs" in said
    assert main([*run, "--set", "resources.gpu=0"]) == 0
    assert "# workers: 12, each with 1 CPU and 0 GPU" in capsys.readouterr().out


def test_dry_run_prints_the_plan_and_starts_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["train", "c.yaml", "--dry-run", "--json", "--set", "optimizer.lr=1e-2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["config"]["optimizer"]["lr"] == 0.01
    assert plan["config"]["name"] == "c"
    assert plan["resources"] == {"CPU": 1, "GPU": 0}
    assert plan["dataset"]["will_be_built"] is True
    assert plan["run"] == str(folder / "runs" / "c")
    assert main(["train", "c.yaml", "--dry-run"]) == 0
    assert "# workers: 1, each with 1 CPU and 0 GPU" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["c.yaml"]


def test_dry_run_says_what_the_columns_of_a_table_are_read_as(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n},{2000 + n % 20},{'' if n % 4 else n},{'no' if n % 3 else 'yes'},Main St" for n in range(60)]
    (folder / "cars.csv").write_text("\n".join([",year,price,sold,dealer", *rows]))
    (folder / "cars.yaml").write_text(
        "{task: tabular-classification, steps: 1, dataset: {source: table, options: {path: cars.csv, target: sold}}}"
    )
    assert main(["train", "cars.yaml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "# column year: number, 2000 to 2019; learnt as a number\n" in said
    assert "# column price: number, 0 to 56, 75.0% missing; learnt as a number (missing: mean)\n" in said
    assert "# left out (no name): " in said
    assert "# left out dealer: is Main St in all rows\n" in said


def test_runs_lists_what_it_can_and_names_what_it_cannot_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    (folder / "runs" / "torn").mkdir(parents=True)
    (folder / "runs" / "torn" / "config.yaml").write_text("config: [")
    assert main(["runs", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["state"]) == ("torn", "unreadable")
    assert main(["runs"]) == 0
    assert main(["evaluate", "torn"]) == 2
    assert main(["runs", "--storage", "c.yaml"]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"batch_size": 32, "max_epochs": 3, "optimizer": {"learning_rate": 0.1, "momentum": 0.9}},
            (
                "batch_size is not a known key (value: 32): write global_batch,",
                "max_epochs is not a known key (value: 3): write epochs",
                "optimizer.learning_rate is not a known key (value: 0.1): write optimizer.lr",
                "optimizer.momentum is not a known key (value: 0.9): write optimizer.options, such as {momentum: 0.9}",
            ),
        ),
        ({"optimizer": {"name": "adamw"}}, ("optimizer.name is not a known key", "write optimizer.type")),
        ({"optimizer": "adamw"}, ("optimizer: 'adamw' is not a mapping", "write optimizer: {type: adamw}")),
        ({"optimizer": {"type": "AdamW"}}, ("did you mean adamw?",)),
        ({"optimizer": {"schedule": "CosineAnnealingLR"}}, ("did you mean cosine?",)),
        ({"precision": "bf16-mixed"}, ("'bf16-mixed' is another tool's name", "write bf16")),
        ({"precision": 16}, ("write fp16",)),
        ({"dataset": "data/a"}, ("dataset: 'data/a' is not a mapping", "write dataset: {path: data/a}")),
        ({"dataset": "digits"}, ("write dataset: {source: digits}",)),
        ({"dataset": __file__}, (f"write dataset: {{source: table, options: {{path: {__file__}}}}}",)),
    ],
)
def test_the_keys_of_other_tools_are_refused_with_ours(keys: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        validate({"name": "a", "task": "t", "dataset": {"source": "digits"}, "epochs": 1, **keys}, TrainConfig)
    assert all(word in str(refused.value) for word in words), refused.value
