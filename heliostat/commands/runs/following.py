"""The process beside a driver that tracks its run or sweep, see `heliostat.workloads.tracking.driver`."""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from heliostat.commands import SCRIPT
from heliostat.folder import Folder
from heliostat.modules import order_search_path
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.lease import read_lease
from heliostat.workloads.tracking.choice import maker
from heliostat.workloads.tracking.driver import later
from heliostat.workloads.tracking.send import Read, Sender
from heliostat.workloads.tracking_config import Item, name_of

JOURNAL = "tracking.jsonl"
"""What happened to the trackers of a run."""
PATIENCE = 10.0
"""Seconds for which one reading waits for the storage."""
NICENESS = 10
"""A worker that wants the core comes first."""
PR_SET_PDEATHSIG = 1
"""Of Linux: the process is killed when the one that has started it is."""


def main() -> None:
    """Tracks until the driver says how its work has ended, or is gone."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    begin = json.loads(sys.stdin.readline() or sys.exit(0))
    _end_with(begin["driver"])
    os.nice(NICENESS)
    order_search_path()
    folder = Folder.at(begin["uri"], PATIENCE)
    journal = Journal(folder, JOURNAL)

    lock = threading.Lock()

    def say(event: str, text: str) -> None:
        journal.append(event=event, text=text)
        with lock:
            channel.write(json.dumps(text) + "\n")
            channel.flush()

    def taken() -> bool:
        owner = read_lease(folder)
        return owner is not None and owner["id"] != begin["lease"]

    tracking, reader = source_of(folder)
    senders = [Sender(name_of(item), maker(item), reader, say, taken) for item in tracking]
    for sender in senders:
        sender.start()
    end = sys.stdin.readline()
    if not end:  # the driver was killed
        os._exit(0)
    _finish(senders, json.loads(end)["state"], begin["seconds"])
    for sender in senders:
        if sender.is_alive():
            problem = sender.problem or "it has not answered yet"
            say("incomplete", f"{sender.name} does not have everything: {problem}\n  {later(begin['uri'], sender.name)}")
    journal.close(1.0)
    os._exit(0)  # some libraries wait for their servers as they are unloaded


def _end_with(driver: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux, the end of standard input must do
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:
        os._exit(0)


def _finish(senders: Sequence[Sender], state: str, seconds: float) -> None:
    for sender in senders:
        sender.end(state)
    deadline = time.monotonic() + seconds
    for sender in senders:
        sender.join(max(0.0, deadline - time.monotonic()))


def source_of(folder: Folder) -> tuple[Sequence[Item], Callable[[], Read]]:
    """The trackers of a run, a sweep or a script, and what begins to read its record."""
    from heliostat.workloads.run.record import CONFIG, read_record

    if folder.exists(CONFIG):
        from heliostat.workloads.tracking.runs import RunReader

        return read_record(folder).config.tracking, partial(RunReader, folder)
    if folder.exists(SCRIPT):
        from heliostat.workloads.torchrun.tracking import ScriptReader

        return [], partial(ScriptReader, folder)
    from heliostat.tuning.tracking import SweepReader, tracking_of

    return tracking_of(folder), partial(SweepReader, folder)


if __name__ == "__main__":
    main()
