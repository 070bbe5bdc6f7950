"""The packages of a job: the user's working directory, and Heliostat itself.

Ray puts a job's package first on the search path of all its processes. Commands of Heliostat are therefore *isolated*: the
working directory is a folder in the package, so that a ``types.py`` of the user's does not replace the standard library's.
Other programs get the working directory as the package itself, as with ``ray job submit``.
"""

import hashlib
import io
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from heliostat.cluster.jobs.contents import Contents, has_heliostat, megabytes
from heliostat.cluster.jobs.dashboard import Dashboard
from heliostat.errors import UserError, some
from heliostat.modules import FOLDER, ROOT

LARGEST = 99 << 20
"""Bytes of a package: Ray's dashboard (2.60) rejects requests of more than 100 MiB."""
NOT_IN_JOBS = (
    "heliostat/schemas", "heliostat/project", "heliostat/reference", "heliostat/commands/runs/page", "heliostat/commands/plan",
    "heliostat/cluster/manifests", "heliostat/cluster/image", "heliostat/cluster/dashboards", "heliostat/cluster/importer",
    "heliostat/cluster/doctor", "heliostat/cluster/planner",
)  # fmt: skip
"""Folders that no command needs in a job: scheduled runs have the package in a ConfigMap, which holds a megabyte."""
TEXT = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 8 << 20, "lc": 4, "pb": 0}
"""How text is compressed best; a larger dictionary would cost the pods its size in memory, and is not filled."""
PIECE = 1 << 20
"""Bytes that are read at once."""
MARK = ".package"
"""An empty file beside the only top-level folder of a package, which Ray (2.60) takes away from file:// packages."""


@dataclass(frozen=True)
class Package:
    """A zip file with a content-addressed URI."""

    uri: str
    data: bytes


class _TooLarge(Exception):
    """A package would be larger than `LARGEST`."""


def runtime_env(packages: list[Package], env: Mapping[str, str]) -> dict[str, Any]:
    """The runtime environment of a job with these packages, the working directory first."""
    modules = {"py_modules": [package.uri for package in packages[1:]]} if packages[1:] else {}
    return {"working_dir": packages[0].uri, **modules, "env_vars": dict(env)}


def packages(contents: Contents) -> list[Package]:
    """Build the packages of a job.

    Raises:
        UserError: the files are too large.
    """
    place = f"{FOLDER}/" if contents.isolated else ""
    files = {f"{place}{name}": contents.directory / name for name in contents.sizes}
    try:
        code = _package(files, *([MARK, place] if place else []))
    except _TooLarge:
        raise _too_large(contents) from None
    alone = has_heliostat(contents.directory) and not contents.isolated
    return [code] if alone else [code, _package(dict(_own_files()), MARK)]


def isolated(command: str) -> str:
    """Wrap a shell command so that it runs in the working directory of an isolated package."""
    return f"cd {FOLDER} && exec {command}"


def compact(package: Package) -> Package:
    """A package as a .tar.xz, which is about a third smaller, for where it must be small; Ray unpacks both."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(package.data)) as archive,
        lzma.open(target, "wb", filters=[TEXT]) as xz,
        tarfile.open(fileobj=xz, mode="w") as packed,
    ):
        for entry in archive.infolist():
            info = tarfile.TarInfo(entry.filename.rstrip("/"))
            info.size, info.mode = entry.file_size, (entry.external_attr >> 16) or (0o755 if entry.is_dir() else 0o644)
            info.type = tarfile.DIRTYPE if entry.is_dir() else tarfile.REGTYPE
            packed.addfile(info, None if entry.is_dir() else io.BytesIO(archive.read(entry)))
    return Package(f"{package.uri.removesuffix('.zip')}.tar.xz", target.getvalue())


def upload(dashboard: Dashboard, packages: list[Package]) -> int:
    """Upload the packages that the cluster does not have; returns the number of bytes sent."""
    sent = 0
    for package in packages:
        if not dashboard.has_package(package.uri):
            dashboard.upload(package.uri, package.data)
            sent += len(package.data)
    return sent


def _package(files: Mapping[str, Path], *empty: str) -> Package:
    """Pack files, and empty ones, by their path in the package; a path that ends with a slash is a folder."""
    with tempfile.TemporaryFile() as target:
        with zipfile.ZipFile(target, "w") as archive:
            for name in empty:
                archive.writestr(zipfile.ZipInfo(name), b"")
            for name, path in files.items():
                _add(archive, name, path, target)
        target.seek(0)
        data = target.read()
    return Package(f"gcs://_ray_pkg_{hashlib.md5(data, usedforsecurity=False).hexdigest()}.zip", data)


def _add(archive: zipfile.ZipFile, name: str, path: Path, target: IO[bytes]) -> None:
    """Add a file to an archive that is written to ``target``."""
    status = path.stat()
    info = zipfile.ZipInfo(name)  # with a fixed time, so that the same content gives the same package
    info.external_attr, info.file_size = stat.S_IMODE(status.st_mode) << 16, status.st_size
    if name.endswith("/"):
        archive.writestr(info, b"")
        return
    info.compress_type = zipfile.ZIP_DEFLATED
    with path.open("rb") as source, archive.open(info, "w") as packed:
        while piece := source.read(PIECE):
            packed.write(piece)
            if target.tell() > LARGEST:
                raise _TooLarge


def _too_large(contents: Contents) -> UserError:
    files = contents.biggest_first
    biggest = some((f"{name} ({megabytes(size)})" for name, size in files.items()), shown=5)
    return UserError(
        f"the working directory {contents.directory} has {megabytes(sum(files.values()))}, and packed more than the "
        f"{megabytes(LARGEST)} that can be sent; the biggest files are {biggest}",
        "run from the project's folder, keep data on the storage, or exclude large files in .gitignore or .rayignore",
    )


def _own_files() -> Iterator[tuple[str, Path]]:
    """The files of Heliostat by their path; in a clone its packages are links, which `Path.rglob` does not follow."""
    for folder, below, names in os.walk(ROOT / "heliostat", followlinks=True):
        inside = Path(folder).relative_to(ROOT)
        below[:] = sorted(name for name in below if name != "__pycache__" and (inside / name).as_posix() not in NOT_IN_JOBS)
        yield from ((str(Path(folder, name).relative_to(ROOT)), Path(folder, name)) for name in sorted(names))
