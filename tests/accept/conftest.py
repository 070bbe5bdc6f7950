"""Environments laid over the one that the tests run in: what is installed here is found there, and can be replaced there."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


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
