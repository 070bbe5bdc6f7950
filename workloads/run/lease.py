"""One driver a run: a lease in the run folder, renewed while its owner lives.

No two clocks are compared: whoever finds a lease looks whether it is renewed. On the owner's own machine its process is
looked for, so that the same command can go on at once after a kill.
"""

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder

LEASE = "lease.json"
RENEW = 5.0
"""Seconds between two signs of life."""
DEAD = 20.0
"""Seconds without one after which an owner on another machine counts as dead."""
SETTLE = 0.3
"""Seconds after which a lease that was written at the same moment by another would be there."""


class Lease:
    """A lease that this process holds; `lost` says that another driver has taken it."""

    def __init__(self, folder: Folder) -> None:
        self.id = uuid.uuid4().hex
        self.lost: str | None = None
        self._folder = folder
        self._done = threading.Event()
        self._owner = {"id": self.id, **_this_process(), "since": time.time()}
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def _write(self, beat: int) -> None:
        self._folder.write(LEASE, json.dumps({**self._owner, "beat": beat, "time": time.time()}).encode())

    def _take(self) -> None:
        self._write(0)
        time.sleep(SETTLE)
        if (found := read_lease(self._folder)) and found["id"] != self.id:
            raise _held(self._folder, found)
        self._thread.start()

    def _renew(self) -> None:
        beat = 0
        while not self._done.wait(RENEW):
            beat += 1
            try:
                found = read_lease(self._folder)
                if found and found["id"] != self.id:
                    self.lost = _who(found)
                    return
                self._write(beat)
            except (OSError, UserError):
                continue  # storage is away for a while: nobody else can take the lease there either

    def _release(self) -> None:
        self._done.set()
        self._thread.join()
        if not self.lost:
            self._folder.delete(LEASE)


@contextmanager
def hold(folder: Folder) -> Iterator[Lease]:
    """Be the only driver of the run at ``folder``.

    A lease that is not renewed within `DEAD` seconds is taken over, at once if its process was on this machine and is gone.

    Raises:
        UserError: another driver is at work there.
        JobFailed: it was taken over meanwhile, because this process was silent for too long.
    """
    _wait_for_the_dead(folder)
    lease = Lease(folder)
    lease._take()
    try:
        yield lease
    finally:
        lease._release()
    if lease.lost:
        raise taken_over(folder, lease)


def taken_over(folder: Folder, lease: Lease) -> JobFailed:
    """The end of a driver that was silent for so long that another has begun."""
    return JobFailed(f"run {folder} was taken over by {lease.lost}, because this driver gave no sign of life for {DEAD:g} s")


def read_lease(folder: Folder) -> dict[str, Any] | None:
    """The lease of a run, or None if nobody drives it, or what is there is no lease.

    Raises:
        UserError: there can be no folder in that place.
    """
    try:
        with folder.write_errors():
            found = json.loads(folder.read(LEASE))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"id", "host", "pid", "beat"} <= found.keys() else None


def _wait_for_the_dead(folder: Folder) -> None:
    found = read_lease(folder)
    waited = 0.0
    while found:
        if found["host"] == socket.gethostname():
            if _lives(found):
                raise _held(folder, found)
            return
        if waited >= DEAD:
            return
        time.sleep(1.0)
        waited += 1.0
        before, found = found, read_lease(folder)
        if found and (found["id"], found["beat"]) != (before["id"], before["beat"]):
            raise _held(folder, found)


def _this_process() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time(), "user": _user()}


def _lives(owner: dict[str, Any]) -> bool:
    try:
        # Another process may have got the same number since.
        return bool(abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return str(os.getuid())


def _who(owner: dict[str, Any]) -> str:
    return f"{owner['user']}'s process {owner['pid']} on {owner['host']}"


def _held(folder: Folder, owner: dict[str, Any]) -> UserError:
    now = time.time()
    return UserError(
        f"run {folder.name!r} is being driven by {_who(owner)} since {now - owner['since']:.0f} s, "
        f"last sign of life {max(0.0, now - owner['time']):.0f} s ago",
        "stop that one first, or give this run another name (--set name=...)",
    )
