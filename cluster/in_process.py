"""Starts Ray on this machine for one command, and stops it afterwards; or connects to a running one."""

import fcntl
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from heliostat.cluster.ray_version import check_ray
from heliostat.errors import JobFailed, NoAnswer, UserError
from heliostat.home import own_folder
from heliostat.interrupts import terminal_blocked
from heliostat.modules import heliostat_only

TOKEN = Path("~/.heliostat/ray-token")
SCRATCH, LOCK = Path("/tmp/heliostat-ray-"), "lock"
"""The path of a command's folder for Ray without its last letters, and the file in it that the command locks."""
KEPT_SECONDS = 86400.0
"""Seconds for which the folder of a command that failed is kept, for its logs."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
OBJECT_STORE = 256 << 20
ANSWER_SECONDS = 10.0
"""Seconds until the first response of a running Ray."""
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The preface of an HTTP/2 client and an empty SETTINGS frame (RFC 9113, section 3.4), which gRPC is spoken in."""
HELPERS = ("dashboard/dashboard.py", "dashboard/agent.py", "_private/log_monitor.py", "autoscaler/_private/monitor.py")
"""The scripts of Ray's processes that no worker waits for, in Ray's own folder."""
HELPER_TITLES = ("ray::DashboardAgent",)
"""The titles that such processes take later."""
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
    """The CPUs and GPUs that this process may use, as the only node."""
    import ray
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    gpus = manager.get_current_node_num_accelerators() if manager else 0
    visible = manager.get_current_process_visible_accelerator_ids() if manager else None
    if visible is not None:
        is_cuda = manager.get_visible_accelerator_ids_env_var() == VISIBLE
        gpus = min(gpus, len(visible_gpus(os.environ[VISIBLE], gpus) if is_cuda else visible))
    return [{"CPU": float(ray._private.utils.get_num_cpus()), "GPU": float(gpus)}]


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
def session(verbose: bool = False) -> Iterator[str]:
    """Start Ray with its dashboard, yield the dashboard's URL, and stop everything afterwards.

    All of this Ray requires a token, which is in ``~/.heliostat/ray-token``. A mode or a token in the environment takes
    precedence.

    Raises:
        UserError: Ray has another version.
    """
    check_ray()
    # Here, because other users of this module need not wait a second for the import of Ray.
    import ray
    from ray._private import ray_constants
    from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]  # compiled, without a stub

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    _export_visible_gpus()
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and not _has_token():
        _export_token()
    # A folder of its own: Ray's processes find each other by a file there, and the default, /tmp/ray, may hold the
    # address of another Ray, alive or dead; then its State API, and with it Train's shutdown, hang (seen on 2.60).
    _remove_abandoned()
    scratch = tempfile.mkdtemp(prefix=SCRATCH.name, dir=SCRATCH.parent)
    lock = _locked(Path(scratch))
    os.environ["RAY_TMPDIR"] = scratch
    # Ray 2.60 reads the mode and the address when it is imported; this makes it read them again.
    RayConfig.initialize("")
    ray_constants.ENABLE_RAY_CLUSTER = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] != "0"
    others = set(psutil.Process().children())
    # Ray puts its working directory first on the search path of its own processes, where a ``types.py`` of the user's would
    # replace the standard library's. Workers go to the user's directory by `modules.enter_working_dir`.
    for name in {"PYTHONPATH", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        parts = [part for part in os.environ[name].split(os.pathsep) if part]
        os.environ[name] = os.pathsep.join(map(os.path.abspath, parts))
    with chdir(heliostat_only(Path(scratch))), terminal_blocked():
        context = ray.init(
            address="local",
            object_store_memory=OBJECT_STORE,
            include_dashboard=True,
            log_to_driver=verbose,
            logging_level="info" if verbose else "error",
        )
    own = [process for process in psutil.Process().children() if process not in others]
    try:
        Path(scratch, "ray", "ray_current_cluster").write_text(context.address_info["gcs_address"])
        _lower_priority(_tree(own))
        yield f"http://{context.dashboard_url}"
    except JobFailed as error:
        error.add_note(f"Ray's logs are in {scratch}/ray/session_latest/logs")
        scratch = ""
        raise
    finally:
        started = _tree(own)
        ray.shutdown()
        _kill(started)
        lock.close()
        del os.environ["RAY_TMPDIR"]
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


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


def _export_token() -> None:
    """Let Ray's processes have the user's token, or one for this command if the home cannot be written."""
    try:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(own_token())
    except UserError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _export_visible_gpus() -> None:
    """Let Ray, which reads the variable itself, start with as many GPUs as `machine` counts."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    if manager and VISIBLE in os.environ and manager.get_visible_accelerator_ids_env_var() == VISIBLE:
        os.environ[VISIBLE] = ",".join(visible_gpus(os.environ[VISIBLE], manager.get_current_node_num_accelerators()))


def _tree(processes: list[psutil.Process]) -> list[psutil.Process]:
    """These processes and all their descendants."""
    found = [*processes]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return found


def _kill(processes: list[psutil.Process]) -> None:
    """Kill the processes that Ray has left: a worker sometimes deadlocks during shutdown (seen on 2.60)."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _lower_priority(processes: list[psutil.Process]) -> None:
    """Let Ray's helpers run only on an idle core, so that they never preempt a training worker.

    On two cores with two workers this gains a tenth of the training speed and more: when one waits, both do.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    helpers = []
    for process in processes:
        with suppress(psutil.Error):  # it has ended meanwhile
            helpers += [process] * is_helper(process.cmdline())
    for process in _tree(helpers):
        try:
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        except ProcessLookupError:
            continue
        except PermissionError:
            return  # a sandbox forbids it; training is slower, but correct


def is_helper(command: list[str]) -> bool:
    """Whether a command line is that of a process on which no worker waits.

    Its program alone decides: the raylet, which must not be one, because its workers inherit what it is, has the whole
    command line of the dashboard's agent among its arguments.
    """
    import ray

    if command[:1] and command[0].startswith(HELPER_TITLES):
        return True
    script = next((part for part in command[1:] if not part.startswith("-")), "")
    return command[:1] == [sys.executable] and script in {str(Path(ray.__file__).parent / name) for name in HELPERS}


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


def _has_token() -> bool:
    return "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ


def own_token() -> Path:
    """The file with the user's token for Ray on this machine, created if it does not exist.

    It is not Ray's own, ``~/.ray/auth_token``, which would also switch every later ``ray start`` to tokens.

    Raises:
        UserError: the home cannot be written.
    """
    path = own_folder() / TOKEN.name
    if not path.exists():
        handle, scratch = tempfile.mkstemp(dir=path.parent)  # with mode 0600
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another command was faster, and its token is used
            os.link(scratch, path)
        os.unlink(scratch)
    return path
