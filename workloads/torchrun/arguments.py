"""What ran in the folder of a script, and whether it may resume with other arguments than its checkpoints were saved with."""

import json
import re
from collections.abc import Sequence

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.run.lease import Observer
from heliostat.workloads.run.record import check_free_name

ARGUMENTS = "script.json"
"""Has ``arguments``, ``script``, ``created``, ``workers`` (the numbers of processes that it has had, the newest last) and
``command`` (the ID of the ``heliostat torchrun``); earlier versions wrote only ``arguments``."""
DRIVER = "driver"
"""The folder with the lease of the command that runs the script: between two attempts, the script itself holds none."""
LENGTH = re.compile(r"--?((max|num|n|total|train)[-_]?)*(epochs?|steps?|iters?|iterations?)")
"""Options that say how long a script trains, which may grow."""


def check_arguments(folder: Folder, arguments: Sequence[str]) -> None:
    """Checks the arguments of a script against those of the checkpoints in its run folder, if there are any.

    Raises:
        UserError: they differ in more than a longer training.
    """
    if not folder.exists(ARGUMENTS):
        return
    saved = json.loads(folder.read(ARGUMENTS))["arguments"]
    if saved != [*arguments] and not is_longer(saved, arguments):
        raise UserError(
            f"what is in {folder} was saved with the arguments {saved}, but the arguments are {[*arguments]}",
            "only a number of epochs or steps may grow: give this run another name (heliostat torchrun --name), "
            f"or delete {folder}/{ARGUMENTS} to use these",
        )


def check_free(folder: Folder) -> None:
    """Raises a UserError if the folder is no place for a script, or another command runs its script, also while it restarts."""
    check_free_name(folder)
    if folder.exists(ARGUMENTS) and Observer(folder / DRIVER).is_driven():
        raise UserError(
            f"another heliostat torchrun runs {folder.name!r}, and records it in {folder}",
            "stop that one first, or give this one another name: heliostat torchrun --name",
        )


def is_longer(saved: Sequence[str], now: Sequence[str]) -> bool:
    """Whether two lists of arguments differ only in the values of options such as ``--epochs``, which have grown."""
    before, after = _words(saved), _words(now)
    if len(before) != len(after):
        return False
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue
        option = place > 0 and LENGTH.fullmatch(before[place - 1])
        if not (option and old.isdecimal() and new.isdecimal() and int(new) > int(old)):
            return False
    return True


def _words(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``--name=value`` as two words."""
    return [word for argument in arguments for word in (argument.split("=", 1) if argument.startswith("--") else [argument])]


def last_number(name: str) -> int:
    """The last number in the name of a checkpoint, which is its step; 0 if it has none."""
    return max(map(int, re.findall(r"\d+", name)[-1:]), default=0)
