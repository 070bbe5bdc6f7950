"""Where modules are found: the user's come after the standard library and the installed packages, in every process of ours.

Ray puts the working directory of a command or a job first on the search path of its processes. There a ``types.py`` of the
user's would replace the standard library's, and the folders of Heliostat's own clone Hugging Face's ``datasets``.
"""

import os
import sys
import sysconfig
from pathlib import Path

import heliostat

ROOT = Path(heliostat.__file__).absolute().parent.parent
"""The folder that holds the package: a clone, a job's package, or the installed packages."""
FOLDER = "work"
"""The folder of a job's package that holds the user's working directory, so that Ray does not put it on the search path."""


def order_search_path() -> None:
    """Make the working directory importable, after everything that is installed; the same for a clone of Heliostat."""
    installed = {os.path.realpath(place) for place in sysconfig.get_paths().values()}
    last = [str(Path.cwd()), *([] if os.path.realpath(ROOT) in installed else [str(ROOT)])]
    sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") not in last] + list(dict.fromkeys(last))


def enter_working_dir(working_dir: str) -> None:
    """Make a command's working directory the current one in a worker, and `order_search_path`.

    On another node it is where Ray has unpacked the job's package; without a package the worker stays where it is.
    """
    unpacked = Path.cwd() / FOLDER
    place = next((place for place in (Path(working_dir), unpacked) if place.is_dir()), None)
    if place:
        os.chdir(place)
    order_search_path()


def heliostat_only(folder: Path) -> str:
    """A folder in which only Heliostat is found, made in ``folder``: what may stand first on a search path."""
    place = folder / "heliostat-only"
    place.mkdir()
    (place / "heliostat").symlink_to(ROOT / "heliostat", target_is_directory=True)
    return str(place)
