"""Environments laid over the one that the tests run in: what is installed here is found there, and can be replaced there."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.release import build, tracked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is `make accept`."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.accept)


def overlay(place: Path, *requirements: str) -> Path:
    """A virtual environment in which the packages of this one are found after its own; its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    site = sysconfig.get_path("purelib", vars={"base": str(place)})
    Path(site, "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    programs = place / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)
    return programs


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make release` builds it, from the source archive; of a copy, because setuptools leaves a folder `build` behind."""
    place = tmp_path_factory.mktemp("wheel")
    for name in tracked("--cached", "--others", "--exclude-standard"):
        (place / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / "sources" / name, follow_symlinks=False)
    tools = overlay(place / "tools", "-r", str(ROOT / "tests/release.txt"))
    build(str(tools / "python"), place / "sources", place / "dist")
    return next((place / "dist").glob("heliostat-*.whl"))


@pytest.fixture(scope="session")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlay(tmp_path_factory.mktemp("elsewhere") / "venv", "--no-deps", str(wheel))
