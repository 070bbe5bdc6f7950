"""A job is followed until it has finished, across lost connections; with a real Ray head behind a proxy that can be cut."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from heliostat.cluster.errors import Unauthorized, Unreachable
from heliostat.cluster.jobs import follow as following
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.dashboard import Dashboard, Job, by_port
from heliostat.cluster.jobs.follow import Work, check, follow, new_job_id, submit
from heliostat.errors import ContactLost, JobFailed, Stopped
from tests.cluster.kube.test_clients import Clock
from tests.conftest import Head, wait_for


class Line:
    """A TCP proxy in front of a port, which can be cut and restored, and held."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._there, self._open, self._sockets = (host, port), True, list[socket.socket]()
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        with self._lock:  # else one that is accepted at this moment would stay
            self._open = False
            for each in self._sockets:
                _shut(each)
            self._sockets.clear()

    def restore(self) -> None:
        self._open = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Accept connections and pass nothing on, as when the process at the other end is stopped."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._open:
                    near.close()
                    continue
                far = socket.create_connection(self._there)
                self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self._flows.wait()
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            _shut(each)


def _shut(connection: socket.socket) -> None:
    """End both directions: closing it would not, while a thread waits for its data."""
    with suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(ray_head: Head) -> Iterator[Line]:
    """A proxy to the head's dashboard."""
    line = Line(int(ray_head.jobs.rpartition(":")[2]))
    yield line
    line.close()


def dashboard_at(port: int, token: str) -> Dashboard:
    return Dashboard(by_port(port, token), "here")


@pytest.fixture
def dashboard(ray_head: Head, line: Line) -> Dashboard:
    return dashboard_at(line.port, ray_head.env["RAY_AUTH_TOKEN"])


def started(dashboard: Dashboard, folder: Path, code: str) -> str:
    """Submit Python code as a job; returns its id."""
    (folder / "the_job.py").write_text(code)
    work = Work(new_job_id("test"), ["python", "the_job.py"], contents(folder))
    submit(dashboard, work)
    return work.job_id


QUICK = "import time\nfor n in range(40): print('line', n, flush=True); time.sleep(0.05)\n"
UNTIL_SEEN = """
import os, sys, time
def wait():
    end = time.monotonic() + 300
    while not os.path.exists({seen!r}):
        time.sleep(0.05)
        if time.monotonic() > end:
            sys.exit("the first lines were not seen")
"""
WAITS = f"""{UNTIL_SEEN}
for n in range(40):
    print("line", n, flush=True)
    if n == 10:
        wait()
"""
"""Prints a part of its lines, and the others when the file ``seen`` is there."""


def arrived(seen: list[str], there: Path, text: str) -> None:
    """Note a piece of output; once line 10 is among it, make the file that the job waits for."""
    seen.append(text)
    if "line 10\n" in "".join(seen):
        there.touch()


def test_output_arrives_while_the_job_runs_and_comes_whole(dashboard: Dashboard, tmp_path: Path) -> None:
    """The job ends only if its first lines arrive before."""
    seen: list[str] = []
    there = tmp_path / "seen"
    job_id = started(dashboard, tmp_path, WAITS.format(seen=str(there)))
    assert follow(dashboard, job_id, partial(arrived, seen, there)).status == "SUCCEEDED"
    assert "".join(seen).count("line") == 40


def test_a_connection_lost_in_the_middle_loses_and_repeats_no_output(dashboard: Dashboard, line: Line, tmp_path: Path) -> None:
    """The job prints its last lines only when the loss was noticed."""
    seen: list[str] = []
    said: list[str] = []
    there = tmp_path / "seen"
    job_id = started(dashboard, tmp_path, WAITS.format(seen=str(there)))

    def cut() -> None:
        wait_for(lambda: "line 5" in "".join(seen), "some output")
        line.cut()
        wait_for(lambda: any(text.startswith("contact lost") for text in said), "the loss to be noticed")
        there.touch()
        line.restore()

    with ThreadPoolExecutor(1) as pool:
        cutter = pool.submit(cut)
        job = follow(dashboard, job_id, seen.append, said.append)
        cutter.result()
    assert job.status == "SUCCEEDED"
    lines = [text for text in "".join(seen).splitlines() if text.startswith("line")]
    assert lines == [f"line {n}" for n in range(40)]


ROTATE = f"""{UNTIL_SEEN}
path = os.readlink("/proc/self/fd/1")
print("x" * 1000)  # Ray (2.60) does not see that a file was truncated which has grown past its old size when it looks
for n in range(40):
    print("line", n, flush=True)
    if n == 10:
        wait()
        {{rotate}}
    time.sleep(0.05)
"""


@pytest.mark.parametrize("how", ['os.rename(path, path + ".1")', "os.truncate(path, 0)"], ids=["renamed", "truncated"])
def test_a_log_that_is_rotated_while_it_is_followed_loses_nothing(dashboard: Dashboard, tmp_path: Path, how: str) -> None:
    seen: list[str] = []
    there = tmp_path / "seen"
    job_id = started(dashboard, tmp_path, ROTATE.format(seen=str(there), rotate=how))
    assert follow(dashboard, job_id, partial(arrived, seen, there)).status == "SUCCEEDED"
    lines = [text for text in "".join(seen).splitlines() if text.startswith("line")]
    assert lines == [f"line {n}" for n in range(40)]


def test_contact_lost_for_good_is_exit_75_with_the_command_that_follows_again(
    dashboard: Dashboard, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = started(dashboard, tmp_path, QUICK)
    line.cut()
    with monkeypatch.context() as patch:
        patch.setattr(following, "LOST_SECONDS", 2.0)
        with pytest.raises(ContactLost, match="heliostat logs gpu X -f") as lost:
            follow(dashboard, job_id, lambda text: None, again="heliostat logs gpu X -f")
    assert lost.value.exit_code == 75
    line.restore()
    assert follow(dashboard, job_id, lambda text: None).status == "SUCCEEDED", "the job went on all the while"


def test_the_time_in_which_the_command_itself_was_stopped_is_no_silence_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Clock):
        """Between two questions the process does not run for ten minutes, as after Ctrl-Z."""

        def sleep(self, seconds: float) -> None:
            super().sleep(600)

    monkeypatch.setattr(following, "time", Stopped())
    dashboard, away = Mock(), Unreachable("away", "")
    dashboard.tail.side_effect, dashboard.logs.return_value = away, ""
    dashboard.job.side_effect = [Job("a", "RUNNING", ""), away, Job("a", "SUCCEEDED", "")]
    said: list[str] = []
    assert follow(dashboard, "a", lambda text: None, said.append).status == "SUCCEEDED"
    assert said[-1] == "contact lost for 0 s; retrying"


def test_a_job_that_the_head_has_forgotten_is_reported_as_lost(dashboard: Dashboard) -> None:
    with pytest.raises(JobFailed, match="its head was restarted"):
        follow(dashboard, "never-submitted", lambda text: None)


def test_the_exit_code_is_the_jobs_own(dashboard: Dashboard, tmp_path: Path) -> None:
    job = follow(dashboard, started(dashboard, tmp_path, "raise SystemExit(7)"), lambda text: None)
    with pytest.raises(JobFailed, match="exit code 7") as failed:
        check(job, "test")
    assert failed.value.exit_code == 7


def test_a_stopped_job_is_exit_130(dashboard: Dashboard, tmp_path: Path) -> None:
    job_id = started(dashboard, tmp_path, "import time\ntime.sleep(1000)\n")
    wait_for(lambda: dashboard.job(job_id).status == "RUNNING", "the job to run")
    assert dashboard.stop(job_id)
    with pytest.raises(Stopped):
        check(follow(dashboard, job_id, lambda text: None), "test")


def test_the_same_submission_twice_is_one_job(dashboard: Dashboard, tmp_path: Path) -> None:
    work = Work(new_job_id("twice"), ["true"], contents(tmp_path))
    submit(dashboard, work)
    submit(dashboard, work)
    assert [job.id for job in dashboard.jobs()].count(work.job_id) == 1


def test_a_wrong_token_is_reported_at_once_and_not_shown(line: Line) -> None:
    with pytest.raises(Unauthorized) as refused:
        dashboard_at(line.port, "ab" * 32).version()
    assert "ab" * 32 not in str(refused.value)
