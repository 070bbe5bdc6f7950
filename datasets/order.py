"""The global order of samples: a pure function that does not depend on the number of workers.

For each epoch the shards are permuted; the resulting sequence of samples is split into L equal lanes; each lane is
shuffled within windows, so that a lane never reads more shards than its window. Every global batch takes the same
number of samples from every lane, and a worker owns a contiguous range of lanes. So the global batch at a step is a
pure function of (fingerprint, seed, epoch, L, step), and the position to resume from is one number: the samples
consumed. (The lanes correspond to the canonical nodes of MosaicML Streaming.)
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
WINDOW_SHARDS = 4
CACHED_WINDOWS = 256


def default_lanes(global_batch: int) -> int:
    """The largest divisor of the global batch that is at most 64."""
    return max(n for n in range(1, min(global_batch, 64) + 1) if global_batch % n == 0)


def lane_range(lanes: int, workers: int, rank: int) -> tuple[int, int]:
    """The contiguous lanes of one worker; shares differ by one lane at most."""
    return lanes * rank // workers, lanes * (rank + 1) // workers


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, for the caches below
class Order:
    """Which samples make up each global batch.

    Args:
        rows: the rows of each shard; samples are numbered through all shards, from 0.
        fingerprint: of the dataset; other data gives another order.
        seed: of the run.
        global_batch: samples per step, a multiple of ``lanes``.
        lanes: L, see above.
        drop_last: drop the last batch of an epoch if it is incomplete; otherwise it is smaller.
    """

    rows: tuple[int, ...]
    fingerprint: str
    seed: int
    global_batch: int
    lanes: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.global_batch % self.lanes:
            raise ValueError(f"global_batch must be a multiple of lanes, but got {self.global_batch} and {self.lanes}")

    @cached_property
    def total(self) -> int:
        return sum(self.rows)

    @cached_property
    def full_steps(self) -> int:
        """The steps of an epoch with complete global batches."""
        return self.total // self.lanes // self._share

    @property
    def epoch_samples(self) -> int:
        return self.full_steps * self.global_batch if self.drop_last else self.total

    @property
    def epoch_steps(self) -> int:
        return -(-self.epoch_samples // self.global_batch)

    def locate(self, consumed: int) -> tuple[int, int]:
        """(epoch, step within it) of the batch after ``consumed`` samples."""
        epoch, within = divmod(consumed, self.epoch_samples)
        return epoch, within // self.global_batch

    def consumed(self, steps: int) -> int:
        """The samples consumed after ``steps`` steps from the start of the run."""
        epochs, within = divmod(steps, self.epoch_steps)
        return epochs * self.epoch_samples + min(within * self.global_batch, self.epoch_samples)

    def batch(self, epoch: int, step: int, lanes: tuple[int, int] | None = None) -> Ids:
        """The sample numbers of a global batch, or of a range of its lanes, lane by lane."""
        first, last = lanes or (0, self.lanes)
        parts = [self._lane_part(epoch, step, lane) for lane in range(first, last)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def batch_size(self, step: int) -> int:
        """The samples in the global batch at a step of an epoch."""
        return min(self.global_batch, self.epoch_samples - step * self.global_batch)

    def lane_samples(self, step: int, lanes: tuple[int, int]) -> int:
        """The samples of a range of lanes in the global batch at a step of an epoch."""
        if step < self.full_steps:
            return (lanes[1] - lanes[0]) * self._share
        return sum(self._lane_rows(lane) - step * self._share for lane in range(*lanes))

    @property
    def _share(self) -> int:
        return self.global_batch // self.lanes

    def _lane_part(self, epoch: int, step: int, lane: int) -> Ids:
        share, size = self._share, self._window_rows
        start = step * share
        # The last, incomplete batch takes the rest of every lane, which is at most one share.
        end = start + share if step < self.full_steps else self._lane_rows(lane)
        first, last = start // size, -(-end // size)
        if last - first == 1:
            return _window(self, epoch, lane, first)[start - first * size : end - first * size]
        parts = [
            _window(self, epoch, lane, window)[max(start - window * size, 0) : end - window * size]
            for window in range(first, last)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _lane_rows(self, lane: int) -> int:
        return self.total * (lane + 1) // self.lanes - self.total * lane // self.lanes

    @cached_property
    def _window_rows(self) -> int:
        return WINDOW_SHARDS * max(self.rows)


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
    size = order._window_rows
    positions = np.arange(start + window * size, min(start + (window + 1) * size, end), dtype=np.int64)
    ends, offsets = _sequence(order, epoch)
    ids: Ids = positions + offsets[np.searchsorted(ends, positions, side="right")]
    _random(order, epoch, lane, window).shuffle(ids)
    return ids
