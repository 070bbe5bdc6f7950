"""`heliostat why` of runs, sweeps and scripts, from their folders alone, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from heliostat.cause import Cause
from heliostat.cli import main
from heliostat.cluster.targets.observation import Why
from heliostat.commands.why import show
from tests.conftest import ROOT

STORAGE = ROOT / "tests/fixtures/v0.1/storage"


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["why", *args, "--storage", str(STORAGE)]) == 0
    return capsys.readouterr().out


def test_what_has_ended_a_run_a_sweep_and_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert "run breast-cancer  finished\n  1. it has finished at step" in said(capsys, "breast-cancer")
    assert "sweep sweep  finished\n  1. it has finished: " in said(capsys, "sweep")
    assert "script counts  interrupted\n  1. its driver has ended at step" in said(capsys, "counts")


def test_a_run_whose_driver_was_killed_says_how_to_go_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = shutil.copytree(STORAGE / "breast-cancer", tmp_path / "killed")
    (run / "result.json").unlink()
    out = said(capsys, str(run))
    assert "killed  interrupted" in out
    assert "without a word: it was killed, or its machine is gone" in out
    assert "fix:   the same command resumes it from its last checkpoint" in out


def test_json_has_every_part_of_a_cause(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(said(capsys, "breast-cancer", "--json"))
    assert (document["subject"], document["state"]) == ("run breast-cancer", "finished")
    assert document["causes"][0].keys() == {"what", "fix", "since", "then", "group", "job", "known"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "neither a name nor a cluster is given"),
        (["breast-cancr"], "did you mean breast-cancer?"),
        (["--on", "nowhere"], "there is no profile nowhere"),
    ],
    ids=["nothing", "a wrong name", "a wrong profile"],
)
def test_what_it_refuses(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    assert main(["why", *args, "--storage", str(STORAGE)]) == 2
    assert message in capsys.readouterr().err


def test_what_is_not_known_has_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    show(Why("job a", "waits", [Cause("first\nsecond line", "do it", 0.0, "then"), Cause("blind", known=False)]))
    assert capsys.readouterr().out == (
        "job a  waits\n  1. first\n     second line\n     next:  then\n     fix:   do it\n  ?  blind\n"
    )
