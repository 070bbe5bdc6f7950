"""Whether a script may resume with other arguments than those that its checkpoints were saved with."""

import json
import re
from collections.abc import Sequence

from heliostat.errors import UserError
from heliostat.folder import Folder

ARGUMENTS = "script.json"
LENGTH = re.compile(r"--?((max|num|n|total|train)[-_]?)?(epochs?|steps?|iters?|iterations?)")
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
            f"the checkpoints in {folder} were saved with the arguments {saved}, but the arguments are {[*arguments]}",
            "only a number of epochs or steps may grow: give this run another name (heliostat torchrun --name), "
            f"or delete {folder}/{ARGUMENTS} to use these",
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
