"""What a job takes with it: the user's working directory, and Heliostat itself if it is not in there."""

import hashlib
import io
import logging
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray's own way of packing a working directory (2.60), so that what is left out is the same as with `ray job submit`.
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from heliostat.cluster.jobs.dashboard import Dashboard
from heliostat.errors import UserError

logging.getLogger("ray._private.runtime_env.packaging").setLevel("WARNING")  # it names every file that it leaves out

LARGEST = 99 << 20
"""Bytes of a package: Ray's dashboard takes no request of more than 100 MiB (2.60)."""
NEVER = [".git", ".venv", "venv", "__pycache__", "*.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"]
OURS = ("heliostat", "datasets", "workloads", "tuning", "cluster")
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Package:
    """A zip file under the name that its content gives it."""

    uri: str
    data: bytes


def runtime_env(packages: list[Package], env: dict[str, str]) -> dict[str, Any]:
    """The runtime environment of a job that runs in these packages, the working directory first."""
    modules = {"py_modules": [package.uri for package in packages[1:]]} if packages[1:] else {}
    return {"working_dir": packages[0].uri, **modules, "env_vars": env}


def packages(working_dir: Path) -> list[Package]:
    """The packages of a job that is submitted from a directory; what ``.gitignore`` and ``.rayignore`` name is left out.

    Raises:
        UserError: the directory is too big to be sent.
    """
    has_ours = (working_dir / "heliostat" / "cli.py").is_file()
    return [_directory(working_dir), *([] if has_ours else [_heliostat()])]


def upload(dashboard: Dashboard, packages: list[Package]) -> int:
    """Send the packages that the cluster does not have; returns how many bytes that were."""
    sent = 0
    for package in packages:
        if not dashboard.has_package(package.uri):
            dashboard.upload(package.uri, package.data)
            sent += len(package.data)
    return sent


def _directory(directory: Path) -> Package:
    uri = get_uri_for_directory(str(directory), include_gitignore=True, excludes=NEVER)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "package.zip")
        create_package(str(directory), target, include_gitignore=True, excludes=NEVER)
        size = target.stat().st_size
        if size > LARGEST:
            raise UserError(
                f"the working directory {directory} is {size >> 20} MB packed, and at most {LARGEST >> 20} MB can be sent",
                "start from the project's folder, keep data on the storage, or name what is big in .gitignore or .rayignore",
            )
        return Package(uri, target.read_bytes())


def _heliostat() -> Package:
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _own_files():
            # A fixed time, so that the same content is the same package.
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(ROOT))), path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = box.getvalue()
    return Package(f"gcs://_ray_pkg_{hashlib.md5(data, usedforsecurity=False).hexdigest()}.zip", data)


def _own_files() -> Iterator[Path]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
