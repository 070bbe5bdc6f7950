"""Where the lease of a run is: who may drive it is decided here, by what each kind of storage can do.

`Locked`, on filesystems: ``lease.json`` is read, compared and written while ``lease.lock`` is locked (``flock``), which the
kernel gives to no other process, not even while the owner is paused. NFS must not be mounted with ``nolock`` or
``local_lock``.

`Claims`, in object stores, and on filesystems without locks: each driver writes only its own file, ``lease-ID.json``, so that
one that wakes after a pause can neither overwrite nor delete another's. It holds the lease when the listing has no other
after it has written its file. Of two that start at the same time, at least the one whose write was completed last sees the
other. This assumes only that a listing has all objects whose writes were completed before it, as S3, GCS, Azure and MinIO
promise, and nothing about times; so it needs no conditional writes, which pyarrow does not offer.
"""

import errno
import fcntl
import json
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Protocol

from heliostat.errors import UserError
from heliostat.folder import Folder

LEASE, LOCK = "lease.json", "lease.lock"
EXPIRY = 20.0
"""Seconds without a renewal after which the lease of an owner on another machine has expired."""
ATTEMPTS = 6
"""How often a driver tries to get a lease that others want at the same moment."""
BACKOFF = 0.3
"""Seconds, the mean pause before the second attempt."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF}

Owner = dict[str, Any]
"""``id``, ``host``, ``machine``, ``pid``, ``started``, ``user``, ``since``; of its last renewal ``beat``, ``time``."""


class Place(Protocol):
    """Where the lease of one run is."""

    def __init__(self, folder: Folder) -> None: ...

    def owners(self) -> list[Owner]:
        """Who has it, or is about to."""

    def take(self, mine: Owner, expired: Iterable[Owner]) -> Owner | None:
        """Takes it, from the expired owners if they have not renewed it since; else returns who has it."""

    def renew(self, mine: Owner) -> str:
        """Renews it; ``ours``, or if another driver has taken it over, the ID of that one, ``gone`` if it is unknown."""

    def release(self, mine: Owner) -> str:
        """Gives it up, unless another driver has taken it over; returns the same as `renew`."""


def place_of(folder: Folder) -> Place:
    """The place of the lease of the run at ``folder``.

    Raises:
        NotWritable: the folder cannot be written.
    """
    if folder.is_local:
        try:
            with Locked(folder)._lock():
                return Locked(folder)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return Claims(folder)


class Locked:
    """See the module."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def owners(self) -> list[Owner]:
        found = parsed(self._folder, LEASE)
        return [found] if found else []

    def take(self, mine: Owner, expired: Iterable[Owner]) -> Owner | None:
        with self._lock():
            for found in self.owners():
                if found["id"] != mine["id"] and _key(found) not in map(_key, expired):
                    return found
            self._folder.write(LEASE, json.dumps(mine).encode())
        return None

    def renew(self, mine: Owner) -> str:
        with self._lock():
            holder = self._holder(mine)
            if holder == "ours":
                self._folder.write(LEASE, json.dumps(mine).encode())
        return holder

    def release(self, mine: Owner) -> str:
        with self._lock():
            holder = self._holder(mine)
            if holder == "ours":
                self._folder.delete(LEASE)
        return holder

    def _holder(self, mine: Owner) -> str:
        found = next(iter(self.owners()), {"id": "gone"})
        return "ours" if found["id"] == mine["id"] else str(found["id"])

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Holds the lock, which others hold for the time of a write. Its file exists as long as the lease.

        Raises:
            UserError: another process holds it for longer: it is paused.
        """
        path = f"{self._folder.path}/{LOCK}"
        with self._locked(path) as file:
            try:
                yield
            finally:
                with suppress(OSError):
                    if not os.path.exists(f"{self._folder.path}/{LEASE}"):
                        os.unlink(path)
                fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too

    def _locked(self, path: str) -> IO[str]:
        deadline = time.monotonic() + EXPIRY
        while True:
            file = self._folder.retried(lambda: _open(self._folder, path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    return file
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{path} has been locked for {EXPIRY:g} s by a process that does not respond",
                        "end that process, which drives this run",
                    ) from None
            except BaseException:
                file.close()
                raise
            file.close()
            time.sleep(0.02)


class Claims:
    """See the module. A driver that takes over leaves ``lease-ID.lost``, which the earlier one finds whenever it wakes."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def owners(self) -> list[Owner]:
        names = self._folder.names()
        found = [parsed(self._folder, name) for name in names if name == LEASE or _is_claim(name)]  # LEASE: of earlier versions
        claims = [claim for claim in found if claim and _lost(claim["id"]) not in names]
        over = {other for claim in claims if claim.get("held") for other in claim["over"]}
        return [claim for claim in claims if claim["id"] not in over]

    def take(self, mine: Owner, expired: Iterable[Owner]) -> Owner | None:
        over = {claim["id"]: _key(claim) for claim in expired}
        claim = {**mine, "over": list(over), "held": False}
        for attempt in range(ATTEMPTS):
            self._write(claim)
            others = [c for c in self.owners() if c["id"] != mine["id"] and _key(c) != over.get(c["id"])]
            if not others:
                break
            self._folder.delete(_file(mine["id"]))
            if held := next((other for other in others if other.get("held", True)), None):
                return held
            time.sleep(BACKOFF * 2**attempt * 2 * random.random())
        else:
            return others[0]
        self._write({**claim, "held": True})
        mine.update(over=list(over), held=True)
        if (taker := self._taker(mine["id"])) != "ours":  # it was paused for so long that it has expired meanwhile
            self._folder.delete(_file(mine["id"]))
            return next((c for c in self.owners() if c["id"] == taker), mine)
        for other in over:
            self._folder.write(_lost(other), json.dumps(mine).encode())
            self._folder.delete(_file(other))
        if (earlier := parsed(self._folder, LEASE)) and earlier["id"] in over:
            self._folder.delete(LEASE)
        return None

    def renew(self, mine: Owner) -> str:
        if (holder := self._holder(mine)) != "ours":
            return holder
        self._write(mine)
        if (holder := self._holder(mine)) != "ours":
            self._folder.delete(_file(mine["id"]))
        return holder

    def release(self, mine: Owner) -> str:
        holder = self._holder(mine)
        self._folder.delete(_file(mine["id"]))
        return holder

    def _holder(self, mine: Owner) -> str:
        taker = self._taker(mine["id"])
        return "gone" if taker == "ours" and not self._folder.exists(_file(mine["id"])) else taker

    def _taker(self, own: str) -> str:
        """The ID of the driver that has taken over from ``own``, once that is decided; ``ours`` if there is none."""
        deadline = time.monotonic() + EXPIRY
        while True:
            names = self._folder.names()
            if _lost(own) in names:
                return str((parsed(self._folder, _lost(own)) or {"id": "gone"})["id"])
            claims = [parsed(self._folder, name) for name in names if _is_claim(name) and name != _file(own)]
            takers = [claim for claim in claims if claim and own in claim["over"]]
            if held := next((claim for claim in takers if claim["held"]), None):
                return str(held["id"])
            if not takers or time.monotonic() > deadline:
                return "ours"
            time.sleep(BACKOFF)

    def _write(self, claim: Owner) -> None:
        self._folder.write(_file(claim["id"]), json.dumps(claim).encode())


def parsed(folder: Folder, name: str) -> Owner | None:
    """The owner in a file; None if it does not exist, or is something else."""
    try:
        found = json.loads(folder.read(name))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"id", "host", "pid", "beat"} <= found.keys() else None


def _key(owner: Owner) -> tuple[Any, ...]:
    """What changes with each renewal."""
    return owner["id"], owner["beat"], owner.get("held")


def _file(own: str) -> str:
    return f"lease-{own}.json"


def _lost(own: str) -> str:
    return f"lease-{own}.lost"


def _is_claim(name: str) -> bool:
    return name.startswith("lease-") and name.endswith(".json")


def _open(folder: Folder, path: str) -> IO[str]:
    def attempt() -> IO[str]:
        folder.create()
        with folder.write_errors():
            return open(path, "a+")

    try:
        return attempt()
    except FileNotFoundError:  # a driver that was refused has deleted the folder just then
        return attempt()


def owners(folder: Folder) -> list[Owner]:
    """Who drives the run at ``folder``, or is about to, wherever the lease is."""
    return Claims(folder).owners()
