"""The processes of a Ray cluster on this machine: which they are, also without their head, and their end."""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from heliostat.cluster.targets.local.emulation import MARK

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class ClusterRecord:
    """What is written down of a cluster: where it is, and with which profile it was started."""

    scratch: str
    """A folder that no other cluster has ever had: the environment of all of its processes names it."""
    ports: Mapping[str, int]
    storage: str
    ray_version: str
    profile: Mapping[str, Any]
    pid: int = 0
    """The head's. It may be another's by now, which the folder tells, and better than a time would: clocks are set."""

    @property
    def alive(self) -> bool:
        """Whether the head runs."""
        try:
            head = psutil.Process(self.pid)
            return head.status() != psutil.STATUS_ZOMBIE and _belongs(head, self)
        except psutil.Error:
            return False


def processes(run: ClusterRecord) -> list[psutil.Process]:
    """All processes of a cluster, but not this one, which may be a job on it."""
    there = {process.pid: process for process in psutil.process_iter(["ppid"])}
    found = {pid for pid, process in there.items() if _belongs(process, run)}
    while more := {pid for pid, process in there.items() if process.info["ppid"] in found} - found:
        found |= more
    return [there[pid] for pid in found - {os.getpid()}]


def nodes(run: ClusterRecord) -> dict[str, str]:
    """The nodes that have a main process, the oldest first: the group of each by its name."""
    found = {}
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "raylet" and _belongs(process, run):
            with suppress(psutil.Error):
                env = process.environ()
                found[env["RAY_CLOUD_INSTANCE_ID"]] = env["RAY_NODE_TYPE_NAME"]
    return found


def end(run: ClusterRecord, seconds: float) -> list[psutil.Process]:
    """End all processes of a cluster; those that are still there after so many seconds."""
    deadline = time.monotonic() + seconds
    number = signal.SIGTERM
    while (left := processes(run)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=GRACE)
        number = signal.SIGKILL
    return left


def _belongs(process: psutil.Process, run: ClusterRecord) -> bool:
    try:
        if process.environ().get(MARK) == run.scratch:
            return True
        # Ray's agents write their title over their environment; but they stay in the head's session, with a log open.
        return os.getsid(process.pid) == run.pid and any(file.path.startswith(run.scratch) for file in process.open_files())
    except (psutil.Error, OSError):
        return False
