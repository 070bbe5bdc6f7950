"""For whom workers waited in vain: those that wait give up together, and say so to each other; who says nothing is missing."""

import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

SETTLE = 5.0
"""Seconds within which workers that began to wait together also give up."""


def gave_up() -> None:
    """Tell the others that this worker has ended its wait for them."""
    if dist.is_initialized():
        _store().set(str(dist.get_rank()), "")


def silent() -> list[int]:
    """The ranks that have not given up: something holds them where nobody waits. Takes `SETTLE` seconds."""
    if not dist.is_initialized():
        return []
    try:
        gave_up()
        time.sleep(SETTLE)
        store = _store()
        return [rank for rank in range(dist.get_world_size()) if not store.check([str(rank)])]
    except (RuntimeError, dist.DistError):
        return [0]  # the first worker keeps the store


def _store() -> Store:
    store = PrefixStore("gave-up", _get_default_store())
    store.set_timeout(timedelta(seconds=10))
    return store
