"""What a run is told from outside: small files in its folder, looked at beside the training, never on its path.

``stop`` asks for a checkpoint and the end; ``grow``, for a checkpoint and another start with more workers; ``drain.json``
names the nodes that are about to go away, and says since when that is known.
"""

import json
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.run.lease import read_lease

STOP, GROW, DRAIN = "stop", "grow", "drain.json"
LOOK_LOCAL, LOOK_REMOTE = 0.2, 1.0
"""Seconds between two looks, on a filesystem and in an object store."""


def tell_drain(run: Folder, nodes: Mapping[str, int]) -> None:
    """Tell the workers which nodes go away, with the deadline of each in milliseconds since the epoch, 0 if unknown."""
    run.write(DRAIN, json.dumps({"told": time.time(), "nodes": nodes}).encode())


class Signals:
    """Looks for notices in a thread of its own; `state` is what the newest one asks for.

    Args:
        run: the run folder.
        nodes: the nodes that this run's workers are on.
        lease: the id of the driver's lease: if another has it, this run must end without touching the folder.
    """

    def __init__(self, run: Folder, nodes: Iterable[str] = (), lease: str | None = None) -> None:
        self._run, self._nodes, self._lease = run, set(nodes), lease
        self.state: str | None = None
        """``stopped``, ``drain``, ``grow``, ``lost`` (to another driver), or None."""
        self.told: float | None = None
        """When the driver heard that a node goes away, in seconds since the epoch."""
        run.delete(GROW)  # whoever starts has just counted the room there is
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="notices", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the looking."""
        self._done.set()

    def _look(self) -> None:
        pause = LOOK_LOCAL if self._run.is_local else LOOK_REMOTE
        while not self._done.is_set():
            with suppress(OSError, UserError):  # storage is away for a while; the notices will still be there
                self.state = self._read()
            self._done.wait(pause)

    def _read(self) -> str | None:
        there = set(self._run.names())
        if self._lease and (found := read_lease(self._run)) and found["id"] != self._lease:
            return "lost"
        if STOP in there:
            return "stopped"
        if DRAIN in there:
            drain = json.loads(self._run.read(DRAIN))
            if self._nodes & drain["nodes"].keys():
                self.told = drain["told"]
                return "drain"
        return "grow" if GROW in there else None
