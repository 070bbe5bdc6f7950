"""Only the pods of a job end its wait: a cluster is shared, and another workload's pod that gets no node is not its fault."""

from collections.abc import Iterator
from typing import Any

import pytest

from heliostat.cluster.diagnosis.observe import RayObserver
from heliostat.cluster.diagnosis.own_pods import OwnPods
from heliostat.cluster.diagnosis.snapshot import Snapshot
from heliostat.cluster.diagnosis.wait import Watchdog
from heliostat.cluster.jobs.dashboard import Dashboard, by_port
from heliostat.errors import NotComing
from tests.cluster.diagnosis.snapshots import NO_GPU, Clock, cluster, fixed, node, pod, seen, unschedulable
from tests.cluster.kube.api_server import ApiServer, serving

MINE, OTHER = (
    {"type": "SUBMISSION", "submission_id": id, "job_id": driver, "status": "RUNNING"}
    for id, driver in (("mine", "01"), ("other", "02"))
)
DONE = {**OTHER, "status": "SUCCEEDED"}
STUCK = seen(pod("gpu", conditions=unschedulable(NO_GPU)), nodes=[node(0)])
HEAD = Snapshot(cluster(), [pod("head", conditions=unschedulable(NO_GPU))], [], nodes=[node(0)])


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving() as server:
        yield server


def gang(driver: str, state: str = "PENDING", **resources: float) -> dict[str, Any]:
    bundle = {"unit_resources": resources, "node_id": "", "label_selector": {}}
    return {"placement_group_id": "pg", "creator_job_id": driver, "state": state, "bundles": [bundle]}


def actor(**more: Any) -> dict[str, Any]:
    return {"job_id": "01", "state": "PENDING_CREATION", "required_resources": {"GPU": 1.0}, **more}


@pytest.mark.parametrize(
    ("jobs", "gangs", "actors", "snapshot", "ends"),
    [
        ([MINE, OTHER], [], [], STUCK, False),
        ([MINE, OTHER], [gang("01", GPU=1.0)], [], STUCK, True),
        ([MINE, OTHER], [gang("01", GPU=8.0)], [], STUCK, False),
        ([MINE, OTHER], [gang("01", "CREATED", GPU=1.0)], [], STUCK, False),
        ([MINE, OTHER], [], [actor()], STUCK, True),
        ([MINE, OTHER], [], [actor(label_selector={"team": "vision"})], STUCK, False),
        ([MINE, OTHER], [], [actor(required_resources={})], STUCK, False),
        ([MINE, OTHER], [], [], HEAD, True),
        ([MINE, DONE], [], [], STUCK, True),
    ],
    ids=[
        "of another job", "of its own", "too small for it", "it has its nodes", "its actor", "another group's labels",
        "any node will do", "the head", "alone on the cluster",
    ],
)  # fmt: skip
def test_a_pod_without_a_node_ends_the_wait_of_the_job_that_it_was_created_for(
    server: ApiServer, jobs: Any, gangs: Any, actors: Any, snapshot: Snapshot, ends: bool
) -> None:
    server.objects["/api/jobs/"] = jobs
    for kind, found in (("placement_groups", gangs), ("actors", actors), ("tasks", [])):
        server.objects[f"/api/v0/{kind}"] = {"data": {"result": {"result": found}}}
    profile, clock = fixed("gpu"), Clock()
    server.objects["/nodes"] = {"data": {"summary": [], "nodeLogicalResources": {}}}
    server.objects["/api/component_activities"] = {"driver": {}}
    server.objects["/api/cluster_status"] = {"data": {"clusterStatus": ""}}
    own = OwnPods(RayObserver(Dashboard(by_port(server.server_port, "token"), "gpu"), clock), "mine", profile)
    dog, said = Watchdog(profile, lambda _: "", clock, own), ""
    try:
        while clock.now < Clock.now + 900:
            said = dog.look(snapshot)
            clock.now += 100
    except NotComing:
        assert ends
    else:
        assert not ends
        assert "no node is large enough for its pod" in said, "it is shown all the same"
