"""The properties of `heliostat.datasets.order`, for many sizes; windows, lanes and blocks are small here."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.datasets import Order, Order1
from heliostat.datasets import order as module


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WINDOW_SHARDS": 3, "LANE_SHARDS": 1, "BLOCK": 32}.items():
            patch.setattr(module, name, value)
        yield


@st.composite
def orders(draw: st.DrawFn) -> Order:
    kind = draw(st.sampled_from([Order, Order, Order1]))
    lanes = draw(st.integers(1, 16))
    return kind(
        rows=tuple(draw(st.lists(st.integers(1, 60), min_size=1, max_size=13))),
        fingerprint=draw(st.sampled_from(["a", "b"])),
        seed=draw(st.integers(0, 3)),
        global_batch=lanes * draw(st.integers(1, 5)) if kind is Order1 else draw(st.integers(1, 80)),
        lanes=lanes,
        drop_last=draw(st.booleans()),
    )


def epoch_of(order: Order, epoch: int) -> list[list[int]]:
    return [order.batch(epoch, step).tolist() for step in range(order.epoch_steps)]


@given(orders(), st.integers(0, 5))
def test_each_sample_comes_once_an_epoch(order: Order, epoch: int) -> None:
    seen = [sample for batch in epoch_of(order, epoch) for sample in batch]
    assert len(seen) == order.epoch_samples
    assert len(set(seen)) == len(seen)
    if not order.drop_last:
        assert sorted(seen) == list(range(order.total))


@given(orders(), st.integers(0, 5))
def test_only_the_last_batch_of_an_epoch_may_be_smaller(order: Order, epoch: int) -> None:
    sizes = [len(batch) for batch in epoch_of(order, epoch)]
    assert all(size == order.global_batch for size in sizes[:-1])
    assert sizes == [order.batch_size(step) for step in range(order.epoch_steps)]
    if order.drop_last:
        assert all(size == order.global_batch for size in sizes)


@settings(deadline=None)
@given(orders(), st.integers(0, 5), st.integers(1, 20))
def test_any_number_of_workers_makes_the_same_global_batches(order: Order, epoch: int, workers: int) -> None:
    for step in {*range(0, order.epoch_steps, 7), order.epoch_steps - 1} if order.epoch_steps else ():
        parts = [order.batch(epoch, step, rank, workers) for rank in range(workers)]
        assert sorted(np.concatenate(parts).tolist()) == sorted(order.batch(epoch, step).tolist())
        assert max(map(len, parts)) <= order.largest_part(workers)
        if type(order) is Order:
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(orders(), st.integers(0, 40))
def test_the_samples_consumed_determine_the_position_to_resume_from(order: Order, steps: int) -> None:
    if order.epoch_steps == 0:
        return
    epoch, step, consumed = 0, 0, 0
    for done in range(steps):
        assert order.locate(consumed) == (epoch, step)
        assert order.consumed(done) == consumed
        consumed += order.batch_size(step)
        step += 1
        if step == order.epoch_steps:
            epoch, step = epoch + 1, 0


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_epochs_seeds_and_data_have_different_orders(seed: int) -> None:
    def order(fingerprint: str, seed: int) -> Order:
        return Order((40, 60), fingerprint, seed, 10)

    one = epoch_of(order("a", seed), 0)
    assert one == epoch_of(order("a", seed), 0)
    assert one != epoch_of(order("a", seed), 1)
    assert one != epoch_of(order("a", seed + 1), 0)
    assert one != epoch_of(order("b", seed), 0)


def test_the_first_version_of_the_order_never_changes() -> None:
    """A run that was started with it must resume with a later NumPy and a later Heliostat."""
    assert Order1((10, 20, 15), "fingerprint", 7, 9, 3).batch(2, 1).tolist() == [18, 16, 11, 7, 9, 1, 35, 31, 41]


@pytest.mark.parametrize(("batch", "lanes"), [(64, 64), (96, 48), (128, 64), (7, 7), (67, 1), (1, 1)])
def test_the_lanes_of_the_first_version_are_the_largest_divisor_up_to_64(batch: int, lanes: int) -> None:
    assert Order1.default_lanes(batch) == lanes
