"""The module search path of our processes: the user's modules come after the standard library and installed packages.

Ray puts the working directory of a command or a job first on the search path of its processes. There a ``types.py`` of the
user would replace the standard library's, and the ``datasets`` folder of a clone of Heliostat would replace Hugging Face's.
"""

import os
import sys
import sysconfig
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import heliostat

ROOT = Path(heliostat.__file__).resolve().parent.parent
"""The folder that holds the package: a clone, a job's package, or the installed packages."""
FOLDER = "work"
"""The folder of a job's package that holds the user's working directory, so that Ray does not put it on the search path."""


def order_search_path() -> None:
    """Move the working directory, and the root of a clone of Heliostat, to the end of the search path."""
    installed = {os.path.realpath(place) for place in sysconfig.get_paths().values()}
    last = list(dict.fromkeys([os.path.realpath("."), *([] if str(ROOT) in installed else [str(ROOT)])]))
    sys.path[:] = [place for place in sys.path if os.path.realpath(place or ".") not in last] + last


def enter_working_dir(working_dir: str) -> None:
    """Change to a command's working directory in a worker, and call `order_search_path`.

    On another node it is the folder into which Ray has unpacked the job's package; without one the worker's stays.
    """
    unpacked = Path.cwd() / FOLDER
    place = next((place for place in (Path(working_dir), unpacked) if place.is_dir()), None)
    if place:
        os.chdir(place)
    order_search_path()


def step_aside(name: str, instead: str) -> None:
    """Load the other package of that name, such as Hugging Face's ``datasets``, in the place of a clone's folder.

    Python's import returns what a module has left in ``sys.modules`` under its name.

    Raises:
        ModuleNotFoundError: there is none; the message says how Heliostat's is imported.
    """
    spec = PathFinder.find_spec(name, [place for place in sys.path if not _is_ours(place, name)])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module {name!r}; Heliostat's is heliostat.{name}: {instead}", name=name)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def _is_ours(place: str, name: str) -> bool:
    """Whether a folder is a clone's root, whose ``name`` is a link's target; there may be several on a search path."""
    return os.path.realpath(os.path.join(place, "heliostat", name)) == os.path.realpath(os.path.join(place, name))


def heliostat_only(folder: Path) -> str:
    """Create a folder, in ``folder``, from which only ``heliostat`` can be imported, to be first on a search path."""
    place = folder / "heliostat-only"
    place.mkdir()
    (place / "heliostat").symlink_to(ROOT / "heliostat", target_is_directory=True)
    return str(place)
