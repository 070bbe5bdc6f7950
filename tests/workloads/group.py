"""Processes that are the ranks of one group of torch.distributed, forked from one that has imported what they need."""

import gc
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from tests.forks.server import IMPORTED

multiprocessing.set_forkserver_preload([*IMPORTED["worker"], "heliostat.workloads.training.loop"])


def in_group(worker: Callable[..., None], world: int, *arguments: Any, may_die: bool = False) -> None:
    """Call ``worker(rank, *arguments)`` in several processes, and return when all have exited.

    Args:
        worker: a function of a module, so that other processes find it.
        may_die: a process that ends without success is no failure of the test, and the others go on to their end.

    Raises:
        ProcessRaisedException: one of them has failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # They meet at a file: a free port may be in use by another process when they get there.
        given = (dict(os.environ), world, str(Path(folder, "meeting")), worker, arguments)
        context = start_processes(_rank, given, world, join=not may_die, start_method="forkserver")  # type: ignore[no-untyped-call]
        for process in context.processes if may_die else ():
            process.join(300)


def _rank(
    rank: int, environment: dict[str, str], world: int, meeting: str, worker: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    worker(rank, *arguments)
    # A loop's model is in a cycle and holds the process group: it must go first, or gloo's threads abort at exit.
    gc.collect()
    dist.destroy_process_group()
