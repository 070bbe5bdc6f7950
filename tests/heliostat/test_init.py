"""`heliostat init`: a project that runs as it is, and schemas; nothing of the user's is overwritten."""

import json
from pathlib import Path

import pytest

from heliostat.cli import main
from heliostat.cluster.profile import find
from heliostat.config import load
from heliostat.tuning.config import SweepConfig
from tests.conftest import Command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_project_trains_as_it_is(command: Command) -> None:
    made = command("init", "demo")
    assert (made.code, made.err) == (0, "")
    assert made.out.splitlines()[-1] == "  cd demo && heliostat train"
    there = Command(command.cwd / "demo", command.env)
    done = there("train", "--in-process", "--set", "epochs=2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["name"] == "demo"


def test_each_file_of_a_project_is_right_and_names_its_schema(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", "demo"]) == 0
    monkeypatch.chdir(folder / "demo")
    assert load("sweep.yaml", SweepConfig).name == "demo-sweep"
    assert find("gpu").name == "gpu"
    for name, schema in {"train.yaml": "train", "sweep.yaml": "sweep", "gpu.yaml": "profile"}.items():
        first = Path(name).read_text().splitlines()[0]
        assert first == f"# yaml-language-server: $schema=schemas/{schema}.json"
        assert json.loads(Path(f"schemas/{schema}.json").read_text())["title"]
    text = Path("README.md").read_text()
    assert "NAME" not in text
    named = [
        word for word in text.replace("|", " ").split() if word.startswith("`") and word.rstrip(",").endswith(("py`", "yaml`"))
    ]
    assert all(Path(word.strip("`,")).is_file() for word in named), named


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "demo/model.py exists already; nothing was written"),
        (["my project"], "name: 'my project' cannot be a run's name"),
        (["demo", "--schema"], "NAME and --schema write different things"),
        (["--schema", "other"], "other/train.json is no schema; nothing was written"),
        (["other/train.json"], "other/train.json cannot be written: File exists"),
        (["--schema", "other/train.json/x"], "cannot be written: Not a directory"),
    ],
)
def test_what_would_overwrite_or_be_wrong_is_refused_and_nothing_is_written(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("demo/model.py", "other/train.json"):
        (folder / path).parent.mkdir()
        (folder / path).write_text("precious")
    assert main(["init", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.read_text() for path in folder.rglob("*") if path.is_file()} == {"precious"}


def test_schemas_of_another_version_are_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--schema", "of/mine"]) == 0
    assert "# yaml-language-server: $schema=of/mine/train.json" in capsys.readouterr().out
    (folder / "of/mine/train.json").write_text('{"$schema": "older"}')
    assert main(["init", "--schema", "of/mine"]) == 0
    assert "properties" in json.loads((folder / "of/mine/train.json").read_text())
