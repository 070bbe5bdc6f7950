"""The log of a model: each change is a file of its own, which no other overwrites and which has the state after it.

A change is made while the lease of the model's folder is held (`heliostat.workloads.run.lease`), so that it follows the newest
state on every storage. A process that was paused for longer than its lease may still write its entry late: of two entries with
the same number, the one whose lease was taken later is valid.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import pydantic

from heliostat.config import Config
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.run.lease import Held, Lease, hold, taken_over

LOG = "log"
ENTRY = re.compile(r"(\d{6,})-[0-9a-f]{8}\.json")
WAIT = 60.0
"""Seconds for which a change waits for another one."""
PAUSE = 0.1, 0.4
"""Seconds between two attempts, drawn between these: of two processes that wait, not both try at the same time."""
What = Literal["add", "gate", "promote", "rollback"]


class State(Config):
    """What a model is after an entry."""

    versions: list[str] = []
    """The folder of each version, from version 1."""
    champions: list[int] = []
    """The versions that were champion, to which ``rollback`` returns; the last one is the champion."""
    candidate: int | None = None

    @property
    def aliases(self) -> dict[str, int]:
        """The version of each alias that is set."""
        found = {"champion": self.champions[-1] if self.champions else None, "candidate": self.candidate}
        return {alias: number for alias, number in found.items() if number is not None}


class Decision(Config):
    """What a gate has decided of a version."""

    passed: bool
    against: int | None
    """The version that it was compared with; None for the first one, which has nothing to be compared with."""
    terms: dict[str, Any]
    """What it had to show, see `heliostat.workloads.registry.gate.gate.Terms`."""


class Entry(Config):
    """A change of a model: who made it, when and why."""

    number: int
    at: float
    """Seconds since the epoch, when its lease was taken."""
    by: str
    what: What
    version: int
    before: int | None
    """The champion before it."""
    why: str
    gate: Decision | None = None
    """Of a gate."""
    state: State


def numbers(folder: Folder) -> dict[int, list[str]]:
    """The names of the entries of a model by number, mostly one for each."""
    found: dict[int, list[str]] = {}
    for name in (folder / LOG).names():
        if match := ENTRY.fullmatch(name):
            found.setdefault(int(match[1]), []).append(name)
    return found


def entries(folder: Folder) -> Iterator[Entry]:
    """The valid entries of a model, the newest first; each is read when it is asked for.

    Raises:
        UserError: one is damaged.
    """
    for _, names in sorted(numbers(folder).items(), reverse=True):
        yield max((_read(folder / LOG, name) for name in names), key=lambda entry: entry.at)


def state_of(folder: Folder) -> State:
    """The state after the newest entry; an empty one without entries."""
    newest = next(entries(folder), None)
    return newest.state if newest else State()


def append(
    folder: Folder, what: What, by: str, why: str, change: Callable[[State], tuple[int, State]], wait: float = WAIT,
    gate: Decision | None = None,
) -> State:  # fmt: skip
    """Adds an entry to the log of a model, one process at a time; returns the state after it.

    Args:
        folder: of the model.
        what: of the entry.
        by: who makes the change.
        why: in the user's words.
        change: from the newest state the version that it is about, and the state after it; if that is the same, nothing is
            written but a decision. It raises a UserError to refuse. It may write what the new state refers to.
        wait: seconds for which it waits for another change.
        gate: the decision, of a gate.

    Raises:
        UserError: another change takes longer than that.
        JobFailed: this process was paused for so long that another one has taken over.
    """
    with _lease(folder, wait) as lease:
        at = time.time()
        newest = next(entries(folder), None)
        state = newest.state if newest else State()
        version, after = change(state)
        if after == state and gate is None:
            return state
        if lease.lost:
            raise taken_over(folder, lease)
        entry = Entry(
            number=newest.number + 1 if newest else 1, at=at, by=by, what=what, version=version,
            before=state.aliases.get("champion"), why=why, gate=gate, state=after,
        )  # fmt: skip
        (folder / LOG).write(f"{entry.number:06d}-{lease.id[:8]}.json", entry.model_dump_json(indent=1).encode())
    return after


@contextmanager
def _lease(folder: Folder, wait: float) -> Iterator[Lease]:
    deadline, stack = time.monotonic() + wait, ExitStack()
    while True:
        try:
            lease = stack.enter_context(hold(folder))
            break
        except Held as held:
            if time.monotonic() > deadline:
                raise UserError(
                    f"model {folder.name!r} has been changed by {held.owner} for more than {wait:g} s",
                    "give the command again when that one has ended",
                ) from None
            time.sleep(random.uniform(*PAUSE))
    with stack:
        yield lease


def _read(folder: Folder, name: str) -> Entry:
    try:
        return Entry.model_validate_json(folder.read(name))
    except pydantic.ValidationError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}/{name} cannot be used: {reason}", "restore it, or use the version of Heliostat that wrote it"
        ) from None
