"""How long the Watchdog waits for nodes, registries and crashing pods before it fails."""

import math
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from heliostat.cluster.diagnosis import wait
from heliostat.cluster.diagnosis.crashes import TOO_SLOW
from heliostat.cluster.diagnosis.snapshot import Snapshot
from heliostat.cluster.diagnosis.wait import poll
from heliostat.cluster.errors import NotFound, Unreachable
from heliostat.cluster.names import TEMPLATE, Document
from tests.cluster.diagnosis.snapshots import (
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

READY = [{"type": "Ready", "status": "True"}]


def test_the_time_in_which_the_command_itself_was_stopped_is_no_silence_of_the_api_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = [0.0]  # between two questions the process does not run for ten minutes, as after Ctrl-Z
    clock = Mock(monotonic=lambda: passed[-1], sleep=lambda seconds: passed.append(passed[-1] + 600))
    monkeypatch.setattr(wait, "time", clock)
    looks = Mock(side_effect=["one", Unreachable("away", ""), "two"])
    ready = iter([False, False, False, True])
    assert list(poll(looks, lambda: next(ready), 1e6, "gpu")) == ["one", "away", "two"]


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


TIMED_OUT = "[12:00:{}] RuntimeError: Timed out waiting for node info"


def heads(*ends: tuple[float, int], last: str = "") -> Callable[[float], Snapshot]:
    """A head's pod ends at each of these times with that exit code, stays for 2 s, and the next one starts 3 s later."""

    def look(passed: float) -> Snapshot:
        there = []
        for number, (at, code) in enumerate([*ends, (math.inf, 0)]):
            began = ends[number - 1][0] + 5 if number else 0
            if began <= passed < at + 2:
                status = ended("ray-head", code) if passed >= at else waiting("ContainerCreating")
                conditions = READY if last == "ready" and at == math.inf else []
                there.append(pod(name=f"gpu-head-{number}", conditions=conditions, containerStatuses=status))
        return seen(*there)

    return look


def test_the_first_crash_of_a_head_is_shown_and_waited_through() -> None:
    error, _, said = watch(heads((10, 1), last="ready"), 900, log=TIMED_OUT.format("07"))
    assert error is None
    assert said[20] == "head: the pod gpu-head-0 exited (exit code 1): " + TIMED_OUT.format("07")
    before = " (before: gpu-head-0 ended: exit code 1: " + TIMED_OUT.format("07") + ")"
    assert said[25] == "waits for the head's pod" + before
    assert said[-1] == "ready"


def test_the_second_crash_of_a_head_for_the_same_reason_ends_the_wait() -> None:
    logs = {f"gpu-head-{number}": TIMED_OUT.format(number) for number in range(2)}
    error, after, said = watch(heads((10, 1), (40, 1)), 900, log=logs.__getitem__)
    assert error is not None
    assert after == 40, "at once"
    last = f"  | {TIMED_OUT.format(1)}"
    assert error.what == f"head: the pod gpu-head-1 exited (exit code 1), 2 crashes in a row, its last lines:\n{last}"
    assert said[-1].startswith("waits for the head: starting (before: gpu-head-0 ended: exit code 1")


@pytest.mark.parametrize(
    ("ends", "logs", "seconds"),
    [
        (((10, 1), (40, 137)), ["a", "a"], None),
        (((10, 1), (40, 1)), ["a", "b"], None),
        (((10, 1), (40, 1)), ["a", None], 40),
        (((10, 1), (40, 1), (70, 1)), ["a", "b", "c"], 70),
        (((10, 1), (40, 137), (70, 1)), ["a", "b", "a"], 70),
        (((10, 1), (700, 1)), ["a", "a"], None),
    ],
    ids=["another exit code", "another last line", "no log", "three reasons", "the first again", "long after"],
)
def test_which_crashes_of_a_head_are_the_same_in_a_row(
    ends: tuple[tuple[float, int], ...], logs: list[str | None], seconds: float | None
) -> None:
    def log(pod: str) -> str:
        text = logs[int(pod.rpartition("-")[2])]
        if text is None:
            raise NotFound(f"pods {pod} not found", "")
        return text

    error, after, _ = watch(heads(*ends, last="ready"), 900, log=log)
    assert (after if error else None) == seconds


def test_a_head_whose_node_was_too_busy_for_it_is_tried_three_times_and_the_fix_is_more_cpu() -> None:
    logs = {f"gpu-head-{number}": f"Exception: {TOO_SLOW}. This could happen because" for number in range(3)}
    assert watch(heads((10, 1), (40, 1), last="ready"), 900, log=logs.__getitem__)[0] is None
    error, after, _ = watch(heads((10, 1), (40, 1), (70, 1)), 900, log=logs.__getitem__)
    assert error is not None
    assert after == 70
    assert error.fix.startswith("give the head or the group more cpu")


def restarted(restarts: int, state: Document, code: int = 1) -> Document:
    """A head whose container is started again in the same pod, as restartPolicy Always does it."""
    before = {"terminated": {"exitCode": code, "reason": "Error"}}
    status = {"name": "ray-head", "image": IMAGE, "ready": False, "restartCount": restarts, "state": state}
    return pod(containerStatuses=[{**status, "lastState": before if restarts else {}}])


def test_a_container_that_is_started_again_in_its_pod_is_waited_for_until_the_kubelet_backs_off() -> None:
    running = {"running": {"startedAt": APPLIED}}
    crashed = {"terminated": {"exitCode": 1, "reason": "Error"}}

    back_off = {"waiting": {"reason": "CrashLoopBackOff"}}
    states: list[tuple[float, int, Document]] = [
        (10, 0, running), (11, 0, crashed), (200, 1, running), (math.inf, 1, back_off),
    ]  # fmt: skip

    def look(passed: float) -> Snapshot:
        _, restarts, state = next(each for each in states if passed < each[0])
        return seen(restarted(restarts, state))

    error, after, said = watch(look, 900)
    assert error is not None
    assert after == 200
    assert "head: ray-head crashes repeatedly" in error.what
    assert said[30] == "head: ray-head of gpu-head-x restarts after it exited (exit code 1)"


def test_a_container_that_crashes_twice_in_its_pod_is_a_fault_before_the_kubelet_says_so() -> None:
    crashed = {"terminated": {"exitCode": 1, "reason": "Error"}}
    assert watch(lambda passed: seen(restarted(int(passed >= 10), crashed)), 900)[1] == 10


def test_workers_that_crash_together_are_one_crash_and_their_successors_the_second() -> None:
    def look(passed: float) -> Snapshot:
        names = [f"gpu-gpu-{number}-{passed >= 20}" for number in range(2)]
        crashed = 10 <= passed < 15 or passed >= 30
        return seen(*(pod("gpu", name, containerStatuses=ended("ray-worker", 1) if crashed else []) for name in names))

    assert watch(look, 900)[1] == 30


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
        assert watch(seen(new, *unstarted), 900)[1] == 60, "it could not be started at all"
    same = pod(phase="Running", containerStatuses=ran("ray-head", BEFORE))
    assert watch(seen(same, *old), 900)[1] == 60, "two crashed beside the head that they had from the start"


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
    ids=[
        "it crashed, and the operator deletes it",
        "it ended because it was asked to",
        "the reason is unknown",
        "of an older template",
    ],
)
def test_a_crash_is_seen_on_a_pod_that_leaves(worker: Document, seconds: float | None) -> None:
    marked = {"template": {"metadata": {"annotations": {TEMPLATE: "now"}}}}
    live = cluster(workerGroupSpecs=[{"groupName": "gpu", **marked}])
    error, after, _ = watch(seen(worker, cluster=live), 900)
    assert (after if error else None) == seconds
