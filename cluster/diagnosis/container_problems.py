"""Problems of a pod's containers: images, their creation, crashes."""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from heliostat.cluster.diagnosis.problem import Crash, Problem, about, missing_fix, start_seconds
from heliostat.cluster.diagnosis.snapshot import Snapshot, event_time, group_of, statuses, template_hash, template_hashes
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile

PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")

PULL_REASONS = (
    ("not found", "the image or tag does not exist", True),
    ("no such host", "the node cannot resolve the registry", True),
    ("denied|unauthorized|forbidden|no basic auth", "the registry does not have the image, or needs a login", True),
    ("timeout|timed out|deadline exceeded|refused|reset by peer", "the registry does not respond", False),
)  # fmt: skip
"""A pattern in the message of a failed pull, its meaning, and whether a retry is useless."""

CREATE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")

SECONDS_TO_RETRY = 13
"""Seconds until a kubelet has retried to pull an image."""

HEAD, WORKER = "ray-head", "ray-worker"
"""The names of the Ray containers."""
EPOCH = "1970-01-01T00:00:00Z"
"""The start time that containerd reports for a container that could not be started."""


def of_containers(pod: Document, snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    """Images that cannot be pulled, containers that cannot be created, and containers that exited."""
    name, group = pod["metadata"]["name"], group_of(pod)
    images = {container["name"]: container["image"] for container in pod["spec"].get("containers", [])}
    for status in statuses(pod):
        waiting = status.get("state", {}).get("waiting") or {}
        ended = status.get("state", {}).get("terminated") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        image = images.get(status["name"], status.get("image", ""))
        if reason in PULL:
            why, final = _pull_reason(reason, message)
            yield Problem(
                f"image {image}",
                f"{group}: the image {image} cannot be pulled: {why}",
                "correct image in the profile, push it, or name image_pull_secrets",
                2 if final else start_seconds(profile, group) if _pulls(pod, snapshot.events or []) else SECONDS_TO_RETRY,
                then="the kubelet tries again by itself, after at most five minutes",
            )
        elif reason in CREATE:
            yield Problem(f"create {group}", f"{group}: a container cannot be created: {message}", missing_fix(message), 8)
        elif reason == "CrashLoopBackOff":
            # The kubelet restarts a container at once after its first crash, and backs off from the second one on.
            yield Problem(f"crash {group}", f"{group}: {status['name']} crashes repeatedly", _CRASH_FIX, 0, name)
        elif _crashed(pod, status["name"], ended, snapshot.head):
            yield _crash(pod, status, ended)
        elif not status.get("ready") and _crashed(pod, status["name"], before := _previous_run(status), snapshot.head):
            yield _restarted(pod, status, before)


_CRASH_FIX = "correct what these lines report: often the image (another Ray or Python), a Ray parameter or the environment"


SECONDS_TO_REPLACE = 60
"""By then the operator has replaced a pod whose Ray has exited; it takes seconds."""


def _crashed(pod: Document, container: str, ended: Mapping[str, Any], head: Document | None) -> bool:
    """Whether a container exited by itself, and not because of its node or its head."""
    return bool(ended.get("exitCode")) and not _preempted(pod) and not _of_earlier_head(container, ended, head)


def _crash(pod: Document, status: Mapping[str, Any], ended: Mapping[str, Any]) -> Problem:
    name, group, container = pod["metadata"]["name"], group_of(pod), status["name"]
    why = _why(ended)
    if container not in (HEAD, WORKER):
        what = f"{group}: the container {container} of {name} exited ({why})"
        # Nothing restarts it beside a running head: restartPolicy is Never, and the operator checks Ray's container.
        patience = 0 if group == "head" else SECONDS_TO_REPLACE
        return Problem(f"crash {group} {container}", what, f"see kubectl logs {name} -c {container}", patience)
    crash = Crash(name, status.get("restartCount", 0), why)
    what = f"{group}: the pod {name} exited ({why})"
    return Problem(f"crash {group}", what, _crash_fix(ended), SECONDS_TO_REPLACE, name, crash)


def _restarted(pod: Document, status: Mapping[str, Any], ended: Mapping[str, Any]) -> Problem:
    """A container that runs again after a crash, in the same pod, and is not ready yet: its log is that of the new run."""
    name, group = pod["metadata"]["name"], group_of(pod)
    crash = Crash(name, status.get("restartCount", 1) - 1, _why(ended))
    what = f"{group}: {status['name']} of {name} restarts after it exited ({crash.why})"
    return Problem(f"crash {group}", what, _crash_fix(ended), math.inf, crash=crash)


def _previous_run(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the previous run of a running Ray container ended; empty if there was none."""
    running = status["name"] in (HEAD, WORKER) and "running" in status.get("state", {})
    found: Mapping[str, Any] = status.get("lastState", {}).get("terminated") or {} if running else {}
    return found


def _why(ended: Mapping[str, Any]) -> str:
    return "not enough memory" if ended.get("reason") == "OOMKilled" else f"exit code {ended['exitCode']}"


def _crash_fix(ended: Mapping[str, Any]) -> str:
    return "give it more memory in the profile" if ended.get("reason") == "OOMKilled" else _CRASH_FIX


def crashed_before(pod: Document, head: Document | None) -> Iterator[Problem]:
    """A Ray container of a terminating pod that had crashed before the pod was deleted."""
    end = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"]).timestamp()
    asked = end - pod["metadata"].get("deletionGracePeriodSeconds", 0)
    for status in pod.get("status", {}).get("containerStatuses", []):
        ended = status.get("state", {}).get("terminated") or {}
        crashed = status["name"] in (HEAD, WORKER) and _crashed(pod, status["name"], ended, head)
        if crashed and (at := ended.get("finishedAt")) and datetime.fromisoformat(at).timestamp() <= asked:
            yield _crash(pod, status, ended)


def is_current(pod: Document, cluster: Document | None) -> bool:
    """Whether a pod has the current template of its group, not one from before a change."""
    return cluster is not None and template_hashes(cluster).get(group_of(pod)) == template_hash(pod["metadata"])


def _preempted(pod: Document) -> bool:
    """Whether a pod was preempted or its node drained: it is replaced, and has no fault of its own."""
    return condition(pod, "DisruptionTarget").get("status") == "True"


def _of_earlier_head(container: str, ended: Mapping[str, Any], head: Document | None) -> bool:
    """Whether a worker belonged to an earlier head: it exits within a minute, and is replaced."""
    began = datetime.fromisoformat(ended.get("startedAt") or EPOCH)
    if container != WORKER or began == datetime.fromisoformat(EPOCH):
        return False
    runs = [s["state"]["running"]["startedAt"] for s in statuses(head or {}) if s["name"] == HEAD and "running" in s["state"]]
    return not runs or began < datetime.fromisoformat(runs[0])


def _pulls(pod: Document, events: list[Document]) -> bool:
    """Whether an image is being pulled now; the pod's status shows the last failure until the pull succeeds."""
    last = {reason: [event_time(e) for e in about(pod, events) if e["reason"] == reason] for reason in ("Pulling", "Failed")}
    return max(last["Pulling"], default=0.0) > max(last["Failed"], default=0.0)


def _pull_reason(reason: str, message: str) -> tuple[str, bool]:
    """Why an image cannot be pulled, and whether that is final."""
    for pattern, meaning, final in PULL_REASONS:
        if re.search(pattern, message, re.IGNORECASE):
            return meaning, final
    return message[-150:] or reason, reason in ("InvalidImageName", "ErrImageNeverPull")
