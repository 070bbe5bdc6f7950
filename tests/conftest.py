"""What all tests share: the command as a real process, and Ray heads that are gone afterwards."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from heliostat import cluster
from heliostat.cluster.ports import listens, reserved
from heliostat.environment import CACHE
from tests.forks import SITE
from tests.forks.popen import SERVERS, can_fork, start
from tests.outage import KEYS, Proxy, in_front_of

# On a busy machine an example takes as long as it takes, which is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


HERE = Path(__file__).parent
ROOT = HERE.parent
CI = os.environ.get("CI") == "true"
# As Ray's workers have it: on tensors of tests, two threads wait for each other five times as long as one computes.
os.environ["OMP_NUM_THREADS"] = "1"
# Folders whose tests share what is slow to start, the longest first: the processes end together when they begin with these.
TOGETHER = ("kubernetes", "faults")
RAY = Path(cluster.__file__).with_name("ray_node.py")
"""The command ``ray``, which gives a head on a busy machine the time to start."""
LONGEST = (*TOGETHER, "workloads", "tuning", "cluster")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in its own hook, which would come before a conftest's
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process for the tests that share something: the group that a module names, a folder of ``TOGETHER``, else a file."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            file = item.path.relative_to(HERE).with_suffix("")
            item.add_marker(pytest.mark.xdist_group(_folder(item) if _folder(item) in TOGETHER else str(file)))
    last = len(LONGEST)
    items.sort(key=lambda item: LONGEST.index(_folder(item)) if _folder(item) in LONGEST else last)


def _folder(item: pytest.Item) -> str:
    """The folder of a package's tests."""
    return item.path.relative_to(HERE).parts[0]


def pytest_sessionfinish() -> None:
    SERVERS.end()


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Command:
    """``heliostat`` as a user runs it: a real process, in a folder and with a home of its own."""

    cwd: Path
    env: Mapping[str, str]

    def __call__(self, *args: str | Path, timeout: float = 600) -> Done:
        with self.start(*args) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            finally:
                end_group(process)
        return Done(process.returncode, out, err)

    def start(self, *args: str | Path) -> subprocess.Popen[str]:
        """Start it in a process group of its own, and go on: forked from a process with the imports where that is the same."""
        if can_fork(self.env):
            return start(["heliostat", *map(str, args)], self.cwd, self.env)
        return self.python("-m", "heliostat", *map(str, args))

    def python(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *args],
            cwd=self.cwd,
            env=dict(self.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def end_group(process: "subprocess.Popen[str]") -> None:
    """Kill what is left of a process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a user who has never used Ray."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "HELIOSTAT_", "OMP_"))}
    # The checkout must be found from any folder, also where the tests run without an installation.
    return {**kept, "HOME": str(home), "PYTHONPATH": f"{ROOT}{os.pathsep}{SITE}", **SERVERS.variables()}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command in an empty folder."""
    (tmp_path / "work").mkdir()
    return Command(tmp_path / "work", clean_environment(tmp_path / "home"))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache for the shards of object stores, in memory: the disk of a machine may be too full for one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="heliostat-cache-", dir=memory if memory.is_dir() else None) as place:
        monkeypatch.setenv(CACHE, place)
        yield Path(place)
        gc.collect()  # what is mapped would stay in memory


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Where an S3 server with an empty bucket is."""
    with reserved(1) as (port,):
        yield from _moto(port)


def _moto(port: int) -> Iterator[str]:
    server = subprocess.Popen(
        [str(Path(sys.prefix) / "store/bin/moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        env={**os.environ, "HOME": "/"},  # it is of no test, whose home it would have, and outlives it
    )  # fmt: skip

    def has_bucket() -> bool:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")):
                return True
        except OSError:
            return False

    try:
        wait_for(has_bucket, "the server of the object store")
        yield f"127.0.0.1:{port}"
    finally:
        end_group(server)


@pytest.fixture
def proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Proxy]:
    """A proxy in front of that server, to which this process and its children have the rights."""
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    with in_front_of(endpoint) as there:
        yield there


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of two megabytes; mounting it needs root, which the continuous integration has."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode and not CI:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # a failed test may still hold a file


def processes_of(env: Mapping[str, str], *words: str) -> list[psutil.Process]:
    """The processes on this machine that were started, at any remove, with the home of that environment.

    With words, only those whose command line has one of them.
    """
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if process.environ().get("HOME") == env["HOME"] and (not words or any(word in line for word in words)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # also those that have ended and wait to be reaped
            continue
    return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Wait until ``condition()`` is true; fail with ``what`` if it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s, and there was no: {what}")
        time.sleep(0.1)


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run ``work`` in a thread while the block runs; its event is set when that is over, it is waited for, and raises."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, over)
        try:
            yield
        finally:
            over.set()
    working.result()


def gone(env: Mapping[str, str]) -> None:
    """All processes of that environment end; Ray's last helpers take seconds, after a kill -9 a minute (seen on 2.60)."""
    left: list[psutil.Process] = []

    def none() -> bool:
        left[:] = processes_of(env)
        return not left

    try:
        wait_for(none, "the last process to end")
    except pytest.fail.Exception:
        pytest.fail(f"still there: {[(process.pid, process.ppid(), process.cmdline()[:6]) for process in left]}")


@dataclass(frozen=True)
class Head:
    """A Ray head that was started with ``ray start --head``."""

    address: str
    jobs: str
    client: str
    home: Path
    env: Mapping[str, str]


@contextmanager
def started_head(home: Path, env: Mapping[str, str]) -> Iterator[Head]:
    """``ray start --head`` with two CPUs, in an environment."""
    with reserved(4) as ports:
        yield from _head(home, env, ports)


def _head(home: Path, env: Mapping[str, str], ports: list[int]) -> Iterator[Head]:
    # Ray's own folder: a later Ray must not find the address that this one leaves behind.
    scratch = tempfile.mkdtemp(prefix="ray-head-", dir="/tmp")
    SERVERS.start()
    env = {**env, "RAY_TMPDIR": scratch, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    gcs, dashboard, agent, client = ports
    options = {
        "port": gcs, "dashboard-port": dashboard, "ray-client-server-port": client, "num-cpus": 2,
        "min-worker-port": 0, "max-worker-port": 0, "dashboard-agent-listen-port": agent, "object-store-memory": 200_000_000,
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-P", RAY, "start", "--head", "--block", "--disable-usage-stats", *flags],
        cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        from ray.job_submission import JobSubmissionClient
        from ray.util import get_node_ip_address

        headers = {"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"} if "RAY_AUTH_TOKEN" in env else {}

        def answers() -> bool:
            assert process.stdout
            assert process.poll() is None, process.stdout.read()
            try:
                JobSubmissionClient(f"http://127.0.0.1:{dashboard}", headers=headers).list_jobs()
                # It answers before there is an agent that takes jobs.
                socket.create_connection((get_node_ip_address(), agent)).close()
            except (OSError, RuntimeError):
                return False
            return listens(client)

        wait_for(answers, "the Ray head's dashboard, its agent and its port for clients")
        yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}", home, env)
    finally:
        tree = psutil.Process(process.pid).children(recursive=True)
        for child in [*tree, psutil.Process(process.pid)]:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                child.kill()
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head with token authentication, as the README says."""
    home = tmp_path_factory.mktemp("head-home")
    # A job's `python` is the first on the head's PATH.
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env = {
        **clean_environment(home),
        **path,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "PYTHONPATH": str(SITE),
    }
    # The head of a real cluster has no copy of this checkout: it arrives as a job's working directory.
    with started_head(home, env) as head:
        yield head


@pytest.fixture(scope="session")
def shared_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray for tests of what runs on one, not of how it starts and ends; with the settings that a command gives its own."""
    from heliostat.cluster.in_process import SETTINGS

    home = tmp_path_factory.mktemp("shared-ray")
    # Commands connect to it as to one that was started by `ray start`, at the machine's own address.
    settings = {name: value for name, value in SETTINGS.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    with started_head(home, {**clean_environment(home), **settings}) as head:
        yield head


@pytest.fixture
def on_ray(command: Command, shared_ray: Head) -> Command:
    """The command in an empty folder, which finds a Ray that is there already."""
    return Command(command.cwd, {**command.env, "RAY_ADDRESS": shared_ray.address})
