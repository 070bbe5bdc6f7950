"""Draws the report of a run or a sweep, or its live display; what fails here never fails the work itself."""

import os
import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from heliostat.console import err
from heliostat.errors import HeliostatError

PAUSE, SHARE = 10.0, 50
"""Seconds between two drawings at least, and how often as long as one took: drawing takes at most 2 % of the time."""
NICENESS = 10
"""Of the thread that draws: a worker that wants the core comes first."""
LAST_SECONDS = 30.0
"""Seconds for which the end waits for a drawing that has begun."""

Draw = Callable[[], None]


def draw(write: Draw, where: str, what: str = "report") -> None:
    """Call ``write``, which draws the report of the run or sweep in the folder ``where``; a failure is printed.

    ``what`` names something else that it draws.
    """
    try:
        write()
    except Exception as error:  # the work and its record are complete, whatever matplotlib, the data or the storage did
        reason = error if isinstance(error, HeliostatError) else f"{type(error).__name__}: {error}"
        drawn = "it" if what == "report" else "the report"
        again = f"all else is recorded; heliostat report {shlex.quote(where)} draws {drawn} again"
        err.print(f"the {what} cannot be drawn: {reason}\n  {again}", highlight=False, markup=False, soft_wrap=True)


class Redraw:
    """Draws a report again and again, in a thread of its own.

    Args:
        write: draws and writes the report.
        where: the folder of the run or the sweep.
        what: is drawn.
        pause: seconds between two drawings at least.
    """

    def __init__(self, write: Draw, where: str, what: str = "report", pause: float = PAUSE) -> None:
        self._write, self._where, self._what, self._pause = write, where, what, pause
        self._thread: threading.Thread | None = None
        self._due = False
        self._next = 0.0

    def poll(self, changed: bool) -> None:
        """Start to draw if there is something new and the time has come; called several times a second."""
        self._due = self._due or changed
        if self._due and time.monotonic() >= self._next and not (self._thread and self._thread.is_alive()):
            self._due = False
            self._thread = threading.Thread(target=self._run, name="report", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for a drawing that has begun, so that it does not replace a later one."""
        if self._thread:
            self._thread.join(LAST_SECONDS)

    def _run(self) -> None:
        if hasattr(os, "SCHED_IDLE"):  # Linux, where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        started = time.monotonic()
        draw(self._write, self._where, self._what)
        ended = time.monotonic()
        self._next = ended + max(self._pause, SHARE * (ended - started))
