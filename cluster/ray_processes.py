"""Ray's processes on this machine: their priority, and their end."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

HELPERS = ("dashboard/dashboard.py", "dashboard/agent.py", "_private/log_monitor.py", "autoscaler/_private/monitor.py")
"""The scripts of Ray's processes that no worker waits for, in Ray's own folder."""
HELPER_TITLES = ("ray::DashboardAgent",)
"""The titles that such processes take later."""


def tree(processes: list[psutil.Process]) -> list[psutil.Process]:
    """These processes and all their descendants."""
    found = [*processes]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return found


def kill(processes: list[psutil.Process]) -> None:
    """Kill the processes that Ray has left: a worker sometimes deadlocks during shutdown (seen on 2.60)."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def lower_priority(processes: list[psutil.Process]) -> None:
    """Let Ray's helpers run only on an idle core, so that they never preempt a training worker.

    On two cores with two workers this gains a tenth of the training speed and more: when one waits, both do.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    helpers = []
    for process in processes:
        with suppress(psutil.Error):  # it has ended meanwhile
            helpers += [process] * is_helper(process.cmdline())
    for process in tree(helpers):
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
