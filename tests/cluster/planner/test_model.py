from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.cluster.planner.fleet import Fleet, NodeGroup, Outcome
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.model import simulate
from heliostat.cluster.planner.static import cheapest, peak, static
from tests.cluster.planner.jobs import jobs

NODE = NodeGroup("gpu", 8, start_seconds=100, idle_seconds=50, price=3600, on_demand=3600)
"""A second of it costs 1."""


def run(of: Jobs, *groups: NodeGroup, **fleet: float) -> Outcome:
    return simulate(of, Fleet(groups or (NODE,), **fleet))  # type: ignore[arg-type]


def spent(outcome: Outcome, group: int = 0) -> tuple[float, float, float]:
    found = outcome.groups[group]
    return found.starting, found.busy, found.idle


def test_one_job_costs_the_start_its_run_and_the_time_out() -> None:
    outcome = run(jobs((0, 1000, 8)))
    assert spent(outcome) == (100, 1000, 50)
    assert outcome.waits.tolist() == [100]
    assert outcome.cost == pytest.approx(1150)


def test_a_node_is_paid_for_until_it_is_gone() -> None:
    group = replace(NODE, end_seconds=20)
    assert spent(run(jobs((0, 10, 8), (1000, 10, 8)), group)) == (200, 20, 2 * (50 + 20))


def test_a_job_takes_a_node_that_is_idle_and_a_later_one_a_new_node() -> None:
    outcome = run(jobs((0, 10, 8), (150, 10, 8), (400, 10, 8)))
    # The first runs from 100 to 110, the node is idle until 150, and runs the second; the third finds it gone since 210.
    assert outcome.waits.tolist() == [100, 0, 100]
    assert spent(outcome) == (200, 30, 40 + 50 + 50)
    assert outcome.groups[0].starts == 2


def test_jobs_share_a_node_by_best_fit() -> None:
    # Two nodes with 2 and 4 GPUs free: the job of 2 takes the fuller one, so that the job of 4 fits.
    outcome = run(jobs((0, 1000, 6), (0, 1000, 4), (200, 10, 2), (200, 10, 4)), replace(NODE, most=2))
    assert outcome.waits.tolist() == [100, 100, 0, 0]


def test_a_gang_waits_for_whole_nodes_and_holds_back_those_after_it() -> None:
    fleet = replace(NODE, least=2, most=2)
    outcome = run(jobs((0, 100, 1), (10, 50, 16), (20, 5, 1)), fleet)
    assert outcome.waits.tolist() == [0, 90, 130]


def test_with_first_fit_smaller_jobs_overtake_a_gang_and_equal_ones_do_not_overtake_each_other() -> None:
    fleet = replace(NODE, least=2, most=2)
    arriving = jobs((0, 100, 1), (10, 50, 16), (20, 5, 1), (30, 50, 16), (40, 90, 7))
    # The gangs start when the last of those that overtook them has ended, at 130 and 180.
    assert run(arriving, fleet, first_fit=True).waits.tolist() == [0, 120, 0, 150, 0]
    assert run(arriving, fleet).waits.tolist() == [0, 90, 130, 125, 165]


def test_with_first_fit_an_interrupted_job_is_before_those_that_are_like_it() -> None:
    fleet = replace(NODE, least=1, most=1, interruptions=20.0)
    outcome = run(jobs(*((0, 300, 8) for _ in range(4))), fleet, first_fit=True, seed=1)
    assert outcome.groups[0].interruptions
    assert np.array_equal(np.argsort(outcome.times), range(4))


def test_a_gang_takes_whole_nodes_and_a_part_of_one() -> None:
    outcome = run(jobs((0, 100, 12), (0, 100, 4)), replace(NODE, least=2, most=2))
    assert outcome.waits.tolist() == [0, 0]


def test_workers_of_a_gang_go_wherever_there_is_room() -> None:
    trace = replace(jobs((0, 100, 4), (0, 100, 4), (0, 100, 8)), workers=np.array([0, 0, 8]))
    held = replace(NODE, least=3, most=3, gpus=5)
    # Three nodes of 5 GPUs, on two of which one GPU is left: with whole nodes 8 would be 5 and 3 on two nodes.
    assert run(trace, held).waits.tolist() == [0, 0, 100]
    assert run(replace(trace, gpus=np.array([4, 4, 7]), workers=np.array([0, 0, 7])), held).waits.tolist() == [0, 0, 0]


def test_a_job_that_waits_for_a_node_moves_to_one_that_becomes_free() -> None:
    outcome = run(jobs((0, 20, 8), (105, 10, 8)))
    # The first ends at 120, before the second node is up at 205; that one is never used.
    assert outcome.waits.tolist() == [100, 15]
    assert spent(outcome) == (200, 30, 50 + 50)


def test_no_node_goes_while_a_job_waits_that_could_use_it() -> None:
    fleet = replace(NODE, most=2)
    outcome = run(jobs((0, 10, 8), (0, 500, 8), (5, 10, 16)), fleet)
    assert outcome.waits.tolist() == [100, 100, 595]
    assert outcome.groups[0].starts == 2


def test_a_job_that_can_never_fit_is_reported_and_holds_nothing_back() -> None:
    outcome = run(jobs((0, 10, 17), (0, 10, 8)), replace(NODE, most=2))
    assert outcome.never.tolist() == [0]
    assert np.isnan(outcome.waits[0])
    assert outcome.waits[1] == 100


def test_the_least_nodes_are_up_until_the_last_end() -> None:
    outcome = run(jobs((0, 100, 8), (500, 100, 8)), replace(NODE, least=2))
    assert spent(outcome) == (0, 200, 1000)
    assert outcome.waits.tolist() == [0, 0]


def test_half_of_the_memory_is_half_of_the_node() -> None:
    trace = replace(jobs((0, 10, 1), (0, 10, 1), (0, 10, 1)), memory=np.array([32.0, 32.0, 1.0]))
    assert run(trace, replace(NODE, least=1, most=1, memory=64)).waits.tolist() == [0, 0, 10]


def test_jobs_without_gpus_take_the_group_without_and_others_the_smallest_node() -> None:
    groups = (NODE, replace(NODE, name="one", gpus=1), replace(NODE, name="cpu", gpus=0, cpus=4))
    outcome = run(jobs((0, 10, 0), (0, 20, 1), (0, 30, 2)), *groups)
    assert [group.busy for group in outcome.groups] == [30, 20, 10]


def test_spot_nodes_are_filled_first() -> None:
    spot = replace(NODE, name="spot", most=1, priority=1)
    outcome = run(jobs((0, 10, 8), (0, 10, 8)), NODE, spot)
    assert [group.starts for group in outcome.groups] == [1, 1]


def test_an_interruption_costs_the_work_since_the_last_checkpoint() -> None:
    spot = replace(NODE, interruptions=3600 / 500)
    outcome = run(jobs(*((n * 10, 2000, 8) for n in range(20))), spot, checkpoint_seconds=100)
    lost = outcome.groups[0].interruptions
    assert lost > 20
    assert 0 < outcome.recomputed < lost * 100 * 8
    assert outcome.groups[0].gpu_seconds == pytest.approx(20 * 2000 * 8 + outcome.recomputed)
    assert run(jobs(*((n * 10, 2000, 8) for n in range(20))), spot, checkpoint_seconds=100).cost == outcome.cost


def elastic(of: Jobs, *ranges: tuple[int, int]) -> Jobs:
    least, most = zip(*ranges, strict=True)
    return replace(of, least=np.array(least), most=np.array(most))


def test_an_elastic_job_starts_on_what_is_free_and_grows_when_there_is_more() -> None:
    held = replace(NODE, least=2, most=2)
    # The second finds one of two nodes, computes there for 90 s, and from 100 on with both: 10 s for its workers to start anew.
    trace = elastic(jobs((0, 100, 8), (10, 190, 16)), (8, 8), (8, 16))
    outcome = simulate(trace, Fleet((held,), scaling=1.0, resize_seconds=10))
    assert outcome.waits.tolist() == [0, 0]
    assert outcome.times.tolist() == [100, 90 + 10 + (190 - 45)]
    assert outcome.groups[0].gpu_seconds == 800 + 90 * 8 + 155 * 16
    assert simulate(trace.ranged("none"), Fleet((held,))).waits.tolist() == [0, 90]


def test_an_elastic_job_requests_nodes_for_the_most_that_fit_and_computes_as_fast_as_stated() -> None:
    outcome = simulate(elastic(jobs((0, 1000, 8)), (8, 64)), Fleet((replace(NODE, most=4),), scaling=0.5))
    assert outcome.groups[0].starts == 4
    assert outcome.times.tolist() == [100 + 1000 / 2]
    # One that begins on a node which is there requests the others meanwhile.
    grown = simulate(elastic(jobs((0, 1000, 8)), (8, 16)), Fleet((replace(NODE, least=1, most=4),), scaling=1.0))
    assert grown.times.tolist() == [100 + 10 + 450]


def test_an_elastic_job_does_not_grow_while_another_waits() -> None:
    trace = elastic(jobs((0, 100, 8), (0, 110, 8), (10, 100, 8), (20, 50, 8)), (8, 8), (8, 8), (8, 16), (8, 8))
    outcome = simulate(trace, Fleet((replace(NODE, least=2, most=2),), scaling=1.0, resize_seconds=10))
    # The last one gets the node that is free at 110, and the third grows when that ends, at 160, with 40 s left.
    assert outcome.waits.tolist() == [0, 0, 90, 90]
    assert (outcome.times + trace.submitted).tolist() == [100, 110, 190, 160]


def test_an_interrupted_elastic_job_goes_on_with_what_is_left() -> None:
    spot = replace(NODE, interruptions=3600 / 500, least=2, most=2)
    trace = elastic(jobs((0, 3000, 16)), (8, 16))
    ranged, rigid = (simulate(of, Fleet((spot,), checkpoint_seconds=50)) for of in (trace, trace.ranged("none")))
    assert ranged.groups[0].interruptions > 3
    assert ranged.waits[0] < rigid.waits[0] / 2


def test_the_fewest_nodes_may_depend_on_the_hour_of_the_week() -> None:
    hours = tuple(2 if hour == 1 else 0 for hour in range(168))
    outcome = run(jobs((0, 10, 8), (3800, 10, 16), (7300, 10, 8)), replace(NODE, hours=hours))
    # Two nodes start at 3600 and are up at 3700; at 7200 they are idle for longer than the time-out, and go.
    assert outcome.waits.tolist() == [100, 0, 100]
    assert outcome.groups[0].starts == 4
    assert spent(outcome) == (400, 40, 50 + 100 * 2 + 2 * (7200 - 3810) + 50)


TRACES = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 300), st.integers(0, 40)), min_size=1, max_size=30
).map(lambda rows: jobs(*sorted(rows)))  # fmt: skip
FLEETS = st.builds(
    lambda least, more, start, idle, interruptions, small: Fleet(
        (
            replace(NODE, least=least, most=least + more, start_seconds=start, idle_seconds=idle, interruptions=interruptions),
            *([replace(NODE, name="small", gpus=2, most=2)] if small else []),
        ),
        checkpoint_seconds=50,
    ),
    st.integers(0, 3), st.integers(1, 6), st.integers(0, 120), st.integers(1, 100), st.sampled_from([0.0, 10.0]), st.booleans(),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(trace=TRACES, fleet=FLEETS)
def test_all_work_is_done_on_nodes_that_are_paid_for(trace: Jobs, fleet: Fleet) -> None:
    outcome = simulate(trace, fleet)
    fits = ~np.isnan(outcome.waits)
    assert (outcome.waits[fits] >= 0).all()
    work = float(trace.gpus[fits] @ trace.seconds[fits])
    assert sum(group.gpu_seconds for group in outcome.groups) == pytest.approx(work + outcome.recomputed)
    for group, of in zip(outcome.groups, fleet.groups, strict=True):
        assert group.gpu_seconds <= group.busy * of.gpus + 1e-6
        assert min(group.starting, group.busy, group.idle) >= 0
        assert of.least <= group.peak <= of.most
        assert group.node_seconds >= of.least * outcome.seconds - 1e-6
        if not of.interruptions:
            assert group.starting <= group.starts * of.start_seconds + 1e-6


@settings(max_examples=60, deadline=None)
@given(trace=TRACES, fleet=FLEETS, more=st.lists(st.integers(0, 20), min_size=30, max_size=30))
def test_the_work_of_elastic_jobs_is_done_too(trace: Jobs, fleet: Fleet, more: list[int]) -> None:
    ranged = replace(trace, least=np.minimum(trace.gpus, 1), most=trace.gpus + np.array(more[: len(trace)]) * (trace.gpus > 0))
    outcome = simulate(ranged, replace(fleet, scaling=1.0))
    fits = ~np.isnan(outcome.waits)
    assert (outcome.times[fits] >= outcome.waits[fits] - 1e-6).all()
    work = float(trace.gpus[fits] @ trace.seconds[fits])
    assert sum(group.gpu_seconds for group in outcome.groups) >= work - 1e-3
    for group, of in zip(outcome.groups, fleet.groups, strict=True):
        assert group.gpu_seconds <= group.busy * of.gpus + 1e-6
        assert min(group.starting, group.busy, group.idle) >= -1e-6
        assert of.least <= group.peak <= of.most


@settings(max_examples=60, deadline=None)
@given(trace=TRACES)
def test_no_job_waits_on_the_peak_fleet_and_one_node_less_makes_one_wait(trace: Jobs) -> None:
    nodes = peak(trace, Fleet((NODE,)))
    if not nodes[0]:  # jobs of no time
        return
    assert simulate(trace, static(Fleet((NODE,)), nodes)).wait(100) == 0
    fewer, outcome = cheapest(trace, Fleet((NODE,)), 60, nodes)
    assert fewer <= nodes
    assert outcome.wait() <= 60


def test_the_cheapest_static_fleet_is_the_one_that_a_search_of_all_finds() -> None:
    generator = np.random.default_rng(1)
    trace = jobs(*sorted((float(t), float(s), int(g)) for t, s, g in generator.integers([0, 1, 1], [3000, 400, 9], (200, 3))))
    fleet = Fleet((NODE,))
    nodes, _ = cheapest(trace, fleet, 120, peak(trace, fleet))
    waits = [simulate(trace, static(fleet, [n])).wait() for n in range(1, nodes[0] + 1)]
    assert waits[-1] <= 120 < min(waits[:-1])
