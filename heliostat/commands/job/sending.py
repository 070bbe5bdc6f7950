"""What a command sends to a cluster from this machine: files of the working directory, and variables of the shell."""

import getpass
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.wording import counted

if TYPE_CHECKING:
    from heliostat.cluster.jobs.contents import Contents

SHOWN = 50
"""Files that a dry run lists."""


def files_to_send(*needed: str, isolated: bool = True) -> "Contents":
    """The files of the working directory that a job gets; reports those on standard error that look like secrets.

    Args:
        needed: files that always go, such as the run's config.
        isolated: whether the working directory stays off the search path of Ray's processes.

    Raises:
        UserError: a file cannot be read.
    """
    from heliostat.cluster.jobs.contents import contents
    from heliostat.config import is_inline
    from heliostat.console import err

    found = contents(Path.cwd(), isolated, [name for name in needed if not is_inline(name)])
    if found.notice:
        err.print(f"heliostat: {found.notice}", highlight=False, markup=False, soft_wrap=True)
    return found


def requirements_to_send(requirements: list[str] | str, ray_version: str) -> list[str]:
    """The files that requirements need on the cluster: their list, and local wheels.

    Raises:
        UserError: they are invalid, or contradict the image's Ray.
    """
    from heliostat.requirements import check_fixed, files

    check_fixed(requirements, {"ray": ray_version}, "the cluster")
    return files(requirements)


def show_requirements(requirements: list[str]) -> None:
    """Print the packages that a cluster installs beside the image's."""
    from heliostat.console import out

    if requirements:
        text = f"# requirements: {', '.join(requirements)} (what the image lacks is installed once on each node of a cluster)"
        out.print(text, highlight=False, markup=False, soft_wrap=True)


def variables_to_send(names: list[str]) -> dict[str, str]:
    """The values of the shell's variables that ``--env`` names.

    Raises:
        UserError: a variable cannot be passed; all that are wrong are listed, without their values.
    """
    from heliostat.errors import UserError

    wrong = [f"--env {name.partition('=')[0]} {reason}" for name in names if (reason := _not_sendable(name))]
    if wrong:
        raise UserError("; ".join(wrong), "export each variable, and give only its name, such as --env WANDB_API_KEY")
    return {name: os.environ[name] for name in names}


def labels_to_send(labels: Sequence[str]) -> dict[str, str]:
    """The metadata of a job with the labels that ``--label`` gives, and with the user's name as submitter.

    Raises:
        UserError: a label is not KEY=VALUE, or is given twice; all that are wrong are listed.
    """
    from heliostat.cluster.in_pod.ray_usage import LABEL
    from heliostat.errors import UserError

    pairs = [text.partition("=") for text in labels]
    keys = [key for key, _, _ in pairs]
    wrong = [
        f"--label {text} {reason}"
        for text, (key, _, value) in zip(labels, pairs, strict=True)
        if (
            reason := "is not a label"
            if not (re.fullmatch(r"[A-Za-z0-9][\w./-]{0,62}", key) and re.fullmatch(r"[ -~]{1,63}", value))
            else f"gives {key} twice" * (keys.count(key) > 1)
        )
    ]
    if wrong:
        raise UserError("; ".join(wrong), "write KEY=VALUE once for each key, of up to 63 characters, such as team=vision")
    try:
        user = {"submitter": getpass.getuser()}
    except (KeyError, OSError):  # a user without a name, as in some containers
        user = {}
    return {f"{LABEL}{key}": value for key, value in {**user, **{key: value for key, _, value in pairs}}.items()}


def _not_sendable(name: str) -> str:
    """What is wrong with a variable; empty if nothing is."""
    if "=" in name:
        return "has a value, which the list of processes would show to others"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return "is not the name of a variable"
    if name.startswith(("RAY_", "HELIOSTAT_")):
        return "belongs to the cluster"
    if name not in os.environ:
        return "is not set"
    if os.fsencode(os.environ[name]).decode(errors="replace") != os.environ[name]:
        return "is not UTF-8"
    return "" if os.environ[name] else "is empty"


def document(files: "Contents", variables: Iterable[str]) -> dict[str, Any]:
    """What is sent, for ``--dry-run --json``: sizes of files in bytes, the biggest first, and names of variables."""
    return {"files": files.biggest_first, "secrets_not_sent": list(files.secrets), "variables": list(variables)}


def show(files: "Contents", variables: Iterable[str]) -> None:
    """Print the files that are sent, the biggest first, and the names of the variables."""
    from heliostat.cluster.jobs.contents import megabytes
    from heliostat.console import out

    sizes = files.biggest_first
    lines = [f"sent: {counted(len(sizes), 'file')}, {megabytes(sum(sizes.values()))}"]
    lines += [f"  {megabytes(size):>9}  {name}" for name, size in list(sizes.items())[:SHOWN]]
    if len(sizes) > SHOWN:
        lines.append(f"  and {counted(len(sizes) - SHOWN, 'smaller file')}; --json lists all")
    if names := ", ".join(variables):
        lines.append(f"variables, whose values nothing shows: {names}")
    for line in lines:
        out.print(f"# {line}", highlight=False, markup=False, soft_wrap=True)
