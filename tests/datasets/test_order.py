"""The properties of `heliostat.datasets.order`, for many sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.datasets.order import Order, default_lanes, lane_range


@st.composite
def orders(draw: st.DrawFn) -> Order:
    lanes = draw(st.integers(1, 16))
    return Order(
        rows=tuple(draw(st.lists(st.integers(1, 60), min_size=1, max_size=6))),
        fingerprint=draw(st.sampled_from(["a", "b"])),
        seed=draw(st.integers(0, 3)),
        global_batch=lanes * draw(st.integers(1, 5)),
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


@given(orders(), st.integers(0, 5), st.integers(1, 20))
def test_any_number_of_workers_makes_the_same_global_batches(order: Order, epoch: int, workers: int) -> None:
    for step in range(order.epoch_steps):
        parts = [order.batch(epoch, step, lane_range(order.lanes, workers, rank)) for rank in range(workers)]
        assert np.concatenate(parts).tolist() == order.batch(epoch, step).tolist()
        if step < order.full_steps:
            assert max(map(len, parts)) - min(map(len, parts)) <= order.global_batch // order.lanes


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


@given(orders())
def test_every_lane_gives_the_same_share_to_a_full_batch(order: Order) -> None:
    share = order.global_batch // order.lanes
    for step in range(order.full_steps):
        assert all(len(order.batch(0, step, (lane, lane + 1))) == share for lane in range(order.lanes))


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_epochs_seeds_and_data_have_different_orders(seed: int) -> None:
    def order(fingerprint: str, seed: int) -> Order:
        return Order((40, 60), fingerprint, seed, 10, 5)

    one = epoch_of(order("a", seed), 0)
    assert one == epoch_of(order("a", seed), 0)
    assert one != epoch_of(order("a", seed), 1)
    assert one != epoch_of(order("a", seed + 1), 0)
    assert one != epoch_of(order("b", seed), 0)


def test_a_lane_never_reads_more_shards_at_once_than_its_window() -> None:
    order = Order((10,) * 100, "a", 0, 4, 2)
    for lane in range(2):
        samples = [s for step in range(order.epoch_steps) for s in order.batch(0, step, (lane, lane + 1)).tolist()]
        for window in range(0, len(samples), 40):
            assert len({sample // 10 for sample in samples[window : window + 40]}) <= 5


GOLDEN = [18, 16, 11, 7, 9, 1, 35, 31, 41]


def test_the_order_of_a_batch_never_changes() -> None:
    """A stored run must resume with a later NumPy and a later Heliostat: if this fails, bump the dataset format."""
    assert Order((10, 20, 15), "fingerprint", 7, 9, 3).batch(2, 1).tolist() == GOLDEN


@pytest.mark.parametrize(("batch", "lanes"), [(64, 64), (96, 48), (128, 64), (7, 7), (67, 1), (1, 1)])
def test_default_lanes_is_the_largest_divisor_up_to_64(batch: int, lanes: int) -> None:
    assert default_lanes(batch) == lanes
