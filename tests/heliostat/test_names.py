"""Everything of ours is imported under ``heliostat``, also where the root of a clone is on the search path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

OURS = ("cluster", "datasets", "tuning", "workloads")
IMPORT_ALL = """
import importlib, pkgutil, sys
from pathlib import Path
import heliostat
for module in pkgutil.walk_packages(heliostat.__path__, "heliostat."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if "fix: pip install" not in str(error):  # what only a library that is not there can use
                raise
root, installed = Path(sys.argv[1]), Path(sys.prefix)
print(heliostat.__file__)
for name, module in list(sys.modules.items()):
    for place in [module.__file__] if getattr(module, "__file__", None) else getattr(module, "__path__", []):
        path = Path(place)
        if path.is_relative_to(root) and not path.is_relative_to(installed):
            print(name.partition(".")[0])
"""
FIND = """
import sys
from heliostat.modules import order_search_path
order_search_path()
import {name}
print({found}.__file__)
"""


def python(code: str, *args: str | Path, cwd: Path, path: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_no_module_of_the_clone_is_loaded_under_another_name() -> None:
    """With the root as working directory and on PYTHONPATH."""
    done = python(IMPORT_ALL, ROOT, cwd=ROOT, path=ROOT)
    assert done.returncode == 0, done.stderr
    file, *names = done.stdout.splitlines()
    assert Path(file) == ROOT / "heliostat" / "__init__.py"
    assert set(names) == {"heliostat"}


@pytest.mark.parametrize("name", OURS)
def test_the_old_name_of_a_package_is_refused_with_the_new_one(name: str) -> None:
    done = python(f"import {name}", cwd=ROOT, path=None)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ModuleNotFoundError: no module '{name}'; ")
    assert f"heliostat.{name}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", OURS)
def test_a_module_of_the_user_is_found_before_a_folder_of_the_clone(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("")
    done = python(FIND.format(name=name, found=name), cwd=tmp_path, path=ROOT)
    assert done.stdout.strip() == str(tmp_path / f"{name}.py"), done.stderr


def test_an_installed_module_is_found_before_a_folder_of_the_clone(tmp_path: Path) -> None:
    """Such as Hugging Face's ``datasets``, from the clone's root as working directory."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("")
    install = f"import sys; sys.path.append({str(tmp_path)!r})\n"
    done = python(install + FIND.format(name="datasets", found="datasets"), cwd=ROOT, path=ROOT)
    assert done.stdout.strip() == str(tmp_path / "datasets" / "__init__.py"), done.stderr


def test_a_folder_of_the_user_without_init_is_found_before_a_folder_of_the_clone(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "coco.py").write_text("")
    for path in (ROOT, None):
        done = python(FIND.format(name="datasets.coco", found="datasets.coco"), cwd=tmp_path, path=path)
        assert done.stdout.strip() == str(tmp_path / "datasets" / "coco.py"), done.stderr


def test_a_copy_that_has_lost_the_links_says_so(tmp_path: Path) -> None:
    """As a source zip has, or git without core.symlinks: a file with the link's target in its place."""
    shutil.copy(ROOT / "heliostat/__init__.py", tmp_path / "__init__.py")
    (tmp_path / "cluster").write_text("../cluster")
    package = tmp_path.rename(tmp_path.with_name("heliostat"))
    done = python("import heliostat", cwd=package.parent, path=None)
    assert done.returncode == 1
    assert "ImportError: heliostat/cluster is not a folder" in done.stderr
    assert "Install the wheel" in done.stderr
