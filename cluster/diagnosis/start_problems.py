"""What is still starting, within its time."""

import math
from collections.abc import Iterator

from heliostat.cluster.diagnosis.problem import Problem, at, start_seconds
from heliostat.cluster.diagnosis.snapshot import Snapshot, changed_at, created_at, group_of, pod_ready, pod_state
from heliostat.cluster.kube.conditions import condition, observed
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile

OPERATOR_SECONDS = 10.0
"""The operator processes a change within a second or two, and is down, or behind, if it has not done so by then."""


def of_start(snapshot: Snapshot, profile: Profile, now: float) -> Iterator[Problem]:
    """What is waited for while nothing is wrong: the operator, the head, the workers of each group."""
    cluster, head = snapshot.cluster, snapshot.head
    if cluster is None:
        since = created_at(snapshot.job) if snapshot.job else None
        seen = bool(snapshot.job and snapshot.job.get("status"))
        yield _operator("waits for the operator to create the cluster", since, None if seen else now)
    elif not observed(cluster) and (head is None or now - changed_at(cluster) > OPERATOR_SECONDS):
        yield _operator("waits for the operator", changed_at(cluster), now)
    elif cluster["spec"].get("suspend"):
        yield _wait("suspended", "suspended", None)
    elif not head:
        replaced = condition(cluster, "HeadPodReady").get("status") == "True"  # so it was when the operator last looked
        yield _operator("waits for the head's pod", None if replaced else created_at(cluster), None)
    elif not pod_ready(head):
        yield _starts("head", f"waits for the head: {pod_state(head)}", [head], profile)
    else:
        for name in dict.fromkeys(map(group_of, snapshot.workers())):
            if starting := [pod for pod in snapshot.workers(name) if not pod_ready(pod)]:
                states = ", ".join(dict.fromkeys(map(pod_state, starting)))
                many = f"{len(starting)} workers" if len(starting) > 1 else "a worker"
                yield _starts(name, f"waits for {many} of {name}: {states}", starting, profile)


def _starts(group: str, what: str, pods: list[Document], profile: Profile) -> Problem:
    since = min((created for pod in pods if (created := created_at(pod))), default=None)
    seconds = start_seconds(profile, group)
    until = f", until {at(since + seconds)}" if since else ""
    then = f"a start may take {seconds:.0f} s{until}"
    return Problem(f"starts {group}", what, "", math.inf, group=group, since=since, then=then)


def _wait(key: str, what: str, since: float | None, then: str = "", fix: str = "") -> Problem:
    return Problem(key, what, fix, math.inf, since=since, then=then)


def _operator(what: str, since: float | None, now: float | None) -> Problem:
    """A wait for KubeRay's operator, which is down or behind if what it has not processed is from long before ``now``."""
    if now and since and now - since > OPERATOR_SECONDS:
        why = f"{what}, which has not processed the change of {at(since)}: KubeRay's operator is down, or behind"
        fix = "heliostat doctor checks it; kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator shows its pod"
        return _wait("operator", why, since, "it goes on by itself as soon as the operator runs", fix)
    return _wait("operator", what, since, "the operator makes it within seconds; heliostat doctor checks it")
