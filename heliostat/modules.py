"""Where modules are found: the user's come after the standard library and the installed packages, in every process of ours.

Ray puts the working directory of a command or a job first on the search path of its processes. There a ``types.py`` of the
user's would replace the standard library's, and the folders of Heliostat's own clone Hugging Face's ``datasets``.
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


def settle() -> None:
    """Make the working directory importable, after everything that is installed; the same for a clone of Heliostat."""
    installed = {os.path.realpath(place) for place in sysconfig.get_paths().values()}
    last = list(dict.fromkeys([os.path.realpath("."), *([] if str(ROOT) in installed else [str(ROOT)])]))
    sys.path[:] = [place for place in sys.path if os.path.realpath(place or ".") not in last] + last


def enter(working_dir: str) -> None:
    """Make a command's working directory the current one in a worker, and `settle`.

    On another node it is where Ray has unpacked the job's package; without a package the worker stays where it is.
    """
    unpacked = Path.cwd() / FOLDER
    place = next((place for place in (Path(working_dir), unpacked) if place.is_dir()), None)
    if place:
        os.chdir(place)
    settle()


def step_aside(name: str, instead: str) -> None:
    """Load the installed package of that name, such as Hugging Face's ``datasets``, in the place of a clone's folder.

    Python takes what a module has left in ``sys.modules`` under its name.

    Raises:
        ModuleNotFoundError: there is none; the message says how Heliostat's is imported.
    """
    elsewhere = [place for place in sys.path if os.path.realpath(place) != str(ROOT)]
    spec = PathFinder.find_spec(name, elsewhere)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module {name!r}; Heliostat's is heliostat.{name}: {instead}", name=name)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def alone(folder: Path) -> str:
    """A folder in which only Heliostat is found, made in ``folder``: what may stand first on a search path."""
    place = folder / "heliostat-only"
    place.mkdir()
    (place / "heliostat").symlink_to(ROOT / "heliostat", target_is_directory=True)
    return str(place)
