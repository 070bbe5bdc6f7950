"""What the driver records of a script: its attempts, from the moment on at which the script has a run folder."""

import json
import time
from contextlib import ExitStack, suppress
from typing import Any

import ray

from heliostat.errors import StorageUnavailable
from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.lease import hold
from heliostat.workloads.torchrun.arguments import ARGUMENTS, DRIVER
from heliostat.workloads.torchrun.config import Script

POLLS = {True: 1.0, False: 5.0}
"""Seconds between two looks whether the script has a run folder: on a filesystem, in an object store."""
LINGER = 10.0
"""Seconds for which the last record waits for an object store."""


class Attempts:
    """Writes ``attempts.jsonl`` of a script; a script that uses nothing of `heliostat.torchrun` gets no folder, and no record.

    Args:
        run: the path or URI of its run folder.
        command: the ID of this command, with which the script says that the folder is its own.
    """

    def __init__(self, run: str, command: str) -> None:
        self.folder, self._command = Folder.at(run).once, command
        self._waiting: list[dict[str, Any]] = []
        self._journal: Journal | None = None
        self._stack, self._looked = ExitStack(), 0.0

    @property
    def recorded(self) -> bool:
        """Whether the script has a run folder."""
        return self._journal is not None

    def record(self, event: str, **details: Any) -> None:
        """Adds a record."""
        self._waiting.append({"event": event, "time": round(time.time(), 3), **details})
        self.poll()

    def poll(self, at_once: bool = False) -> None:
        """Writes the records, if the script has a run folder.

        Raises:
            UserError: another command runs the same script.
        """
        if self._journal is None and self._waiting:
            if time.monotonic() - self._looked < POLLS[self.folder.is_local] and not at_once:
                return
            self._looked = time.monotonic()
            with suppress(*UNAVAILABLE, StorageUnavailable):  # the next look is soon
                self._open()
        while self._journal is not None and self._waiting:
            self._journal.append(**self._waiting.pop(0))

    def close(self, state: str) -> None:
        """Records how the command has ended, and stops.

        Args:
            state: ``finished``, ``failed`` or ``stopped``.
        """
        self.record("ended", state=state)
        self.poll(at_once=True)
        if self._journal is not None:
            self._journal.close(LINGER)
        self._stack.close()

    def _open(self) -> None:
        """Opens the journal, if the script has a run folder, and the folder is this command's."""
        found = json.loads(self.folder.read(ARGUMENTS)) if self.folder.exists(ARGUMENTS) else {}
        if found.get("command") != self._command:
            return
        journal = Journal(self.folder, ATTEMPTS)
        # Between two attempts the script does not hold the run, but this command does.
        self._stack.enter_context(hold(self.folder / DRIVER))
        self._journal = journal


def room_for(script: Script) -> int:
    """The workers that fit on the nodes that there are: all or none, as they start together."""
    there = ray.cluster_resources()
    wanted = {"CPU": script.resources.cpu, "GPU": script.resources.gpu}
    return script.workers if all(there.get(name, 0) >= script.workers * float(each) for name, each in wanted.items()) else 0
