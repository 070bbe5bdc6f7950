"""Submits a job and follows it until it has finished, across lost connections."""

import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import websocket

from heliostat.cluster.errors import Forbidden, KubernetesError, NotFound, Unreachable
from heliostat.cluster.jobs.contents import Contents
from heliostat.cluster.jobs.dashboard import Dashboard, Job
from heliostat.cluster.jobs.packaging import Package, isolated, packages, runtime_env, upload
from heliostat.cluster.retries import SECONDS, Silence
from heliostat.environment import JOB_ENVIRONMENT
from heliostat.errors import ContactLost, HeliostatError, JobFailed, Stopped
from heliostat.job_environment import packed, uri

POLL = 1.0
LOST_SECONDS = 60.0
"""Seconds in which it asks without a response until following a job is given up; the job itself continues."""
CLOSE_SECONDS = 3.0
"""Seconds that Ray needs at most to send the rest of a log after the job has finished; it reads once a second."""
PREFIX = 256
"""Characters at the start of a log by which it is recognized after a reconnect."""
STOP_SECONDS = 60
"""Seconds that a stopping job has for its last checkpoint."""

Look = Callable[[], str]
"""Checks the cluster: returns what a job waits for, in a line; raises `NotComing` if it will not come."""


@dataclass(frozen=True)
class Work:
    """A command to run, and the files of its working directory."""

    job_id: str
    argv: list[str]
    contents: Contents
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables whose values nothing may show."""
    stopped: str = "the same command resumes from the last checkpoint"
    """What a message says after the job was stopped."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What Ray keeps with the job, see `about`."""

    @property
    def command(self) -> str:
        """The shell command of the user; a single argument is one already."""
        return self.argv[0] if len(self.argv) == 1 else shlex.join(self.argv)

    @property
    def entrypoint(self) -> str:
        """The shell command that the head runs."""
        wrapped = keeping_output(self.command, "job_environment" if self.secret_env else "job_output")
        return isolated(wrapped) if self.contents.isolated else wrapped


def keeping_output(command: str, module: str = "job_output") -> str:
    """Wrap a shell command so that its output is kept on the storage."""
    return shlex.join(["python", "-P", "-m", f"heliostat.{module}", command])


def new_job_id(stem: str) -> str:
    """A job id: the stem, the time and random digits."""
    return f"{stem}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def about(cluster: str, run: str = "", on: str = "") -> dict[str, str]:
    """What a job knows of itself.

    Args:
        cluster: the profile's name.
        run: the name of the run or of the scheduled runs.
        on: what names the profile in a command; empty if the run's folder is on the user's machine.
    """
    return {key: value for key, value in {"cluster": cluster, "run": run, "on": on}.items() if value}


def submit(dashboard: Dashboard, work: Work, code: list[Package] | None = None, again: str = "heliostat logs") -> None:
    """Upload the code and start the job; ``code`` are the `packages` of its files, ``again`` as for `follow`.

    Raises:
        UserError: the working directory is too big.
        KubernetesError: the cluster refuses it, or does not respond before the job was submitted.
        ContactLost: it did not respond to the submission; the job may run.
    """
    code = code or packages(work.contents)
    upload(dashboard, code)
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1", **work.env}
    environment = runtime_env(code, env)
    if work.secret_env:
        key = secrets.token_hex(16)
        dashboard.upload(uri(key), packed(work.secret_env))
        dashboard.has_package(uri(key))  # from this question on, Ray (2.60) deletes it after ten minutes
        env[JOB_ENVIRONMENT] = key
        environment = {**runtime_env(code, env), "worker_process_setup_hook": "heliostat.job_environment.apply_in_worker"}
    about = {"heliostat": "1", "command": work.command, **work.metadata}
    try:
        dashboard.submit(work.job_id, work.entrypoint, environment, about)
    except Unreachable as error:
        what = f"job {work.job_id} was submitted without an answer, and may run: {error.what}"
        raise ContactLost(f"{what}\n  follow it: {again}") from None


def follow(
    dashboard: Dashboard,
    job_id: str,
    write: Callable[[str], Any],
    say: Callable[[str], Any] = lambda line: None,
    look: Look = lambda: "",
    again: str = "heliostat logs",
    interrupted: Callable[[], bool] = lambda: False,
    fallback: Callable[[], Job | None] = lambda: None,
) -> Job:
    """Print the output of a job until it has finished, and return its final state.

    The final state comes from the polled status, never from the log stream, which is reconnected when it breaks.

    Args:
        dashboard: of the cluster.
        job_id: the job.
        write: called with the job's output, in pieces.
        say: called with a line that says what the job waits for, empty if for nothing.
        look: checks the cluster while the job prints nothing.
        again: the command that follows the job again, for messages.
        interrupted: whether the user has interrupted; then the cluster is also checked while the job prints.
        fallback: the final state from another source, asked when the dashboard does not respond; None: not finished.

    Raises:
        ContactLost: no response for a minute; the job may continue.
        JobFailed: the cluster has lost the job.
        NotComing: what the job waits for will not come.
    """
    log = _Log(dashboard, job_id, write)
    silence, within = Silence(), SECONDS
    try:
        while True:
            asked = time.monotonic()
            try:
                job = _job(dashboard, job_id)
                if job.done:
                    return job
                say("" if log.active() and not interrupted() else look())
                silence.ends()
            except KubernetesError as error:
                try:
                    if ended := _final_state(fallback):
                        return ended
                except HeliostatError:
                    within = 0
                    raise
                lost = silence.seconds(asked, time.monotonic())
                if lost > LOST_SECONDS or interrupted():
                    within = 0
                    raise ContactLost(
                        f"lost contact with job {job_id}, which may still run: {error.what}\n  follow it again: {again}"
                    ) from None
                say(f"contact lost for {lost:.0f} s; retrying")
            time.sleep(POLL)
    finally:
        log.finish(within)


def _final_state(fallback: Callable[[], Job | None]) -> Job | None:
    try:
        return fallback()
    except KubernetesError:
        return None  # this source does not respond either


def _job(dashboard: Dashboard, job_id: str) -> Job:
    try:
        return dashboard.job(job_id, within=0)  # the loop repeats it, and says so
    except NotFound:
        raise JobFailed(
            f"the cluster has lost job {job_id}: its head was restarted\n  the same command resumes from the last checkpoint"
        ) from None


def check(job: Job, name: str, stopped: str = Work.stopped) -> None:
    """Raise an exception unless the job succeeded; ``stopped`` is what the message says after it was stopped.

    Raises:
        JobFailed: it failed; its exit code is the job's own.
        Stopped: it was stopped.
    """
    if job.status == "STOPPED":
        raise Stopped(f"{name} was stopped; {stopped}")
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
    """The output of a job: a thread reads it from a websocket, and continues after a reconnect where it broke."""

    def __init__(self, dashboard: Dashboard, job_id: str, write: Callable[[str], Any]) -> None:
        self._dashboard, self._job_id, self._write = dashboard, job_id, write
        self._written, self._prefix = 0, ""
        self._last = time.monotonic()
        self._stop, self._closed = threading.Event(), threading.Event()
        self._socket: Any = None
        self._refused: websocket.WebSocketBadStatusException | None = None
        self._unwritable: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def active(self) -> bool:
        """Whether the job has printed something in the last seconds: then it waits for nothing.

        Raises:
            Forbidden: the output is refused.
        """
        if self._unwritable:
            raise self._unwritable
        if self._refused:
            raise Forbidden(f"job {self._job_id} runs, but its output is refused: {self._refused}", "heliostat doctor")
        return time.monotonic() - self._last < 3 and self._written > 0

    def finish(self, within: float) -> None:
        """Stop reading, and write the output that the websocket has not delivered; ``within`` as in `retries.send`."""
        try:
            text = self._dashboard.logs(self._job_id, within)
        except KubernetesError:
            text = ""  # the final state is known, and the rest of the output cannot be read
        if len(text) < self._written:
            # The log was rotated: the rest of the old file comes through the open websocket only.
            self._closed.wait(CLOSE_SECONDS)
        self._stop.set()
        if self._socket is not None:
            self._socket.settimeout(0.1)
        self._thread.join(5)
        self._take(text[self._skipped(text) :])

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except websocket.WebSocketBadStatusException as error:
                if error.status_code in (401, 403):
                    self._refused = error
                    return
                self._stop.wait(POLL)
            except (KubernetesError, OSError, websocket.WebSocketException):
                # The final state comes from the status; the stream is only reconnected.
                self._stop.wait(POLL)

    def _read(self) -> None:
        self._socket = self._dashboard.tail(self._job_id)
        self._closed.clear()
        skip: int | None = None
        try:
            self._socket.settimeout(0.5)
            while not self._stop.is_set():
                try:
                    piece = self._socket.recv()
                except websocket.WebSocketTimeoutException:
                    continue
                text = piece if isinstance(piece, str) else piece.decode(errors="replace")
                if not text:  # the end of the log
                    self._closed.set()
                    self._stop.wait(POLL)
                    return
                skip = self._skipped(text) if skip is None else skip
                self._take(text[skip:])
                skip = max(0, skip - len(text))
        finally:
            self._socket.close()

    def _skipped(self, text: str) -> int:
        """How much of the log with this start has been written: 0 if it is another one, as after a rotation."""
        compared = min(len(text), len(self._prefix))
        if text[:compared] != self._prefix[:compared]:
            self._written, self._prefix = 0, ""
        return self._written

    def _take(self, text: str) -> None:
        if text:
            self._written += len(text)
            self._prefix += text[: PREFIX - len(self._prefix)]
            self._last = time.monotonic()
            try:
                self._write(text)
            except OSError as error:  # the reader has closed the pipe, or the disk is full
                self._unwritable = error
                self._stop.set()


def to_stream(stream: Any = None) -> Callable[[str], None]:
    """A function that writes to a stream, standard output by default, and flushes."""
    target = stream or sys.stdout

    def write(text: str) -> None:
        target.write(text)
        target.flush()

    return write
