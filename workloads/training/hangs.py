"""Finds the ranks that did not reach a collective before it timed out: those that reached it report the timeout."""

import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

SETTLE = 5.0
"""Seconds within which all workers that wait in a collective report its timeout."""


def report_timeout() -> None:
    """Reports to the other workers that a collective failed here."""
    if dist.is_initialized():
        _store().set(str(dist.get_rank()), "")


def missing_ranks() -> list[int]:
    """The ranks that have not reported a timeout, because they never reached the collective. Takes `SETTLE` seconds."""
    if not dist.is_initialized():
        return []
    try:
        report_timeout()
        time.sleep(SETTLE)
        store = _store()
        return [rank for rank in range(dist.get_world_size()) if not store.check([str(rank)])]
    except (RuntimeError, dist.DistError):
        return [0]  # rank 0 holds the store


def _store() -> Store:
    store = PrefixStore("timed-out", _get_default_store())
    store.set_timeout(timedelta(seconds=10))
    return store
