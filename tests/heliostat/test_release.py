"""What `make release` checks."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from heliostat.errors import UserError
from tests.conftest import ROOT
from tests.release import check_contents, expected, tracked, version_of, version_problems


def test_no_file_of_the_repository_is_ignored() -> None:
    """A job, ruff and a search would leave it out."""
    assert tracked("--cached", "--ignored", "--exclude-standard") == []


@pytest.mark.parametrize(
    ("version", "changes", "problem"),
    [
        ("0.2.0", "# Changes\n\n## Unreleased\n\n- One.\n\n## 0.1.0\n\n- Two.\n", ""),
        ("0.2.0", "# Changes\n\n## 0.2.0 (2026-11-27)\n\n- One.\n\n## 0.1.0\n\n- Two.\n", ""),
        ("0.1.0", "# Changes\n\n## Unreleased\n\n- One.\n\n## 0.1.0\n\n- Two.\n", "as 0.1.0 has been released"),
        ("0.1.0", "# Changes\n\n## 0.2.0\n\n- One.\n\n## 0.1.0\n\n- Two.\n", "CHANGELOG.md has 0.2.0"),
        ("0.1.0", "# Changes\n\n## Unreleased\n\n- One.\n\n## 0.2.0\n\n- Two.\n", "CHANGELOG.md has 0.2.0"),
        ("0.3.0", "# Changes\n\n## Unreleased\n\n## 0.2.0\n\n- One.\n", "no changes for version 0.3.0"),
        ("0.3", "# Changes\n\n## Unreleased\n\n- One.\n", "__version__ is 0.3"),
    ],
)
def test_a_version_and_the_changes_agree(version: str, changes: str, problem: str) -> None:
    found = [str(error) for error in version_problems(version, changes)]
    assert bool(found) == bool(problem)
    assert all(problem in text for text in found)


def test_the_version_here_and_the_changes_agree() -> None:
    assert version_problems(version_of(ROOT), (ROOT / "CHANGELOG.md").read_text()) == []


def test_files_that_are_missing_or_too_many_are_named(tmp_path: Path) -> None:
    files = ["README.md", "heliostat/cli.py", "heliostat/cluster", "cluster/profiles/gpu.yaml", "tests/conftest.py"]
    assert expected(files) == {"heliostat/cli.py", "heliostat/cluster/profiles/gpu.yaml"}
    (tmp_path / "cli.py").touch()
    with tarfile.open(tmp_path / "heliostat-1.0.0.tar.gz", "w:gz") as archive:
        for name in ("heliostat/cli.py", "heliostat/cluster/profiles/gpu.yaml", "pyproject.toml"):
            archive.add(tmp_path / "cli.py", f"heliostat-1.0.0/{name}")
    with zipfile.ZipFile(tmp_path / "heliostat-1.0.0-py3-none-any.whl", "w") as wheel:
        for name in ("heliostat/cli.py", "heliostat/old.py", "heliostat-1.0.0.dist-info/METADATA"):
            wheel.writestr(name, "")
    with pytest.raises(UserError) as raised:
        check_contents(tmp_path, files, "1.0.0")
    assert "whl lacks heliostat/cluster/profiles/gpu.yaml" in str(raised.value)
    assert "whl has heliostat/old.py" in str(raised.value)
    assert "tar.gz" not in str(raised.value)
    assert len(tracked()) > 500
