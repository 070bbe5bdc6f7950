"""What version 0.1 wrote still opens: runs, datasets, sweeps, checkpoints of scripts, profiles (``tests/fixtures/v0.1``)."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from heliostat import load_run
from heliostat.cli import main
from heliostat.datasets import Dataset, build
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.tuning.algorithms import open_algorithm
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.journal import read_journal
from heliostat.tuning.plan import key_of, plan_sweep
from heliostat.tuning.record import read_sweep
from heliostat.tuning.trials import Trials
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.run.record import RunRecord, read_record, read_result, write_record
from heliostat.workloads.run.report import write_report
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from tests.conftest import ROOT, clean_environment
from tests.workloads.training.test_loop import PLAIN, config, losses, record_of, train

OLD = ROOT / "tests/fixtures/v0.1"
TASK = "workloads.tasks.tabular_classification:TabularClassification"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The storage of version 0.1, moved to another machine."""
    shutil.copytree(OLD / "storage", tmp_path / "storage")
    return tmp_path / "storage"


def printed(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Any:
    """The JSON document that a command prints."""
    assert main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_listed_and_evaluates_as_it_did(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "runs", "--storage", storage)
    assert [(row["name"], row["state"], row["step"], row["task"]) for row in rows if row["kind"] == "run"] == [
        ("breast-cancer", "finished", 26, f"heliostat.{TASK}")
    ]
    assert [(row["name"], row["state"], row["progress"]) for row in rows if row["kind"] == "sweep"] == [
        ("sweep", "finished", "3/3 trials")
    ]
    found = printed(capsys, "evaluate", storage / "breast-cancer")["metrics"]
    assert found == pytest.approx(json.loads((storage / "breast-cancer/result.json").read_text())["metrics"]["test"])


def test_a_run_predicts_and_its_report_is_made_again(storage: Path) -> None:
    folder = Folder.at(storage / "breast-cancer")
    assert load_run(folder).trained.step == 26
    record, result = read_record(folder), read_result(folder)
    assert result
    write_report(folder, record, result)
    assert "<title>breast-cancer" in folder.read("report.html").decode()


def test_the_same_config_resumes_the_run(storage: Path) -> None:
    """A config file that names the task as version 0.1 did, or as it is named now, is that of the run."""
    record = read_record(Folder.at(storage / "breast-cancer"))
    for task in (TASK, f"heliostat.{TASK}"):
        assert TrainConfig(**{**record.config.model_dump(), "task": task}).identity == record.config.identity


@pytest.mark.parametrize("task", ["tabular-classification", "mine:Task", "workloads.tasks.mine:Task", "workloads.mine:Task"])
def test_a_name_that_is_not_of_our_modules_stays(storage: Path, task: str) -> None:
    config = read_record(Folder.at(storage / "breast-cancer")).config
    assert TrainConfig(**{**config.model_dump(), "task": task}).task == task


def test_an_unfinished_run_continues_with_the_order_of_samples_that_it_was_started_with(tmp_path: Path) -> None:
    def started(name: str) -> tuple[Folder, RunRecord]:
        """A run whose record does not name its order of samples."""
        folder, record = record_of(config(tmp_path, name=name))
        write_record(folder, record.model_copy(update={"order": 1, "lanes": 24}))
        lines = folder.read("config.yaml").decode().splitlines(keepends=True)
        folder.write("config.yaml", "".join(line for line in lines if not line.startswith("order:")).encode())
        return folder, read_record(folder)

    def crash(metrics: dict[str, float]) -> None:
        raise RuntimeError("power cut")

    Loop(*started("calm"), Ranks.of_this_process(), time.time()).run()
    with pytest.raises(RuntimeError):
        Loop(*started("old"), Ranks.of_this_process(), time.time(), crash).run()
    train(config(tmp_path, name="old"))
    train(config(tmp_path, name="new"))
    calm, old, new = (losses(Folder.at(tmp_path / name)) for name in ("calm", "old", "new"))
    assert old == calm
    assert old != new
    with pytest.raises(UserError, match=r"workers is \[1, 48\].*'old'.* has 24 lanes"):
        prepare(config(tmp_path, name="old", workers=[1, 48])).commit()


def test_an_unfinished_sweep_continues_with_the_order_of_samples_that_it_was_started_with(tmp_path: Path) -> None:
    train = {**PLAIN, "steps": 20, "global_batch": 48}
    space = {"optimizer.lr": {"choice": [0.1, 0.2]}}
    wanted = SweepConfig.model_validate(
        {"name": "sweep", "storage": str(tmp_path), "train": train, "space": space, "algorithm": "grid"}
    )

    def trial() -> RunRecord:
        plan = plan_sweep(wanted)
        return plan.commit().record(plan.trial(0, {"optimizer.lr": 0.1}))

    assert (trial().order, trial().lanes) == (2, 64)
    sweep = tmp_path / "sweep/sweep.yaml"
    sweep.write_text("".join(line for line in sweep.read_text().splitlines(keepends=True) if not line.startswith("order:")))
    assert (trial().order, trial().lanes) == (1, 48)


@pytest.mark.parametrize("searched", [False, True])
def test_a_sweep_keeps_its_dataset_where_the_source_is_read_in_another_way_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: bool
) -> None:
    space = {"dataset.source": {"choice": ["breast-cancer"]}} if searched else {"optimizer.lr": {"choice": [0.1]}}
    point = {name: parameter["choice"][0] for name, parameter in space.items()}
    wanted = SweepConfig.model_validate(
        {"name": "sweep", "storage": str(tmp_path), "train": {**PLAIN, "steps": 20}, "space": space, "algorithm": "grid"}
    )

    def trial(number: int) -> tuple[Folder, RunRecord]:
        plan = plan_sweep(wanted)
        each = plan.trial(number, point)
        return each.folder, plan.commit().record(each)

    folder, before = trial(0)
    write_record(folder, before)
    monkeypatch.setattr("heliostat.datasets.sources.table.RULES", 9)
    assert trial(1)[1].dataset == before.dataset
    assert len(list((tmp_path / ".datasets").iterdir())) == 2
    lost = {"dataset": before.dataset.model_copy(update={"uri": str(tmp_path / "gone")})}
    write_record(folder, before.model_copy(update=lost))
    assert trial(1)[1].dataset.fingerprint == before.dataset.fingerprint
    other = {"dataset": lost["dataset"].model_copy(update={"fingerprint": "0123"})}
    write_record(folder, before.model_copy(update=other))
    with pytest.raises(UserError, match=r"have another dataset .0123 in [\s\S]*give the sweep another name"):
        trial(1)


def test_the_dataset_verifies_and_its_source_gives_the_same_again(storage: Path) -> None:
    """So a run of version 0.1 resumes, although a table is read in another way now."""
    dataset = storage / ".datasets/breast-cancer-b907f7ce"
    assert main(["dataset", "verify", str(dataset)]) == 0
    again = build(open_source("breast-cancer", {}), str(storage / "again"))
    assert again.index.fingerprint == Dataset.open(str(dataset)).index.fingerprint


def test_a_sweep_is_shown(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "sweep", "show", storage / "sweep")
    assert len(found["trials"]) == 3
    assert load_run(storage / "sweep/trials/0001").record.config.name == "0001"


def test_a_sweep_is_continued(storage: Path) -> None:
    stored = read_sweep(Folder.at(storage / "sweep"))
    assert stored
    plan = plan_sweep(stored.config.model_copy(update={"storage": str(storage), "trials": 50}))
    assert plan.check() == stored
    trials = Trials(read_journal(plan.folder)).all
    for record in read_journal(plan.folder):
        if record["event"] == "trial":
            assert record["key"] == key_of(plan.trial(record["trial"], record["params"])), "a duplicate is still found"
    search = open_algorithm(plan.config, plan.base, plan.objectives, plan.folder, trials)
    assert search.ask(len(trials)) not in [None, *(trial.params for trial in trials)]


@pytest.mark.parametrize("module", ["heliostat.torchrun", "workloads.legacy"])
def test_a_script_resumes_from_its_checkpoint_or_gets_the_new_name(storage: Path, tmp_path: Path, module: str) -> None:
    (tmp_path / "counts.py").write_text(
        f"from {module} import resume\ntotal = {{}}\nprint(resume(total=total), total['sum'])\n"
    )
    env = {**clean_environment(tmp_path / "home"), "PYTHONPATH": str(ROOT), "HELIOSTAT_RUN": str(storage / "counts")}
    done = subprocess.run([sys.executable, "counts.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    if module == "heliostat.torchrun":
        assert done.stdout == "3 6\n", done.stderr
    else:
        assert "from heliostat.torchrun import resume, save" in done.stderr.splitlines()[-1]


def test_a_script_with_the_old_import_is_refused_with_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.py").write_text("from workloads.legacy import resume, save\n")
    assert main(["torchrun", "old.py"]) == 2
    assert "from heliostat.torchrun import resume, save" in capsys.readouterr().err


def test_a_profile_renders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(OLD / "gpu.yaml")]) == 0
    assert "kind: RayCluster" in capsys.readouterr().out
