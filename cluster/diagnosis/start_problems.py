"""What is still starting, within its time."""

import math
from collections.abc import Iterator

from heliostat.cluster.diagnosis.problem import Problem, at, start_seconds
from heliostat.cluster.diagnosis.snapshot import Snapshot, created_at, group_of, pod_ready, pod_state
from heliostat.cluster.kube.conditions import observed
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile


def of_start(snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    """What is waited for while nothing is wrong: the operator, the head, the workers of each group."""
    cluster, head = snapshot.cluster, snapshot.head
    if cluster is None:
        since = created_at(snapshot.job) if snapshot.job else None
        yield _wait("operator", "waits for the operator to create the cluster", since)
    elif cluster["spec"].get("suspend"):
        yield _wait("suspended", "suspended", None)
    elif not head:
        what = "waits for the head's pod" if observed(cluster) else "waits for the operator"
        yield _wait("operator", what, created_at(cluster), "the operator makes it within seconds; heliostat doctor checks it")
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


def _wait(key: str, what: str, since: float | None, then: str = "") -> Problem:
    return Problem(key, what, "", math.inf, since=since, then=then)
