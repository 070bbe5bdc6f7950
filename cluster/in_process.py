"""Starts Ray on this machine for one command, and stops it afterwards; or connects to a running one."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil

from heliostat.cluster.ports import reserved
from heliostat.cluster.ray_processes import kill, lower_priority, tree
from heliostat.cluster.ray_token import export_token, has_token
from heliostat.cluster.ray_version import check_ray
from heliostat.errors import JobFailed, NoAnswer, UserError
from heliostat.interrupts import USES_RAY, terminal_blocked
from heliostat.modules import heliostat_only

SCRATCH, LOCK = Path("/tmp/heliostat-ray-"), "lock"
"""The path of a command's folder for Ray without its last letters, and the file in it that the command locks."""
START_LOG = "start.log"
"""The file in that folder with what is printed while Ray starts."""
KEPT_SECONDS = 86400.0
"""Seconds for which the folder of a command that failed is kept, for its logs."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri", "/dev/mxcd")
"""The devices one of which Linux has if it has a GPU: of NVIDIA, in WSL, of AMD, Intel and MetaX."""
OBJECT_STORE = 256 << 20
ANSWER_SECONDS = 10.0
"""Seconds until the first response of a running Ray."""
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The preface of an HTTP/2 client and an empty SETTINGS frame (RFC 9113, section 3.4), which gRPC is spoken in."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # More frequent checks slow down the workers of a small machine, less frequent ones delay the user.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray's workers have a low priority by default; here training is the main work of the machine.
    "RAY_worker_niceness": "0",
    # By default Ray's workers are the first that the kernel kills when memory is short (1000), whichever program takes it: a
    # browser would outlive every training. A little stays: a worker's death is survived, that of the command or raylet is not.
    "RAY_worker_oom_score_adjustment": "50",
    # Ray's metrics, which nothing collects here, took a tenth of the training speed on two cores.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "10000",
    "REPORTER_UPDATE_INTERVAL_MS": "10000",
    # Workers are started beside the command, not only when it connects.
    "RAY_enable_worker_prestart": "1",
    "RAY_prestart_worker_first_driver": "0",
    # A single machine is never drained, and it is one process fewer.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers stay in the directory that `enter_working_dir` has chosen; otherwise Ray Train changes to one of its own.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # All of it at 127.0.0.1: nothing is open to the network, and it survives a change of the network.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

# Ray prints these with ten lines each at every log level; a run reports the same in one. Read when ray is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing|The node with node id")


def machine() -> list[dict[str, float]]:
    """The CPUs and GPUs that this process may use, as the only node, counted as Ray counts them."""
    if "ray" not in sys.modules and sys.platform == "linux" and not any(map(os.path.exists, GPU_DEVICES)):
        return [{"CPU": float(_cpus()), "GPU": 0.0}]  # without the import of Ray, which takes 0.4 s
    import ray
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    gpus = manager.get_current_node_num_accelerators() if manager else 0
    visible = manager.get_current_process_visible_accelerator_ids() if manager else None
    if visible is not None:
        is_cuda = manager.get_visible_accelerator_ids_env_var() == VISIBLE
        gpus = min(gpus, len(visible_gpus(os.environ[VISIBLE], gpus) if is_cuda else visible))
    return [{"CPU": float(ray._private.utils.get_num_cpus()), "GPU": float(gpus)}]


def _cpus(quota: str = "/sys/fs/cgroup/cpu.max", quota_1: str = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us") -> int:
    """The CPUs of this machine, or the share of them that its container has (cgroups 2 and 1)."""
    if os.path.exists(quota_1):
        limit, period = Path(quota_1).read_text(), Path(quota_1).with_name("cpu.cfs_period_us").read_text()
    elif os.path.exists(quota):
        limit, period = Path(quota).read_text().split()
    else:
        limit, period = "max", ""
    limited = limit.strip().isdecimal() and int(limit) > 0
    share = [int(float(limit) / float(period))] if limited else []
    # Of cgroups 1; with 2, Ray counts all CPUs of the machine.
    cpuset = Path(quota_1).parent.parent / "cpuset/cpuset.cpus"
    ranges = [each.split("-") for each in cpuset.read_text().split(",")] if cpuset.exists() else []
    chosen = [sum(int(each[-1]) - int(each[0]) + 1 for each in ranges)] if ranges else []
    return min([*share, *chosen], default=os.cpu_count() or 1)


def visible_gpus(text: str, gpus: int) -> list[str]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves a process, of so many: as CUDA reads it, up to the first invalid one.

    Ray (2.60) counts the entries instead, so that ``-1``, which hides all GPUs, would be one.
    """
    found: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        valid = int(name) < gpus if name.isdecimal() else name.startswith(("GPU-", "MIG-"))
        if not valid or name in found:
            break
        found.append(name)
    return found


@contextmanager
def session(verbose: bool = False, dashboard: bool = False) -> Iterator[str]:
    """Start Ray and connect to it, yield the URL of the dashboard, or "", and stop everything afterwards; see `starting`."""
    with starting(verbose, dashboard) as connect:
        yield connect()


@contextmanager
def starting(
    verbose: bool = False, dashboard: bool = False, workers: int | None = None, threads: int = 1, imports: str = ""
) -> Iterator[Callable[[], str]]:
    """Start Ray beside the block, which runs meanwhile, and stop it afterwards.

    All of this Ray requires a token, which is in ``~/.heliostat/ray-token``. A mode or a token in the environment takes
    precedence.

    Args:
        verbose: whether what Ray and the workers print is shown.
        dashboard: whether Ray's dashboard is started.
        workers: how many of Ray's worker processes are started at once, at most one a CPU, which is also the default.
        threads: of each worker, where the environment does not say; Ray would set it only after the import of torch.
        imports: the modules that each worker imports when it is started, with commas between them.

    Yields:
        A function that connects to this Ray, and returns the URL of the dashboard, or "".

    Raises:
        UserError: Ray has another version.
        JobFailed: Ray did not start.
    """
    check_ray()
    before = dict(os.environ)
    try:
        # Ray would take 8265 for the dashboard, and not start if another process takes it at the same moment.
        with reserved(2 if dashboard else 0) as ports, _starting(verbose, ports, workers, threads, imports) as connect:
            yield connect
    finally:
        # The process may live on: a notebook may start or join another Ray, with the user's own settings.
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        if "ray" in sys.modules:
            _read_environment()


@contextmanager
def _starting(
    verbose: bool, ports: Sequence[int], workers: int | None, threads: int, imports: str
) -> Iterator[Callable[[], str]]:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    _export_visible_gpus()
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and not has_token():
        export_token()
    # A folder of its own: Ray's processes find each other by a file there, and the default, /tmp/ray, may hold the
    # address of another Ray, alive or dead; then its State API, and with it Train's shutdown, hang (seen on 2.60).
    _remove_abandoned()
    scratch = tempfile.mkdtemp(prefix=SCRATCH.name, dir=SCRATCH.parent)
    lock = _locked(Path(scratch))
    os.environ["RAY_TMPDIR"] = scratch
    for name in {"PYTHONPATH", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        parts = [part for part in os.environ[name].split(os.pathsep) if part]
        os.environ[name] = os.pathsep.join(map(os.path.abspath, parts))
    more = {"RAY_preload_python_modules": imports, "OMP_NUM_THREADS": str(threads)} if imports else {}
    place = heliostat_only(Path(scratch))
    options = {"ports": ports, "logs": verbose, "workers": workers, "object_store": OBJECT_STORE}
    head = _start(Path(scratch), place, options, {**more, **os.environ})
    try:
        yield partial(_connect, head, Path(scratch), place, verbose)
    except BaseException as error:
        _stay_disconnected()
        if isinstance(error, JobFailed):
            error.add_note(f"Ray's logs are in {scratch}/ray/session_latest/logs")
            scratch = ""
        raise
    finally:
        started = tree([psutil.Process(head.pid)])
        if ray := sys.modules.get("ray"):
            ray.shutdown()
        kill(started)
        head.communicate()
        lock.close()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _start(scratch: Path, place: str, options: Mapping[str, Any], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Start Ray's processes in the folder ``place``.

    Ray puts its working directory first on the search path of its own processes, where a ``types.py`` of the user's would
    replace the standard library's. Workers go to the user's directory by `modules.enter_working_dir`.
    """
    with (scratch / START_LOG).open("w") as log, terminal_blocked():
        return subprocess.Popen(
            [sys.executable, "-m", "heliostat.cluster.head", json.dumps(options)],
            cwd=place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip


def _connect(head: "subprocess.Popen[str]", scratch: Path, place: str, verbose: bool) -> str:
    """Connect to Ray as soon as it runs, from the folder ``place``: workers search the driver's for modules, too."""
    # Here, because other users of this module need not wait for the import of Ray.
    import ray

    _read_environment()
    assert head.stdout
    said = head.stdout.readline()
    if not said:
        raise JobFailed(f"Ray did not start: {(scratch / START_LOG).read_text().strip()[-2000:]}")
    found = json.loads(said)
    with chdir(place):
        ray.init(address=found["address"], log_to_driver=verbose, logging_level="info" if verbose else "error")
    Path(scratch, "ray", "ray_current_cluster").write_text(found["address"])
    lower_priority(tree([psutil.Process(head.pid)]))
    return str(found["dashboard"])


def _stay_disconnected() -> None:
    """End the threads that use Ray, and let none connect again, which Ray 2.60 does at any call.

    Otherwise one that is left in Ray Train would use a connection that is closed, or find the Ray that is about to be killed:
    both end the process without its message.
    """
    from ray._private import auto_init_hook

    for stop in [*USES_RAY]:
        stop()
    auto_init_hook.enable_auto_connect = False


def _read_environment() -> None:
    """Let Ray 2.60, which reads the mode, the token and the address once, read them again."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled, without a stub
    from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]

    RayConfig.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(name, not ray_constants.IS_WINDOWS_OR_OSX)


def _locked(scratch: Path) -> IO[str]:
    """The lock that a command holds on its folder while it runs."""
    file = (scratch / LOCK).open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _remove_abandoned() -> None:
    """Delete the folders that this user's commands have left when they failed or were killed, a day ago or earlier."""
    for place in SCRATCH.parent.glob(f"{SCRATCH.name}*/{LOCK}"):
        with suppress(OSError):  # another command deletes it, or it is another user's
            status = place.stat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > KEPT_SECONDS:
                with place.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place.parent, ignore_errors=True)


def _export_visible_gpus() -> None:
    """Let Ray, which reads the variable itself, start with as many GPUs as `machine` counts."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    if manager and VISIBLE in os.environ and manager.get_visible_accelerator_ids_env_var() == VISIBLE:
        os.environ[VISIBLE] = ",".join(visible_gpus(os.environ[VISIBLE], manager.get_current_node_num_accelerators()))


@contextmanager
def connection(address: str, verbose: bool = False) -> Iterator[str]:
    """Connect to a running Ray, for example in a submitted job, yield its dashboard's URL, and disconnect.

    Raises:
        UserError: the address is invalid, or that of another version of Ray.
        NoAnswer: no Ray responds there.
    """
    import ray

    if address.startswith("http"):
        raise UserError(
            f"RAY_ADDRESS is {address}, which is for jobs", "unset it, or use ray job submit -- python -m heliostat"
        )
    check_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    fix = "start one (ray start --head), or unset RAY_ADDRESS"
    try:
        _probe(address)
        context = ray.init(address=address, log_to_driver=verbose, logging_level="info" if verbose else "error")
    except OSError as error:
        raise NoAnswer(f"no Ray answers at {address}: {error}", fix) from None
    except (ValueError, RuntimeError) as error:
        raise UserError(f"RAY_ADDRESS is {address}, which cannot be used: {error}", fix) from None
    try:
        yield f"http://{context.dashboard_url}"
    except BaseException:
        _stay_disconnected()
        raise
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Raise `OSError` within seconds if no Ray responds: Ray retries for minutes, and then exits this process (Ray 2.60)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    if int(port) >= 1 << 16:
        raise ValueError(f"there is no port {port}")
    with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as sock:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return  # it would want a handshake first
        # The system accepts connections also for a process that is stopped; a gRPC server greets a client that greets it.
        sock.sendall(HTTP2_GREETING)
        try:
            greeted = bool(sock.recv(1))
        except TimeoutError:
            greeted = False
    if not greeted:
        raise TimeoutError(f"it accepts connections, but does not respond for {ANSWER_SECONDS:.0f} s")
