"""The commands of `heliostat profile`."""

import json
from pathlib import Path

import pytest

from heliostat.cli import main
from heliostat.cluster.profile import BUNDLED
from heliostat.config import read_mapping
from tests.cluster.test_profile import NAMES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("source", NAMES)
def test_a_new_profile_is_explained_line_by_line_and_right(
    source: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cluster/profiles").mkdir(parents=True)
    assert main(["profile", "init", "mine", "--from", source]) == 0
    assert "heliostat up mine" in capsys.readouterr().out
    path = folder / "cluster/profiles/mine.yaml"
    lines = path.read_text().splitlines()
    assert 15 <= len(lines) <= 40
    assert all(line.startswith("# ") or len(line.partition("  # ")[2]) > 10 for line in lines)
    assert read_mapping(path) == read_mapping(BUNDLED / f"{source}.yaml")
    assert main(["profile", "check", "mine"]) == 0
    assert capsys.readouterr().out == "mine: ok\n"


def test_a_comment_has_the_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "init", "mine"]) == 0
    (line,) = [line for line in (folder / "mine.yaml").read_text().splitlines() if "idle_seconds:" in line]
    assert line.endswith("(default: 120)")
    assert "heliostat up mine\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine"], "mine.yaml already exists; it was not changed"),
        (["other", "--from", "gpus"], "did you mean gpu?"),
        (["Not/A name"], "'Not/A name' cannot be a cluster's name"),
    ],
)
def test_a_new_profile_that_cannot_be_is_refused_and_nothing_is_written(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.yaml").write_text("precious")
    assert main(["profile", "init", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("mine.yaml", "precious")]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("groups.gpu.max=0", "groups.gpu.max is 0"),
        ("namespace=Team_A", "namespace: 'Team_A' is refused by Kubernetes"),
    ],
)
def test_a_wrong_profile_does_not_pass_the_check(override: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "check", "gpu", "--set", override]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_what_a_profile_costs_is_shown_with_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["groups.gpu.min=1", "groups.gpu.max=3", "groups.gpu.price_per_hour=2", "head.price_per_hour=0.5"]
    options = [part for override in [*overrides, "groups.cpu.price_per_hour=0"] for part in ("--set", override)]
    assert main(["profile", "show", "gpu", *options, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["cost_per_hour"] == {"min": 2.5, "max": 6.5}
    assert shown["profile"]["groups"][1]["drain_seconds"] == 25
    assert main(["profile", "show", "gpu", *options]) == 0
    output = capsys.readouterr().out
    assert "drain_seconds: 25" in output
    assert output.splitlines()[-1].split() == ["all", "2.5", "6.5"]
