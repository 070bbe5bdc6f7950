"""Why something waits in a Kueue queue, from its Workload, the queue, and what else is in it (Kueue 0.15 to 0.17)."""

import math
import re
from collections.abc import Iterator

from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.snapshot import Queue, created_at, time_of
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import Document

QUEUED = "queue"
"""The key of the problem."""
ADMITTED, FINISHED, RESERVED = "Admitted", "Finished", "QuotaReserved"


def of_queue(waiting: Document, queue: Queue) -> Iterator[Problem]:
    """What an object waits for that Kueue keeps suspended, or whose growth it has not admitted.

    Args:
        waiting: a RayJob, or a RayCluster of its own.
        queue: the queue that it is in.
    """
    of_it = [w for w in queue.workloads or [] if _is_of(w, waiting)]
    # Each growth is a workload of its own, which replaces the one before.
    own = next((w for w in of_it if not _holds(w) and not _is(w, FINISHED)), max(of_it, key=_created, default=None))
    before = _before(own, queue) if own else []
    why, fix, then = _reason(own, before, queue)
    what = f"waits in the queue {queue.name}" + (f": {why}" if why else "")
    since = (created_at(own) if own else None) or created_at(waiting)
    yield Problem(QUEUED, what + _position(own, before, queue), fix, math.inf, since=since, then=then)


def _reason(own: Document | None, before: list[Document], queue: Queue) -> tuple[str, str, str]:
    """Why it is not admitted, the fix, and what happens next."""
    active = condition(queue.local or {}, "Active")
    if active.get("status") == "False":
        return _stopped(str(active.get("reason", "")), str(active.get("message", "")), queue)
    if own is None:
        unseen = queue.workloads is None
        why = "why is not known, without the right to list workloads" if unseen else "Kueue has not made a workload of it yet"
        fix = "heliostat render --rbac prints the rights to ask for" if unseen else "see whether Kueue runs, if that lasts"
        return why, fix, "" if unseen else "Kueue does so within seconds"
    if _holds(own):
        then = "beside a head that runs, the recorder reminds Kueue after half a minute"
        return "it is admitted, and Kueue has not started it yet", "see whether Kueue runs, if that lasts", then
    if condition(own, FINISHED).get("reason") == "FailedToStart":
        why = f"Kueue could not start it: {condition(own, FINISHED).get('message', '')}"[:400]
        fix = f"heliostat up {_subject(own).split()[-1]} puts it into the queue again"
        return why, fix, "Kueue does not try again by itself"
    if not own["spec"].get("active", True):
        why = f"its workload {_name(own)} is deactivated{_evicted(own)}"
        fix = f"set spec.active of it to true (kubectl edit workload {_name(own)} -n {own['metadata']['namespace']})"
        return why, fix, "Kueue does not admit it before that"
    admitted = ", ".join(_subject(w) for w in queue.workloads or [] if _holds(w) and _in(w, queue))
    wait = f"stop what the queue has admitted ({admitted})" if admitted else "see who uses the quota of its ClusterQueue"
    fix = f"wait, {wait}, or ask for more quota"
    reserved = condition(own, RESERVED)
    if message := str(reserved.get("message", "")):
        checks = "; ".join(f"check {c['name']} is {c['state']}: {c.get('message', '')}" for c in _checks(own))
        return (checks or message)[:400], fix, "Kueue admits it as soon as the quota allows, without another command"
    if before:  # with StrictFIFO Kueue says nothing of what is not the first
        first = before[0]
        blocked = condition(first, RESERVED).get("message", "")
        why = f"it is behind {_subject(first)}" + (f", which waits: {blocked}" if blocked else "")
        return why[:400], fix, f"Kueue looks at it once {_subject(first)} is admitted or gone"
    return "", fix, "Kueue looks at it within seconds"


def _stopped(reason: str, message: str, queue: Queue) -> tuple[str, str, str]:
    """A queue that admits nothing; its ClusterQueue may be the one that is stopped."""
    cluster_queue = (queue.local or {}).get("spec", {}).get("clusterQueue", "?")
    if reason == "Stopped":
        kind, name = "localqueue", queue.name
    else:
        kind, name, message = "clusterqueue", cluster_queue, f"{message.rstrip('.')}: {cluster_queue} is stopped, or incomplete"
    fix = f"ask its owner to start it: spec.stopPolicy of {kind} {name} is to be None (kubectl describe {kind} {name})"
    return message, fix, "it admits nothing before that"


def _before(own: Document, queue: Queue) -> list[Document]:
    """What waits in the queue before it, the first first: by priority, then by time."""
    waiting = [w for w in queue.workloads or [] if _in(w, queue) and not _holds(w) and not _is(w, FINISHED) and _active(w)]
    return [each for each in sorted(waiting, key=_rank) if _rank(each) < _rank(own)]


def _position(own: Document | None, before: list[Document], queue: Queue) -> str:
    if own is None or not _active(own):
        return ""
    waiting = sum(not _holds(w) and not _is(w, FINISHED) and _active(w) and _in(w, queue) for w in queue.workloads or [])
    names = ", ".join(_subject(each) for each in before[:3]) + (f" and {len(before) - 3} more" if len(before) > 3 else "")
    behind = f", behind {names}" if names else ""
    return f" (position {len(before) + 1} of {waiting}{behind})" if waiting > 1 else ""


def _rank(workload: Document) -> tuple[int, str, str]:
    meta = workload["metadata"]
    return -int(workload["spec"].get("priority") or 0), meta["creationTimestamp"], meta["name"]


def _in(workload: Document, queue: Queue) -> bool:
    return bool(workload["spec"].get("queueName") == queue.name)


def _active(workload: Document) -> bool:
    return bool(workload["spec"].get("active", True))


def _holds(workload: Document) -> bool:
    return _is(workload, ADMITTED) and not _is(workload, FINISHED)


def _is(workload: Document, kind: str) -> bool:
    return bool(condition(workload, kind).get("status") == "True")


def _checks(workload: Document) -> list[Document]:
    """The admission checks that have not passed, once the quota is reserved."""
    states = workload.get("status", {}).get("admissionChecks", []) if _is(workload, RESERVED) else []
    return [check for check in states if check.get("state") != "Ready"]


def _evicted(workload: Document) -> str:
    evicted = condition(workload, "Evicted")
    at = time_of(evicted.get("lastTransitionTime")) if evicted.get("status") == "True" else None
    return f" ({evicted.get('message', '')})" if at else ""


def _created(workload: Document) -> str:
    return str(workload["metadata"].get("creationTimestamp", ""))


def _is_of(workload: Document, waiting: Document) -> bool:
    owners = workload["metadata"].get("ownerReferences", [])
    return any(owner.get("uid") == waiting["metadata"].get("uid", "") for owner in owners)


def _name(workload: Document) -> str:
    return str(workload["metadata"]["name"])


def _subject(workload: Document) -> str:
    """What a workload is of, in words."""
    owners = workload["metadata"].get("ownerReferences", [])
    owner = next((o for o in owners if o.get("controller")), owners[0] if owners else None)
    return f"{owner['kind']} {owner['name']}" if owner else re.sub(r"-[0-9a-f]{5}$", "", _name(workload))
