"""Where the page reads: a storage that this machine can read, or copies of what a cluster's storage has."""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, Protocol

from heliostat.errors import HeliostatError
from heliostat.folder import Folder

PAUSE, SHARE = 10.0, 20
"""Seconds between two copies at least, and how often as long as one took: at most 5 % of the time."""
BEAT = 20.0
"""Seconds between two requests to the storage at most: the job that reads a claim ends after a minute without one."""
REGISTRY = ("models/*/log/*.json", "models/*/versions/*/version.json")
"""What the page needs of the registry."""
ON_DEMAND = ("report.html", "output-*.jsonl", "logs")
"""What is copied of a run when it is looked at."""


class Place(Protocol):
    """A storage of the page."""

    name: str
    copied: bool

    def folder(self) -> Folder:
        """The storage, or the newest copy."""

    def wanted(self, run: str) -> Folder:
        """The storage, or a copy, with the output and the report of a run."""

    def trouble(self) -> str:
        """Why the newest copy is old; empty if it is not."""


class Here:
    """A storage that this machine can read."""

    copied = False

    def __init__(self, folder: Folder) -> None:
        self.name, self._folder = str(folder), folder

    def folder(self) -> Folder:
        """The storage."""
        return self._folder

    def wanted(self, run: str) -> Folder:
        """The storage, with the output and the report of a run."""
        return self._folder

    def trouble(self) -> str:
        """There is none."""
        return ""


class Copies:
    """A cluster's storage: the files that the list and the curves need are copied again and again while someone looks.

    Args:
        storage: of the cluster, opened.
        place: the folder of the runs on it.
        name: for the page.
        scratch: a folder for the copies.
    """

    copied = True

    def __init__(self, storage: Any, place: str, name: str, scratch: Path) -> None:
        self.name, self._storage, self._place, self._scratch = name, storage, place, scratch
        self._lock = threading.Lock()
        self._number, self._next, self._trouble = 0, 0.0, ""
        self._before = self._current = self._copied()

    def folder(self) -> Folder:
        """The newest copy; the next one is begun if its time has come."""
        if time.monotonic() >= self._next and self._lock.acquire(blocking=False):
            threading.Thread(target=self._again, name="copies", daemon=True).start()
        return Folder.at(self._current / self._place)

    def wanted(self, run: str) -> Folder:
        """A copy that has the output and the report of a run; the newest one may not, if it has been exchanged meanwhile."""
        current = self._current
        self._storage.fetch([f"{self._place}/{escape(run)}/{name}" for name in ON_DEMAND], current)
        return Folder.at(current / self._place)

    def trouble(self) -> str:
        """Why the last copy failed."""
        return self._trouble

    def beat(self, ended: threading.Event) -> None:
        """Keep the storage open until the event."""
        while not ended.wait(BEAT):
            try:
                self._storage.fetch([], self._scratch)
            except (HeliostatError, OSError) as error:
                self._trouble = str(error)

    def _again(self) -> None:
        try:
            copied = self._copied()
            if self._before != self._current:
                shutil.rmtree(self._before, ignore_errors=True)
            self._before, self._current = self._current, copied  # an answer may still read the one before
            self._trouble = ""
        except (HeliostatError, OSError) as error:  # shown on the page, which has the copy before; a full disk, too
            self._trouble = str(error)
            self._next = time.monotonic() + PAUSE
        finally:
            self._lock.release()

    def _copied(self) -> Path:
        from heliostat.commands.runs import SUMMARIES

        began = time.monotonic()
        self._number += 1
        to = self._scratch / str(self._number)
        to.mkdir()
        try:
            self._storage.fetch(
                [*(f"{self._place}/*/{name}" for name in SUMMARIES), *(f"{self._place}/{name}" for name in REGISTRY)], to
            )
        except BaseException:  # a part of the files may be there, and the next copy is begun soon
            shutil.rmtree(to, ignore_errors=True)
            raise
        self._next = time.monotonic() + max(PAUSE, SHARE * (time.monotonic() - began))
        return to


@contextmanager
def on_cluster(profile: Any, storage: str) -> Iterator[Copies]:
    """The runs in a folder on the storage of a profile's cluster, as long as the block lasts."""
    from heliostat.cluster.targets.storage import opened
    from heliostat.commands.runs.pull import on_storage
    from heliostat.commands.terminal.live import line

    place = on_storage(profile, storage)
    scratch = tempfile.TemporaryDirectory(prefix="heliostat-page-", ignore_cleanup_errors=True)
    with scratch as folder, line() as shown, opened(profile, shown.say) as source:
        copies = Copies(source, place, f"{place} on the storage of {profile.name}", Path(folder))
        shown.clear()
        ended = threading.Event()
        threading.Thread(target=copies.beat, args=(ended,), name="beat", daemon=True).start()
        try:
            yield copies
        finally:
            ended.set()
