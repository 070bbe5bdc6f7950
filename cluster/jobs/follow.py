"""A job on a cluster, from its submission to its end, whatever happens on the way."""

import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

from heliostat.cluster.errors import Forbidden, KubernetesError, NotFound
from heliostat.cluster.jobs.dashboard import Dashboard, Job
from heliostat.cluster.jobs.packaging import Package, isolated, packages, runtime_env, upload
from heliostat.errors import ContactLost, JobFailed, Stopped

POLL = 1.0
LOST_SECONDS = 60.0
"""How long nobody may answer before following a job is given up; the job itself goes on."""
CLOSE_SECONDS = 3.0
"""How long Ray takes at most to send the rest of a log after the job's end; it reads once a second."""
BEGINNING = 256
"""How many characters of its beginning tell a log from another one."""
STOP_SECONDS = 60
"""How long a job that is asked to stop may take for its last checkpoint."""

Look = Callable[[], str]
"""Looks at the cluster: what a job waits for, in a line; raises `NotComing` if that will not come."""


@dataclass(frozen=True)
class Work:
    """What is to be run, and where its code is."""

    job_id: str
    argv: list[str]
    working_dir: Path
    env: Mapping[str, str] = field(default_factory=dict)
    isolated: bool = False
    """Whether the working directory is kept off the search path of Ray's processes, see `packaging`."""

    @property
    def entrypoint(self) -> str:
        """The shell command that the head runs."""
        command = shlex.join(self.argv)
        return isolated(command) if self.isolated else command


def submit(dashboard: Dashboard, work: Work, code: list[Package] | None = None) -> None:
    """Send the code and start the job; ``code`` is what `packages` has made of the working directory.

    Raises:
        UserError: the working directory is too big.
        KubernetesError: the cluster does not take it.
    """
    code = code or packages(work.working_dir, work.isolated)
    upload(dashboard, code)
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1", **work.env}
    dashboard.submit(work.job_id, work.entrypoint, runtime_env(code, env), {"heliostat": "1"})


def follow(
    dashboard: Dashboard,
    job_id: str,
    write: Callable[[str], Any],
    say: Callable[[str], Any] = lambda line: None,
    look: Look = lambda: "",
    again: str = "heliostat logs",
    interrupted: Callable[[], bool] = lambda: False,
    otherwise: Callable[[], Job | None] = lambda: None,
) -> Job:
    """Print what a job prints until it has ended, and return how.

    The end comes from the polled status, never from the log, which is only a stream that may break; it is taken up where it
    broke.

    Args:
        dashboard: of the cluster.
        job_id: the job.
        write: gets the job's output, in pieces.
        say: told in one line what is waited for, empty when nothing is.
        look: looks at the cluster while the job has not begun to print.
        again: the command that follows the job again, for messages.
        interrupted: whether somebody wants the end; then the cluster is looked at also while the job prints.
        otherwise: how the job has ended by what another witness says, asked when the dashboard does not answer; None: not yet.

    Raises:
        ContactLost: nobody answers for a minute; the job may go on.
        JobFailed: the cluster has lost the job.
        NotComing: what the job waits for will not come.
    """
    log = _Log(dashboard, job_id, write)
    answered = time.monotonic()
    try:
        while True:
            try:
                job = _known(dashboard, job_id)
                if job.done:
                    return job
                say("" if log.flows() and not interrupted() else look())
                answered = time.monotonic()
            except KubernetesError as error:
                if ended := _witnessed(otherwise):
                    return ended
                silent = time.monotonic() - answered
                if silent > LOST_SECONDS or interrupted():
                    raise ContactLost(
                        f"lost contact with job {job_id}, which may still run: {error.what}\n  follow it again: {again}"
                    ) from None
                say(f"contact lost for {silent:.0f} s; trying again")
            time.sleep(POLL)
    finally:
        log.finish()


def _witnessed(otherwise: Callable[[], Job | None]) -> Job | None:
    try:
        return otherwise()
    except KubernetesError:
        return None  # nobody answers at all


def _known(dashboard: Dashboard, job_id: str) -> Job:
    try:
        return dashboard.job(job_id)
    except NotFound:
        raise JobFailed(
            f"the cluster does not know job {job_id} any more: its head was restarted\n"
            "  the same command again goes on from the last checkpoint"
        ) from None


def check(job: Job, name: str) -> None:
    """Raise what a job's end means; nothing if it succeeded.

    Raises:
        JobFailed: it failed; its exit code is the job's own.
        Stopped: somebody stopped it.
    """
    if job.status == "STOPPED":
        raise Stopped(f"{name} was stopped; the same command goes on from the last checkpoint")
    if job.status == "FAILED":
        error = JobFailed(_why(job))
        error.exit_code = job.exit_code or 1
        raise error


def _why(job: Job) -> str:
    if job.exit_code:
        return f"job {job.id} ended with exit code {job.exit_code}; its output is above"
    lines = "\n".join(f"  | {line}" for line in job.message.strip().splitlines()[-12:])
    return f"job {job.id} failed:\n{lines}"


class _Log:
    """A job's output: a thread reads it from a websocket, and takes it up again where that broke."""

    def __init__(self, dashboard: Dashboard, job_id: str, write: Callable[[str], Any]) -> None:
        self._dashboard, self._job_id, self._write = dashboard, job_id, write
        self._written, self._beginning = 0, ""
        self._last = time.monotonic()
        self._over, self._closed = threading.Event(), threading.Event()
        self._socket: Any = None
        self._refused: websocket.WebSocketBadStatusException | None = None
        self._unwritable: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def flows(self) -> bool:
        """Whether something was printed in the last seconds: then nobody needs to say what is waited for.

        Raises:
            Forbidden: the output is kept from us.
        """
        if self._unwritable:
            raise self._unwritable
        if self._refused:
            raise Forbidden(f"job {self._job_id} runs, but its output is refused: {self._refused}", "heliostat doctor")
        return time.monotonic() - self._last < 3 and self._written > 0

    def finish(self) -> None:
        """Stop reading, and write what has not come through the websocket."""
        try:
            text = self._dashboard.logs(self._job_id)
        except KubernetesError:
            text = ""  # the end is known, and the rest of the output is out of reach
        if len(text) < self._written:
            # The log was rotated: what was in the old file comes by the websocket that is open, or not at all.
            self._closed.wait(CLOSE_SECONDS)
        self._over.set()
        if self._socket is not None:
            self._socket.settimeout(0.1)
        self._thread.join(5)
        self._take(text[self._skipped(text) :])

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._read()
            except websocket.WebSocketBadStatusException as error:
                if error.status_code in (401, 403):
                    self._refused = error
                    return
                self._over.wait(POLL)
            except (KubernetesError, OSError, websocket.WebSocketException):
                # The status tells how it ends; the stream is only taken up again.
                self._over.wait(POLL)

    def _read(self) -> None:
        self._socket = self._dashboard.tail(self._job_id)
        self._closed.clear()
        skip: int | None = None
        try:
            self._socket.settimeout(0.5)
            while not self._over.is_set():
                try:
                    piece = self._socket.recv()
                except websocket.WebSocketTimeoutException:
                    continue
                text = piece if isinstance(piece, str) else piece.decode(errors="replace")
                if not text:  # all has come
                    self._closed.set()
                    self._over.wait(POLL)
                    return
                skip = self._skipped(text) if skip is None else skip
                self._take(text[skip:])
                skip = max(0, skip - len(text))
        finally:
            self._socket.close()

    def _skipped(self, text: str) -> int:
        """How much has been written of a log that begins so: nothing of one that begins otherwise, as after a rotation."""
        compared = min(len(text), len(self._beginning))
        if text[:compared] != self._beginning[:compared]:
            self._written, self._beginning = 0, ""
        return self._written

    def _take(self, text: str) -> None:
        if text:
            self._written += len(text)
            self._beginning += text[: BEGINNING - len(self._beginning)]
            self._last = time.monotonic()
            try:
                self._write(text)
            except OSError as error:  # the reader of our output has gone, or its disk is full
                self._unwritable = error
                self._over.set()


def to_stream(stream: Any = None) -> Callable[[str], None]:
    """A writer to a stream, standard output by default, that shows each piece at once."""
    target = stream or sys.stdout

    def write(text: str) -> None:
        target.write(text)
        target.flush()

    return write
