"""The how-tos, from the wheel in an empty folder: their files and their commands, as they stand."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import clean_environment
from tests.pages import HOWTOS, blocks


@pytest.mark.parametrize("page", [page for page in HOWTOS if page.stem != "slurm"], ids=lambda page: page.stem)
def test_a_howto_works_as_it_stands(page: Path, programs: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.file and not block.file.startswith(".github"):
            (tmp_path / block.file).write_text(block.text)
    script = "\n".join(block.text for block in blocks(page) if block.language == "sh")
    env = {key: value for key, value in clean_environment(tmp_path / "home").items() if key != "PYTHONPATH"}
    env["PATH"] = f"{programs}{os.pathsep}{env['PATH']}"
    output = tmp_path / "output.txt"  # not a pipe, which what a command leaves behind would hold
    try:
        with output.open("w") as file:
            command = ["bash", "-euxo", "pipefail", "-c", script]
            done = subprocess.run(command, cwd=tmp_path, env=env, stdout=file, stderr=subprocess.STDOUT, timeout=3600)
        assert done.returncode == 0, output.read_text()
    finally:
        for words in _left(tmp_path / "home/.heliostat"):
            subprocess.run([programs / "heliostat", *words], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL)


def _left(home: Path) -> list[list[str]]:
    """The commands that end what a page that failed has left."""
    services = [["serve", "stop", path.stem] for path in home.glob("services/*.json")]
    return services + [["down", path.name, "--yes"] for path in home.glob("clusters/*")]
