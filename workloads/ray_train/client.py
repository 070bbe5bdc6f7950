"""Work that is asked for by Ray Client is driven from a task on the head node: the storage is there, and the line is slow."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from heliostat.config import Config
from heliostat.environment import ON_HEAD, STORAGE
from heliostat.errors import HeliostatError, UserError
from heliostat.folder import default_base


def on_head(drive: Callable[[dict[str, Any]], dict[str, Any]], config: Config) -> dict[str, Any]:
    """What ``drive`` returns there for a config, both as plain values; Ctrl-C here stops it there with a checkpoint.

    Raises:
        UserError: the cluster lacks a module of the user's, or what ``drive`` raises.
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


def base_there() -> str | Path:
    """What a relative storage is relative to in such a task: like a job's, its working directory is deleted afterwards."""
    return default_base() if STORAGE in os.environ else Path.home()
