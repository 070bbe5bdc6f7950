"""Ray on this machine, started for one command and stopped with it."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path

import psutil

from heliostat.cluster.ray_version import check_ray
from heliostat.errors import JobFailed, UserError
from heliostat.modules import alone

TOKEN = Path("~/.heliostat/ray-token")
OBJECT_STORE = 256 << 20
HELPERS = ("dashboard", "DashboardAgent", "log_monitor", "monitor.py")
"""Ray's processes on which no worker waits, by a part of their command line."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Every second look costs the workers of a small machine speed, and every late look the user time.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray's workers yield to all other processes by default; here training is what the machine is for.
    "RAY_worker_niceness": "0",
    # What Ray does beside: on two cores it took a tenth of the training speed. Nobody collects metrics here.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "10000",
    "REPORTER_UPDATE_INTERVAL_MS": "10000",
    # Nobody drains a laptop, and it is one process fewer.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers keep the user's working directory, so relative paths mean what they say.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Ray prints these, of ten lines each, whatever its log level; a run tells of the same in one. Read when ray is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing|The node with node id")


def machine() -> list[dict[str, float]]:
    """The one node that this machine is: the CPUs and GPUs that this process may use."""
    import ray
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    gpus = manager.get_current_node_num_accelerators() if manager else 0
    return [{"CPU": float(ray._private.utils.get_num_cpus()), "GPU": float(gpus)}]


@contextmanager
def session(verbose: bool = False) -> Iterator[str]:
    """Start Ray with its dashboard, yield the dashboard's URL, and stop everything that was started.

    The dashboard asks for a token, as everything in this Ray does: it is in ``~/.heliostat/ray-token``. A mode or a
    token that the environment names goes first.
    """
    check_ray()
    # Here, because the other ways to a cluster need this module, but not the second that Ray takes to import.
    import ray
    from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]  # compiled, without a stub

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and not _has_token():
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(own_token())
    # A folder of its own: Ray's parts find each other by a file in there, and the usual one, /tmp/ray, may hold the
    # address of another Ray, alive or dead; then its State API, and Train's shutdown with it, hang (seen on 2.60).
    scratch = tempfile.mkdtemp(prefix="heliostat-ray-", dir="/tmp")
    os.environ["RAY_TMPDIR"] = scratch
    # Ray 2.60 reads the mode when it is imported; this is how its own ray.init() makes it look again.
    RayConfig.initialize("")
    others = set(psutil.Process().children())
    # Ray puts its working directory first on the search path of its own processes, where a ``types.py`` of the user's would
    # replace the standard library's. Workers go to the user's directory by `modules.enter`.
    with chdir(alone(Path(scratch))):
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
        del os.environ["RAY_TMPDIR"]
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _tree(processes: list[psutil.Process]) -> list[psutil.Process]:
    """They, and what they have started, at any remove."""
    found = [*processes]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return found


def _kill(processes: list[psutil.Process]) -> None:
    """Kill what Ray has left behind: now and then one of its workers waits for itself in its last moments (seen on 2.60)."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _lower_priority(processes: list[psutil.Process]) -> None:
    """Let Ray's helpers run only when a core is idle, so that they never push a training worker from its core.

    On two cores with two workers that is a tenth of the training speed and more: when one waits, both do.
    """
    for process in processes:
        try:
            if any(name in " ".join(process.cmdline()) for name in HELPERS) and hasattr(os, "SCHED_IDLE"):
                os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue  # it has ended meanwhile
        except PermissionError:
            return  # a sandbox that forbids it; training is right all the same, only slower


@contextmanager
def connection(address: str, verbose: bool = False) -> Iterator[str]:
    """Connect to the Ray that runs at an address, for example in a submitted job, and disconnect.

    Raises:
        UserError: the address is not one, or nobody answers there.
    """
    import ray

    if address.startswith("http"):
        raise UserError(
            f"RAY_ADDRESS is {address}, which is for jobs", "unset it, or use ray job submit -- python -m heliostat"
        )
    check_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _probe(address)
        context = ray.init(address=address, log_to_driver=verbose, logging_level="info" if verbose else "error")
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray answers at {address}: {error}", "start one (ray start --head), or unset RAY_ADDRESS") from None
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Fail within seconds if nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _has_token() -> bool:
    return "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ


def own_token() -> Path:
    """The file with the user's token for the Rays on this machine, made if there is none yet.

    It is not Ray's, ``~/.ray/auth_token``, which would also switch every later ``ray start`` to tokens.
    """
    path = TOKEN.expanduser()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent)  # with mode 0600
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another command was faster, and its token holds
            os.link(scratch, path)
        os.unlink(scratch)
    return path
