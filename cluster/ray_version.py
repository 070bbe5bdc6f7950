"""Which Ray Heliostat is tested with, and whether the installed one is that.

Heliostat uses private parts of Ray (``_private``, ``_internal``), which may change in any release. Each of them has a contract
test, and `TESTED` is the version that these tests passed with.
"""

import platform
from importlib import metadata

from heliostat.console import err
from heliostat.errors import UserError

TESTED = "2.60.0"


def installed_ray() -> str:
    """The version of Ray on this machine, without importing it."""
    return metadata.version("ray")


def check_ray() -> None:
    """Warn of another patch release than the tested one.

    Raises:
        UserError: it is another minor release.
    """
    installed, fix = installed_ray(), f'pip install "ray[default,train,tune,client]=={TESTED}"'
    if installed == TESTED:
        return
    what = f"Ray {installed} is installed, but Heliostat uses private parts of Ray and is tested with {TESTED} only"
    if installed.split(".")[:2] != TESTED.split(".")[:2]:
        raise UserError(what, fix)
    err.print(f"warning: {what}; if something fails: {fix}", highlight=False, markup=False, soft_wrap=True)


def differing(ray: str, python: str) -> list[str]:
    """What differs between a cluster's versions and this machine's, so that Ray Client cannot work; a sentence for each."""
    here, found = installed_ray(), list[str]()
    minor = ".".join(platform.python_version_tuple()[:2])
    if ray != here:
        found.append(f"the cluster has Ray {ray}, and this machine {here}: Ray Client needs the same on both")
    if python and python.split(".")[:2] != minor.split("."):
        found.append(
            f"the cluster has Python {python}, and this machine {platform.python_version()}: Ray Client needs the same minor "
            f"version on both; use Python {'.'.join(python.split('.')[:2])} here, or an image with {minor}"
        )
    return found
