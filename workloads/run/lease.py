"""One driver for each run: a lease in the run folder, renewed while its owner is alive.

Clocks of two machines are never compared: a process that finds a lease observes whether it is renewed. On the owner's own
machine, which is recognized by its boot and its PID namespace (containers may have the same host name), it looks for the
owner's process, so that the same command can resume at once after a kill. `heliostat.workloads.run.claims` has what each kind
of storage does so that a driver that was paused, for however long, neither overwrites nor deletes the lease of the next one.
"""

import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from heliostat.errors import JobFailed, StorageUnavailable, UserError
from heliostat.folder import Folder
from heliostat.running import process_of
from heliostat.workloads.run.claims import EXPIRY, LEASE, Owner, owners, place_of

__all__ = ["EXPIRY", "LEASE", "Held", "Lease", "Observer", "hold", "read_lease", "taken_over", "user"]

RENEW = 5.0
"""Seconds between two renewals."""
RELEASE = 10.0
"""Seconds for which a driver that ends waits for storage, to give up its lease; after that, it expires."""


class Held(UserError):
    """Another process has the lease, see ``owner``."""

    owner = ""


class Lease:
    """A lease that this process holds; `lost` names the driver that has taken it over, if one has."""

    def __init__(self, folder: Folder) -> None:
        self.id = uuid.uuid4().hex
        self.lost: str | None = None
        self._is_new = folder.is_local and not os.path.exists(folder.path)
        self._folder, self._place = folder, place_of(folder)
        self._done = threading.Event()
        self._owner: Owner = {"id": self.id, **_this_process(), "since": time.time(), "beat": 0, "time": time.time()}
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def _take(self, expired: list[Owner]) -> None:
        try:
            found = self._place.take(self._owner, expired)
        except BaseException:
            self._release()  # what it has written so far would be taken for a driver
            raise
        if found:
            raise _refusal(self._folder, found)
        self._thread.start()

    def _renew(self) -> None:
        place = type(self._place)(self._folder.once)
        while not self._done.wait(RENEW):
            self._owner.update(beat=self._owner["beat"] + 1, time=time.time())
            try:
                if self._lost_to(place.renew(self._owner)):
                    return
            except (OSError, UserError):
                continue  # storage is unavailable for a while, for other drivers too

    def _release(self) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self.lost:
            with suppress(OSError, UserError, StorageUnavailable):  # then it expires
                self._lost_to(type(self._place)(replace(self._folder, patience=RELEASE)).release(self._owner))
        if self._is_new:  # what is refused before it begins leaves nothing behind
            with suppress(OSError):  # there is something in it
                os.rmdir(self._folder.path)

    def _lost_to(self, holder: str) -> bool:
        if holder != "ours":
            found = next((owner for owner in owners(self._folder.once) if owner["id"] == holder), None)
            self.lost = _describe(found) if found else "another driver, which has ended"
        return holder != "ours"


@contextmanager
def hold(folder: Folder) -> Iterator[Lease]:
    """Holds the lease of the run at ``folder``.

    A lease that is not renewed for `EXPIRY` seconds is taken over; at once if its process was on this machine and has exited.

    Raises:
        Held: another driver holds it.
        JobFailed: another driver has taken it over, because this process did not renew it in time.
    """
    lease = Lease(folder)
    lease._take(_wait_for_expiry(folder))
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


def read_lease(folder: Folder) -> Owner | None:
    """The lease of a run; None if it has none, or the file is not a lease.

    Raises:
        UserError: the run folder cannot exist there.
    """
    with folder.write_errors():
        # A claim that is not held is one that is only being tried.
        return next((owner for owner in owners(folder) if owner.get("held", True)), None)


class Observer:
    """Observes from outside whether a run or a sweep has a live driver."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._beat, self._changed = folder, "", 0.0

    def is_driven(self) -> bool:
        """Whether its lease is held: by a process on this machine, or by one that has renewed it within `EXPIRY` seconds."""
        found = read_lease(self._folder)
        if not found:
            return False
        if _is_here(found):
            return _is_alive(found)
        if (beat := f"{found['id']} {found['beat']}") != self._beat:
            # At first sight its own time decides, for those who look once; clocks may differ by some seconds.
            age = 0.0 if self._beat else max(0.0, time.time() - found["time"] - EXPIRY)
            self._beat, self._changed = beat, time.monotonic() - age
        return time.monotonic() - self._changed < EXPIRY


def _wait_for_expiry(folder: Folder) -> list[Owner]:
    """Waits until all who have the lease have expired, and returns them.

    Raises:
        UserError: one of them is alive.
    """
    first: dict[str, int] | None = None
    waited = 0.0
    while True:
        began = time.monotonic()
        with folder.write_errors():
            found = owners(folder)
        if time.monotonic() - began > RENEW:
            waited = 0.0  # storage was unavailable, so that no owner could renew its lease
        live = [owner for owner in found if not (_is_here(owner) and not _is_alive(owner))]
        beats = {owner["id"]: owner["beat"] for owner in live}
        first = beats if first is None else first
        for owner in live:
            if _is_here(owner) or owner["beat"] != first.get(owner["id"]):
                raise _refusal(folder, owner)
        if not live or waited >= EXPIRY:
            return found
        time.sleep(1.0)
        waited += 1.0


def _this_process() -> dict[str, Any]:
    process = psutil.Process()
    place = {"host": socket.gethostname(), "machine": _machine()}
    return {**place, "pid": process.pid, "started": process.create_time(), "user": user()}


@cache
def _machine() -> str:
    """Identifies this boot of this machine, and the namespace in which its PIDs are valid."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return f"{uuid.getnode():x}"


def _is_here(owner: Owner) -> bool:
    """Whether an owner's PID can be looked up here; earlier versions wrote no machine, and are observed."""
    return bool(owner["host"] == socket.gethostname() and owner.get("machine") == _machine())


def _is_alive(owner: Owner) -> bool:
    return process_of(owner["pid"], owner["started"]) is not None


def user() -> str:
    """The name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _describe(owner: Owner) -> str:
    return f"{owner['user']}'s process {owner['pid']} on {owner['host']}"


def _refusal(folder: Folder, owner: Owner) -> Held:
    now = time.time()
    refusal = Held(
        f"run {folder.name!r} has been driven by {_describe(owner)} for {now - owner['since']:.0f} s, "
        f"last heartbeat {max(0.0, now - owner['time']):.0f} s ago",
        "stop that one first, or give this run another name (--set name=...)",
    )
    refusal.owner = _describe(owner)
    return refusal
