"""One driver for each run: a lease in the run folder, renewed while its owner is alive.

Clocks of two machines are never compared: a process that finds a lease observes whether it is renewed. On the owner's own
machine it looks for the owner's process, so that the same command can resume at once after a kill.
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
"""Seconds between two renewals."""
EXPIRY = 20.0
"""Seconds without a renewal after which the lease of an owner on another machine has expired."""
SETTLE = 0.3
"""Seconds after which a lease that another process wrote at the same moment is visible."""


class Lease:
    """A lease that this process holds; `lost` names the driver that has taken it over, if one has."""

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
            raise _refusal(self._folder, found)
        self._thread.start()

    def _renew(self) -> None:
        beat = 0
        while not self._done.wait(RENEW):
            beat += 1
            try:
                found = read_lease(self._folder)
                if found and found["id"] != self.id:
                    self.lost = _describe(found)
                    return
                self._write(beat)
            except (OSError, UserError):
                continue  # storage is unavailable for a while, for other drivers too

    def _release(self) -> None:
        self._done.set()
        self._thread.join()
        if not self.lost:
            self._folder.delete(LEASE)


@contextmanager
def hold(folder: Folder) -> Iterator[Lease]:
    """Holds the lease of the run at ``folder``.

    A lease that is not renewed for `EXPIRY` seconds is taken over; at once if its process was on this machine and has exited.

    Raises:
        UserError: another driver holds it.
        JobFailed: another driver has taken it over, because this process did not renew it in time.
    """
    _wait_for_expiry(folder)
    lease = Lease(folder)
    lease._take()
    try:
        yield lease
    finally:
        lease._release()
    if lease.lost:
        raise taken_over(folder, lease)


def taken_over(folder: Folder, lease: Lease) -> JobFailed:
    """The error of a driver whose lease another driver has taken over."""
    return JobFailed(
        f"run {folder} was taken over by {lease.lost}, because this driver did not renew its lease for {EXPIRY:g} s"
    )


def read_lease(folder: Folder) -> dict[str, Any] | None:
    """The lease of a run; None if it has none, or the file is not a lease.

    Raises:
        UserError: the run folder cannot exist there.
    """
    try:
        with folder.write_errors():
            found = json.loads(folder.read(LEASE))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"id", "host", "pid", "beat"} <= found.keys() else None


class Observer:
    """Observes from outside whether a run or a sweep has a live driver."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._beat, self._changed = folder, "", 0.0

    def is_driven(self) -> bool:
        """Whether its lease is held: by a process on this machine, or by one that has renewed it within `EXPIRY` seconds."""
        found = read_lease(self._folder)
        if not found:
            return False
        if found["host"] == socket.gethostname():
            return _is_alive(found)
        if (beat := f"{found['id']} {found['beat']}") != self._beat:
            self._beat, self._changed = beat, time.monotonic()
        return time.monotonic() - self._changed < EXPIRY


def _wait_for_expiry(folder: Folder) -> None:
    found = read_lease(folder)
    waited = 0.0
    while found:
        if found["host"] == socket.gethostname():
            if _is_alive(found):
                raise _refusal(folder, found)
            return
        if waited >= EXPIRY:
            return
        time.sleep(1.0)
        waited += 1.0
        before, found = found, read_lease(folder)
        if found and (found["id"], found["beat"]) != (before["id"], before["beat"]):
            raise _refusal(folder, found)


def _this_process() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time(), "user": _user()}


def _is_alive(owner: dict[str, Any]) -> bool:
    try:
        # Another process may have the same PID by now.
        return bool(abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _describe(owner: dict[str, Any]) -> str:
    return f"{owner['user']}'s process {owner['pid']} on {owner['host']}"


def _refusal(folder: Folder, owner: dict[str, Any]) -> UserError:
    now = time.time()
    return UserError(
        f"run {folder.name!r} has been driven by {_describe(owner)} for {now - owner['since']:.0f} s, "
        f"last heartbeat {max(0.0, now - owner['time']):.0f} s ago",
        "stop that one first, or give this run another name (--set name=...)",
    )
