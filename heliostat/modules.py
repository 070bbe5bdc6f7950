"""The module search path of our processes: the user's modules come after the standard library and installed packages.

Ray puts the working directory of a command or a job first on the search path of its processes. There a ``types.py`` of the
user would replace the standard library's, and the ``datasets`` folder of a clone of Heliostat would replace Hugging Face's.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import heliostat

ROOT = Path(heliostat.__file__).resolve().parent.parent
"""The folder that holds the package: a clone, a job's package, or the installed packages."""
FOLDER = "working-dir"
"""The folder of a job's package that holds the user's working directory, off the search path; no module has such a name."""


def order_search_path() -> None:
    """Move the working directory, and the roots of clones of Heliostat, to the end of the search path."""
    here = os.path.realpath(".")
    clones = dict.fromkeys(os.path.realpath(place) for place in sys.path if is_clone(place))
    others = [place for place in sys.path if not is_clone(place) and os.path.realpath(place) != here]
    sys.path[:] = [*others, here, *(place for place in clones if place != here)]


def enter_working_dir(working_dir: str) -> None:
    """Change to a command's working directory in a worker, and call `order_search_path`.

    On another node it is the folder into which Ray has unpacked the job's package; without one the worker's stays.
    """
    unpacked = Path.cwd() / FOLDER
    place = next((place for place in (Path(working_dir), unpacked) if place.is_dir()), None)
    if place:
        os.chdir(place)
    order_search_path()


def is_clone(place: str | Path) -> bool:
    """Whether a folder is the root of a clone, which links its other folders into ``heliostat/``."""
    link = os.path.join(place, "heliostat", "cluster")
    return os.path.islink(link) and os.path.realpath(link) == os.path.realpath(os.path.join(place, "cluster"))


def step_aside(name: str, file: str, instead: str) -> None:
    """Load the other package of that name, such as Hugging Face's ``datasets``, in the place of a clone's folder.

    Python's import returns what a module has left in ``sys.modules`` under its name.

    Raises:
        ModuleNotFoundError: there is none; the message says how Heliostat's is imported.
    """
    ours = os.path.realpath(os.path.dirname(file))
    others = [place for place in sys.path if not is_clone(place) and os.path.realpath(os.path.join(place, name)) != ours]
    spec = PathFinder.find_spec(name, others)
    if spec is None:
        raise ModuleNotFoundError(f"no module {name!r}; Heliostat's is heliostat.{name}: {instead}", name=name)
    module = module_from_spec(spec)  # with a loader also for a folder without __init__.py
    sys.modules[name] = module
    assert module.__spec__
    assert module.__spec__.loader
    module.__spec__.loader.exec_module(module)


def heliostat_only(folder: Path) -> str:
    """Create a folder, in ``folder``, from which only ``heliostat`` can be imported, to be first on a search path."""
    place = folder / "heliostat-only"
    place.mkdir()
    (place / "heliostat").symlink_to(ROOT / "heliostat", target_is_directory=True)
    return str(place)
