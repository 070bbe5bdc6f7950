"""Code of the user's own, which a config names ``module:Name``: its import, and the files that it consists of."""

import ast
import difflib
import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from heliostat.config import nearest
from heliostat.errors import UserError, short_traceback, some
from heliostat.modules import order_search_path

FILES = {
    "task": "tasks", "dataset.source": "sources", "optimizer.type": "optimizers", "optimizer.schedule": "schedules",
    "callbacks": "callbacks", "tracking": "trackers",
}  # fmt: skip
"""By the key that names code, the module that a message proposes for it."""


C = TypeVar("C")
_imported: dict[str, dict[str, str]] = {}
"""The hashes of the files of each module that `load` has imported."""


def _forget_changed(module: str) -> None:
    """Lets a module be imported again whose files have changed, as those of a notebook do (``%%writefile``)."""
    before = _imported.pop(module, None)
    if before is None or module not in sys.modules:
        return
    now = hashes(files_of(module))
    if now == before:
        _imported[module] = before
        return
    for path in before.keys() | now.keys():
        sys.modules.pop(path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"), None)
    importlib.invalidate_caches()


def load(key: str, name: str, module: str) -> ModuleType:
    """Imports the module of what ``key`` names, after those of the working directory have been made available.

    Args:
        key: of the config, such as ``task`` or ``dataset.source``.
        name: the value of the key, for messages.
        module: the module's name.

    Raises:
        UserError: there is no such module, or it fails to import (the message has a shortened traceback).
    """
    order_search_path()
    try:
        _forget_changed(module)
        loaded = importlib.import_module(module)
        if module not in _imported:
            _imported[module] = hashes(files_of(module))
        return loaded
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise _import_failed(key, name, error) from None
        raise UserError(f"{key} {name!r}: there is no module {module}", f"create {module}.py in {Path.cwd()}") from None
    except UserError:  # an extra is not installed
        raise
    except (Exception, SystemExit) as error:  # a user's module can raise anything, and the message must show it
        raise _import_failed(key, name, error) from None


def class_of(key: str, name: str, module: str, cls_name: str, base: type[C]) -> type[C]:
    """The class of that name in a module, the value ``name`` of ``key``, which is derived from ``base`` of `heliostat`.

    Raises:
        UserError: see `load`; the module has no such class.
    """
    loaded = load(key, name, module)
    cls = getattr(loaded, cls_name, None)
    if isinstance(cls, type) and issubclass(cls, base):
        return cls
    there = [k for k, v in vars(loaded).items() if isinstance(v, type) and issubclass(v, base) and v is not base]
    kind = base.__name__
    raise UserError(
        f"{key} {name!r}: {module} has no {kind} named {cls_name}",
        nearest(cls_name, there) if there else f"write class {cls_name}({kind}) there, with from heliostat import {kind}",
    )


def attribute(key: str, name: str) -> Any:
    """What ``module:name`` names, the value of ``key``.

    Raises:
        UserError: see `check_name` and `load`; the module has no such name.
    """
    check_name(key, name)
    module, _, attribute = name.partition(":")
    loaded = load(key, name, module)
    if not hasattr(loaded, attribute):
        there = [each for each, value in vars(loaded).items() if callable(value) and not each.startswith("_")]
        close = difflib.get_close_matches(attribute, there, n=1)
        fix = f"did you mean {close[0]}?" if close else f"write it there; it has {some(there, 8) or 'no other'}"
        raise UserError(f"{key} {name!r}: {module} has no {attribute}", fix)
    return getattr(loaded, attribute)


def check_name(key: str, name: str) -> None:
    """Raises a UserError if ``name`` is not ``module:Name`` of a module that other processes can import."""
    module, _, attribute = name.partition(":")
    if module == "__main__":
        raise UserError(
            f"{key} {name!r} is in __main__, which is another program in the processes that train",
            f"write it into a file (in a notebook: %%writefile {FILES[key]}.py), and name it {FILES[key]}:{attribute}",
        )
    dotted = ".".join(part for part in module.removesuffix(".py").split("/") if part not in ("", "."))
    if dotted != module and not module.startswith(("/", "~", "..")):
        raise UserError(f"{key} {name!r} is a path, but must be a module's name", f"write it as {dotted}:{attribute}")
    if not all(part.isidentifier() for part in module.split(".")):
        raise UserError(
            f"{key} {name!r}: {module!r} is not a module's name",
            f"write module:{attribute}, of a module in the folder where the command is started",
        )


def files_of(module: str) -> dict[str, bytes]:
    """The file of a module that is imported, and of the same folder what that imports, by their relative paths.

    Also what a function imports when it is called; not what is installed, and not data files.
    """
    file = getattr(sys.modules[module], "__file__", None)
    if not file or not file.endswith(".py"):
        return {}
    place = Path(file).resolve()
    root = place.parents[module.count(".") + (place.name == "__init__.py")]
    found: dict[str, bytes] = {}
    if _is_there(root, module.partition(".")[0]):
        _collect(root, module, found)
    return found


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


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


def _import_failed(key: str, name: str, error: BaseException) -> UserError:
    if error.__traceback__:
        error = error.with_traceback(error.__traceback__.tb_next)  # without our own frame
    return UserError(f"{key} {name!r} fails to import:\n  {short_traceback(error)}", "correct the file that is named last")
