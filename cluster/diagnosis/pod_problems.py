"""Problems of a pod that does not start: its containers, scheduling, volumes."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from heliostat.cluster.diagnosis.snapshot import (
    Snapshot,
    amount,
    event_time,
    group_of,
    statuses,
    template_hash,
    template_hashes,
)
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile, WorkerGroup, cpus

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

SCALES_UP = ("TriggeredScaleUp", "Nominated", "NodeClaimCreated")
"""Events of cluster autoscalers (upstream, Karpenter): a node for this pod is being added."""

SECONDS_TO_SCALE_UP = 12
"""A cluster autoscaler checks every ten seconds; without an event of it after that, there is none."""

HEAD, WORKER = "ray-head", "ray-worker"
"""The names of the Ray containers."""
EPOCH = "1970-01-01T00:00:00Z"
"""The start time that containerd reports for a container that could not be started."""

MOUNTED = ("Pulling", "Pulled", "Created", "Started")
"""Events of a pod after its volumes are mounted."""


@dataclass(frozen=True)
class Crash:
    """A container with Ray that has ended by itself."""

    pod: str
    restarts: int
    """How often it had been started again in that pod before this end."""
    why: str
    """Its exit code, in words."""


@dataclass(frozen=True)
class Problem:
    """An obstacle; it counts as final when it has existed for ``patience`` seconds."""

    key: str
    what: str
    fix: str
    patience: float = 0.0
    pod: str = ""
    """The pod whose log explains it."""
    crash: Crash | None = None
    """A crash is followed by another pod or container, so that the wait ends only when that crashes, too."""


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
                2 if final else _start_seconds(profile, group) if _pulls(pod, snapshot.events or []) else SECONDS_TO_RETRY,
            )
        elif reason in CREATE:
            yield Problem(f"create {group}", f"{group}: a container cannot be created: {message}", _missing_fix(message), 8)
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
    last = {reason: [event_time(e) for e in _about(pod, events) if e["reason"] == reason] for reason in ("Pulling", "Failed")}
    return max(last["Pulling"], default=0.0) > max(last["Failed"], default=0.0)


def _pull_reason(reason: str, message: str) -> tuple[str, bool]:
    """Why an image cannot be pulled, and whether that is final."""
    for pattern, meaning, final in PULL_REASONS:
        if re.search(pattern, message, re.IGNORECASE):
            return meaning, final
    return message[-150:] or reason, reason in ("InvalidImageName", "ErrImageNeverPull")


def _missing_fix(message: str) -> str:
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        return f"create the {found[1]} {found[2]}, or remove it from the profile"
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) \S*?([^/\s]+)$", message):
        return f"add the key {found[1]} to the {found[2]} {found[3]}, or correct it in the profile"
    return "correct what it names in the profile"


def of_node(pod: Document, snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    """Why a pod is unschedulable."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("reason") != "Unschedulable":
        return
    group, message = group_of(pod), scheduled.get("message", "")
    if found := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        yield Problem(
            f"claim {found[1]}",
            f"{group}: the claim {found[1]} does not exist",
            "set storage.size so that it is created, or correct storage.claim",
            2,
        )
        return
    if "unbound immediate PersistentVolumeClaims" in message:
        yield Problem(
            f"unbound {group}",
            f"{group}: its claim gets no volume",
            "heliostat doctor lists the storage classes; set storage.storage_class",
            12,
        )
        return
    what, possible = _shortage(pod, group, message, snapshot.nodes)
    patience = SECONDS_TO_SCALE_UP if not possible else _start_seconds(profile, group)
    # Without the right to list nodes or events, a full or growing cluster looks like an impossible request.
    unseen = snapshot.nodes is None or snapshot.events is None
    if unseen or profile.node_autoscaling or _node_is_coming(pod, snapshot.events or []) or _replaceable(profile, group):
        patience = _start_seconds(profile, group) + 60
    yield Problem(f"unschedulable {group}", what, _shortage_fix(message, group), patience)


def _shortage(pod: Document, group: str, message: str, nodes: list[Document] | None) -> tuple[str, bool]:
    """The resources that no node has free, and whether some node has them at all."""
    wanted = _requests(pod)
    short = sorted(set(re.findall(r"Insufficient ([\w./-]*\w)", message)))
    asks = ", ".join(f"{name} {_readable(name, wanted[name])}" for name in short if name in wanted)
    if nodes is None:
        return f"{group}: no node accepts its pod: {message}", False
    if not asks:
        return f"{group}: no node accepts its pod: {_plain(message)}", False
    fitting = [node for node in nodes if all(amount(node["status"]["allocatable"].get(n, "0")) >= a for n, a in wanted.items())]
    for name in short:
        having = [amount(node["status"]["allocatable"].get(name, "0")) for node in nodes]
        if max(having, default=0) < wanted.get(name, 0):
            many = sum(1 for most in having if most)
            return (
                f"{group}: no node is large enough for its pod ({asks}): of {len(nodes)} nodes {many} have {name}, "
                f"the largest {_readable(name, max(having, default=0))}",
                False,
            )
    if not fitting:
        return f"{group}: no node has everything that its pod requests ({asks}): {_plain(message)}", False
    return f"{group}: waits for {asks}: {len(fitting)} of {len(nodes)} nodes have it, and it is in use", True


def _shortage_fix(message: str, group: str) -> str:
    if "untolerated taint" in message and "Insufficient" not in message:
        return f"add the taint that it names to groups.{group}.tolerations"
    if "affinity/selector" in message and "Insufficient" not in message:
        return f"correct groups.{group}.node_selector: kubectl get nodes --show-labels"
    return f"make the pods of {group} smaller in the profile, free resources of others (heliostat status), or add nodes"


def _plain(message: str) -> str:
    return message.partition(" preemption:")[0].rstrip(". ")


def _requests(pod: Document) -> dict[str, float]:
    total: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        for name, quantity in container.get("resources", {}).get("requests", {}).items():
            total[name] = total.get(name, 0) + amount(quantity)
    return total


def _readable(name: str, value: float) -> str:
    return f"{value / 2**30:.3g}Gi" if name in ("memory", "ephemeral-storage") else f"{value:g}"


def _node_is_coming(pod: Document, events: list[Document]) -> bool:
    return any(event["reason"] in SCALES_UP for event in _about(pod, events))


def _about(pod: Document, events: list[Document]) -> list[Document]:
    return [event for event in events if event["involvedObject"].get("uid") == pod["metadata"]["uid"]]


def _start_seconds(profile: Profile, group: str) -> float:
    return next((g.start_seconds for g in profile.groups if g.name == group), 120)


def _replaceable(profile: Profile, group: str) -> bool:
    """Whether the autoscaler can use another group if pods of this one do not start."""
    return any(_can_replace(other, this) for this in profile.groups if this.name == group for other in profile.groups)


def _can_replace(other: WorkerGroup, this: WorkerGroup) -> bool:
    same_kind = bool(other.gpu) == bool(this.gpu) and other is not this
    return same_kind and other.gpu >= this.gpu and cpus(other.cpu) >= cpus(this.cpu)


def of_volumes(pod: Document, events: list[Document]) -> Iterator[Problem]:
    """Volumes that cannot be mounted."""
    waiting = {(status.get("state", {}).get("waiting") or {}).get("reason") for status in statuses(pod)}
    if pod.get("status", {}).get("phase") != "Pending" or not waiting <= {"ContainerCreating", "PodInitializing"}:
        return  # the volumes have been mounted
    of_pod = _about(pod, events)
    if any(event["reason"] in MOUNTED for event in of_pod):
        return
    for event in of_pod:
        if event["reason"] in ("FailedMount", "FailedAttachVolume"):
            message = event.get("message", "")
            yield Problem(
                f"mount {group_of(pod)}", f"{group_of(pod)}: a volume cannot be mounted: {message}", _missing_fix(message), 10
            )
