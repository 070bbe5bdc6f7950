from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heliostat.cluster.planner.fleet import fleet_of
from heliostat.cluster.planner.model import simulate
from heliostat.cluster.planner.ray_scheduler import NodeView, RayScheduler
from heliostat.cluster.planner.replay import replay
from heliostat.cluster.planner.trace import read_trace
from heliostat.cluster.profile import find
from tests.cluster.planner.jobs import jobs

TRACE = Path(__file__).parent / "itp" / "cluster10.csv"
PROFILE = find(str(Path(__file__).parents[2] / "benchmarks" / "itp.yaml"), ["groups.gpu.max=4", "groups.gpu.idle_seconds=60"])


def test_ray_decides_as_the_model_assumes() -> None:
    scheduler = RayScheduler(PROFILE)
    assert scheduler.decide([], [("GPU", [8.0, 4.0]), ("GPU", [4.0])]).launch == {"gpu": 2}
    assert scheduler.decide([], [("GPU", [8.0] * 5)]).launch == {}  # it can never fit
    starting = NodeView("a", "gpu", up=False, free=8, idle_seconds=None)
    assert scheduler.decide([starting], [("GPU", [8.0])]).launch == {}
    idle, new = (NodeView("b", "gpu", up=True, free=8, idle_seconds=seconds) for seconds in (61, 10))
    assert scheduler.decide([idle, starting], []).terminate == ["b"]
    assert scheduler.decide([new], []).terminate == []
    assert scheduler.decide([idle], [("GPU", [8.0])]).terminate == []
    half = NodeView("c", "gpu", up=True, free=4, idle_seconds=None)
    assert scheduler.decide([half], [("GPU", [4.0])]).launch == {}
    assert scheduler.decide([half], [("GPU", [5.0])]).launch == {"gpu": 1}


@pytest.mark.parametrize("first_fit", [False, True])
def test_ray_and_the_model_need_the_same_node_hours(first_fit: bool) -> None:
    trace = read_trace(TRACE).jobs[:60]
    ray, fast = replay(trace, PROFILE, first_fit), simulate(trace, replace(fleet_of(PROFILE), first_fit=first_fit))
    assert fast.node_seconds == pytest.approx(ray.node_seconds, rel=0.02)
    assert abs(fast.mean_wait - ray.mean_wait) < 10


def test_one_job_costs_the_same_in_both_up_to_the_time_between_decisions() -> None:
    (group,) = replay(jobs((3, 1000, 8), (2000, 10, 16)), PROFILE).groups
    assert (group.starting, group.busy) == (240 * 3, 1000 + 20)
    assert np.allclose(group.idle, 60, atol=5)  # the last end is the end of the replay
