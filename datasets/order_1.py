"""The first version of the order of samples: runs and sweeps that were started with it continue with it.

For each epoch the shards are permuted; the resulting sequence of samples is split into L equal lanes; each lane is shuffled
within windows of four shards. Every global batch takes the same number of samples from every lane, so L divides it, and a
worker owns a contiguous range of lanes. `heliostat.datasets.order` replaces it, because few lanes mix badly, and a worker
holds its windows in memory.
"""

import hashlib
from functools import lru_cache

import numpy as np

from heliostat.datasets.order import Ids, Order

WINDOW_SHARDS = 4
CACHED_WINDOWS = 256


class Order1(Order):
    """See above; ``lanes`` is a divisor of ``global_batch``."""

    def __post_init__(self) -> None:
        if self.global_batch % self.lanes:
            raise ValueError(f"global_batch must be a multiple of lanes, but got {self.global_batch} and {self.lanes}")

    @staticmethod
    def default_lanes(global_batch: int) -> int:
        """The largest divisor of the global batch that is at most 64."""
        return max(n for n in range(1, min(global_batch, 64) + 1) if global_batch % n == 0)

    def largest_part(self, workers: int) -> int:
        return -(-self.lanes // workers) * (self.global_batch // self.lanes)

    def part_sizes(self, step: int, workers: int) -> list[int]:
        sizes = [end - start for start, end in (self._lane_range(step, lane) for lane in range(self.lanes))]
        return [sum(sizes[self.lanes * rank // workers : self.lanes * (rank + 1) // workers]) for rank in range(workers)]

    def batch(self, epoch: int, step: int, rank: int = 0, workers: int = 1) -> Ids:
        first, last = self.lanes * rank // workers, self.lanes * (rank + 1) // workers
        parts = [self._lane_part(epoch, step, lane) for lane in range(first, last)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _lane_part(self, epoch: int, step: int, lane: int) -> Ids:
        size = WINDOW_SHARDS * max(self.rows)
        start, end = self._lane_range(step, lane)
        parts = [
            _window(self, epoch, lane, window)[max(start - window * size, 0) : end - window * size]
            for window in range(start // size, -(-end // size))
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _lane_range(self, step: int, lane: int) -> tuple[int, int]:
        """The places in a lane of the samples that a step takes from it."""
        share = self.global_batch // self.lanes
        if step < self.total // self.global_batch:
            return step * share, (step + 1) * share
        # The last, incomplete batch takes the rest of every lane, which is at most one share.
        return step * share, self.total * (lane + 1) // self.lanes - self.total * lane // self.lanes


def _random(order: Order, *key: int | str) -> np.random.RandomState:
    """A generator seeded by a key. RandomState, because NumPy guarantees that its streams do not change (NEP 19)."""
    text = "/".join(map(str, (order.fingerprint, order.seed, *key)))
    return np.random.RandomState(np.frombuffer(hashlib.blake2b(text.encode(), digest_size=32).digest(), np.uint32))


@lru_cache(maxsize=4)
def _sequence(order: Order, epoch: int) -> tuple[Ids, Ids]:
    """The permuted shards: the end of each in the epoch's sequence, and the offset from positions to sample numbers."""
    permuted = _random(order, epoch, "shards").permutation(len(order.rows))
    rows = np.array(order.rows, np.int64)
    starts = np.cumsum(rows) - rows
    ends = np.cumsum(rows[permuted])
    return ends, starts[permuted] - (ends - rows[permuted])


@lru_cache(maxsize=CACHED_WINDOWS)
def _window(order: Order, epoch: int, lane: int, window: int) -> Ids:
    """The sample numbers of one window of one lane, shuffled."""
    start, end = order.total * lane // order.lanes, order.total * (lane + 1) // order.lanes
    size = WINDOW_SHARDS * max(order.rows)
    positions = np.arange(start + window * size, min(start + (window + 1) * size, end), dtype=np.int64)
    ends, offsets = _sequence(order, epoch)
    ids: Ids = positions + offsets[np.searchsorted(ends, positions, side="right")]
    _random(order, epoch, lane, window).shuffle(ids)
    return ids
