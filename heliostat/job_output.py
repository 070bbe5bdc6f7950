"""The output of a job, kept on the cluster's storage, where it outlives the cluster.

``<storage>/.jobs/<id>/`` has ``job.json`` (what ran, when, and how it ended) and the output in pieces (``000000.log``, ...).
``python -P -m heliostat.job_output COMMAND`` runs a job's command, and copies what it prints every few seconds. Ray gives a job
a file as standard output; that is what is copied, so the command itself writes as without this.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import BinaryIO

from heliostat.environment import IN_A_JOB, JOBS, STORAGE
from heliostat.errors import StorageUnavailable, UserError
from heliostat.interrupts import handles_sigterm

SECONDS = 5.0
"""Seconds between two copies: so much of the output is lost with a node."""
LAST_SECONDS = 30.0
"""Seconds for the last copy after the command has ended."""
PIECE = 1 << 20
"""Bytes of a file: the last one is written again with each copy, because object stores cannot append."""
RECORD = "job.json"


def job_metadata() -> dict[str, str]:
    """What the submission of this job says of it: its id (``job_submission_id``), ``cluster``, ``run`` and ``on``."""
    config = json.loads(os.environ.get(IN_A_JOB) or "{}")
    return dict(config.get("metadata") or {})


@contextmanager
def recorded(command: str) -> Iterator[Callable[[int], None]]:
    """Copy the output of this job while the block runs, which gives the exit code of the command to the function."""
    about, codes = job_metadata(), list[int]()
    in_a_job = STORAGE in os.environ and "job_submission_id" in about
    source = _output() if in_a_job else None
    if source is None:
        if in_a_job:
            _say("standard output is not a file that can be read here: the output of this job is not kept")
        yield codes.append
        return
    ended = threading.Event()
    record = {
        "id": about["job_submission_id"], "cluster": about.get("cluster", ""), "run": about.get("run", ""),
        "command": command, "started": time.time(), "ended": None, "exit_code": None,
    }  # fmt: skip
    copy = _Copy(source, record)
    thread = threading.Thread(target=_copy_until, args=(copy, ended, codes), daemon=True)
    thread.start()
    try:
        yield codes.append
    finally:
        ended.set()
        thread.join(LAST_SECONDS)
        if thread.is_alive():
            _say("the storage does not respond: the end of this job's output is not kept")


def wait(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
    """Wait for a process; returns its exit code, that of a shell after a signal."""
    code = process.wait(timeout)
    return code if code >= 0 else 128 - code


def start(command: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a job's shell command as Ray does; from then on a SIGTERM does not end this process, which waits for its end.

    To stop a job, Ray (2.60) looks for its processes in the process table, which takes tens of milliseconds, and then sends a
    SIGTERM to each, once: the command has it from there. One that has started meanwhile was not seen, would go on until Ray
    kills it, and gets it from here; one with a handler, for which a second SIGTERM would be another one, has run for longer.
    The shell replaces itself by a simple command, which gets the signals then.
    """
    stops, new = list[int](), list[subprocess.Popen[bytes]]()

    def heard(number: int, _: object) -> None:
        stops.append(number)
        if new and not handles_sigterm(new[0].pid):
            new[0].terminate()

    signal.signal(signal.SIGTERM, heard)
    process = subprocess.Popen(command, shell=True, env=env)
    new.append(process)
    if stops:
        process.terminate()
    return process


def run(command: str) -> int:
    """Run a job's shell command, and keep its output."""
    process = start(command)
    with recorded(command) as note:
        code = wait(process)
        note(code)
    return code


class _Copy:
    """The copy of a growing file in pieces."""

    def __init__(self, source: BinaryIO, record: Mapping[str, object]) -> None:
        self._source, self._record = source, dict(record)
        self._piece, self._number = b"", 0
        self._complained = False

    @cached_property
    def place(self) -> str:
        """The path or URI of the copy."""
        from heliostat.folder import join  # in the thread: it imports pyarrow

        return join(join(os.environ[STORAGE], JOBS), str(self._record["id"]))

    def update(self, **changes: object) -> None:
        """Write what is new, then changes of the record; a storage that fails is reported once, and tried again."""
        from heliostat.folder import Folder

        try:
            folder = Folder.at(self.place, 0)  # the next update tries again
            if not (self._number or self._piece):
                folder.write(RECORD, json.dumps(self._record).encode())
            while data := self._source.read(PIECE - len(self._piece)):
                self._piece += data
                folder.write(f"{self._number:06d}.log", self._piece)
                if len(self._piece) == PIECE:
                    self._piece, self._number = b"", self._number + 1
            if changes:
                folder.write(RECORD, json.dumps({**self._record, **changes}).encode())
            self._complained = False
        except (OSError, UserError, StorageUnavailable) as error:
            self._source.seek(self._number * PIECE)
            self._piece = b""
            if not self._complained:
                reason = str(error) if isinstance(error, OSError) else error.what
                _say(f"the output of this job is not kept in {self.place}: {reason}; the job continues")
            self._complained = True


def _copy_until(copy: _Copy, ended: threading.Event, codes: list[int]) -> None:
    while not ended.wait(SECONDS):
        copy.update()
    copy.update(ended=time.time(), exit_code=codes[-1] if codes else None)


def _output() -> BinaryIO | None:
    """Standard output for reading, from its beginning; None if it is no file."""
    path = "/proc/self/fd/1"
    if not os.path.exists(path) or not stat.S_ISREG(os.stat(path).st_mode):
        return None
    return open(path, "rb")


def _say(text: str) -> None:
    print(f"heliostat: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
