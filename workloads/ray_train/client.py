"""Runs the driver of a Ray Client session in a task on the head node, which sees the storage and has low latency."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray

from heliostat.config import Config
from heliostat.console import err
from heliostat.environment import ON_HEAD, STORAGE
from heliostat.errors import HeliostatError, UserError
from heliostat.folder import default_base

POLL = 1.0
"""Seconds between two readings of what is new."""


class Reader(Protocol):
    """Reads on the head what is new in the folder of a run or a sweep; made with the config as plain values."""

    def new(self) -> Any:
        """What is new; empty or None if nothing is."""


def run_on_head(
    drive: Callable[[dict[str, Any]], dict[str, Any]],
    config: Config,
    watching: tuple[Callable[[dict[str, Any]], Reader], Callable[[Any], None]] | None = None,
) -> dict[str, Any]:
    """Calls ``drive`` with a config on the head node, both as plain values; Ctrl-C here stops it with a checkpoint.

    Args:
        drive: the function.
        config: its argument.
        watching: makes a reader, which lives on the head, too; and what is called here with that which is new.

    Raises:
        UserError: the cluster lacks one of the user's modules; or what ``drive`` raises.
    """
    spec = config.model_dump(mode="json")
    task = ray.remote(drive).options(num_cpus=0, resources=ON_HEAD, max_retries=0).remote(spec)
    reader = ray.remote(watching[0]).options(num_cpus=0, resources=ON_HEAD).remote(spec) if watching else None
    try:
        try:
            while reader and watching and not ray.wait([task], timeout=POLL)[0]:
                reader = _shown(reader, watching[1])
            found: dict[str, Any] = ray.get(task)
        except KeyboardInterrupt:
            ray.cancel(task, force=False)
            found = ray.get(task)
        if reader and watching:
            _shown(reader, watching[1])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HeliostatError):
            raise error.cause from None
        if isinstance(error.cause, ModuleNotFoundError):
            raise UserError(
                f"the cluster has no module {error.cause.name}",
                'connect with ray.init("ray://...", runtime_env={"working_dir": "."}) from the project\'s folder',
            ) from None
        raise
    finally:
        if reader:
            ray.kill(reader)
    return found


def _shown(reader: Any, watch: Callable[[Any], None]) -> Any:
    """Shows what is new; returns the reader, or None after it has failed: the work continues without a display."""
    try:
        if new := ray.get(reader.new.remote()):
            watch(new)
    except ray.exceptions.RayError as error:
        text = f"the progress is not shown any more, while the work continues: {error}"
        err.print(text, highlight=False, markup=False, soft_wrap=True)
        return None
    return reader


def head_storage_base() -> str | Path:
    """What a relative storage is relative to in such a task, whose working directory is deleted afterwards, like a job's."""
    return default_base() if STORAGE in os.environ else Path.home()
