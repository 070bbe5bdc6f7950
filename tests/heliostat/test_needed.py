"""What a job would not find is refused before it is sent, and what only its cluster has is left to the job."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from heliostat.cli import main

CONFIG = "task: tabular-classification\ndataset: {source: table, options: {path: data/t.csv, target: y}}\nepochs: 3\n"
TABLE = "x,y\n" + "".join(f"{row / 7},{'ab'[row % 2]}\n" for row in range(90))
TASK = "import its_helper\nfrom heliostat.workloads.tasks.tabular_classification import TabularClassification\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a config, its data, and a task of one's own."""
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    (work / "c.yaml").write_text(CONFIG)
    (work / "data/t.csv").write_text(TABLE)
    (tmp_path / "away.csv").write_text(TABLE)
    monkeypatch.chdir(work)
    monkeypatch.setenv("ONLY_HERE", str(tmp_path))
    return work


def said(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    command = args if args and args[0] in ("train", "sweep", "torchrun", "predict", "dataset") else ("train", "c.yaml", *args)
    capsys.readouterr()
    assert main([*command[:1], "--on", "gpu", "--dry-run", *command[1:]]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("dataset.options.path=/mnt/heliostat/data/t.parquet", "in /mnt/heliostat/runs/.datasets (will be built if"),
        ("dataset.options.path=s3://bucket/t.parquet", "in /mnt/heliostat/runs/.datasets (will be built if"),
        ("dataset.options.path=/somewhere/in/the/image", "in /mnt/heliostat/runs/.datasets (will be built if"),
        ("dataset.options.path=file:///mnt/heliostat/t.csv", "in /mnt/heliostat/runs/.datasets (will be built if"),
        ("dataset={source: images, options: {path: /mnt/heliostat/photos}}", "in /mnt/heliostat/runs/.datasets"),
        ("dataset={source: text, options: {path: /mnt/heliostat/texts}}", "in /mnt/heliostat/runs/.datasets"),
        ("dataset={path: /mnt/heliostat/built}", "/mnt/heliostat/built (checked by the job)"),
        ("dataset={path: gs://bucket/built}", "gs://bucket/built (checked by the job)"),
        ("dataset.options.path=data/t.csv", "/mnt/heliostat/runs/.datasets/table-"),
    ],
)
def test_what_only_the_cluster_has_is_left_to_the_job(
    folder: Path, capsys: pytest.CaptureFixture[str], override: str, shown: str
) -> None:
    assert f"# dataset: {shown}" in said(capsys, "--set", override, code=0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.options.path=../away.csv", ("dataset.options.path is ../away.csv, outside of the working directory",)),
        ("dataset.options.path={}/away.csv", ("/away.csv, which only this machine has", "the cluster's storage", "/mnt/helio")),
        ("dataset.options.path={}/work/data/t.csv", ("the job has its working directory elsewhere", "write data/t.csv")),
        ("dataset.options.path=file://{}/away.csv", ("which only this machine has",)),
        ("dataset.options.path=~/t.csv", ("in the home of this machine, which the nodes do not have",)),
        ("dataset.options.path=$ONLY_HERE/away.csv", ("$ONLY_HERE is not set for the job", "--env NAME")),
        ("dataset.options.path=none.csv", ("none.csv does not exist",)),
        ("dataset.options.target=z", ("has no column 'z'",)),
        ("dataset.options.taget=z", ("dataset.options.taget", "did you mean target?")),
        ("dataset={path: ../built}", ("dataset.path is ../built, outside of the working directory",)),
        ("dataset={path: built}", ("dataset built does not exist", "heliostat dataset build")),
        ("dataset={source: images, options: {path: s3://b/p}, nothing: 1}", ("dataset.nothing",)),
        ("storage=${HOME}/runs", ("storage is ${HOME}/runs, but $HOME is not set for the job",)),
        ("storage=file:///home/me/runs", ("storage is /home/me/runs, which the nodes of gpu do not share",)),
    ],
)
def test_what_only_this_machine_has_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], override: str, words: tuple[str, ...]
) -> None:
    message = said(capsys, "--set", override.replace("{}", str(folder.parent)))
    assert [word for word in words if word not in message] == [], message


def test_a_variable_of_the_profile_or_of_the_command_may_be_in_a_path(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "/mnt/heliostat/a")
    out = said(capsys, "--env", "PLACE", "--set", "dataset={path: '${PLACE}/b'}", code=0)
    assert "# dataset: /mnt/heliostat/a/b (checked by the job)" in out


def test_excluded_data_is_refused_with_the_line_that_excludes_it_and_what_sends_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".gitignore").write_text("# big\ndata/\n")
    message = said(capsys)
    assert "dataset.options.path needs data/t.csv, which does not go along with the job" in message
    assert "line 2 of .gitignore (data/) excludes it" in message
    assert "add the line !data/t.csv to .rayignore; or copy it to the cluster's storage" in message
    Path(".rayignore").write_text("!data/t.csv\n")
    assert "  data/t.csv" in said(capsys, code=0)

    assert main(["dataset", "build", "table", "data/built", "--set", "path=data/t.csv", "--set", "target=y"]) == 0
    message = said(capsys, "--set", "dataset={path: data/built}")
    assert "dataset.path needs data/built/index.json and 3 more files" in message
    Path(".rayignore").write_text("!data/built/\n")
    out = said(capsys, "--set", "dataset={path: data/built}", code=0)
    assert "  data/built/train-00000.arrow" in out
    assert "  data/t.csv" not in out

    Path(".rayignore").write_text("*.arrow\n")
    Path(".gitignore").unlink()
    assert "line 1 of .rayignore (*.arrow) excludes it" in said(capsys, "--set", "dataset={path: data/built}")


WEIGHTS = """
from heliostat.workloads.tasks.tabular_classification import TabularClassification


class Tuned(TabularClassification):
    class Options(TabularClassification.Options):
        pretrained: str
"""


def test_a_script_that_calls_train_need_not_go_along(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "its_task.py").write_text("from heliostat.workloads.tasks.tabular_classification import TabularClassification\n")
    (folder / "scratch").mkdir()
    (folder / ".gitignore").write_text("scratch\n")
    monkeypatch.syspath_prepend(str(folder))
    for place in ("scratch/go.py", "../go.py"):
        (folder / place).touch()
        monkeypatch.setitem(sys.modules, "__mp_main__", SimpleNamespace(__file__=f"{folder}/{place}"))
        assert "its_task.py" in said(capsys, "--set", "task=its_task:TabularClassification", code=0)


def test_pretrained_weights_go_along_or_are_where_the_workers_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tuned_task.py").write_text(WEIGHTS)
    (folder / "models/tiny/.cache").mkdir(parents=True)
    for name in ("weights.pth", "config.json", ".cache/lock"):
        (folder / "models/tiny" / name).touch()
    tuned = ("--set", "task=tuned_task:Tuned", "--set")
    for place, words in (
        (folder.parent / "away.csv", "away.csv, which only this machine has: copy it to the cluster's storage"),
        ("../away.csv", "model.pretrained is ../away.csv, outside of the working directory"),
        (folder / "models/tiny", "but the job has its working directory elsewhere: write models/tiny"),
    ):
        assert words in said(capsys, *tuned, f"model.pretrained={place}").replace("\n  fix: ", ": ")
    sys.path.insert(0, str(folder))
    try:
        said(capsys, *tuned, "model.pretrained=/mnt/heliostat/models/tiny", code=0)
        assert "models/tiny/weights.pth" in said(capsys, *tuned, "model.pretrained=models/tiny", code=0)
        (folder / ".gitignore").write_text("*.pth\n")
        message = said(capsys, *tuned, "model.pretrained=models/tiny")
    finally:
        sys.path.remove(str(folder))
    assert "model.pretrained needs models/tiny/weights.pth, which does not go along with the job" in message
    assert "add the line !models/tiny/weights.pth to .rayignore" in message


def test_one_image_of_a_folder_that_does_not_go_along_is_enough(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for number in range(20):  # enough for three splits
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(f"photos/{name}/{number}.png")
    Path("photos/dog/.gitignore").write_text("2.png\n")
    photos = ("--set", "task=image-classification", "--set", "dataset={source: images, options: {path: photos}}")
    assert "photos/dog/2.png, which does not go along" in said(capsys, *photos)
    assert "line 1 of photos/dog/.gitignore (2.png) excludes it" in said(capsys, *photos)
    Path("photos/dog/.gitignore").unlink()
    said(capsys, *photos, code=0)


def test_data_in_a_cache_or_an_earlier_run_and_what_looks_like_a_secret_is_refused_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("data", ".cache/data")
    assert ".cache is a cache" in said(capsys, "--set", "dataset.options.path=.cache/data/t.csv")
    shutil.copy("data/t.csv", ".env")
    assert "it looks like a secret" in said(capsys, "--set", "dataset.options.path=.env")


@pytest.mark.parametrize("excluded", ["a_task", "its_helper"])
def test_a_task_and_what_it_imports_must_go_along(
    folder: Path, capsys: pytest.CaptureFixture[str], excluded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a_task.py").write_text(TASK)
    Path("its_helper.py").touch()
    Path(".gitignore").write_text(f"{excluded}.py\n")
    monkeypatch.syspath_prepend(str(folder))
    try:
        message = said(capsys, "--set", "task=a_task:TabularClassification")
    finally:
        for name in ("a_task", "its_helper"):
            sys.modules.pop(name, None)
    assert f"task a_task:TabularClassification needs {excluded}.py, which does not go along" in message


@pytest.mark.parametrize(("key", "excluded"), [("dataset.source a_source:F", "a_source.py"), ("dataset.source", "listed.bin")])
def test_a_source_of_ones_own_and_its_files_must_go_along(
    folder: Path, capsys: pytest.CaptureFixture[str], key: str, excluded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "[{'x': at, 'label': 'ab'[at % 2]} for at in range(90)]"
    Path("a_source.py").write_text(
        "from heliostat import Source\nclass F(Source):\n"
        f"    rows = lambda self: {rows}\n    files = lambda self: ['listed.bin']\n"
    )
    Path("listed.bin").touch()
    source = ("--set", "dataset={source: 'a_source:F'}")
    monkeypatch.syspath_prepend(str(folder))
    try:
        assert "/.datasets/a_source-F-" in said(capsys, *source, code=0)
        Path(".gitignore").write_text(f"{excluded}\n")
        assert f"{key} needs {excluded}, which does not go along" in said(capsys, *source)
    finally:
        sys.modules.pop("a_source", None)


def test_a_sweep_needs_its_base_and_all_data_that_it_searches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = "space: {dataset.options.path: {choice: [data/t.csv, data/more.csv]}}\ntrials: 2\n"
    Path("s.yaml").write_text("train: {base: c.yaml}\n" + space)
    Path("data/more.csv").write_text(TABLE)
    said(capsys, "sweep", "s.yaml", code=0)
    Path(".gitignore").write_text("more.csv\n")
    assert "needs data/more.csv, which does not go along" in said(capsys, "sweep", "s.yaml")
    Path("s.yaml").write_text("train: {base: ../base.yaml}\n" + space)
    Path("../base.yaml").write_text(CONFIG)
    assert "train.base is ../base.yaml, outside of the working directory" in said(capsys, "sweep", "s.yaml")


def test_a_module_for_torchrun_must_go_along(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_package").mkdir()
    Path("own_package/__init__.py").touch()
    Path("own_package/learn.py").touch()
    sys.path.append(str(folder))
    Path(".gitignore").write_text("learn.py\n")
    try:
        message = said(capsys, "torchrun", "-m", "own_package.learn")
    finally:
        sys.path.remove(str(folder))
    assert "module own_package.learn needs own_package/learn.py, which does not go along" in message


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("evaluate churn --split validation --json", "evaluate churn --split validation --storage runs --json"),
        ("evaluate churn --storage s3://runs/team", "evaluate churn --split test --storage s3://runs/team"),
        ("model export churn --to onnx", "model export churn --to onnx --storage runs"),
        ("model export churn --to hf --output a/b", "model export churn --to hf --output /mnt/heliostat/a/b --storage runs"),
        ("model export churn --to hf --output s3://a/b", "model export churn --to hf --output s3://a/b --storage runs"),
        ("model add churn-2 --name churn --why x", "model add churn-2 --name churn --why x --storage runs"),
        ("model promote churn@2 --expect 1", "model promote churn@2 --expect 1 --storage runs"),
        ("runs track churn --to mlflow --set experiment=x", "runs track churn --to mlflow --storage runs --set experiment=x"),
    ],
)
def test_commands_about_a_run_are_jobs_next_to_it(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, sent: str
) -> None:
    assert main([*words.split(), "--on", "gpu", "--dry-run"]) == 0
    assert f"# command: python -P -m heliostat {sent}\n" in capsys.readouterr().out
    assert main([*words.split(), "--env", "HOME"]) == 2
    assert "--env needs a cluster" in capsys.readouterr().err


def test_a_model_is_not_exported_to_where_only_a_pod_finds_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "export", "churn", "--to", "onnx", "--output", "/home/me/model", "--on", "gpu"]) == 2
    assert "--output is /home/me/model, which the nodes of gpu do not share" in capsys.readouterr().err


def test_predictions_and_builds_on_a_cluster_find_their_files_and_write_to_its_storage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = ("predict", "churn", "data/t.csv", "--out", "new/")
    out = said(capsys, *predict, "--columns", "x", code=0)
    assert "predict churn data/t.csv --out /mnt/heliostat/new/ --columns x --storage runs" in out
    assert "  data/t.csv" in out
    for args, words in (
        (("predict", "churn", "data/t.csv"), "--on needs --out, the folder for the parts"),
        (("predict", "churn", '{"x": 3}', "--out", "new/"), "--on predicts files of rows"),
        (("predict", "churn", "../away.csv", "--out", "new/"), "INPUT is ../away.csv, outside of the working directory"),
        (("predict", "churn", "data/t.csv", "--out", "/home/me/new"), "--out is /home/me/new, which the nodes of gpu"),
    ):
        assert words in said(capsys, *args)
    capsys.readouterr()
    build = ("dataset", "build", "table", "built", "--set", "path=data/t.csv", "--set", "target=y", "--on", "gpu", "--dry-run")
    assert main([*build]) == 0
    sent = capsys.readouterr().out
    assert "dataset build table /mnt/heliostat/built --set path=data/t.csv --set target=y" in sent
    assert "  data/t.csv" in sent
    Path(".rayignore").write_text("data/\n")
    assert "data/t.csv, which does not go along with the job" in said(capsys, *predict)
    assert main([*build]) == 2
    assert "data/t.csv, which does not go along with the job" in capsys.readouterr().err
    assert main([*build[:-3], "--dry-run"]) == 2
    assert "--dry-run needs a cluster" in capsys.readouterr().err
