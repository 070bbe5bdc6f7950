"""The code of a run's task, kept in its folder: ``code/`` has the task's module and the modules beside it that it imports.

The record has their hashes. A run can so be used from any folder, and after its task was changed or deleted; only what opens
that run loads this code.
"""

import ast
import atexit
import builtins
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import task

CODE = "code"


def task_files(name: str) -> dict[str, bytes]:
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
        different = changed(recorded, task_files(name)) if recorded else []
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
    with _Kept(place, {path.partition("/")[0].removesuffix(".py") for path in recorded}).imported():
        return task.find(name), note


def _restore(kept: Folder, path: str, digest: str, place: Path) -> None:
    if not kept.exists(path):
        raise UserError(f"{kept}/{path} is missing", "restore it: it is the code of the run")
    data = kept.read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{kept}/{path} is not what the run was trained with", "restore it")
    target = place / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


class _Kept:
    """Modules that are imported from a folder, for each other only: all other code gets its own of the same names.

    Args:
        place: the folder.
        names: the modules and packages in it.
    """

    def __init__(self, place: str, names: set[str]) -> None:
        self._place, self._names = place, names
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def imported(self) -> Iterator[None]:
        """Imports them in the block, instead of others of the same names."""
        others = self._take_out()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self._modules = self._take_out()
            sys.modules.update(others)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As Python's own finders do, in the folder only."""
        spec = PathFinder.find_spec(name, path or [self._place]) if name.partition(".")[0] in self._names else None
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path, self._import)
        return spec

    def _import(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> ModuleType:
        """The import statement of these modules, also when one of their functions is called later."""
        others = level == 0 and name.partition(".")[0] not in self._names
        if others or self in sys.meta_path:  # or within another import of these
            return __import__(name, globals, locals, fromlist, level)
        with self.imported():
            return __import__(name, globals, locals, fromlist, level)

    def _take_out(self) -> dict[str, ModuleType]:
        found = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in self._names}
        for name in found:
            del sys.modules[name]
        return found


class _Loader(SourceFileLoader):
    """Loads a module with an import statement of its own."""

    def __init__(self, name: str, path: str, import_: Callable[..., ModuleType]) -> None:
        super().__init__(name, path)
        self._import = import_

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)
