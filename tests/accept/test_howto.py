"""The how-tos, from the wheel in an empty folder: their files and their commands, as they stand."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import clean_environment
from tests.pages import HOWTOS, blocks


@pytest.mark.parametrize("page", [page for page in HOWTOS if page.stem != "slurm"], ids=lambda page: page.stem)
def test_a_howto_works_as_it_stands(page: Path, programs: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for block in blocks(page):
        if block.file and not block.file.startswith(".github"):
            (work / block.file).parent.mkdir(parents=True, exist_ok=True)
            (work / block.file).write_text(block.text)
    script = "\n".join(block.text for block in blocks(page) if block.language == "sh")
    env = {key: value for key, value in clean_environment(tmp_path / "home").items() if key != "PYTHONPATH"}
    env["PATH"] = f"{programs}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script], cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
