"""The global order of samples: a pure function that does not depend on the number of workers.

An epoch is a sequence of all samples, of which each step takes the next global batch. A dataset is read in windows of 1024 to
2047 shards (all, if it has fewer), one after the other. The shards are cut into runs of neighbours, as long as there are
windows, and each window gets one shard of every run at random: a sample of the whole dataset, also if that is sorted.

A window is shuffled as a whole, with one rule: if it has at least four shards for each of L lanes, its rows are cut into L
equal parts, the lanes, and the sequence takes a sample of each lane, in a new random order, before it takes the next ones.
The samples of a step are divided among the workers by lane, and so each worker reads about its share of the shards.

No permutation is held in memory: each is computed for the samples of a block at a time. A worker holds 16 bytes a shard and
a few blocks. (MosaicML Streaming's py1br shuffles blocks of shards too, but holds the whole epoch.)
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from heliostat.datasets.permutation import Hashes, mixed, permuted

Ids = npt.NDArray[np.int64]
Lanes = npt.NDArray[np.uint16]
WINDOW_SHARDS = 1024
"""With shards of 16 MB, the workers keep 16 to 32 GB on their disks, together. Fewer shards would have fewer of the classes of
a sorted dataset: folders of images, a class each, are read class by class."""
SPACED = 8
"""In so many runs in a row, a window has the shards at the same place: evenly spaced, they miss no class of a sorted dataset
that fills a run. More would repeat the period of a dataset that has one, such as days of the week."""
LANES, LANE_SHARDS = 64, 4
BLOCK = 1 << 14
"""Samples whose places are computed at once: many enough for numpy, and few enough for a processor's cache."""


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, for the caches below
class Order:
    """Which samples make up each global batch.

    Args:
        rows: the rows of each shard; samples are numbered through all shards, from 0.
        fingerprint: of the dataset; other data gives another order.
        seed: of the run.
        global_batch: samples per step.
        lanes: L, see above, at most 65,536.
        drop_last: drop the last batch of an epoch if it is incomplete; otherwise it is smaller.
    """

    rows: tuple[int, ...]
    fingerprint: str
    seed: int
    global_batch: int
    lanes: int = LANES
    drop_last: bool = False

    @cached_property
    def total(self) -> int:
        return sum(self.rows)

    @property
    def epoch_samples(self) -> int:
        return self.total // self.global_batch * self.global_batch if self.drop_last else self.total

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

    def batch_size(self, step: int) -> int:
        """The samples in the global batch at a step of an epoch."""
        return min(self.global_batch, self.epoch_samples - step * self.global_batch)

    @staticmethod
    def default_lanes(global_batch: int) -> int:
        """The lanes of a run whose config does not set them."""
        return LANES

    def largest_part(self, workers: int) -> int:
        """The most samples of a global batch that one of the workers has."""
        return -(-self.global_batch // workers)

    def part_sizes(self, step: int, workers: int) -> list[int]:
        """How many samples of the global batch at a step of an epoch each of the workers has."""
        size = self.batch_size(step)
        return [size * (rank + 1) // workers - size * rank // workers for rank in range(workers)]

    def batch(self, epoch: int, step: int, rank: int = 0, workers: int = 1) -> Ids:
        """The sample numbers of one worker's part of a global batch; the parts differ by one sample at most."""
        size = self.batch_size(step)
        ids, lanes = _sequence(self, epoch, step * self.global_batch, size)
        if workers == 1:
            return ids
        mine = np.argsort(lanes, kind="stable")[size * rank // workers : size * (rank + 1) // workers]
        return ids[np.sort(mine)]

    @cached_property
    def _windows(self) -> int:
        return max(1, len(self.rows) // max(WINDOW_SHARDS, LANE_SHARDS * self.lanes))

    @cached_property
    def _window_lanes(self) -> int:
        return self.lanes if len(self.rows) >= LANE_SHARDS * self.lanes else 1

    @cached_property
    def _shard_rows(self) -> Ids:
        """The rows of each shard; empty ones complete the last run."""
        missing = -len(self.rows) % self._windows
        return np.array([*self.rows, *[0] * missing], np.int64)

    @cached_property
    def _shard_starts(self) -> Ids:
        return np.cumsum(self._shard_rows) - self._shard_rows


def _sequence(order: Order, epoch: int, start: int, size: int) -> tuple[Ids, Lanes]:
    """``size`` samples of an epoch's sequence from the place ``start`` on: their numbers and lanes."""
    starts = _window_starts(order, epoch)
    length = _block_size(order)
    parts: list[tuple[Ids, Lanes]] = []
    while size > 0:
        window = int(np.searchsorted(starts, start, side="right")) - 1
        number, first = divmod(start - int(starts[window]), length)
        ids, lanes = _block(order, epoch, window, number)
        parts.append((ids[first : first + size], lanes[first : first + size]))
        taken = len(parts[-1][0])
        start, size = start + taken, size - taken
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([lanes for _, lanes in parts])


@lru_cache(maxsize=2)  # a loader may be an epoch ahead
def _window_starts(order: Order, epoch: int) -> Ids:
    """Where each window starts in an epoch's sequence, and where the last one ends."""
    runs = len(order._shard_rows) // order._windows
    at_once = max(1, BLOCK // runs)
    sizes = [
        order._shard_rows[_window_shards(order, epoch, np.arange(first, min(first + at_once, order._windows)))].sum(axis=1)
        for first in range(0, order._windows, at_once)
    ]
    return np.cumsum(np.concatenate([[0], *sizes]))


def _window_shards(order: Order, epoch: int, windows: Ids) -> Ids:
    """The shards of some windows, (windows, runs): one of each run."""
    count = order._windows
    runs = np.arange(len(order._shard_rows) // count)
    window, run = (values.ravel() for values in np.meshgrid(windows, runs, indexing="ij"))
    place = permuted(window, np.full_like(window, count), _hashes(order, epoch, "runs", run // SPACED))
    return (run * count + place).reshape(len(windows), len(runs))


@lru_cache(maxsize=4)
def _window(order: Order, epoch: int, number: int) -> tuple[Ids, Ids]:
    """A window's shards in random order: where each ends, and what turns a row of the window into a sample number."""
    shards = _window_shards(order, epoch, np.array([number]))[0]
    shards = shards[np.argsort(_hashes(order, epoch, "shards", shards))]
    ends = np.cumsum(order._shard_rows[shards])
    return ends, order._shard_starts[shards] - ends + order._shard_rows[shards]


def _block_size(order: Order) -> int:
    """The samples of a block: whole turns of the lanes."""
    return max(1, BLOCK // order._window_lanes) * order._window_lanes


@lru_cache(maxsize=4)
def _block(order: Order, epoch: int, window: int, number: int) -> tuple[Ids, Lanes]:
    """The sample numbers in one block of a window's sequence, and the lane of each."""
    ends, offsets = _window(order, epoch, window)
    lanes, length = order._window_lanes, _block_size(order)
    full, rest = divmod(int(ends[-1]), lanes)  # each lane has ``full`` rows, and each of the first ``rest`` one more
    places = np.arange(number * length, min((number + 1) * length, int(ends[-1])))
    turn = places // lanes
    lane = _lanes(order, epoch, window, turn[::lanes], rest if turn[-1] == full else lanes)[: len(places)]
    row = permuted(turn, full + (lane < rest), _hashes(order, epoch, "rows", np.array(window), lane))
    row += lane * full + np.minimum(lane, rest)
    ids = row + offsets[np.searchsorted(ends, row, side="right")]
    ids.setflags(write=False)
    return ids, lane.astype(np.uint16)  # a type that is sorted in linear time


def _lanes(order: Order, epoch: int, window: int, turns: Ids, in_last: int) -> Ids:
    """The lanes of some turns, one turn after the other; the last turn has only the first ``in_last`` lanes."""
    lanes = np.arange(order._window_lanes)
    hashes = _hashes(order, epoch, "turns", np.array(window), turns[:, None], lanes)
    hashes[-1, in_last:] = np.iinfo(np.uint64).max
    return np.argsort(hashes, axis=1).ravel()


def _hashes(order: Order, epoch: int, purpose: str, *numbers: Ids) -> Hashes:
    """A hash of each element's numbers, for one purpose in one epoch."""
    text = f"{order.fingerprint}/{order.seed}/{epoch}/{purpose}"
    hashed = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8).digest(), "<u8")
    for number in numbers:
        hashed = mixed(hashed + number.astype(np.uint64))
    return hashed
