"""Sends the record of a run or a sweep to one tracker, again and again until its end, or once."""

import re
import threading
import time
from collections.abc import Callable, Sequence

from heliostat.errors import WithFix, short_traceback
from heliostat.workloads.tracking.choice import Make
from heliostat.workloads.tracking.tracker import RUNNING, Point, Tracked, Tracker

POLL, LONGEST_POLL, SHARE = 5.0, 60.0, 300
"""The least and the most seconds between two readings of the record, and how often as long as the CPU time of one: three
trackers take less than 1 % of a core."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before what failed is tried again; the pause doubles."""

SHOWN = 150
"""Characters of an error."""

Read = Callable[[str], Sequence[Tracked]]
"""Reads what is new in the record, at first everything: the run, or the sweep and its trials, in the state that it is in."""
Say = Callable[[str, str], None]
"""Called with an event and its text."""


class Session:
    """What one tracker has of a run, or of a sweep and its trials, since it was asked."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._open: dict[str, tuple[Tracker, dict[str, int]]] = {}
        self._closed: set[str] = set()
        self.where = ""

    def update(self, runs: Sequence[Tracked]) -> None:
        """Sends what the tracker does not have yet."""
        for run in runs:
            if run.id in self._closed:
                continue
            if run.id not in self._open:
                tracker = self._make()
                self._open[run.id] = tracker, dict(tracker.open(run))
                self.where = self.where or tracker.where
            tracker, sent = self._open[run.id]
            if points := [new for point in run.points if (new := _new(point, tracker, sent)).values]:
                tracker.log(points)
                sent.update({tracker.named(name): point.step for point in points for name in point.values})
            if run.state != RUNNING:
                tracker.close(run)
                self._closed.add(run.id)
                del self._open[run.id]


def _new(point: Point, tracker: Tracker, sent: dict[str, int]) -> Point:
    """What of a point is not there yet. A step that was computed again after a restart has the same values."""
    values = {name: value for name, value in point.values.items() if point.step > sent.get(tracker.named(name), -1)}
    return Point(point.step, point.time, values)


class Sender(threading.Thread):
    """Sends until the end, in a thread of its own, so that a server that does not answer delays no other.

    After each failure it starts again: it reads the record from its beginning, and asks the tracker what it has.

    Args:
        name: of the tracker.
        make: makes it.
        reader: begins to read the record.
        say: called when a failure begins and ends.
        taken: whether another driver has the run, whose process then sends everything.
    """

    def __init__(
        self, name: str, make: Make, reader: Callable[[], Read], say: Say, taken: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._make, self._reader, self._say, self._taken = make, reader, say, taken
        self._end: str | None = None
        self._ending = threading.Event()
        self.problem = ""
        """Why the tracker does not have everything."""
        self._told = False

    def end(self, state: str) -> None:
        """The run has ended: sends the rest, and returns at once."""
        self._end = state
        self._ending.set()

    def run(self) -> None:
        """Overrides that of `threading.Thread`."""
        pause = FIRST_PAUSE
        while True:
            try:
                self._follow()
                return
            except Exception as error:  # of any library, server or storage; it is said, and tried again
                self.problem = reason(error)
                if not self._told and self._end is None:
                    again = "the run goes on, and what is missing is sent when it answers again"
                    self._say("delayed", f"{self.name} has not taken the run's metrics: {self.problem}\n  {again}")
                    self._told, pause = True, FIRST_PAUSE
            if self._end is None:
                self._ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                time.sleep(FIRST_PAUSE)

    def _follow(self) -> None:
        session, read = Session(self._make), self._reader()
        first = True
        while True:
            end = self._end
            if self._taken():
                return
            began = time.thread_time()
            session.update(read(end or RUNNING))
            self.problem = ""
            if self._told:
                self._say("continued", f"{self.name} answers again, and has all metrics so far")
                self._told = False
            elif first and session.where:
                self._say("opened", f"{self.name}: {session.where}")
            spent = 0.0 if first else time.thread_time() - began  # the first has the imports
            first = False
            if end is not None:
                return
            self._ending.wait(min(LONGEST_POLL, max(POLL, SHARE * spent)))


def reason(error: BaseException) -> str:
    """An error and its first cause, without the passwords in addresses; one of a user's own code with its place."""
    if isinstance(error, WithFix):
        return f"{error.what} (fix: {error.fix})"
    if type(error).__module__ == "builtins" and not isinstance(error, OSError):
        return _shown(short_traceback(error))
    first = error
    while cause := first.__cause__ or first.__context__:
        first = cause
    text = _shown(" ".join(str(error).split())) or type(error).__name__
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return text if first is error else f"{text}: {_shown(str(first))[:SHOWN]}"


def _shown(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://", text)
