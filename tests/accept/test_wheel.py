"""The wheel, installed somewhere else: everything that a user needs is in it, and nothing but `heliostat`."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment
from tests.release import check_contents, tracked, version_of


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Nothing leads to the sources."""
    return {key: value for key, value in clean_environment(tmp_path / "home").items() if key != "PYTHONPATH"}


def run(folder: Path, env: dict[str, str], *words: str | Path) -> str:
    """What a command prints that succeeds in a folder."""
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_has_one_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"heliostat"}
    for needed in ("cluster/profiles/gpu.yaml", "datasets/bundled/digits.parquet", "tuning/configs/digits.yaml", "torchrun.py"):
        assert f"heliostat/{needed}" in names


def test_both_archives_have_the_files_of_the_repository(wheel: Path) -> None:
    check_contents(wheel.parent, tracked("--cached", "--others", "--exclude-standard"), version_of(ROOT))


def test_the_digits_are_trained_from_an_empty_folder(programs: Path, tmp_path: Path, env: dict[str, str]) -> None:
    work, heliostat = tmp_path / "work", programs / "heliostat"
    work.mkdir()
    result = json.loads(run(work, env, heliostat, "train", "digits", "--set", "epochs=3", "--json"))
    assert result["metrics"]["test"]["accuracy"] > 0.5
    assert "kind: RayCluster" in run(work, env, heliostat, "render", "gpu")
    assert "trials" in run(work, env, heliostat, "sweep", "tuning/configs/digits.yaml", "--dry-run")
    where = run(work, env, programs / "python", "-c", "import heliostat; print(heliostat.__file__)")
    assert Path(where.strip()).is_relative_to(programs.parent)


def test_a_new_project_trains_and_passes_its_own_test(programs: Path, tmp_path: Path, env: dict[str, str]) -> None:
    demo, heliostat = tmp_path / "demo", programs / "heliostat"
    run(tmp_path, env, heliostat, "init", "demo")
    result = json.loads(run(demo, env, heliostat, "train", "--in-process", "--json"))
    assert result["metrics"]["test"]["accuracy"] > 0.9
    assert "probability" in run(demo, env, heliostat, "predict", "demo", '{"x": 1, "y": 2}')
    assert "1 passed" in run(demo, env, programs / "python", "-m", "pytest", "-q")
    assert "until 8 trials" in run(demo, env, heliostat, "sweep", "sweep.yaml", "--dry-run")
