"""The public interface: `from heliostat import train, sweep, load_run, Task`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import heliostat


def test_importing_heliostat_and_listing_its_names_loads_nothing_heavy() -> None:
    code = "import sys, heliostat; dir(heliostat); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [heavy for heavy in ("ray", "torch", "pyarrow", "numpy", "pydantic") if f"'{heavy}'" in out]


def test_dir_has_the_public_names_and_no_others() -> None:
    assert [name for name in dir(heliostat) if not name.startswith("_")] == sorted(heliostat.__all__)


@pytest.mark.parametrize("name", heliostat.__all__)
def test_each_public_name_is_an_object_with_documentation(name: str) -> None:
    found = getattr(heliostat, name)
    assert found.__doc__
    with pytest.raises(AttributeError, match=f"no attribute '{name}_'"):
        getattr(heliostat, f"{name}_")


def test_type_checkers_see_the_modules_that_python_imports() -> None:
    tree = ast.parse(Path(heliostat.__file__).read_text())
    imports = [
        node for block in tree.body if isinstance(block, ast.If) for node in block.body if isinstance(node, ast.ImportFrom)
    ]
    assert {alias.name: node.module for node in imports for alias in node.names} == heliostat.PUBLIC
    assert Path(heliostat.__file__).with_name("py.typed").exists()
