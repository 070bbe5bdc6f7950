"""Packages that a run needs beyond its environment: checked on a laptop, installed on each node of a cluster.

A node installs them once, by pip, into a folder of its own that is named by their hash, over the packages of the image.
Ray's runtime environments (2.60) are not used: where Ray is in a virtual environment they copy all of it, torch included, and
do so before a job's own variables, such as the password of a package index, are there; and a failure on a worker's node shows
as a crash of the worker, without pip's lines.
"""

import fcntl
import hashlib
import importlib
import os
import platform
import shutil
import site
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from heliostat.environment import IN_A_JOB, STORAGE
from heliostat.errors import UserError
from heliostat.wording import agreeing

FIXED = ("ray", "torch")
"""Packages that only the image can have: all processes of a cluster share them, and a second torch would not see its GPUs."""
DONE = "installed"
"""An empty file in a folder whose installation was complete."""
SHOWN = 15
"""Lines of pip's output that a failure shows."""


@dataclass(frozen=True)
class Needed:
    """One requirement: as it is written, the same for comparisons, and its file if it is a local wheel."""

    text: str
    requirement: Requirement
    wheel: Path | None = None


def parse(requirements: str | Sequence[str]) -> list[Needed]:
    """Parse a list of requirements, or the file that has a line for each; paths are relative to the working directory.

    Raises:
        UserError: the file cannot be read; lines are invalid, and all of these are listed.
    """
    found, wrong = list[Needed](), list[str]()
    for text in _lines(requirements):
        try:
            found.append(_needed(text))
        except ValueError as error:
            wrong.append(f"{text!r} ({error})")
    if wrong:
        raise UserError(
            f"requirements has {', '.join(wrong)}",
            "write each as pip does, name==1.2 or name @ URL, or as the path of a wheel in the working directory; pip's "
            "options are variables, such as PIP_INDEX_URL in env of the profile, or by --env",
        )
    return found


def _lines(requirements: str | Sequence[str]) -> list[str]:
    if not isinstance(requirements, str):
        return [line.strip() for line in requirements]
    try:
        lines = Path(requirements).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        what = f"requirements is {requirements}, which cannot be read: {reason}"
        raise UserError(what, "give the path of a file, or a list: requirements: [einops]") from None
    return [line for line in (line.partition(" #")[0].strip() for line in lines) if line and not line.startswith("#")]


def _needed(text: str) -> Needed:
    if text.startswith("-"):
        raise ValueError("an option of pip")
    if not text.endswith(".whl") or "@" in text:
        try:
            return Needed(text, Requirement(text))
        except InvalidRequirement as error:
            raise ValueError(str(error).splitlines()[0]) from None
    path = Path(text)
    try:
        name, version, *_ = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise ValueError(str(error)) from None
    return Needed(text, Requirement(f"{name}=={version}"), path.resolve())


def files(requirements: str | Sequence[str]) -> list[str]:
    """The files that a job must get: the one that lists the requirements, and local wheels.

    Raises:
        UserError: see `parse`; wheels are not in the working directory.
    """
    listed = [requirements] if isinstance(requirements, str) else []
    needed = parse(requirements)
    _check_wheels(needed)
    return [*listed, *(each.text for each in needed if each.wheel)]


def _check_wheels(needed: list[Needed]) -> None:
    here, wheels = Path.cwd(), [each for each in needed if each.wheel]
    wrong = [f"{each.text}, which does not exist in {here}" for each in wheels if each.wheel and not each.wheel.is_file()]
    if not wrong:
        wrong = [
            f"{each.text}, which is outside of the working directory, of which a job gets a copy"
            for each in wheels
            if each.wheel and not each.wheel.is_relative_to(here.resolve())
        ]
    if wrong:
        raise UserError(
            f"requirements has {', '.join(wrong)}", "copy the wheel into the working directory, and give its path there"
        )


def missing(requirements: str | Sequence[str]) -> list[str]:
    """The requirements that this environment does not fulfil."""
    return [needed.text for needed in parse(requirements) if not _fulfilled(needed.requirement)]


def check_fixed(requirements: str | Sequence[str], versions: dict[str, str], where: str) -> None:
    """Check what only the image can have, by the versions that are known of it.

    Raises:
        UserError: a requirement contradicts a version.
    """
    for needed in parse(requirements):
        name = needed.requirement.name.lower()
        if name in FIXED and needed.requirement.url:
            raise UserError(
                f"requirements has {needed.text}, but {name} comes with the image", "remove it, or build it into an image"
            )
        if name in versions and not needed.requirement.specifier.contains(versions[name], prereleases=True):
            raise UserError(
                f"requirements has {needed.text}, but {where} has {name} {versions[name]}, which no run can replace",
                f"remove it, or use an image with that {name}",
            )


def provide(requirements: str | Sequence[str], install: bool | None = None) -> Path | None:
    """Make the requirements importable in this process: on a cluster by installing what is missing, once per node.

    Returns the folder in which what was missing is.

    Args:
        requirements: a list, or the path of a file.
        install: whether to install what is missing; None: if this is a cluster.

    Raises:
        UserError: they are invalid, not installed here, cannot be installed, or would replace what is in use.
    """
    if not requirements or not (lacking := missing(requirements)):
        return None
    if not (install if install is not None else STORAGE in os.environ or IN_A_JOB in os.environ):
        quoted = " ".join(f"'{text}'" for text in lacking)
        raise UserError(
            f"requirements has {', '.join(lacking)}, which {agreeing(len(lacking), 'are')} not installed here; only a "
            "cluster installs them by itself",
            f"{sys.executable} -m pip install {quoted}",
        )
    check_fixed(requirements, _versions(), "the image")
    place = _installed([needed for needed in parse(requirements) if needed.text in lacking])
    _check_unused(place)
    ends = ("site-packages", "dist-packages")
    before = next((number for number, path in enumerate(sys.path) if path.endswith(ends)), len(sys.path))
    sys.path.insert(before, str(place))
    importlib.invalidate_caches()
    return place


def _fulfilled(requirement: Requirement) -> bool:
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        found = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    if requirement.url:
        return requirement.url in (found.read_text("direct_url.json") or "")
    fits = requirement.specifier.contains(found.version, prereleases=True)
    return fits and all(_fulfilled(each) for extra in requirement.extras for each in _of_extra(found, extra))


def _of_extra(distribution: metadata.Distribution, extra: str) -> Iterator[Requirement]:
    for each in map(Requirement, distribution.requires or []):
        if each.marker and each.marker.evaluate({"extra": extra}) and not each.marker.evaluate({"extra": ""}):
            each.marker = None
            yield each


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in FIXED}


def _installed(needed: list[Needed]) -> Path:
    """The folder with these packages, installed by the first process of this node that needs it."""
    _check_wheels(needed)
    wheels = [hashlib.sha256(each.wheel.read_bytes()).hexdigest() for each in needed if each.wheel]
    identity = [sys.version, platform.machine(), sys.prefix, *(each.text for each in needed), *wheels, *_versions().values()]
    root = Path(tempfile.gettempdir(), f"heliostat-requirements-{os.getuid()}")
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise UserError(f"{root} belongs to another user", "delete it, or set TMPDIR")
    place = root / hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / DONE).exists():
            shutil.rmtree(place, ignore_errors=True)
            _install(place, needed)
            (place / DONE).touch()
    return _packages(place)


def _packages(place: Path) -> Path:
    return place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _install(place: Path, needed: list[Needed]) -> None:
    """Install packages into a new virtual environment that sees those of this one, so that these are not installed again.

    Raises:
        UserError: pip fails; with its last lines.
    """
    print(f"installs {', '.join(each.text for each in needed)} on {platform.node()}", file=sys.stderr, flush=True)
    venv.create(place, with_pip=False, symlinks=True)
    below = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    (_packages(place) / "image.pth").write_text("\n".join(below))
    (place / "fixed.txt").write_text("\n".join(f"{name}=={version}" for name, version in _versions().items()))
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-c", str(place / "fixed.txt")]
    command = [
        str(place / "bin" / "python"),
        "-m",
        "pip",
        "install",
        *options,
        *(str(each.wheel or each.text) for each in needed),
    ]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIP_TARGET", "PIP_USER")}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode:
        lines = "\n".join(f"  | {line}" for line in done.stdout.strip().splitlines()[-SHOWN:])
        raise UserError(
            f"requirements cannot be installed on {platform.node()}:\n{lines}",
            "correct requirements; a package index of your own is PIP_INDEX_URL in env of the profile; a wheel in the working "
            "directory needs none",
        )


def _check_unused(place: Path) -> None:
    """Raise `UserError` if this process has already imported another version of a package."""
    for found in metadata.distributions(path=[str(place)]):
        modules = {Path(str(file)).parts[0].removesuffix(".py") for file in found.files or []}
        for name in modules & sys.modules.keys():
            file = getattr(sys.modules[name], "__file__", None)
            if file and not Path(file).is_relative_to(place):
                raise UserError(
                    f"requirements needs {found.name} {found.version}, but Ray or Heliostat already uses the image's own",
                    f"remove what needs it from requirements, or use an image with {found.name} {found.version}",
                )
