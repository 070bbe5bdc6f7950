"""Problems and status lines of the Watchdog, from texts that Kubernetes 1.34 and KubeRay 1.6.1 have written."""

from typing import Any

import pytest

from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.problems import problems
from heliostat.cluster.diagnosis.snapshot import Snapshot, applied_at, changed_at, event_time, pod_state
from heliostat.cluster.names import Document
from heliostat.cluster.profile import find
from tests.cluster.diagnosis.snapshots import (
    APPLIED,
    BEFORE,
    IMAGE,
    LATER,
    NO_GPU,
    PULL,
    QUOTA,
    SECURITY,
    START_SECONDS,
    cluster,
    ended,
    event,
    failure,
    fixed,
    job,
    mount_failure,
    node,
    pod,
    seen,
    unschedulable,
    waiting,
    watch,
)

WORKER_OF_5 = pod("gpu", conditions=unschedulable(NO_GPU))
WORKER_OF_5["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = "5"
PULLED_BY_INIT = pod("gpu", initContainerStatuses=waiting("ErrImagePull", PULL + "not found", "wait-gcs-ready"))
SUBMITTER = event("FailedCreate", SECURITY, "u-job", "Job", "gpu-job")

FAULTS: dict[str, tuple[Snapshot, float, str, str]] = {
    "a tag that does not exist": (
        seen(pod(containerStatuses=waiting("ErrImagePull", PULL + "not found"))),
        2, f"head: the image {IMAGE} cannot be pulled: the image or tag does not exist", "correct image in the profile",
    ),
    "a tag that does not exist, for a worker": (
        seen(PULLED_BY_INIT),
        2, f"gpu: the image {IMAGE} cannot be pulled: the image or tag does not exist", "image_pull_secrets",
    ),
    "a registry that does not exist": (
        seen(pod(containerStatuses=waiting("ImagePullBackOff", PULL + "dial tcp: lookup nowhere: no such host"))),
        2, "the node cannot resolve the registry", "correct image",
    ),
    "a private image": (
        seen(pod(containerStatuses=waiting("ErrImagePull", PULL + "pull access denied, repository does not exist"))),
        2, "the registry does not have the image, or needs a login", "image_pull_secrets",
    ),
    "an image name that cannot be": (
        seen(pod(containerStatuses=waiting("InvalidImageName", 'couldn\'t parse image name "A:b:c"'))),
        2, 'couldn\'t parse image name "A:b:c"', "correct image",
    ),
    "a worker of five GPUs where nodes have two": (
        seen(WORKER_OF_5, nodes=[node(2), node(2), node(0)]),
        START_SECONDS + 60,
        "no node is large enough for its pod (nvidia.com/gpu 5): of 3 nodes 2 have nvidia.com/gpu, the largest 2",
        "make the pods of gpu smaller",
    ),
    "a claim that does not exist": (
        seen(pod(conditions=unschedulable('0/3 nodes are available: persistentvolumeclaim "missing" not found.'))),
        2, "head: the claim missing does not exist", "set storage.size so that it is created",
    ),
    "a claim without a volume": (
        seen(pod(conditions=unschedulable("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."))),
        12, "head: its claim gets no volume", "set storage.storage_class",
    ),
    "a quota that is used up": (
        seen(cluster=failure("FailedCreateHeadPod", QUOTA)), 2, f"quota of the namespace is used up: {QUOTA}", "free resources",
    ),
    "no service account, with autoscaling": (
        seen(events=[event("AutoscalerServiceAccountNotFound", "ServiceAccount ghost is not found. Please create one.")]),
        0, "ServiceAccount ghost is not found", "create it",
    ),
    "no service account, without autoscaling": (
        seen(cluster=failure("FailedCreateHeadPod", "error looking up service account default/ghost")),
        2, "error looking up service account default/ghost", "create the service account",
    ),
    "resources in two places": (
        seen(events=[event("InvalidRayClusterSpec", "resource fields should not be set in both rayStartParams and Resources")]),
        0, "KubeRay rejects the cluster: resource fields should not be set in both", "correct the field",
    ),
    "min above max": (
        seen(events=[event("InvalidRayClusterSpec", "worker group gpu has minReplicas 3 greater than maxReplicas 1")]),
        0, "worker group gpu has minReplicas 3 greater than maxReplicas 1", "correct the field",
    ),
    "a name that is too long": (
        seen(events=[event("InvalidRayClusterMetadata", "RayCluster name should be no more than 53 characters")]),
        0, "RayCluster name should be no more than 53 characters", "correct the field",
    ),
    "a group name that cannot be": (
        seen(cluster=failure("FailedCreateWorkerPod", 'Pod "x-gpu_group!-worker-" is invalid: metadata.generateName')),
        5, 'no pod can be created: Pod "x-gpu_group!-worker-" is invalid', "correct what it names",
    ),
    "a job that the operator refuses": (
        seen(job=job(jobDeploymentStatus="ValidationFailed", message="shutdownAfterJobFinishes set to false")),
        0, "KubeRay rejects the job: shutdownAfterJobFinishes set to false", "correct the field",
    ),
    "a job that has no time left": (
        seen(job=job(jobDeploymentStatus="Failed", reason="DeadlineExceeded", message="it was active too long")),
        0, "the job failed (DeadlineExceeded): it was active too long", "heliostat status",
    ),
    "a head that crashes repeatedly": (
        seen(pod(containerStatuses=waiting("CrashLoopBackOff"))), 0, "head: ray-head crashes repeatedly", "correct what",
    ),
    "a head that crashes and is never restarted": (
        seen(pod(containerStatuses=ended("ray-head"))), 60, "head: the pod gpu-head-x exited (exit code 2)", "correct what",
    ),
    "a head with too little memory": (
        seen(pod(containerStatuses=ended("ray-head", 137, "OOMKilled"))), 60, "exited (not enough memory)", "more memory",
    ),
    "an autoscaler that crashes beside a head that runs": (
        seen(pod(containerStatuses=ended("autoscaler", 1))),
        0, "head: the container autoscaler of gpu-head-x exited (exit code 1)", "kubectl logs gpu-head-x -c autoscaler",
    ),
    "a namespace that is restricted": (
        seen(cluster=failure("FailedCreateHeadPod", SECURITY)), 2, 'violates PodSecurity "restricted', "non-root user",
    ),
    "an image of root": (
        seen(pod(containerStatuses=waiting("CreateContainerConfigError", "runAsNonRoot and image will run as root"))),
        8, "image will run as root", "set run_as_user, such as 1000",
    ),
    "an OpenShift that chooses the groups": (
        seen(cluster=failure("FailedCreateHeadPod", "fsGroup: Invalid value: []int64{100}: 100 is not an allowed group")),
        2, "100 is not an allowed group", "set fs_group: null",
    ),
    "a priority class that does not exist": (
        seen(cluster=failure("FailedCreateHeadPod", 'pods "gpu-head" is forbidden: no PriorityClass with name high was found')),
        2, "no PriorityClass with name high", "correct priority_class",
    ),
    "a submitter that is not admitted": (
        seen(job=job(jobDeploymentStatus="Running"), events=[SUBMITTER]),
        3, "submitter's pod cannot be created: pods", "correct",
    ),
    "a secret that does not exist": (
        seen(pod(containerStatuses=waiting("CreateContainerConfigError", 'secret "object-store" not found'))),
        8, 'head: a container cannot be created: secret "object-store" not found', "create the secret object-store",
    ),
    "a secret without the key that the profile names": (
        seen(pod(containerStatuses=waiting("CreateContainerConfigError", "couldn't find key api-key in Secret team/wandb"))),
        8, "couldn't find key api-key in Secret team/wandb", "add the key api-key to the Secret wandb",
    ),
    "a volume that cannot be mounted": (
        seen(pod(), events=[mount_failure("mount.nfs: access denied by server", times=3)]),
        10, "head: a volume cannot be mounted: mount.nfs: access denied", "correct what it names",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("snapshot", "seconds", "what", "fix"), FAULTS.values(), ids=FAULTS)
def test_a_problem_is_explained_with_its_fix(snapshot: Snapshot, seconds: float, what: str, fix: str) -> None:
    error, after, said = watch(snapshot, 900)
    assert error is not None
    assert what in error.what
    assert fix in error.fix
    assert after == seconds
    # And while it may still come, the reason is shown already.
    assert all(what in line for line in said)


FULL = (
    'pods "gpu-gpu-worker-x" is forbidden: exceeded quota: team, requested: nvidia.com/gpu={},requests.cpu=300m, '
    "used: nvidia.com/gpu=24,requests.cpu=9, limited: nvidia.com/gpu=24,requests.cpu=48"
)


@pytest.mark.parametrize(("queue", "gpus", "ends"), [(None, 1, 2), ("team", 1, None), ("team", 25, 2)])
def test_in_a_queue_a_full_quota_is_waited_for_unless_it_can_never_be_enough(
    queue: str | None, gpus: int, ends: float | None
) -> None:
    snapshot = seen(cluster=failure("FailedCreateWorkerPod", FULL.format(gpus)))
    error, after, said = watch(snapshot, 600, find("spot").model_copy(update={"queue": queue}))
    assert (after if error else None) == ends
    assert all("the quota of the namespace is used up" in line for line in said)


def test_without_another_group_an_impossible_pod_gets_the_time_of_one_check_of_a_cluster_autoscaler() -> None:
    error, after, _ = watch(seen(WORKER_OF_5, nodes=[node(2)]), 900, fixed("gpu"))
    assert error is not None
    assert after == 12


def under_pressure(gpus: int) -> Document:
    found = node(gpus)
    taint = {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}
    return {**found, "spec": {**found["spec"], "taints": [taint]}}


@pytest.mark.parametrize(
    ("message", "nodes", "what", "fix"),
    [
        (NO_GPU, None, f"gpu: no node accepts its pod: {NO_GPU}", "make the pods of gpu smaller"),
        (
            NO_GPU,
            [node(4)],
            "gpu: waits for nvidia.com/gpu 1: 1 of 1 node has it, and it is in use",
            "free resources of others",
        ),
        (NO_GPU, [node(4, cpu="4"), node(0)], "no node has everything that its pod requests (nvidia.com/gpu 1)", "smaller"),
        (
            "0/2 nodes are available: 2 Insufficient memory.",
            [node(1, memory="33554432Ki"), node(1, memory="16Gi")],
            "(memory 64Gi): of 2 nodes 2 have memory, the largest 32Gi",
            "make the pods of gpu smaller",
        ),
        (
            "0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: team-a}. preemption: none",
            [node(1)],
            "no node accepts its pod: 0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: team-a}",
            "add the taint that it names to groups.gpu.tolerations",
        ),
        (
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
            [node(1)],
            "didn't match Pod's node affinity/selector",
            "correct groups.gpu.node_selector",
        ),
        (
            "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s).",
            [node(4), under_pressure(4)],
            "waits for nvidia.com/gpu 1: 2 of 2 nodes have it: it is in use on 1; 1 is under disk pressure",
            "free disk space on them",
        ),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
            [under_pressure(4)],
            "gpu: no node accepts its pod: 1 of 1 is under disk pressure",
            "free disk space on them",
        ),
    ],
)
def test_why_no_node_takes_a_pod(message: str, nodes: list[Document] | None, what: str, fix: str) -> None:
    (problem,) = problems(seen(pod("gpu", conditions=unschedulable(message)), nodes=nodes), fixed("gpu"))
    assert what in problem.what
    assert fix in problem.fix
    assert "preemption:" not in problem.what or nodes is None


def test_a_refusal_from_before_the_last_apply_is_ignored() -> None:
    old = event("InvalidRayClusterSpec", "worker group gpu has minReplicas 3 greater than maxReplicas 1", at=BEFORE)
    error, _, said = watch(seen(events=[old]), 60)
    assert error is None
    assert said[0] == "waits for the head's pod"


def test_a_refusal_of_another_cluster_of_the_same_name_is_ignored() -> None:
    assert watch(seen(events=[event("InvalidRayClusterSpec", "no", uid="u-deleted")]), 60)[0] is None


@pytest.mark.parametrize(
    "other",
    [
        event("FailedCreate", SECURITY, "u", "Job", "gpu-of-another-user"),
        event("FailedCreate", SECURITY, "u", "Job", "gpu-job", at=BEFORE),
    ],
    ids=["another job's", "an earlier job's"],
)
def test_the_submitter_of_another_job_is_no_fault(other: Document) -> None:
    assert watch(seen(events=[other], job=job(jobDeploymentStatus="Running")), 60)[0] is None
    assert watch(seen(events=[SUBMITTER]), 60)[0] is None, "a standing cluster has no submitter"


def test_a_mount_that_failed_once_is_tried_again_by_the_kubelet() -> None:
    """Its next try is seconds away, and on a busy node the authorizer may see a claim later than the kubelet."""
    events = [mount_failure("failed to fetch PVC: no relationship found between node 'gpu-1' and this object")]
    error, after, said = watch(seen(pod(), events=events), 900)
    assert error is not None
    assert after == 120
    assert "no relationship found" in said[0]


def test_a_mount_that_failed_at_first_and_then_succeeded_is_no_fault() -> None:
    """A slow pull follows; the event of the first try stays for an hour."""
    about = ("u-gpu-head-x", "Pod", "gpu-head-x")
    events = [event("FailedMount", "failed to sync configmap cache", *about), event("Pulling", "Pulling image", *about)]
    assert watch(seen(pod(containerStatuses=waiting("ContainerCreating")), events=events), 300)[0] is None


def test_without_the_right_to_list_events_and_nodes_the_rest_is_still_explained() -> None:
    blind = Snapshot(cluster(), [pod(containerStatuses=waiting("ErrImagePull", PULL + "not found"))], None)
    assert watch(blind, 60)[1] == 2
    said = watch(Snapshot(cluster(), [], None), 5)[2]
    assert said[0].startswith("waits for the head's pod (without the right to list events, problems may stay undetected")


READY = [{"type": "Ready", "status": "True"}]


def unobserved() -> Document:
    document = cluster()
    document["metadata"]["generation"] = 2
    return document


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (seen(cluster=None), "waits for the operator to create the cluster"),
        (
            seen(cluster=unobserved()),
            "waits for the operator, which has not processed the change of 09:00:01 UTC: KubeRay's operator is down, or behind",
        ),
        (seen(), "waits for the head's pod"),
        (seen(cluster=cluster(suspend=True)), "the cluster was suspended: by another client"),
        (seen(pod()), "waits for the head: starting"),
        (seen(pod(containerStatuses=waiting("ContainerCreating"))), "waits for the head: starting"),
        (
            seen(pod(conditions=READY), pod("gpu"), pod("gpu-spot")),
            "waits for a worker of gpu: starting (and 1 more: heliostat why)",
        ),
        (seen(pod(conditions=READY), pod("gpu", conditions=READY)), "ready"),
    ],
)
def test_the_status_line_of_a_wait(snapshot: Snapshot, said: str) -> None:
    assert watch(snapshot, 0)[2] == [said]


@pytest.mark.parametrize(
    "snapshot",
    [
        seen(cluster=unobserved()),
        seen(pod(conditions=READY), cluster=unobserved()),  # as when the autoscaler asks for a node
        seen(cluster=None, job=job()),
    ],
    ids=["new", "running", "job"],
)
def test_an_operator_that_does_not_work_is_named_after_ten_seconds(snapshot: Snapshot) -> None:
    changed = changed_at(snapshot.cluster or snapshot.job or {})
    assert not any("is down, or behind" in each.what for each in problems(snapshot, fixed("gpu"), now=changed + 9))
    (problem, *_) = problems(snapshot, fixed("gpu"), now=changed + 11)
    assert "KubeRay's operator is down, or behind" in problem.what
    assert problem.since == changed
    assert "heliostat doctor" in problem.fix


STATES = [
    (pod(conditions=READY), "ready"),
    (pod(phase="Running"), "starting"),
    (pod(phase="Failed"), "failed"),
    (pod(containerStatuses=waiting("ErrImagePull")), "ErrImagePull"),
    (pod("gpu", initContainerStatuses=waiting("PodInitializing")), "starting"),
    (pod(containerStatuses=ended("ray-head", 2)), "ended with 2"),
    (pod(containerStatuses=ended("setup", 0)), "starting"),
    (pod(conditions=unschedulable(NO_GPU)), "unschedulable"),
]


@pytest.mark.parametrize(("document", "state"), STATES)
def test_a_pods_state_in_a_word(document: Document, state: str) -> None:
    assert pod_state(document) == state


@pytest.mark.parametrize(
    "fields",
    [
        {"lastTimestamp": LATER, "eventTime": None},
        {"lastTimestamp": None, "eventTime": "2026-11-24T09:00:01.000000Z"},
        {"lastTimestamp": None, "eventTime": BEFORE, "series": {"lastObservedTime": "2026-11-24T09:00:01.000000Z"}},
    ],
    ids=["KubeRay 1.6", "KubeRay 1.7", "KubeRay 1.7, again"],
)
def test_when_an_event_was_last_seen(fields: dict[str, Any]) -> None:
    assert event_time({**fields, "metadata": {"creationTimestamp": BEFORE}}) == event_time(event("x"))


def test_only_an_apply_is_a_decision() -> None:
    """The operator's own updates of the object must not make its refusals look old."""
    assert applied_at(cluster()) == event_time(event("x", at=APPLIED))


def test_the_most_severe_problem_comes_first() -> None:
    found: list[Problem] = list(
        problems(
            seen(pod("gpu", conditions=unschedulable(NO_GPU)), cluster=failure("FailedCreateHeadPod", QUOTA)), find("spot")
        )
    )
    assert [problem.key for problem in found] == ["quota", "unschedulable gpu"]
