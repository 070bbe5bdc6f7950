"""The page and the reports in a real browser: on a phone and a desk, light and dark, by the rules of axe, and with a mouse."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.accept.conftest import overlay
from tests.browser import chromium
from tests.cluster.test_cost import write_record
from tests.conftest import ROOT, clean_environment

LOOK = Path(__file__).with_name("page") / "look.py"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the browser found in each view."""
    place = tmp_path_factory.mktemp("page")
    programs = overlay(place / "venv", "-r", str(Path(__file__).with_name("page.txt")))
    storage = place / "runs"
    shutil.copytree(ROOT / "tests/fixtures/v0.1/storage", storage)
    shutil.copytree(storage / "breast-cancer", storage / "again")
    env = {**clean_environment(place / "home"), "PYTHONPATH": str(ROOT)}
    for words in (
        ["report", "breast-cancer"], ["report", "sweep"],
        ["model", "add", "breast-cancer", "--name", "cancer", "--alias", "champion", "--why", "the first one: " + 20 * "why "],
    ):  # fmt: skip
        subprocess.run([programs / "python", "-m", "heliostat", *words, "--storage", storage], check=True, env=env)
    write_record(place)
    since = ("--since", "2026-11-25T00:00")
    for words in (
        ["cost", "mine.yaml", "--report", "cost.html"],
        ["plan", "mine.yaml", "--from-record", "--report", "plan.html"],
    ):
        subprocess.run([programs / "python", "-m", "heliostat", *words, *since], check=True, env=env, cwd=place)
    command: list[str | Path] = [programs / "python", LOOK, storage, chromium(), place / "cost.html", place / "plan.html"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_every_view_fits_its_window_and_has_no_finding_of_axe(seen: list[dict[str, Any]]) -> None:
    assert len(seen) == 40, "six views, two reports and the pages of cost and plan, at two widths, light and dark"
    for view in seen:
        where = f"{view['name']} at {view['width']} pixels, {view['scheme']}"
        assert view["needed"] <= view["width"], where
        assert view["errors"] == [], where
        assert view["findings"] == [], where
        assert view["overlaps"] == [], where
        assert view["paged"] == 0, where


def test_figures_answer_to_the_mouse(seen: list[dict[str, Any]]) -> None:
    at_desk = {view["name"]: view for view in seen if view["width"] == 1400}
    assert "validation" in at_desk["run"]["tooltip"]
    assert at_desk["run"]["zoomed"] < at_desk["run"]["whole"], "a drag zooms"
    assert at_desk["sweep"]["selected"] < at_desk["sweep"]["whole"], "a drag along an axis selects"
