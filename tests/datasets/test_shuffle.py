"""How well the order of samples shuffles, what it reads and what it holds, at the sizes of real datasets."""

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from heliostat.datasets import Order
from heliostat.datasets.permutation import mixed, permuted

Ints = npt.NDArray[np.int64]


def batches(order: Order, steps: int) -> list[Ints]:
    return [order.batch(0, step) for step in range(min(steps, order.epoch_steps))]


def measured(parts: list[Ints], label: Ints) -> tuple[float, float]:
    """The mean number of classes in a batch, and the correlation of the classes of neighbours."""
    classes = label[np.concatenate(parts)].astype(float)
    return float(np.mean([len(np.unique(label[ids])) for ids in parts])), float(np.corrcoef(classes[:-1], classes[1:])[0, 1])


@pytest.mark.parametrize("batch", [1, 2, 31, 64, 127, 128, 1009, 4000])
@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        ((100_003,), 100),  # one shard
        ((1000,) * 100, 100),  # a class a shard
        ((2,) * 700 + (997,) * 97, 10),  # shards of two sizes, smaller than a batch and larger
        ((10,) * 10_240, 1000),  # ten windows, ten shards a class: what a folder of images becomes
    ],
)
def test_the_order_of_a_sorted_source_is_as_good_as_a_full_shuffle(rows: tuple[int, ...], classes: int, batch: int) -> None:
    label = np.arange(sum(rows)) * classes // sum(rows)
    steps = max(10, 40_000 // batch)
    found, correlation = measured(batches(Order(rows, "data", 0, batch), steps), label)
    full = np.random.RandomState(0).permutation(sum(rows))
    wanted, _ = measured([full[step * batch : (step + 1) * batch] for step in range(min(steps, -(-len(full) // batch)))], label)
    assert found == pytest.approx(wanted, rel=0.03)
    assert abs(correlation) < 4 / math.sqrt(min(steps * batch, sum(rows)))


def test_a_dataset_smaller_than_a_batch_is_shuffled() -> None:
    seen = [tuple(Order((3,), "data", seed, 64).batch(0, 0)) for seed in range(600)]
    assert all(70 < seen.count(order) < 130 for order in set(seen)), "100 on average; 30 are 3.3 standard deviations"
    assert len(set(seen)) == 6


def test_neighbours_in_a_shuffle_of_few_samples_are_as_in_a_full_one() -> None:
    size, many = 36, 5000
    key = np.repeat(mixed(np.arange(many, dtype=np.uint64)), size)
    found = permuted(np.tile(np.arange(size), many), np.full(len(key), size), key).reshape(many, size)
    assert (np.sort(found) == np.arange(size)).all()
    steps = np.bincount((np.diff(found) % size).ravel(), minlength=size)[1:]
    expected = many
    deviation = ((steps - expected) ** 2 / expected).sum()
    assert deviation < size - 2 + 5 * math.sqrt(2 * (size - 2)), "chi-squared"


@pytest.mark.parametrize("batch", [64, 127, 1024])
def test_a_worker_reads_about_its_share_of_a_window_and_no_step_reads_beyond_it(batch: int) -> None:
    order, workers = Order((16,) * 4096, "data", 0, batch), 4
    read: list[set[int]] = [set() for _ in range(workers)]
    for step in range(1024 * 16 // batch):
        for rank in range(workers):
            read[rank].update((order.batch(0, step, rank, workers) // 16).tolist())
    assert len(set.union(*read)) == 1024, "a window, a quarter of the dataset"
    assert max(map(len, read)) < 1.6 * 1024 / workers
    if batch % 64 == 0:
        assert max(map(len, read)) <= 1024 / workers + workers


@pytest.mark.parametrize("shards", [1000, 200_000])
def test_a_billion_samples_need_little_memory_in_any_epoch(shards: int) -> None:
    rows = (1_000_000_000 // shards,) * shards
    tracemalloc.start()
    try:
        order = Order(rows, "data", 0, 256)
        for epoch in range(4):
            for step in range(0, order.epoch_steps, order.epoch_steps // 9):
                order.batch(epoch, step, 1, 2)
            assert tracemalloc.get_traced_memory()[1] < 32e6, f"epoch {epoch}"
    finally:
        tracemalloc.stop()


def test_the_order_of_a_batch_never_changes() -> None:
    """A stored run must resume with a later NumPy and a later Heliostat: if this fails, it is another version."""
    assert Order((10, 20, 15), "fingerprint", 7, 9).batch(2, 1).tolist() == [10, 3, 15, 20, 32, 6, 11, 29, 19]
    order = Order((3,) * 3000, "fingerprint", 7, 9)
    assert order.batch(2, 800, 1, 2).tolist() == [3197, 6766, 6055, 987, 7127]
