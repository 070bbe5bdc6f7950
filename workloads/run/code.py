"""The code of a run's task, kept in its folder: ``code/`` has the task's module and the modules beside it that it imports.

The record has their hashes. A run can so be used from any folder, and after its task was changed or deleted; only what opens
that run loads this code.
"""

import ast
import atexit
import hashlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import task

CODE = "code"


def sources(name: str) -> dict[str, bytes]:
    """The files of a task of the user's own: its module, and of the same folder what that imports, by their relative paths.

    Also what a function imports when it is called; not what is installed, and not data files.

    Raises:
        UserError: see `heliostat.workloads.task.find`.
    """
    module, _, cls = name.partition(":")
    if not cls:
        return {}
    task.find(name)
    file = getattr(sys.modules[module], "__file__", None)
    if not file or not file.endswith(".py"):
        return {}
    place = Path(file).resolve()
    root = place.parents[module.count(".") + (place.name == "__init__.py")]
    found: dict[str, bytes] = {}
    if _is_there(root, module.partition(".")[0]):
        _collect(root, module, found)
    return found


def _is_there(root: Path, package: str) -> bool:
    """Whether Python would import a module or package of that name from ``root``, and ``root`` is no folder of packages."""
    if package == "heliostat" or package in sys.stdlib_module_names or root.name in ("site-packages", "dist-packages"):
        return False
    spec = PathFinder.find_spec(package)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    return any(Path(place).resolve().is_relative_to(root) for place in places if place)


def _collect(root: Path, module: str, found: dict[str, bytes]) -> None:
    """Adds a module, the packages that it is in, and what these import, if they are below ``root``."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:end])
        for place, package in ((base.with_suffix(".py"), parts[: end - 1]), (base / "__init__.py", parts[:end])):
            path = str(place.relative_to(root))
            if path in found or not place.is_file():
                continue
            found[path] = place.read_bytes()
            for other in _imports(found[path], package):
                if other.partition(".")[0] == parts[0] or _is_there(root, other.partition(".")[0]):
                    _collect(root, other, found)


def _imports(source: bytes, package: list[str]) -> Iterator[str]:
    """The modules that a file in that package may import: also each name that it imports from one may be one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *filter(None, [node.module])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file, as they are recorded."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def keep(run: Folder, files: Mapping[str, bytes]) -> None:
    """Writes the files into the run folder, and deletes those of before."""
    (run / CODE).delete()
    for path, data in files.items():
        folder, _, name = f"{CODE}/{path}".rpartition("/")
        (run / folder).write(name, data)


def changed(kept: Mapping[str, str], now: Mapping[str, bytes]) -> list[str]:
    """The files that differ from those that are recorded."""
    current = hashes(now)
    return sorted(name for name in kept.keys() | current.keys() if kept.get(name) != current.get(name))


def find_task(run: Folder, name: str, recorded: Mapping[str, str]) -> tuple[type[task.Task], str]:
    """The task class of a run, and a note where the code that is kept with it is used: the current one differs, or is gone.

    Raises:
        UserError: a file that is kept is missing or has changed; the module fails to import.
    """
    note = ""
    try:
        different = changed(recorded, sources(name)) if recorded else []
    except UserError:
        if not recorded:
            raise
        different, note = list(recorded), f"task {name} is that of the run: it cannot be imported here"
    if not different:
        return task.find(name), ""
    note = note or f"the run's own {', '.join(different)} is used, which differs from the current"
    place = tempfile.mkdtemp(prefix="heliostat-code-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for path, digest in recorded.items():
        _restore(run / CODE, path, digest, Path(place))
    with _only_there(place, {path.partition("/")[0].removesuffix(".py") for path in recorded}):
        found = task.find(name)
    sys.path.append(place)  # last: for what a function imports when it is called
    return found, note


def _restore(kept: Folder, path: str, digest: str, place: Path) -> None:
    if not kept.exists(path):
        raise UserError(f"{kept}/{path} is missing", "restore it: it is the code of the run")
    data = kept.read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{kept}/{path} is not what the run was trained with", "restore it")
    target = place / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


@contextmanager
def _only_there(place: str, names: set[str]) -> Iterator[None]:
    """Imports the modules of these names from a folder, and forgets them afterwards: other code gets its own."""

    def loaded() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}

    before, path = loaded(), [*sys.path]
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path
