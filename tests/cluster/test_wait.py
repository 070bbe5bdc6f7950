"""How long the Watchdog waits for nodes, registries and crashing pods before it fails."""

from collections.abc import Callable
from typing import Any

import pytest

from heliostat.cluster.diagnosis.snapshot import Snapshot
from heliostat.cluster.names import TEMPLATE, Document
from tests.cluster.snapshots import (
    APPLIED,
    BEFORE,
    IMAGE,
    NO_GPU,
    PULL,
    START_SECONDS,
    cluster,
    ended,
    event,
    fixed,
    node,
    pod,
    seen,
    unschedulable,
    waiting,
    watch,
)


def test_the_last_lines_of_a_crashed_pod_are_shown() -> None:
    log = "\n".join(f"line {number}" for number in range(30))
    error, _, _ = watch(seen(pod(containerStatuses=ended("ray-head"))), 60, log=log)
    assert error is not None
    assert error.what.splitlines()[1:] == [f"  | line {number}" for number in range(18, 30)]


SCALE_UP = event("TriggeredScaleUp", "pod triggered scale-up: [{gpus 0->1 (max: 4)}]", "u-gpu-gpu-x", "Pod", "gpu-gpu-x")


@pytest.mark.parametrize("reason", ["TriggeredScaleUp", "Nominated"])
def test_a_node_that_is_being_added_is_waited_for(reason: str) -> None:
    snapshot = seen(pod("gpu", conditions=unschedulable(NO_GPU)), events=[{**SCALE_UP, "reason": reason}], nodes=[node(0)])
    error, after, said = watch(snapshot, 900, fixed("gpu"))
    assert error is not None
    assert after == 360, "the 300 s that a pod of the group may take to start, and a minute"
    assert len(set(said)) == 1


def test_the_scale_up_for_another_pod_does_not_help_this_one() -> None:
    snapshot = seen(pod("gpu", "other", conditions=unschedulable(NO_GPU)), events=[SCALE_UP], nodes=[node(0)])
    assert watch(snapshot, 900, fixed("gpu"))[1] == 12


def test_a_spot_pod_that_does_not_start_is_replaced_by_another_group() -> None:
    """The autoscaler abandons it after start_seconds, and uses the on-demand group."""

    def look(passed: float) -> Snapshot:
        given_up = passed > START_SECONDS + 10
        return seen(
            pod("gpu" if given_up else "gpu-spot", conditions=[] if given_up else unschedulable(NO_GPU)), nodes=[node(0)]
        )

    error, _, said = watch(look, START_SECONDS * 3)
    assert error is None
    assert said[0].startswith("gpu-spot: no node is large enough")


def test_a_cpu_group_does_not_replace_a_gpu_group() -> None:
    assert watch(seen(pod("gpu", conditions=unschedulable(NO_GPU)), nodes=[node(0)]), 900, fixed("gpu"))[1] == 12


def slow_pull(second_fails: float) -> Callable[[float], Snapshot]:
    """A pull times out at once, the kubelet tries again after 10 s, and that time it takes until 100 s."""
    about = ("u-gpu-gpu-x", "Pod", "gpu-gpu-x")

    def at(seconds: float) -> str:
        return f"2026-11-24T09:{int(seconds) // 60:02}:{int(seconds) % 60:02}Z"

    def look(passed: float) -> Snapshot:
        failing = waiting("ErrImagePull" if passed < 5 else "ImagePullBackOff", PULL + "dial tcp 10.0.0.1:443: i/o timeout")
        events = [
            event("Pulling", IMAGE, *about, at=at(10 if passed >= 10 else 0)),
            event("Failed", IMAGE, *about, at=at(second_fails if passed >= second_fails else 0)),
        ]
        return seen(pod("gpu", initContainerStatuses=failing) if passed < 100 else pod("gpu"), events=events)

    return look


def test_a_registry_that_does_not_answer_once_is_asked_again() -> None:
    """The status shows the first failure until the image is there, which may take minutes."""
    error, _, said = watch(slow_pull(second_fails=999), 200)
    assert error is None
    assert said[0] == f"gpu: the image {IMAGE} cannot be pulled: the registry does not respond"
    assert "cannot be pulled" not in said[-1]


def test_a_registry_that_does_not_answer_twice_is_a_fault() -> None:
    error, after, _ = watch(slow_pull(second_fails=40), 200)
    assert error is not None
    assert after == 40


def test_a_registry_that_is_not_retried_is_a_fault() -> None:
    failing = waiting("ErrImagePull", PULL + "dial tcp 10.0.0.1:443: i/o timeout")
    assert watch(seen(pod("gpu", initContainerStatuses=failing)), 900)[1] == 13


def crashes(*times: float) -> Callable[[float], Snapshot]:
    """A worker crashes at each of these times, and its pod is replaced 5 s later."""

    def look(passed: float) -> Snapshot:
        now = [at for at in times if at <= passed < at + 5]
        return seen(*(pod("gpu", f"gpu-gpu-{at}", containerStatuses=ended("ray-worker", 1)) for at in now))

    return look


def test_one_crashed_worker_is_replaced_and_two_are_a_fault() -> None:
    assert watch(crashes(10), 900)[0] is None
    error, after, _ = watch(crashes(10, 100), 900)
    assert error is not None
    assert "gpu: the pod gpu-gpu-100 exited (exit code 1)" in error.what
    assert after == 100


def test_a_crash_now_and_then_in_a_long_job_is_no_fault() -> None:
    assert watch(crashes(10, 1000, 2000), 2500)[0] is None


def test_a_crashed_worker_that_is_not_replaced_is_a_fault() -> None:
    assert watch(seen(pod("gpu", containerStatuses=ended("ray-worker", 1))), 900)[1] == 60


def test_pods_of_removed_nodes_have_not_crashed() -> None:
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    gone = [pod("gpu-spot", f"p{n}", [taken], phase="Failed", containerStatuses=ended("ray-worker", 137)) for n in range(4)]
    assert watch(seen(*gone), 900)[0] is None


def test_workers_of_a_head_that_is_gone_have_not_crashed() -> None:
    def ran(container: str, since: str | None, **terminated: Any) -> list[Document]:
        state = {"terminated": {"startedAt": since, **terminated}} if terminated else {"running": {"startedAt": since}}
        return [{"name": container, "image": IMAGE, "ready": True, "state": state}]

    old = [pod("gpu", f"p{n}", containerStatuses=ran("ray-worker", BEFORE, exitCode=1)) for n in range(2)]
    new = pod(phase="Running", containerStatuses=ran("ray-head", APPLIED))
    assert watch(seen(new, *old), 900)[0] is None
    assert watch(seen(*old), 900)[0] is None, "the new head is not there yet"
    for never in (None, "1970-01-01T00:00:00Z"):
        unstarted = [pod("gpu", f"p{n}", containerStatuses=ran("ray-worker", never, exitCode=128)) for n in range(2)]
        assert watch(seen(new, *unstarted), 900)[1] == 0, "it could not be started at all"
    same = pod(phase="Running", containerStatuses=ran("ray-head", BEFORE))
    assert watch(seen(same, *old), 900)[1] == 0, "two crashed beside the head that they had from the start"


def terminating(ended_at: str | None, mark: str = "now") -> Document:
    """A worker deleted at 09:01:00, with 30 s of grace."""
    document = pod("gpu", containerStatuses=ended("ray-worker", 1))
    document["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = ended_at
    document["metadata"] |= {"deletionTimestamp": "2026-11-24T09:01:30Z", "deletionGracePeriodSeconds": 30}
    document["metadata"]["annotations"] = {TEMPLATE: mark}
    return document


@pytest.mark.parametrize(
    ("worker", "seconds"),
    [
        (terminating("2026-11-24T09:00:59Z"), 60),
        (terminating("2026-11-24T09:01:01Z"), None),
        (terminating(None), None),
        (terminating("2026-11-24T09:00:59Z", mark="before"), None),
    ],
    ids=["it crashed, and the operator deletes it", "it ended because it was asked to", "nobody knows", "of an older template"],
)
def test_a_crash_is_seen_on_a_pod_that_leaves(worker: Document, seconds: float | None) -> None:
    marked = {"template": {"metadata": {"annotations": {TEMPLATE: "now"}}}}
    live = cluster(workerGroupSpecs=[{"groupName": "gpu", **marked}])
    error, after, _ = watch(seen(worker, cluster=live), 900)
    assert (after if error else None) == seconds
