"""The wheel, installed somewhere else: everything that a user needs is in it, and nothing but `heliostat`."""

import json
import subprocess
import zipfile
from pathlib import Path

from tests.conftest import ROOT, clean_environment
from tests.release import check_contents, tracked, version_of


def test_a_wheel_has_one_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"heliostat"}
    for needed in ("cluster/profiles/gpu.yaml", "datasets/bundled/digits.parquet", "tuning/configs/digits.yaml", "torchrun.py"):
        assert f"heliostat/{needed}" in names


def test_both_archives_have_the_files_of_the_repository(wheel: Path) -> None:
    check_contents(wheel.parent, tracked("--cached", "--others", "--exclude-standard"), version_of(ROOT))


def test_the_digits_are_trained_from_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    env = {key: value for key, value in clean_environment(tmp_path / "home").items() if key != "PYTHONPATH"}

    def run(*args: str) -> str:
        done = subprocess.run([programs / "heliostat", *args], cwd=work, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    result = json.loads(run("train", "digits", "--set", "epochs=3", "--json"))
    assert result["metrics"]["test"]["accuracy"] > 0.5
    assert "kind: RayCluster" in run("render", "gpu")
    assert "trials" in run("sweep", "tuning/configs/digits.yaml", "--dry-run")
    where = subprocess.run(
        [programs / "python", "-c", "import heliostat; print(heliostat.__file__)"],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(programs.parent)


def test_a_new_project_trains_and_passes_its_own_test(programs: Path, tmp_path: Path) -> None:
    env = {key: value for key, value in clean_environment(tmp_path / "home").items() if key != "PYTHONPATH"}

    def run(folder: Path, *words: str | Path) -> str:
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(tmp_path, programs / "heliostat", "init", "demo")
    result = json.loads(run(tmp_path / "demo", programs / "heliostat", "train", "--json"))
    assert result["metrics"]["test"]["accuracy"] > 0.9
    assert "probability" in run(tmp_path / "demo", programs / "heliostat", "predict", "demo", '{"x": 1, "y": 2}')
    assert "1 passed" in run(tmp_path / "demo", programs / "python", "-m", "pytest", "-q")
    assert "until 8 trials" in run(tmp_path / "demo", programs / "heliostat", "sweep", "sweep.yaml", "--dry-run")
