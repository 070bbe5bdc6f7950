"""Runs the work of a command on a worker node, where the command is a job on the cluster of a profile."""

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def on_worker(what: str, gpus: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a function returns: in a job in a task with so many GPUs, because the head is small and has none; else here.

    Raises:
        HeliostatError: the function raised it.
        JobFailed: the task failed otherwise; ``what`` begins the message.
    """
    from heliostat.environment import NODES

    address = os.environ.get("RAY_ADDRESS")
    if not address or NODES not in os.environ:
        return function(*args, **kwargs)
    from heliostat.cluster.in_process import connection
    from heliostat.workloads.ray_tasks import in_task

    with connection(address):
        return in_task(what, gpus, function, *args, **kwargs)
