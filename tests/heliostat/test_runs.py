"""heliostat runs: the list, its filters and its order, and the comparison of runs."""

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from heliostat import console
from heliostat.cli import main
from heliostat.commands.runs import STATES
from heliostat.workloads.run.record import Result
from tests.conftest import ROOT
from tests.workloads.training.test_loop import config, record_of, train

LONG = "a-run-with-a-name-that-is-quite-long-" + "x" * 40


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that were killed after their last evaluation, one that has not begun, and a finished sweep."""
    storage = tmp_path_factory.mktemp("storage")
    train(config(storage, name="short", steps=7))
    train(config(storage, name=LONG, steps=14, optimizer={"lr": 0.02}))
    record_of(config(storage, name="new", steps=3))
    shutil.copytree(ROOT / "tests/fixtures/v0.1/storage/sweep", storage / "sweep")
    return storage


def listed(capsys: pytest.CaptureFixture[str], storage: Path, *options: str) -> list[str]:
    assert main(["runs", "--storage", str(storage), *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_pipe_gets_one_whole_line_a_run(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, *lines = listed(capsys, storage)
    assert len(lines) == 4
    assert not {"cost"} & set(header.split()), "no run has a cost"
    (line,) = [line for line in lines if LONG in line]
    for shown in ("interrupted", "14", "validation loss", "tabular-classification", "accuracy"):
        assert shown in line
    assert any("sweep" in line and "3/3 trials" in line and "best " in line for line in lines)


def test_a_terminal_of_80_columns_gets_a_line_a_run_and_is_told_what_is_left_out(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", Console(force_terminal=True, width=80, color_system=None))
    header, *lines = listed(capsys, storage, "--name", "s*")
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in (header, *lines))
    assert "created (" in header
    main(["runs", "--storage", str(storage), "--name", "s*"])
    assert "not shown, as the terminal is too narrow: " in capsys.readouterr().err


def test_in_60_columns_a_long_name_keeps_its_ends_and_hides_no_state(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", Console(force_terminal=True, width=60, color_system=None))
    assert main(["runs", "list", "--storage", str(storage)]) == 0
    shown = capsys.readouterr()
    header, *lines = shown.out.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 60 for line in (header, *lines))
    (line,) = [line for line in lines if line.startswith(LONG[:12])]
    assert line.split()[:3] == [f"{LONG[:12]}…{LONG[-11:]}", "interrupted", "14"]
    assert "too narrow: the middle of long cells in name, " in shown.err


def test_one_run_is_shown_with_all_its_metrics_and_a_sweep_with_its_trials(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*words: str) -> str:
        assert main(["runs", "show", *words, "--storage", str(storage)]) == 0
        return capsys.readouterr().out

    first, *facts = shown("short").splitlines()
    assert first == "short"
    words = [line.split() for line in facts]
    assert ["state", "interrupted"] in words
    assert ["folder", str(storage / "short")] in words
    assert {line[-2] for line in words} >= {"accuracy", "loss"}
    assert "3 of 3 trials done" in shown("sweep")
    assert json.loads(shown("sweep", "--json"))["sweep"] == str(storage / "sweep")
    document = json.loads(shown("short", "--json"))
    assert (document["kind"], document["step"], document["run"]) == ("run", 7, str(storage / "short"))
    assert main(["runs", "show", "shrt", "--storage", str(storage)]) == 2
    assert "did you mean short?" in capsys.readouterr().err


def test_the_list_is_filtered_and_sorted(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*options: str) -> list[str]:
        return [line.split()[0] for line in listed(capsys, storage, *options)[1:]]

    assert set(names("--state", "interrupted")) == {"short", LONG, "new"}
    assert names("--state", "finished,running") == ["sweep"]
    assert names("--name", "short") == ["short"]
    assert names("--kind", "sweep") == ["sweep"]
    by_loss = names("--sort", "loss", "--name", "[!s]*")
    assert by_loss == [LONG, "new"], "what has no value comes last"
    assert names("--sort", "step", "--reverse", "--name", "*[!p]")[:2] == [LONG, "short"]
    for options, message in {
        ("--state", "finishd"): "did you mean finished?",
        ("--sort", "acuracy"): "did you mean accuracy?",
    }.items():
        assert main(["runs", "--storage", str(storage), *options]) == 2
        assert message in capsys.readouterr().err


def test_a_list_can_be_filtered_by_each_state_of_a_run() -> None:
    assert set(get_args(Result.model_fields["state"].annotation)) | {"unreadable"} == set(STATES)


def test_runs_are_compared_side_by_side(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare = ["runs", "compare", "--storage", str(storage)]
    assert main([*compare, "short", LONG]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["steps"] == ["7", "14"]
    assert rows["optimizer.lr"] == ["0.001", "0.02"]
    assert "global_batch" not in rows, "it is the same"
    assert len(rows["validation"]) == 3
    assert main([*compare, "short", LONG, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"] == {"steps": [7, 14], "optimizer.lr": [0.001, 0.02]}
    assert document["results"]["step"] == [7, 14]
    assert main([*compare, "short"]) == 2
    assert "a comparison needs two runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cost", "text"), [(0, "0"), (5e-5, "less than 0.0001"), (0.00123, "0.00123"), (0.25, "0.25"), (12345.6, "12,345.60")]
)
def test_a_cost_is_shown_in_one_form(cost: float, text: str) -> None:
    assert console.money(cost) == text
    assert console.dollars(cost).replace("$", "") == text
    assert console.dollars(cost).count("$") == 1
