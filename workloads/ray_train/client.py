"""Runs the driver of a Ray Client session in a task on the head node, which sees the storage and has low latency."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from heliostat.config import Config
from heliostat.environment import ON_HEAD, STORAGE
from heliostat.errors import HeliostatError, UserError
from heliostat.folder import default_base


def run_on_head(drive: Callable[[dict[str, Any]], dict[str, Any]], config: Config) -> dict[str, Any]:
    """Calls ``drive`` with a config on the head node, both as plain values; Ctrl-C here stops it with a checkpoint.

    Raises:
        UserError: the cluster lacks one of the user's modules; or what ``drive`` raises.
    """
    task = ray.remote(drive).options(num_cpus=0, resources=ON_HEAD, max_retries=0).remote(config.model_dump(mode="json"))
    try:
        try:
            found: dict[str, Any] = ray.get(task)
        except KeyboardInterrupt:
            ray.cancel(task, force=False)
            found = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HeliostatError):
            raise error.cause from None
        if isinstance(error.cause, ModuleNotFoundError):
            raise UserError(
                f"the cluster has no module {error.cause.name}",
                'connect with ray.init("ray://...", runtime_env={"working_dir": "."}) from the project\'s folder',
            ) from None
        raise
    return found


def head_storage_base() -> str | Path:
    """What a relative storage is relative to in such a task, whose working directory is deleted afterwards, like a job's."""
    return default_base() if STORAGE in os.environ else Path.home()
