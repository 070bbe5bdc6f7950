"""What a cluster and its jobs wait for, from objects as Kubernetes 1.34, KubeRay 1.6.2, Kueue 0.17 and Ray 2.60 write them."""

from collections.abc import Iterator
from typing import Any

import pytest

from heliostat.cluster.diagnosis.group_nodes import GroupNodes
from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.problems import problems
from heliostat.cluster.diagnosis.snapshot import Queue
from heliostat.cluster.diagnosis.wait import one_line
from heliostat.cluster.jobs.dashboard import Dashboard, Job, by_port
from heliostat.cluster.jobs.demand import Demand, Holding, RayState, Request, ray_state
from heliostat.cluster.jobs.usage import NodeUsage
from heliostat.cluster.names import ELASTIC, QUEUE_LABEL, Document
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets.observation import Observation, of_cluster, of_group, of_job, of_ray_job
from tests.cluster.diagnosis.snapshots import (
    APPLIED,
    IMAGE,
    LATER,
    NO_GPU,
    PULL,
    QUOTA,
    cluster,
    event,
    failure,
    fixed,
    job,
    node,
    pod,
    seen,
    unschedulable,
    waiting,
)
from tests.cluster.kube.api_server import serving

READY = [{"type": "Ready", "status": "True"}]
INSUFFICIENT = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 400m more needed"


# --- in a queue -----------------------------------------------------------------------------------------------------------


def queue_profile() -> Profile:
    keys = ["queue=team", "idle_shutdown_seconds=null", "groups.gpu.min=2", "groups.gpu.max=2", "groups.cpu.min=4"]
    return find("gpu", keys)


def workload(name: str, at: str, status: Document | None = None, priority: int = 0, **spec: Any) -> Document:
    owner = {"kind": "RayCluster", "name": name, "uid": f"u-{name}", "controller": True}
    meta = {"name": f"raycluster-{name}-c145b", "creationTimestamp": at, "ownerReferences": [owner], "namespace": "here"}
    return {"metadata": meta, "spec": {"queueName": "team", "priority": priority, **spec}, "status": status or {}}


def quota(message: str, reason: str = "Pending") -> Document:
    return {"conditions": [{"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}]}


def local_queue(reason: str = "Ready", message: str = "Can submit new workloads to localQueue") -> Document:
    active = {"type": "Active", "status": str(reason == "Ready"), "reason": reason, "message": message}
    return {"spec": {"clusterQueue": "all"}, "status": {"conditions": [active]}}


ADMITTED = {"conditions": [{"type": "QuotaReserved", "status": "True"}, {"type": "Admitted", "status": "True"}]}
FIRST, BIG = workload("first", "2026-11-24T08:00:00Z", ADMITTED), workload("big", "2026-11-24T08:10:00Z", quota(INSUFFICIENT))
MINE = workload("gpu", "2026-11-24T08:20:00Z")


def ended(reason: str, message: str) -> Document:
    over = {"type": "Finished", "status": "True", "reason": reason, "message": message}
    return {"conditions": [*ADMITTED["conditions"], over]}


REPLACED = workload("gpu", "2026-11-24T08:00:00Z", ended("WorkloadSliceReplaced", "Replaced to accommodate a workload"))
OVERLOOKED = workload("gpu", LATER, ADMITTED)
NOT_STARTED = ended("FailedToStart", "conflict for annotations: conflict for key=kueue.x-k8s.io/workload")


@pytest.mark.parametrize(
    ("workloads", "local", "what", "fix"),
    [
        (
            [FIRST, workload("gpu", LATER, quota(INSUFFICIENT))], local_queue(),
            f"waits in the queue team: {INSUFFICIENT}", "stop what the queue has admitted (RayCluster first)",
        ),
        (
            [FIRST, BIG, MINE], local_queue(),
            f"waits in the queue team: it is behind RayCluster big, which waits: {INSUFFICIENT} "
            "(position 2 of 2, behind RayCluster big)", "wait",
        ),
        (
            [BIG, workload("gpu", LATER, priority=5)], local_queue(),
            "waits in the queue team (position 1 of 2)", "wait",
        ),
        (
            [workload("gpu", LATER, quota("LocalQueue team is inactive", "Inadmissible"))],
            local_queue("Stopped", "LocalQueue is stopped"),
            "waits in the queue team: LocalQueue is stopped", "spec.stopPolicy of localqueue team is to be None",
        ),
        (
            [MINE], local_queue("ClusterQueueIsInactive", "Can't submit new workloads to clusterQueue"),
            "all is stopped, or incomplete", "spec.stopPolicy of clusterqueue all",
        ),
        ([REPLACED, OVERLOOKED], local_queue(), "it is admitted, and Kueue has not started it yet", "see whether Kueue runs"),
        (
            [REPLACED, workload("gpu", LATER, NOT_STARTED)], local_queue(),
            "Kueue could not start it: conflict for annotations", "heliostat up gpu puts it into the queue again",
        ),
        ([workload("gpu", LATER, active=False)], local_queue(), "is deactivated", "set spec.active of it to true"),
        ([], local_queue(), "Kueue has not made a workload of it yet", "see whether Kueue runs"),
        (None, None, "why is not known, without the right to list workloads", "heliostat render --rbac"),
    ],
    ids=[
        "quota", "behind a bigger one", "before it", "stopped", "stopped above", "admitted", "not started", "deactivated",
        "no Kueue", "no right",
    ],
)  # fmt: skip
def test_why_a_queue_does_not_admit_a_cluster(
    workloads: list[Document] | None, local: Document | None, what: str, fix: str
) -> None:
    waiting_one = cluster(suspend=True)
    waiting_one["metadata"] |= {"labels": {QUEUE_LABEL: "team"}, "uid": "u-gpu"}
    (problem,) = problems(seen(cluster=waiting_one, queue=Queue("team", local, workloads)), queue_profile())
    assert what in problem.what
    assert fix in problem.fix
    assert not problem.fault, "a queue may take as long as it takes"
    assert problem.since


def test_why_a_queue_does_not_admit_the_growth_of_a_cluster() -> None:
    """Each growth is a workload of its own; its pods have a gate until then."""
    growing = cluster()
    growing["metadata"] |= {"labels": {QUEUE_LABEL: "team"}, "uid": "u-gpu"}
    head, worker = pod(conditions=READY, phase="Running"), pod("gpu")
    worker["spec"]["schedulingGates"] = [{"name": ELASTIC}]
    workloads = [workload("gpu", APPLIED, ADMITTED), workload("gpu", LATER, quota(INSUFFICIENT))]
    found = seen(head, worker, cluster=growing, queue=Queue("team", local_queue(), workloads))
    profile = find("gpu", ["queue=team", "idle_shutdown_seconds=null"])
    (problem,) = problems(found, profile)
    assert (problem.what, problem.group) == (f"gpu: waits in the queue team: {INSUFFICIENT}", "gpu")
    assert not problem.fault


# --- in Ray ---------------------------------------------------------------------------------------------------------------

NOW = 1000.0
MINE_JOB, OTHER_JOB = (Job(name, "RUNNING", "python x.py", driver=driver) for name, driver in (("mine", "01"), ("other", "02")))


def usage(name: str, idle: float | None = None, used: float = 1.0, percent: float | None = None) -> NodeUsage:
    return NodeUsage(name, "gpu", 8.0, 1.0, 0.0, used if idle is None else 0.0, idle, f"id-{name}", percent)


def asks(*requests: Request, kind: str = "placement group", strategy: str = "PACK", since: float = NOW - 5) -> Demand:
    return Demand("01", kind, "", requests, since, strategy)


def ray(*demands: Demand, nodes: tuple[NodeUsage, ...] = (), holdings: tuple[Holding, ...] = ()) -> RayState:
    return RayState((MINE_JOB, OTHER_JOB), {each.name: each for each in nodes}, demands, holdings)


ONE = Request({"GPU": 1.0})
HELD = (Holding("gpu-gpu-a", "02", "actor Idle", {"GPU": 1.0}), Holding("gpu-gpu-b", "02", "actor Idle", {"GPU": 1.0}))
FULL = (pod("gpu", "gpu-gpu-a", READY), pod("gpu", "gpu-gpu-b", READY))
LIVE = cluster(workerGroupSpecs=[{"groupName": "gpu", "maxReplicas": 2, "replicas": 2}])


@pytest.mark.parametrize(
    ("state", "pods", "what", "fix"),
    [
        (
            ray(asks(ONE), nodes=(usage("gpu-gpu-a", percent=0.0), usage("gpu-gpu-b")), holdings=HELD), FULL,
            "job mine waits for 1 GPU for its placement group: gpu has its maximum of 2 nodes (groups.gpu.max): gpu-gpu-a is "
            "held by job other (actor Idle: 1 GPU), and its GPUs are 0 % busy; gpu-gpu-b is held by job other",
            "stop what holds them (heliostat stop gpu other), or raise groups.gpu.max",
        ),
        (
            ray(asks(ONE, ONE, ONE, strategy="STRICT_SPREAD")), FULL,
            "waits for 3 x (1 GPU) at once, each on another node for its placement group: all groups at their maximum have "
            "room for 2 nodes (groups.gpu.max is 2)", "ask for at most 2 at once",
        ),
        (ray(asks(ONE, ONE, strategy="STRICT_PACK")), FULL, "no node of a group has 2 GPU, and it must be on one", "PACK"),
        (ray(asks(ONE, ONE, ONE)), FULL, "room for 2 of these", "raise max of a group"),
        (ray(asks(*[Request({"GPU": 0.1})] * 20)), FULL, "gpu has its maximum of 2 nodes", "raise groups.gpu.max"),
        (ray(asks(Request({"GPU": 9.0}), kind="task")), FULL, "no group has nodes with 9 GPU (cpu has 4 CPU; gpu has", "ask"),
        (
            ray(asks(Request({"GPU": 1.0}, {"team": "a"}), kind="actor")), FULL,
            "no group has label team=a; gpu would be large enough without it", "correct the label",
        ),
        (ray(asks(ONE)), (FULL[0], pod("gpu", "gpu-gpu-b")), "gpu starts 1 node: gpu-gpu-b", ""),
        (ray(asks(Request({"driver": 1.0}), kind="actor")), FULL, "the head has 64 of them (head.drivers)", "head.drivers"),
        (ray(asks(ONE)), (FULL[0],), "the autoscaler wants 2 nodes of gpu, and 1 exist", "whether KubeRay's operator"),
    ],
    ids=[
        "held by an idle job", "spread", "pack", "too many", "tenths fit", "too large", "label", "starting", "drivers",
        "no pod yet",
    ],
)  # fmt: skip
def test_why_ray_gives_a_job_no_node(state: RayState, pods: tuple[Document, ...], what: str, fix: str) -> None:
    snapshot = seen(pod(conditions=READY), *pods, cluster=LIVE)
    (problem,) = [each for each in problems(snapshot, one_gpu(), state, NOW) if each.job]
    assert what in problem.what
    assert fix in problem.fix
    assert problem.since == NOW - 5
    assert problem.job == "mine"


def test_of_many_nodes_that_are_held_a_few_are_named() -> None:
    names = [f"gpu-gpu-{letter}" for letter in "abcdefg"]
    held = tuple(Holding(name, "02" if name < "gpu-gpu-c" else name, "actor Idle", {"GPU": 1.0}) for name in names)
    live = cluster(workerGroupSpecs=[{"groupName": "gpu", "maxReplicas": 7, "replicas": 7}])
    snapshot = seen(pod(conditions=READY), *(pod("gpu", name, READY) for name in names), cluster=live)
    profile = find("gpu", ["groups.gpu.gpu=1", "groups.gpu.max=7", "node_autoscaling=false", "groups.gpu.cpu=8"])
    (problem,) = [each for each in problems(snapshot, profile, ray(asks(ONE), holdings=held), NOW) if each.job]
    assert "gpu-gpu-a is held by job other (actor Idle: 1 GPU), as 1 other node; gpu-gpu-c is held by" in problem.what
    assert problem.what.endswith("; and 3 more")
    assert "and 3 more)" in problem.fix


def one_gpu() -> Profile:
    return find("gpu", ["groups.gpu.gpu=1", "groups.gpu.max=2", "node_autoscaling=false", "groups.gpu.cpu=8"])


def test_bundles_with_unlike_labels_fit_into_unlike_groups() -> None:
    profile = find("gpu", ["groups.gpu.max=1", "groups.gpu.market=spot", "groups.cpu.max=1", "node_autoscaling=false"])
    bundles = [Request({"CPU": 4.0}, {"ray.io/market-type": market}) for market in ("on-demand", "spot")]
    snapshot = seen(pod(conditions=READY), cluster=cluster(workerGroupSpecs=[]))
    found = [each for each in problems(snapshot, profile, ray(asks(*bundles)), NOW) if each.job]
    assert [each.group for each in found] == ["cpu", "gpu"]
    assert not [each.what for each in found if "at their maximum" in each.what]


def test_an_autoscaler_that_does_not_ask_is_named_after_half_a_minute() -> None:
    idle_cluster = cluster(workerGroupSpecs=[{"groupName": "gpu", "maxReplicas": 2, "replicas": 0}])

    def said(since: float) -> Problem:
        snapshot = seen(pod(conditions=READY), cluster=idle_cluster)
        return next(each for each in problems(snapshot, one_gpu(), ray(asks(ONE, since=since)), NOW) if each.job)

    assert said(NOW - 5).then == "the autoscaler asks for a node within seconds"
    assert "the autoscaler asked for none in 40 s" in said(NOW - 40).what
    assert "container autoscaler" in said(NOW - 40).fix


def test_tasks_that_are_alike_are_one_cause() -> None:
    demands = [asks(ONE, kind="task", since=NOW - number) for number in range(9)]
    found = [each for each in problems(seen(pod(conditions=READY), cluster=LIVE), one_gpu(), ray(*demands), NOW) if each.job]
    assert [each.what.partition(": ")[0] for each in found] == ["job mine waits for 1 GPU for 9 tasks"]
    assert found[0].since == NOW - 8


# --- the order ------------------------------------------------------------------------------------------------------------


def test_what_keeps_the_head_decides_before_what_keeps_a_worker() -> None:
    """Two faults at once: the image of the head, and the quota that a worker does not get."""
    refused = QUOTA.replace("gpu-head-x", "gpu-gpu-worker-x")
    snapshot = seen(
        pod(containerStatuses=waiting("ErrImagePull", PULL + "not found")), cluster=failure("FailedCreateWorkerPod", refused)
    )
    found = problems(snapshot, fixed("gpu"))
    assert [(each.group, each.key) for each in found] == [("head", f"image {IMAGE}"), ("gpu", "quota")]


def test_a_quota_that_keeps_the_head_decides_before_all_others() -> None:
    snapshot = seen(
        pod("gpu", conditions=unschedulable(NO_GPU)), nodes=[node(0)], cluster=failure("FailedCreateHeadPod", QUOTA)
    )
    assert [each.group for each in problems(snapshot, fixed("gpu"))] == ["head", "gpu"]


def test_a_fault_of_a_worker_decides_before_a_head_that_is_only_starting() -> None:
    snapshot = seen(pod(), pod("gpu", conditions=unschedulable(NO_GPU)), nodes=[node(0)])
    found = problems(snapshot, fixed("gpu"))
    assert [each.key for each in found] == ["unschedulable gpu", "starts head"]
    assert one_line(found).endswith("the largest 0 (and 1 more: heliostat why)")


def test_a_start_within_its_time_says_until_when() -> None:
    starting = pod("gpu")
    starting["metadata"]["creationTimestamp"] = APPLIED
    (problem,) = problems(seen(pod(conditions=READY), starting), fixed("gpu"))
    assert problem.what == "waits for a worker of gpu: starting"
    assert problem.then == "a start may take 300 s, until 09:05:00 UTC"


def test_a_taint_is_named_although_the_scheduler_does_not_name_it() -> None:
    tainted, plain = node(2), node(0)
    tainted["spec"]["taints"] = [{"key": "team", "value": "vision", "effect": "NoSchedule"}]
    message = (
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s)."
    )
    stuck = pod("cpu", conditions=unschedulable(message))
    stuck["spec"]["nodeSelector"] = {"pool": "gpu"}
    tainted["metadata"]["labels"] = {"pool": "gpu"}
    (problem,) = problems(seen(pod(conditions=READY), stuck, nodes=[tainted, plain]), fixed("gpu"))
    assert problem.what == (
        "cpu: no node accepts its pod: 1 of 2 has the taint team=vision:NoSchedule; 1 of 2 has no label pool=gpu"
    )
    assert "groups.cpu.tolerations" in problem.fix
    assert "groups.cpu.node_selector" in problem.fix


@pytest.mark.parametrize(
    "words", ["1 node(s) didn't match PersistentVolume's node affinity", "had volume node affinity conflict"]
)
def test_a_volume_in_another_zone_is_named(words: str) -> None:
    message = f"0/3 nodes are available: {words}, 2 node(s) had untolerated taint(s). no new claims to deallocate"
    (problem,) = problems(seen(pod(conditions=unschedulable(message)), nodes=[node(0)]), fixed("gpu"))
    assert "head: no node can mount its volume, which is bound to another zone or node" in problem.what
    assert problem.patience == 2


# --- what heliostat why makes of it ---------------------------------------------------------------------------------------


def observed(state: RayState, *pods: Document) -> Observation:
    snapshot = seen(pod(conditions=READY), *pods, cluster=LIVE)
    fleet = {"gpu": GroupNodes(2, [each["metadata"]["name"] for each in pods], {}, 2)}
    return Observation(one_gpu(), "ready", problems(snapshot, one_gpu(), state, NOW), state, fleet)


def test_a_job_has_its_own_causes_and_those_of_its_groups() -> None:
    state = ray(asks(ONE), nodes=(usage("gpu-gpu-a"), usage("gpu-gpu-b")), holdings=HELD)
    seen_now = observed(state, *FULL)
    mine, other = of_job(seen_now, MINE_JOB), of_job(seen_now, OTHER_JOB)
    assert (mine.state, len(mine.causes)) == ("waits", 1)
    assert other.state == "running"
    assert [cause.what.partition(" is held")[0] for cause in other.causes] == ["gpu-gpu-a", "gpu-gpu-b"]


def test_an_idle_gpu_says_who_holds_it_and_why_it_does_not_go() -> None:
    nodes = (usage("gpu-gpu-a", percent=0.0), usage("gpu-gpu-b", idle=30.0))
    found = [cause.what for cause in of_cluster(observed(ray(nodes=nodes, holdings=HELD[:1]), *FULL)).causes]
    assert found == [
        "gpu-gpu-a is held by job other (actor Idle: 1 GPU), and its GPUs are 0 % busy: its GPUs compute nothing now",
        "gpu-gpu-b is free for at least 30 s",
    ]


def test_how_busy_a_gpu_is_is_not_guessed() -> None:
    state = ray(nodes=(usage("gpu-gpu-a"),), holdings=HELD[:1])
    assert of_cluster(observed(state, FULL[0])).causes == []
    (cause,) = of_group(observed(state, FULL[0]), "gpu").causes
    assert "how busy its GPUs are is not known" in cause.what


def test_what_cannot_be_looked_at_is_said() -> None:
    blind = Observation(one_gpu(), "starting", ray_unknown="no right", unseen=["without the right to list events"])
    assert [(cause.what, cause.known) for cause in of_cluster(blind).causes] == [
        ("without the right to list events", False),
        ("what its jobs wait for is not known: no right", False),
    ]


def test_a_job_that_has_failed_says_how() -> None:
    failed = Job(
        "mine",
        "FAILED",
        "python x.py",
        "Job entrypoint command failed with exit code 3, last lines:\nKeyError: 1\n",
        3,
        1.0,
        2.0,
    )
    (cause,) = of_job(observed(ray()), failed).causes
    assert (cause.what, cause.since) == ("it failed with exit code 3: KeyError: 1", 2.0)


@pytest.mark.parametrize(
    ("status", "state", "what"),
    [
        ({"jobDeploymentStatus": "Initializing"}, "waits", "head: the image"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded", "it ended with succeeded"),
        (
            {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "it was active too long"}, "failed",
            "DeadlineExceeded: it was active too long",
        ),
    ],
    ids=["waits", "done", "failed"],
)  # fmt: skip
def test_a_job_with_its_own_cluster(status: Document, state: str, what: str) -> None:
    snapshot = seen(pod(containerStatuses=waiting("ErrImagePull", PULL + "not found")), job=job(**status))
    found = [each for each in problems(snapshot, one_gpu()) if each.key != "job"]
    why = of_ray_job(job(**status), Observation(one_gpu(), "starting", found))
    assert (why.subject, why.state) == ("job gpu-job", state)
    assert why.causes[0].what.startswith(what)


# --- from the dashboard ---------------------------------------------------------------------------------------------------


@pytest.fixture
def dashboard() -> Iterator[tuple[Dashboard, dict[str, Any]]]:
    with serving() as server:
        yield Dashboard(by_port(server.server_port, "token"), "gpu"), server.objects


def test_the_strategy_of_a_placement_group_comes_from_the_autoscalers_report(
    dashboard: tuple[Dashboard, dict[str, Any]],
) -> None:
    asked, objects = dashboard
    report = (
        " {'CPU': 1.0, 'GPU': 1.0}: 2+ pending tasks/actors\n {'GPU': 1.0} * 3 (STRICT_SPREAD): 1+ pending placement groups"
    )
    bundle = {"unit_resources": {"GPU": 1.0}, "node_id": "", "label_selector": {}}
    stats = {"creation_request_received_ns": "1795761351692228209"}
    group = {"creator_job_id": "01", "state": "PENDING", "name": "gang", "bundles": [bundle] * 3, "stats": stats}
    lists = {"placement_groups": [group], "actors": [], "tasks": []}
    objects["/api/jobs/"] = [{"submission_id": "mine", "job_id": "01", "status": "RUNNING"}]
    objects["/nodes"] = {"data": {"summary": [], "nodeLogicalResources": {}}}
    objects["/api/component_activities"] = {"driver": {}}
    objects["/api/cluster_status"] = {"data": {"clusterStatus": report}}
    objects.update({f"/api/v0/{kind}": {"data": {"result": {"result": rows}}} for kind, rows in lists.items()})
    (demand,) = ray_state(asked).demands_of("mine")
    assert (demand.strategy, demand.name, len(demand.requests)) == ("STRICT_SPREAD", "gang", 3)
    assert demand.since == pytest.approx(1795761351.69, abs=0.01)


def test_an_event_is_not_needed_for_any_of_it() -> None:
    assert problems(seen(pod(conditions=READY), events=[event("Unhealthy", "probe")]), fixed("gpu")) == []
