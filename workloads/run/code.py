"""The user's own code of a run, kept in its folder: ``code/`` has the modules that its config names, such as those of its task
and its source of data, and the modules beside them that they import.

The record has their hashes. A run can so be used from any folder, and after its task was changed or deleted; only what opens
that run loads this code.
"""

import atexit
import builtins
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from heliostat import own_code
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads import task

CODE = "code"


def own_files(named: Mapping[str, str]) -> dict[str, bytes]:
    """The files of the user's own code, by the keys that name it, see `heliostat.own_code.files_of`.

    Raises:
        UserError: see `heliostat.own_code.load`.
    """
    found: dict[str, bytes] = {}
    for key, name in named.items():
        module = name.partition(":")[0]
        own_code.load(key, name, module)
        found |= own_code.files_of(module)
    return found


def keep(run: Folder, files: Mapping[str, bytes]) -> None:
    """Writes the files into the run folder, and deletes those of before."""
    (run / CODE).delete()
    for path, data in files.items():
        folder, _, name = f"{CODE}/{path}".rpartition("/")
        (run / folder).write(name, data)


def changed(kept: Mapping[str, str], now: Mapping[str, bytes]) -> list[str]:
    """The files that differ from those that are recorded."""
    current = own_code.hashes(now)
    return sorted(name for name in kept.keys() | current.keys() if kept.get(name) != current.get(name))


def find_task(run: Folder, name: str, recorded: Mapping[str, str], beside: Collection[str] = ()) -> tuple[type[task.Task], str]:
    """The task class of a run, and a note where the code that is kept with it is used: the current one differs, or is gone.

    Args:
        run: its folder.
        name: of the task.
        recorded: the hashes of the code that is kept.
        beside: what else of the user's own the run had, ``module:Name``: its callbacks and so on, which a task may lack.

    Raises:
        UserError: a file that is kept is missing or has changed; the module fails to import.
    """
    if ":" not in name:
        return task.find(name), ""  # the code that is kept is the source's
    note = ""
    try:
        now = own_files({"task": name}) if recorded else {}
        # Files that are here, but not the task's, are those of the source and so on, which are not needed.
        other = {f"{each.partition(':')[0].replace('.', '/')}.py" for each in beside}
        missing = [file for file in recorded if file not in now and not Path(file).is_file() and file not in other]
        different = [file for file in changed(recorded, now) if file in now or file in missing] if recorded else []
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
