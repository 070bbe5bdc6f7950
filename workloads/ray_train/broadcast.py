"""A value from rank 0 to all workers of a group, through Ray's control store: no process is needed for it."""

import pickle
import time
from typing import Any

import ray
from ray.experimental import internal_kv

POLL = 0.02
PREFIX = "heliostat-rank-zero-"
"""What the keys begin with."""


def broadcast_from_rank_zero(rank: int, world: int, value: Any, seconds: float) -> Any:
    """Returns on all workers of the current worker group what its rank 0 passes; once a group.

    Raises:
        RuntimeError: rank 0 did not come in time.
    """
    if world == 1:
        return value
    key = _key()
    if rank == 0:
        internal_kv._internal_kv_put(key, pickle.dumps(value))
        return value
    deadline = time.monotonic() + seconds
    while (found := internal_kv._internal_kv_get(key)) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"timed out after {seconds:.0f} s: rank 0 did not join")
        time.sleep(POLL)
    return pickle.loads(found)


def forget(rank: int) -> None:
    """Delete what rank 0 has passed, when all workers have it: the control store of a standing cluster would keep it."""
    if rank == 0:
        internal_kv._internal_kv_del(_key())


def _key() -> bytes:
    group = ray.get_runtime_context().get_placement_group_id()  # each start of the workers has one of its own
    return f"{PREFIX}{group}".encode()
