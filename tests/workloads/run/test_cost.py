"""The cost of a worker and of a run, from records as a run writes them."""

from typing import Any

import pytest

from heliostat.workloads.run.cost import cost_of, price_of

NODES = [
    {"CPU": 8.0, "GPU": 1.0, "nodes": 4, "group": "spot", "price": 1.0},
    {"CPU": 16.0, "GPU": 4.0, "nodes": 1, "group": "big", "price": 16.0},
]
DEAR, CHEAP = 3600.0, 360.0
"""An hour: a second for 1, and for a tenth."""


def at(time: float, event: str, **record: Any) -> dict[str, Any]:
    return {"time": time, "event": event, **record}


def start(time: float, *workers: tuple[float, float | None]) -> dict[str, Any]:
    return at(time, "start", workers=[{"born": born, "price": price} for born, price in workers])


def test_a_worker_costs_its_share_of_a_node() -> None:
    assert price_of(NODES, "spot", 1, 1) == 1.0, "what is left of the node is of no use without its GPU"
    assert price_of(NODES, "big", 1, 1) == 4.0
    assert price_of(NODES, "big", 12, 1) == 12.0
    assert price_of(NODES, "other", 1, 1) is None
    assert price_of([{"CPU": 2.0}], "", 1, 0) is None


def test_a_run_costs_what_its_workers_cost_on_each_of_its_nodes() -> None:
    attempts = [at(0, "launched"), at(1, "starting"), at(20, "running"), at(50, "failed"), at(51, "starting"), at(80, "ended")]
    events = [start(22, (10, DEAR), (0.5, CHEAP)), start(59, (55, CHEAP))]
    # One waited for its node, one took a process that was there; then one was left, on the cheaper node.
    assert cost_of(attempts, events, []) == pytest.approx((50 - 10) * 1.0 + (50 - 1) * 0.1 + (80 - 55) * 0.1)


def test_a_killed_driver_costs_until_its_last_record() -> None:
    attempts = [at(1, "starting"), at(70, "launched"), at(71, "starting"), at(90, "ended")]
    events = [start(5, (2, DEAR)), at(30, "checkpoint"), start(75, (73, DEAR))]
    metrics = [{"time": 34, "kind": "train"}, {"time": 80, "kind": "train"}]
    assert cost_of(attempts, events, metrics) == pytest.approx((34 - 2) + (90 - 73))
    assert cost_of(attempts[:3], events, metrics) == pytest.approx((34 - 2) + (80 - 73)), "a run that has not ended"


def test_clocks_that_differ_make_no_negative_cost() -> None:
    assert cost_of([at(1, "starting"), at(9, "ended")], [start(5, (12, DEAR))], []) == 0.0


def test_without_prices_the_cost_is_unknown() -> None:
    assert cost_of([at(1, "starting"), at(9, "ended")], [start(5, (2, None))], []) is None
    assert cost_of([], [], []) is None
    assert cost_of([at(1, "starting"), at(9, "ended")], [start(5, (2, DEAR), (2, None))], []) is None, "not that of a part"
