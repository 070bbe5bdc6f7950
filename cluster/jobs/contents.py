"""The files of a working directory that a job gets: all but secrets, caches, earlier runs and what ignore files exclude.

``.gitignore`` and ``.rayignore`` apply as with ``ray job submit``; a line ``!PATH`` of ``.rayignore``, without wildcards, sends
a file or a folder nevertheless. A secret is sent only if such a line names the file: a broad ``!*`` was not written for it.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Ray's copy of pathspec (2.60), so that patterns have the same meaning as with `ray job submit`.
from ray._private.thirdparty.pathspec import PathSpec

from heliostat.cluster.jobs.secret_files import is_secret, secret_paths
from heliostat.environment import CACHE, DATASETS, JOBS, NODES_RECORD, RUN_FOLDERS
from heliostat.errors import UserError, some

CACHE_NAMES = """
    .git  .venv  venv  __pycache__  *.egg-info  .mypy_cache  .ruff_cache  .pytest_cache  .hypothesis  .import_linter_cache
    .cache/  .tox/  .nox/  .ipynb_checkpoints/  node_modules/
"""
CACHE_MARKS = ("pyvenv.cfg", "conda-meta", "CACHEDIR.TAG")
"""The files by which a virtual environment or a cache is recognized, whatever its name."""
CACHES = PathSpec.from_lines("gitwildmatch", CACHE_NAMES.split())

Match = Callable[[Path, bool], str]
"""What excludes a path, which may be that of a folder: a line of an ignore file; empty if nothing does."""


@dataclass(frozen=True)
class Contents:
    """What a job gets of a working directory."""

    directory: Path
    isolated: bool
    """Whether the directory stays off the search path of Ray's processes, see `packaging`."""
    sizes: Mapping[str, int]
    """Bytes of each file, by its path; an empty folder's path ends with a slash."""
    secrets: tuple[str, ...]
    """Files and folders that look like secrets, and are not sent."""
    runs: tuple[str, ...] = ()
    """Folders of earlier runs and sweeps, which are not sent."""
    ignored: tuple[str, ...] = ()
    """What ignore files exclude; of a folder its path alone, which ends with a slash."""

    @property
    def biggest_first(self) -> dict[str, int]:
        """The sizes of the files, without empty folders."""
        files = [(name, size) for name, size in self.sizes.items() if not name.endswith("/")]
        return dict(sorted(files, key=lambda file: -file[1]))

    @property
    def notice(self) -> str:
        """A line about the secrets and the earlier runs that are not sent; empty if there are none."""
        parts = []
        if self.secrets:
            one = next((name for name in self.secrets if not name.endswith("/")), f"{self.secrets[0]}NAME")
            named = f"they look like secrets: {some(self.secrets)} (to send one, add a line !{one} to .rayignore)"
            parts.append(f"not sent, because {named}")
        if self.runs:
            parts.append(f"not sent, because they are earlier runs: {some(self.runs, 5)}")
        return "; ".join(parts)


def contents(directory: Path, isolated: bool = False, needed: Iterable[str] = ()) -> Contents:
    """Find what a job gets of a directory; ``needed`` are paths of files that always go, such as the run's config.

    Raises:
        UserError: a file cannot be read, its name is not UTF-8, or an ignore file is invalid.
    """
    root = directory.resolve()
    found = _Found(root, frozenset(path for path in secret_paths() if not root.is_relative_to(path)))
    ours = directory / "heliostat"
    own = "Heliostat itself, which is sent apart" if isolated and has_heliostat(directory) else ""
    without: list[Match] = [lambda path, is_folder: own if path == ours else ""]
    _walk(directory, "", without, [root], found)
    for name in (*needed, *_chosen(directory)):
        path = Path(os.path.normpath(directory / name))
        if not path.is_relative_to(directory):
            continue
        below = path.relative_to(directory).as_posix()
        if os.path.isfile(path):  # false also below a folder that cannot be read
            found.add(path, below)
        elif os.path.isdir(path) and path != directory and not any(f"{below}/".startswith(each) for each in found.secrets):
            inside = _Found(root, found.secret_paths)
            _walk(path, below, [], [root, Path(os.path.realpath(path))], inside)
            if not any(name.startswith(f"{below}/") for name in found.sizes):
                found.secrets += inside.secrets  # else they have been found, but for those that a line excludes
            found.sizes |= inside.sizes
            found.unreadable += inside.unreadable
    if found.unreadable:
        raise UserError(
            f"{some(map(_printable, found.unreadable))} in the working directory {directory} cannot be read",
            "change the permissions, or exclude what the job does not need in .rayignore",
        )
    if misnamed := [name for name in found.sizes if _printable(name) != name]:
        raise UserError(
            f"{some(map(_printable, misnamed))} in the working directory {directory} has a name that is not UTF-8",
            "rename it, or exclude it in .rayignore",
        )
    secrets = tuple(_printable(name) for name in found.secrets if name not in found.sizes)
    runs = tuple(map(_printable, found.runs))
    ignored = tuple(_printable(name) for name in found.ignored if name not in found.sizes)
    return Contents(directory, isolated, dict(sorted(found.sizes.items())), secrets, runs, ignored)


def why_not_sent(files: Contents, name: str) -> str:
    """Why a file of the working directory, which exists there, is not among those that a job gets."""
    if any(name == each or (each.endswith("/") and name.startswith(each)) for each in files.secrets):
        return "it looks like a secret"
    if run := next((each for each in files.runs if name.startswith(each)), None):
        return f"{run} is an earlier run"
    path, ignored = files.directory, list[Match]()
    for part in Path(name).parts:
        ignored += _ignore_files(path)
        path /= part
        is_folder = path.is_dir()
        for match in ignored:
            if line := match(path, is_folder):
                return f"{line} excludes it"
        if _is_cache(path, is_folder):
            return f"{path.relative_to(files.directory)} is a cache, a virtual environment, or holds the datasets of runs"
    return "it is no file, or cannot be read"


def has_heliostat(directory: Path) -> bool:
    """Whether a directory is a clone of Heliostat."""
    return (directory / "heliostat" / "cli.py").is_file()


def megabytes(size: float) -> str:
    """A number of bytes as readable text, such as 3.2 MB."""
    if size < 1 << 10:
        return f"{size:.0f} B"
    if size < 1 << 20:
        return f"{size / (1 << 10):.1f} kB"
    return f"{size / (1 << 20):.1f} MB"


@dataclass
class _Found:
    root: Path
    secret_paths: frozenset[Path]
    sizes: dict[str, int] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def add(self, path: Path, name: str) -> None:
        self.sizes[name] = path.stat().st_size
        if not os.access(path, os.R_OK):
            self.unreadable.append(name)


def _walk(folder: Path, name: str, ignored: list[Match], above: list[Path], found: _Found) -> None:
    """Add what a folder contains.

    Args:
        folder: which is read.
        name: its path in the working directory.
        ignored: whether an ignore file above excludes a path.
        above: the real paths of the folders above and of this one, the last: a link to one of them would lead on forever.
        found: what is added to.
    """
    ignored = [*ignored, *_ignore_files(folder)]
    entries = sorted(folder.iterdir())
    if name and not entries:
        found.sizes[f"{name}/"] = 0
    for path in entries:
        below = f"{name}/{path.name}" if name else path.name
        is_folder = os.path.isdir(path)
        if _is_cache(path, is_folder):
            continue
        if any(match(path, is_folder) for match in ignored):
            found.ignored.append(f"{below}/" if is_folder else below)
            continue
        try:
            path.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # a link that leads nowhere
                found.unreadable.append(below)
            continue
        real = Path(os.path.realpath(path)) if path.is_symlink() else above[-1] / path.name
        if is_secret(path, (below, _below(found.root, real)), real, is_folder, found.secret_paths):
            found.secrets.append(f"{below}/" if is_folder else below)
        elif is_folder and not os.access(path, os.R_OK | os.X_OK):
            found.unreadable.append(below)
        elif is_folder and _is_run(path):
            found.runs.append(f"{below}/")
        elif is_folder and real not in above:
            _walk(path, below, ignored, [*above, real], found)
        elif path.is_file():  # no socket and no pipe
            found.add(path, below)


def _below(root: Path, real: Path) -> str:
    """A real path in the root, or on the machine."""
    return real.relative_to(root if real.is_relative_to(root) else real.anchor).as_posix()


def _ignore_files(folder: Path) -> list[Match]:
    """What the ignore files of a folder exclude; patterns with a slash at the end match folders, as in git.

    Raises:
        UserError: a line is not UTF-8, or not a pattern.
    """
    files = [folder / name for name in (".gitignore", ".rayignore")]
    return [_excluding(folder, _patterns(file)) for file in files if os.path.isfile(file) and os.access(file, os.R_OK)]


def _excluding(folder: Path, patterns: list[tuple[str, Any]]) -> Match:
    def excludes(path: Path, is_folder: bool) -> str:
        name = path.relative_to(folder).as_posix()
        names = (name, f"{name}/") if is_folder else (name,)
        matching = (pair for pair in reversed(patterns) if any(map(pair[1].regex.match, names)))
        line, last = next(matching, ("", None))
        return line if last and last.include else ""

    return excludes


def _patterns(file: Path) -> list[tuple[str, Any]]:
    """The patterns of an ignore file, each with a description of its line."""
    found = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        text = ""
        try:
            text = line.decode()
            patterns = PathSpec.from_lines("gitwildmatch", [text]).patterns
        except (ValueError, IndexError) as error:  # pathspec raises IndexError for a lone "!"
            reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is not a pattern: {text}"
            raise UserError(f"line {number} of {file} {reason}", "correct or remove that line") from None
        found += [(f"line {number} of {_shown(file)} ({text.strip()})", each) for each in patterns if each.regex]
    return found


def _shown(file: Path) -> str:
    """The path of an ignore file from the working directory, where it is below that."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of an earlier run, by files that only Heliostat writes."""
    return any(
        os.path.exists(folder / entry) and _start(folder / written).startswith(start) for entry, written, start in RUN_FOLDERS
    )


def _start(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return b""
    with path.open("rb") as file:
        return file.read(100)


def _is_cache(path: Path, is_folder: bool) -> bool:
    if CACHES.match_file(f"{path.name}/" if is_folder else path.name):
        return True
    if not is_folder or not os.access(path, os.X_OK):
        return False
    return (
        path.name in (DATASETS, JOBS, NODES_RECORD)
        or any((path / mark).exists() for mark in CACHE_MARKS)
        or (CACHE in os.environ and os.path.realpath(path) == os.path.realpath(os.environ[CACHE]))
    )


def _printable(name: str) -> str:
    """A name without the bytes of it that are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _chosen(directory: Path) -> list[str]:
    """The paths that lines ``!PATH`` of the directory's ``.rayignore`` name."""
    ignore = directory / ".rayignore"
    readable = os.path.isfile(ignore) and os.access(ignore, os.R_OK)
    lines = [line.strip() for line in ignore.read_text(encoding="utf-8").splitlines()] if readable else []
    return [line.removeprefix("!").lstrip("/") for line in lines if line.startswith("!") and not set("*?[") & set(line)]
