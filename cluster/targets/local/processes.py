"""Finds and stops the processes of a local Ray cluster, even without their head."""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from heliostat.cluster.targets.local.emulation import CLUSTER_FOLDER

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class ClusterRecord:
    """The stored state of a cluster: its folder, ports and profile."""

    scratch: str
    """A folder unique to this cluster, which the environment of all its processes names."""
    ports: Mapping[str, int]
    storage: str
    ray_version: str
    profile: Mapping[str, Any]
    pid: int = 0
    """The head's; a reused pid is recognized by the folder, not by start times, which depend on the clock."""

    @property
    def alive(self) -> bool:
        """Whether the head runs."""
        try:
            head = psutil.Process(self.pid)
            return head.status() != psutil.STATUS_ZOMBIE and _belongs(head, self)
        except psutil.Error:
            return False


def processes(record: ClusterRecord) -> list[psutil.Process]:
    """All processes of a cluster except this one, which may be a job on it."""
    running = {process.pid: process for process in psutil.process_iter(["ppid"])}
    found = {pid for pid, process in running.items() if _belongs(process, record)}
    while more := {pid for pid, process in running.items() if process.info["ppid"] in found} - found:
        found |= more
    return [running[pid] for pid in found - {os.getpid()}]


def runs(record: ClusterRecord, program: str) -> bool:
    """Whether a process of a cluster has a word in its command line."""
    for process in processes(record):
        with suppress(psutil.Error):
            if program in process.cmdline():
                return True
    return False


def nodes(record: ClusterRecord) -> dict[str, str]:
    """The group of each node with a raylet, by node name, the oldest first."""
    found = {}
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "raylet" and _belongs(process, record):
            with suppress(psutil.Error):
                env = process.environ()
                found[env["RAY_CLOUD_INSTANCE_ID"]] = env["RAY_NODE_TYPE_NAME"]
    return found


def stop(record: ClusterRecord, seconds: float) -> list[psutil.Process]:
    """Stop all processes of a cluster; returns those that still run after ``seconds``."""
    deadline = time.monotonic() + seconds
    number = signal.SIGTERM
    while (left := processes(record)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=GRACE)
        number = signal.SIGKILL
    return left


def _belongs(process: psutil.Process, record: ClusterRecord) -> bool:
    try:
        if process.environ().get(CLUSTER_FOLDER) == record.scratch:
            return True
        # Ray's agents overwrite their environment with their title; but they stay in the head's session, with a log open.
        return os.getsid(process.pid) == record.pid and any(
            file.path.startswith(record.scratch) for file in process.open_files()
        )
    except (psutil.Error, OSError):
        return False
