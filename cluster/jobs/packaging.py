"""The packages of a job: the user's working directory, and Heliostat itself.

Ray puts a job's package first on the search path of all its processes. Commands of Heliostat are therefore *isolated*: the
working directory is a folder in the package, so that a ``types.py`` of the user's does not replace the standard library's.
Other programs get the working directory as ``ray job submit`` sends it.
"""

import hashlib
import io
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray's private functions (2.60), so that the same files are left out as with `ray job submit`.
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from heliostat.cluster.jobs.dashboard import Dashboard
from heliostat.errors import UserError
from heliostat.modules import FOLDER, ROOT

logging.getLogger("ray._private.runtime_env.packaging").setLevel("WARNING")  # it logs every file that it leaves out

LARGEST = 99 << 20
"""Bytes of a package: Ray's dashboard (2.60) rejects requests of more than 100 MiB."""
NEVER = [".git", ".venv", "venv", "__pycache__", "*.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"]


@dataclass(frozen=True)
class Package:
    """A zip file with a content-addressed URI."""

    uri: str
    data: bytes


def runtime_env(packages: list[Package], env: dict[str, str]) -> dict[str, Any]:
    """The runtime environment of a job with these packages, the working directory first."""
    modules = {"py_modules": [package.uri for package in packages[1:]]} if packages[1:] else {}
    return {"working_dir": packages[0].uri, **modules, "env_vars": env}


def packages(working_dir: Path, isolated: bool = False) -> list[Package]:
    """Build the packages of a job from a directory, without what ``.gitignore`` and ``.rayignore`` exclude.

    Raises:
        UserError: the directory is too large.
    """
    is_clone = (working_dir / "heliostat" / "cli.py").is_file()
    if isolated:
        return [_nested(_directory(working_dir, ["/heliostat"] if is_clone else [])), _heliostat()]
    return [_directory(working_dir), *([] if is_clone else [_heliostat()])]


def isolated(command: str) -> str:
    """Wrap a shell command so that it runs in the working directory of an isolated package."""
    return f"cd {FOLDER} && exec {command}"


def upload(dashboard: Dashboard, packages: list[Package]) -> int:
    """Upload the packages that the cluster does not have; returns the number of bytes sent."""
    sent = 0
    for package in packages:
        if not dashboard.has_package(package.uri):
            dashboard.upload(package.uri, package.data)
            sent += len(package.data)
    return sent


def _directory(directory: Path, excludes: Sequence[str] = ()) -> Package:
    left_out = [*NEVER, *excludes]
    uri = get_uri_for_directory(str(directory), include_gitignore=True, excludes=left_out)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "package.zip")
        create_package(str(directory), target, include_gitignore=True, excludes=left_out)
        size = target.stat().st_size
        if size > LARGEST:
            raise UserError(
                f"the working directory {directory} is {size >> 20} MB packed, and at most {LARGEST >> 20} MB can be sent",
                "run from the project's folder, keep data on the storage, or exclude large files in .gitignore or .rayignore",
            )
        return Package(uri, target.read_bytes())


def _nested(package: Package) -> Package:
    """Repack a package with all files in `FOLDER`."""
    box = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package.data)) as flat, zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{FOLDER}/"), b"")  # also when the directory is empty
        for item in flat.infolist():
            data, item.filename = flat.read(item), f"{FOLDER}/{item.filename}"
            archive.writestr(item, data, zipfile.ZIP_DEFLATED)
    return Package(_uri(f"{FOLDER}/{package.uri}".encode()), box.getvalue())


def _uri(content: bytes) -> str:
    return f"gcs://_ray_pkg_{hashlib.md5(content, usedforsecurity=False).hexdigest()}.zip"


def _heliostat() -> Package:
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _own_files():
            # A fixed time, so that the same content gives the same package.
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(ROOT))), path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = box.getvalue()
    return Package(_uri(data), data)


def _own_files() -> Iterator[Path]:
    """The files of Heliostat; in a clone its packages are links, which `Path.rglob` does not follow."""
    for folder, below, names in os.walk(ROOT / "heliostat", followlinks=True):
        below[:] = sorted(name for name in below if name != "__pycache__")
        yield from (Path(folder, name) for name in sorted(names))
