"""The driver's side: starts the process that tracks a run or a sweep, and ends it; posts how the work ended."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

from heliostat.console import err
from heliostat.errors import Diverged, Stopped
from heliostat.job_output import job_metadata
from heliostat.workloads.run.lease import Lease
from heliostat.workloads.tracking.notify import notify
from heliostat.workloads.tracking_config import Item, Notify

PROGRAM = "heliostat.commands.runs.following"
LAST_SECONDS = 20.0
"""Seconds for which the end of a run waits until its trackers have everything."""
GRACE = 5.0
"""Seconds that the process that tracks has after that to say what is missing, and that what it has said has to arrive."""

Summary = Callable[[], dict[str, Any]]
"""What a notification says besides name and state."""


@contextmanager
def tracked(
    uri: str, name: str, tracking: Sequence[Item], notified: Sequence[Notify], owner: Lease, summary: Summary
) -> Iterator[None]:
    """Tracks the run or the sweep at ``uri`` while the block carries it out, and posts how it ended.

    Args:
        uri: its folder, with the config in it.
        name: of the run or the sweep.
        tracking: its trackers.
        notified: who gets the end.
        owner: this driver's lease; another driver that has taken it over does all this instead.
        summary: called at the end.
    """
    process = _started(uri, owner) if tracking else None
    state = message = ""
    try:
        yield
        state = "finished"
    except BaseException as error:
        state, message = state_of(error), str(error)
        raise
    finally:
        if owner.lost:
            if process:
                process.kill()
        else:
            if process:
                process.end(state)
            notify(notified, name, state, message, without_keys(uri), summary)
            if process:
                process.wait()


def _started(uri: str, owner: Lease) -> "Process | None":
    try:
        return Process(uri, owner.id)
    except OSError as error:  # the run continues without
        say(f"the process that tracks the run cannot be started: {error}\n  {later(uri)}")
        return None


def state_of(error: BaseException) -> str:
    """How the work ended that raised this."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        return "stopped"
    return "diverged" if isinstance(error, Diverged) else "failed"


class Process:
    """The process that tracks: a separate one, so that no library of a tracker can slow down, break or outlive the driver.

    It gets a line when the work has ended; without one, it exits when this process does. It prints what is to be said.
    """

    def __init__(self, uri: str, lease: str) -> None:
        self._uri = uri
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # it is deleted with this object
        path = os.pathsep.join(place for place in sys.path if place)  # with what `requirements` has installed
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # Ctrl-C is for the driver
        )  # fmt: skip
        self._send({"uri": uri, "lease": lease, "driver": os.getpid(), "seconds": LAST_SECONDS})
        self._printer = threading.Thread(target=self._print, name="tracking", daemon=True)
        self._printer.start()

    def end(self, state: str) -> None:
        """The work has ended."""
        self._send({"state": state})

    def wait(self) -> None:
        """Waits until the trackers have everything, for up to `LAST_SECONDS`."""
        try:
            code = self._process.wait(LAST_SECONDS + GRACE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            self.kill()
            why = "it was stopped" if isinstance(error, KeyboardInterrupt) else "it does not respond"
            say(f"the process that tracks the run was ended: {why}\n  {later(self._uri)}")
            return
        self._printer.join(GRACE)
        if code:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()[-5:]
            say("\n  ".join([f"the process that tracks the run has failed with exit code {code}:", *lines, later(self._uri)]))

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()

    def _send(self, line: dict[str, Any]) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has failed, which its exit code says
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()

    def _print(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            say(json.loads(line))


def later(uri: str, name: str = "") -> str:
    """What sends to a tracker what is missing."""
    to = f" --to {shlex.quote(name)}" if name else ""
    on = f" --on {shlex.quote(there)}" if (there := job_metadata().get("on")) else ""
    return f"heliostat runs track {shlex.quote(without_keys(uri))}{to}{on} sends what is missing"


def without_keys(uri: str) -> str:
    """A path or a URI without the user and the password that it may have."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "://" in uri else uri


def say(text: str) -> None:
    """Prints a message beside the progress."""
    err.print(f"tracking: {text}", highlight=False, markup=False, soft_wrap=True)
