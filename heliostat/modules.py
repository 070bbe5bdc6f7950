"""The module search path of our processes: the user's modules come after the standard library and installed packages.

Ray puts the working directory of a command or a job first on the search path of its processes. There a ``types.py`` of the
user would replace the standard library's, and the ``datasets`` folder of a clone of Heliostat would replace Hugging Face's.
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
    """Move the working directory, and the root of a clone of Heliostat, to the end of the search path."""
    installed = {os.path.realpath(place) for place in sysconfig.get_paths().values()}
    last = [str(Path.cwd()), *([] if os.path.realpath(ROOT) in installed else [str(ROOT)])]
    sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") not in last] + list(dict.fromkeys(last))


def enter_working_dir(working_dir: str) -> None:
    """Change to a command's working directory in a worker, and call `order_search_path`.

    On another node it is the folder into which Ray has unpacked the job's package; without one the worker's stays.
    """
    unpacked = Path.cwd() / FOLDER
    place = next((place for place in (Path(working_dir), unpacked) if place.is_dir()), None)
    if place:
        os.chdir(place)
    order_search_path()


def heliostat_only(folder: Path) -> str:
    """Create a folder, in ``folder``, from which only ``heliostat`` can be imported, to be first on a search path."""
    place = folder / "heliostat-only"
    place.mkdir()
    (place / "heliostat").symlink_to(ROOT / "heliostat", target_is_directory=True)
    return str(place)
