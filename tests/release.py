"""Build a release from what git has committed, and check it: ``python -m tests.release PYTHON`` (`make release`).

The wheel is built from the source archive, so both work. In both, the links of heliostat/ are folders.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.version import Version

from heliostat.errors import HeliostatError, JobFailed, UserError, combined, some
from tests.conftest import ROOT

LINKED = ("cluster", "datasets", "tuning", "workloads")
"""Folders that heliostat/ has links to."""
TITLE = re.compile(r"^## (.+)$", re.MULTILINE)


def release(python: str, to: Path) -> None:
    """Build and check the committed state, and leave both files in a folder; what was in it goes.

    Args:
        python: one that has tests/release.txt.
        to: the folder.

    Raises:
        UserError: the working tree, the version or the contents are not those of a release; nothing is written.
    """
    problems = [*changed(), *version_problems(version_of(ROOT), (ROOT / "CHANGELOG.md").read_text())]
    if problems:
        raise combined(problems, "the release")
    with tempfile.TemporaryDirectory() as place:
        sources, built = Path(place, "sources"), Path(place, "dist")
        sources.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x"], cwd=sources, input=archive, check=True)
        build(python, sources, built)
        if subprocess.run([python, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]).returncode:
            raise JobFailed("twine does not accept the release; it has said why")
        check_contents(built, tracked(), version_of(ROOT))
        to.mkdir(exist_ok=True)
        for old in to.glob("heliostat-*"):
            old.unlink()
        for file in sorted(built.iterdir()):
            data = file.read_bytes()
            (to / file.name).write_bytes(data)
            print(f"{to / file.name}  {len(data) / 1e6:.1f} MB  sha256 {hashlib.sha256(data).hexdigest()}")


def version_of(sources: Path) -> str:
    """The version that the package has."""
    found = re.search(r'^__version__ = "(.+)"$', (sources / "heliostat/__init__.py").read_text(), re.MULTILINE)
    assert found, "pyproject.toml reads it, too"
    return found[1]


def changed() -> list[UserError]:
    """An error if the working tree has what is not committed."""
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [line[3:] for line in status.stdout.splitlines()]
    what = f"the working tree has changes that would not be in the release: {some(files)}"
    return [UserError(what, "commit or stash them")] if files else []


def version_problems(version: str, changes: str) -> list[UserError]:
    """What is wrong with a version, beside the texts of CHANGELOG.md: semantic versions, the newest first."""
    problems = []
    semantic = re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", version)
    if not semantic:
        problems.append(UserError(f"__version__ is {version}", "write a semantic version, such as 0.2.0"))
    parts = TITLE.split(changes)[1:]
    sections = {title.split()[0]: text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}
    pending = sections.pop("Unreleased", "")
    newest = next(iter(sections), "")
    if version == newest and pending:
        fix = f"set __version__ in heliostat/__init__.py to the next one, as {version} has been released"
        problems.append(UserError("CHANGELOG.md has changes under Unreleased", fix))
    if newest and semantic and Version(version) < Version(newest):
        problems.append(UserError(f"__version__ is {version}, but CHANGELOG.md has {newest}", "set it to a newer one"))
    if version not in sections and not pending:
        problems.append(UserError(f"CHANGELOG.md has no changes for version {version}", "describe them under Unreleased"))
    return problems


def build(python: str, sources: Path, to: Path) -> None:
    """Build the source archive, and the wheel from it; ``sources`` are changed.

    Raises:
        JobFailed: it did not build; the message has the output.
    """
    env = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "315532800")}
    command = [python, "-m", "build", "--outdir", str(to), str(sources)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise JobFailed(f"the release cannot be built:\n{done.stdout}")


def tracked(*options: str) -> list[str]:
    """The files that git has, or lists with these options."""
    listed = subprocess.run(["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def expected(files: Iterable[str]) -> set[str]:
    """The files of the package, of those in the repository: its folders stand beside it there."""
    links = {f"heliostat/{name}" for name in LINKED}
    inside = {f"heliostat/{name}" for name in files if name.split("/")[0] in LINKED}
    return inside | {name for name in files if name.startswith("heliostat/") and name not in links}


def check_contents(built: Path, files: Iterable[str], version: str) -> None:
    """Compare both with the files of the repository.

    Raises:
        UserError: one is missing, or lacks a file, or has one that is not in the repository.
    """
    source, wheel = built / f"heliostat-{version}.tar.gz", built / f"heliostat-{version}-py3-none-any.whl"
    if missing := [file.name for file in (source, wheel) if not file.is_file()]:
        raise UserError(f"{some(missing)} was not built", f"look at what is in {built}")
    with tarfile.open(source) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    found = {
        source.name: {name for name in packed if name.startswith("heliostat/")},
        wheel.name: {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name},
    }
    problems, wanted = [], expected(files)
    for name, has in found.items():
        if missing := sorted(wanted - has):
            problems.append(UserError(f"{name} lacks {some(missing)}", "name them in package-data of pyproject.toml"))
        if more := sorted(has - wanted):
            problems.append(UserError(f"{name} has {some(more)}", "they are not in the repository: leave them out"))
    if problems:
        raise combined(problems, "the release")


if __name__ == "__main__":
    try:
        release(sys.argv[1], ROOT / "dist")
    except HeliostatError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
