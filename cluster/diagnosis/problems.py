"""Why a cluster or a job does not start: derives problems with their fix from the objects in the API server.

Faults appear in five places, each kind in another one: conditions of the RayCluster, events, conditions of pods, states of init
containers and of containers. Which fault appears where, and when, was found by provoking each of them.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from heliostat.cluster.diagnosis.container_problems import crashed_before, is_current, of_containers
from heliostat.cluster.diagnosis.placement_problems import of_node, of_volumes
from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.refusals import UNKNOWN, fix_of_refusal
from heliostat.cluster.diagnosis.snapshot import Snapshot, applied_at, decided_at, event_time, group_of, terminating
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import QUEUE_LABEL, SUSPENDED, Document
from heliostat.cluster.profile import Profile

SECONDS_TO_TRY_AGAIN = 20.0
"""Seconds until the operator has processed a change, and reported by an event that it cannot create a pod."""


def problems(snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    """All problems, the most severe first."""
    if snapshot.job:
        yield from _job_problems(snapshot.job)
        yield from _submitter(snapshot.job, snapshot.events or [])
    if snapshot.cluster:
        yield from _suspended(snapshot.cluster)
        yield from _refused(snapshot.cluster, snapshot.events or [])
        yield from _replica_failure(snapshot.cluster, snapshot.events or [])
    for pod in [*([snapshot.head] if snapshot.head else []), *snapshot.workers(), *filter(terminating, snapshot.pods)]:
        yield from (replace(problem, group=group_of(pod)) for problem in _of_pod(pod, snapshot, profile))


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
            yield Problem(reason, f"KubeRay rejects the cluster: {message}", "correct the field that it names, then retry")
        elif reason == "AutoscalerServiceAccountNotFound":
            yield Problem(
                reason, f"the service account of the head is missing: {message}", "create it, or correct service_account"
            )


def _suspended(cluster: Document) -> Iterator[Problem]:
    """The cluster was suspended during the wait; in a queue Kueue does that."""
    if cluster["spec"].get("suspend") and QUEUE_LABEL not in cluster["metadata"].get("labels", {}):
        why = cluster["metadata"].get("annotations", {}).get(SUSPENDED, "by another client")
        yield Problem("suspended", f"the cluster was suspended: {why}", "raise idle_shutdown_seconds, or heliostat up again", 3)


def _replica_failure(cluster: Document, events: list[Document]) -> Iterator[Problem]:
    """The condition stays during the operator's backoff of up to minutes; the event has the time of the last try."""
    failure = condition(cluster, "ReplicaFailure")
    if failure.get("status") != "True":
        return
    uid = cluster["metadata"]["uid"]
    failed = [e for e in events if e["involvedObject"].get("uid") == uid and e["reason"].startswith("FailedToCreate")]
    tried = max(map(event_time, failed), default=None)
    for problem in _no_pod(failure.get("message", "")):
        at = f" (tried at {datetime.fromtimestamp(tried, UTC):%H:%M:%S} UTC)" if tried else ""
        if tried and tried < decided_at(cluster):
            what = f"waiting for KubeRay to retry; before{at}: {problem.what}"
            yield replace(problem, key="again", what=what, patience=SECONDS_TO_TRY_AGAIN)
        else:
            yield replace(problem, what=problem.what + at)


def _no_pod(message: str) -> Iterator[Problem]:
    what = f"no pod can be created: {message}"
    if "failed quota" in message:
        fix = "ask for a LimitRange with a default limits.cpu: heliostat sets no CPU limit, because it would throttle pods"
        yield Problem("limits", what, fix, 2)
    elif "exceeded quota" in message:
        yield Problem(
            "quota",
            f"the quota of the namespace is used up: {message}",
            "free resources (heliostat status, heliostat down), or raise it",
            2,
        )
    else:
        fix = fix_of_refusal(message)
        yield Problem("refused", what, fix, 2 if fix != UNKNOWN else 5)


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
