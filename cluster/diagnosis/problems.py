"""Why a cluster or a job waits: derives the causes, with their fix, from the objects in the API server and from Ray.

Faults appear in five places, each kind in another one: conditions of the RayCluster, events, conditions of pods, states of init
containers and of containers. Which fault appears where, and when, was found by provoking each of them.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from heliostat.cluster.diagnosis.container_problems import crashed_before, is_current, of_containers
from heliostat.cluster.diagnosis.demand_problems import of_demand
from heliostat.cluster.diagnosis.placement_problems import of_node, of_volumes
from heliostat.cluster.diagnosis.problem import Problem, at
from heliostat.cluster.diagnosis.queue_problems import QUEUED, of_queue
from heliostat.cluster.diagnosis.refusals import UNKNOWN, fix_of_refusal
from heliostat.cluster.diagnosis.snapshot import (
    Queue,
    Snapshot,
    amount,
    applied_at,
    created_at,
    decided_at,
    event_time,
    fleet_of,
    gated,
    group_of,
    terminating,
    time_of,
)
from heliostat.cluster.diagnosis.start_problems import of_start
from heliostat.cluster.jobs.demand import RayState
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import QUEUE_LABEL, SUSPENDED, Document
from heliostat.cluster.profile import Profile

SECONDS_TO_TRY_AGAIN = 20.0
"""Seconds until the operator has processed a change, and reported by an event that it cannot create a pod."""


def problems(snapshot: Snapshot, profile: Profile, ray: RayState | None = None, now: float | None = None) -> list[Problem]:
    """What a cluster and its jobs wait for, the cause that decides first before the others.

    A queue comes first, as nothing is made before it admits the cluster; then faults, then what only takes its time: of each
    what concerns the whole cluster, then its head, then its workers.

    Args:
        snapshot: the objects in the API server.
        profile: the desired cluster.
        ray: what Ray knows; None while it does not respond, or if no job is of interest.
        now: the time, in seconds since the epoch; by default that of this machine.
    """
    now = time.time() if now is None else now
    faults = [*_faults(snapshot, profile)]
    waits = [*_queue(snapshot, profile)]
    found = {problem.group for problem in [*faults, *waits]}
    if not queued(snapshot, profile):
        waits += [each for each in of_start(snapshot, profile, now) if not found or each.group not in {"", *found}]
    if ray:
        fleet = fleet_of(snapshot, profile.groups)
        waits += of_demand(ray, fleet, profile, now)
    return sorted([*faults, *waits], key=lambda problem: (problem.key != QUEUED, not problem.fault, _place(problem)))


def unseen(snapshot: Snapshot) -> list[str]:
    """What could not be looked at, so that a cause may be missing."""
    return ["without the right to list events, problems may stay undetected"] if snapshot.events is None else []


def queued(snapshot: Snapshot, profile: Profile) -> bool:
    """Whether a cluster or a job is queued: Kueue keeps it suspended until it is admitted."""
    waiting = snapshot.job or snapshot.cluster
    return bool(profile.queue and waiting and waiting["spec"].get("suspend"))


def _place(problem: Problem) -> int:
    return {"": 0, "head": 1}.get(problem.group, 2) if not problem.job else 2


def _queue(snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    waiting = snapshot.job or snapshot.cluster
    if not (waiting and profile.queue):
        return
    groups = [""] if queued(snapshot, profile) else sorted({group_of(pod) for pod in snapshot.workers() if gated(pod)})
    for group in groups:
        for problem in of_queue(waiting, snapshot.queue or Queue(profile.queue, None, None)):
            yield replace(problem, what=f"{group}: {problem.what}" if group else problem.what, group=group)


def _faults(snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    if snapshot.job:
        yield from _job_problems(snapshot.job)
        yield from _submitter(snapshot.job, snapshot.events or [])
    if snapshot.cluster:
        yield from _suspended(snapshot.cluster)
        yield from _refused(snapshot.cluster, snapshot.events or [])
        yield from _replica_failure(snapshot.cluster, snapshot.events or [], profile)
    for pod in [*([snapshot.head] if snapshot.head else []), *snapshot.workers(), *filter(terminating, snapshot.pods)]:
        since = _since(pod)
        for problem in _of_pod(pod, snapshot, profile):
            yield replace(problem, group=group_of(pod), since=problem.since or since)


def _since(pod: Document) -> float | None:
    """When a pod came into its present stage: without a node, or on one."""
    return time_of(condition(pod, "PodScheduled").get("lastTransitionTime")) or created_at(pod)


def _of_pod(pod: Document, snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    if not terminating(pod):
        yield from of_containers(pod, snapshot, profile)
        yield from of_node(pod, snapshot, profile)
        yield from of_volumes(pod, snapshot.events or [], profile)
    # The operator deletes a crashed pod at once (autoscaler v2), so most crashes show on terminating pods.
    elif is_current(pod, snapshot.cluster):
        yield from crashed_before(pod, snapshot.head)


def _refused(cluster: Document, events: list[Document]) -> Iterator[Problem]:
    """Problems that the operator reports only by an event."""
    uid, since = cluster["metadata"]["uid"], applied_at(cluster)
    for event in events:
        if event["involvedObject"].get("uid") != uid or event_time(event) < since - 1:
            continue
        reason, message = event["reason"], event.get("message", "")
        if reason.startswith("Invalid"):
            what, then = f"KubeRay rejects the cluster: {message}", "it makes no pod before that"
            yield Problem(reason, what, "correct the field that it names, then retry", since=event_time(event), then=then)
        elif reason == "AutoscalerServiceAccountNotFound":
            yield Problem(
                reason, f"the service account of the head is missing: {message}", "create it, or correct service_account",
                since=event_time(event), then=_AGAIN,
            )  # fmt: skip


def _suspended(cluster: Document) -> Iterator[Problem]:
    """The cluster was suspended during the wait; in a queue Kueue does that."""
    if cluster["spec"].get("suspend") and QUEUE_LABEL not in cluster["metadata"].get("labels", {}):
        why = cluster["metadata"].get("annotations", {}).get(SUSPENDED, "by another client")
        yield Problem("suspended", f"the cluster was suspended: {why}", "raise idle_shutdown_seconds, or heliostat up again", 3)


def _replica_failure(cluster: Document, events: list[Document], profile: Profile) -> Iterator[Problem]:
    """The condition stays during the operator's backoff of up to minutes; the event has the time of the last try."""
    failure = condition(cluster, "ReplicaFailure")
    if failure.get("status") != "True":
        return
    uid, since = cluster["metadata"]["uid"], time_of(failure.get("lastTransitionTime"))
    failed = [e for e in events if e["involvedObject"].get("uid") == uid and e["reason"].startswith("FailedToCreate")]
    tried = max(map(event_time, failed), default=None)
    group = _group_of_failure(failure, cluster["metadata"]["name"])
    for found in _no_pod(failure.get("message", "").removeprefix(f"{failure.get('reason')}\n"), bool(profile.queue)):
        problem, at_last = replace(found, group=group, since=since, then=_AGAIN), f" (tried at {at(tried)})" if tried else ""
        if tried and tried < decided_at(cluster):
            what = f"waiting for KubeRay to retry; before{at_last}: {problem.what}"
            yield replace(problem, key="again", what=what, patience=max(problem.patience, SECONDS_TO_TRY_AGAIN))
        else:
            yield replace(problem, what=problem.what + at_last)


_AGAIN = "KubeRay tries again by itself, after at most five minutes; heliostat up makes it do so at once"


def _group_of_failure(failure: Mapping[str, Any], cluster: str) -> str:
    """The group whose pod could not be created, by the pod's name; empty if the message does not tell."""
    if failure.get("reason") == "FailedCreateHeadPod":
        return "head"
    found = re.search(rf'"{re.escape(cluster)}-([a-z0-9-]+)-worker-', failure.get("message", ""))
    return found[1] if found else ""


def _no_pod(message: str, in_queue: bool) -> Iterator[Problem]:
    what = f"no pod can be created: {message}"
    if "failed quota" in message:
        fix = "ask for a LimitRange with a default limits.cpu: heliostat sets no CPU limit, because it would throttle pods"
        yield Problem("limits", what, fix, 2)
    elif "exceeded quota" in message:
        yield Problem(
            "quota",
            f"the quota of the namespace is used up: {message}",
            "free resources (heliostat status, heliostat down), or raise it",
            # Kueue gives the place to others meanwhile, whose pods count until they have ended.
            math.inf if in_queue and _fits_alone(message) else 2,
        )
    else:
        fix = fix_of_refusal(message)
        yield Problem("refused", what, fix, 2 if fix != UNKNOWN else 5)


def _fits_alone(message: str) -> bool:
    """Whether a pod that a quota refuses would fit into it without the others, as far as the message tells."""
    found = re.search(r"requested: (.+), used: .+, limited: (.+?)$", message.strip())
    if not found:
        return False
    requested, limited = (dict(re.findall(r"([\w./-]+)=([0-9.]+[A-Za-z]*)", part)) for part in found.groups())
    return bool(requested) and all(
        name in limited and amount(needs) <= amount(limited[name]) for name, needs in requested.items()
    )


def _submitter(job: Document, events: list[Document]) -> Iterator[Problem]:
    """The batch Job that KubeRay creates for a RayJob has the same name."""
    for event in events:
        about = (event["reason"], event["involvedObject"]["kind"], event["involvedObject"].get("name"))
        if about == ("FailedCreate", "Job", job["metadata"]["name"]) and event_time(event) >= applied_at(job) - 1:
            yield Problem(
                "submitter", f"the submitter's pod cannot be created: {event.get('message', '')}", "correct what it names", 3
            )


def _job_problems(job: Document) -> Iterator[Problem]:
    status = job.get("status", {})
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        yield Problem("job", f"KubeRay rejects the job: {status.get('message', '')}", "correct the field that it names")
    if status.get("jobDeploymentStatus") == "Failed":
        yield Problem("job", f"the job failed ({status.get('reason', '')}): {status.get('message', '')}", "heliostat status")
