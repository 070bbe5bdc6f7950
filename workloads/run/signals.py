"""Signals to a running run: small files in its folder, polled by a thread, so that training never waits for storage.

``stop`` requests a checkpoint and the end of the run; ``grow``, a checkpoint and a restart with more workers; ``drain.json``
names the draining nodes, and has the time when the driver learned of them.
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
POLL_LOCAL, POLL_REMOTE = 0.2, 1.0
"""Seconds between two polls, of a filesystem and of an object store."""


def announce_drain(run: Folder, nodes: Mapping[str, int]) -> None:
    """Writes which nodes are draining, with the deadline of each in milliseconds since the epoch, 0 if unknown."""
    run.write(DRAIN, json.dumps({"told": time.time(), "nodes": nodes}).encode())


class Signals:
    """Polls the signals of a run in a thread; `state` is what they request.

    Args:
        run: the run folder.
        nodes: the nodes of this run's workers.
        lease: the ID of the driver's lease; if another driver has taken it over, this run must end without writing anything.
    """

    def __init__(self, run: Folder, nodes: Iterable[str] = (), lease: str | None = None) -> None:
        self._run, self._nodes, self._lease = run.once, set(nodes), lease
        self.state: str | None = None
        """``stopped``, ``drain``, ``grow``, ``lost`` (to another driver), or None."""
        self.drain_announced: float | None = None
        """When the driver learned of the drain, in seconds since the epoch."""
        run.delete(GROW)  # the size of the group that starts now is up to date
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops polling."""
        self._done.set()

    def _poll(self) -> None:
        pause = POLL_LOCAL if self._run.is_local else POLL_REMOTE
        while not self._done.is_set():
            with suppress(OSError, UserError):  # storage is unavailable for a while; the signals remain
                self.state = self._read()
            self._done.wait(pause)

    def _read(self) -> str | None:
        names = set(self._run.names())
        if self._lease and (found := read_lease(self._run)) and found["id"] != self._lease:
            return "lost"
        if STOP in names:
            return "stopped"
        if DRAIN in names:
            drain = json.loads(self._run.read(DRAIN))
            if self._nodes & drain["nodes"].keys():
                self.drain_announced = drain["told"]
                return "drain"
        return "grow" if GROW in names else None
