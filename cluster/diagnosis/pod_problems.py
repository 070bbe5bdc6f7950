"""Why a pod does not come up: its containers, the node that it does not find, its volumes."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from heliostat.cluster.diagnosis.snapshot import Snapshot, amount, event_time, group_of, mark_of, marks, statuses
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile, WorkerGroup, cpus

PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")

PULL_REASONS = (
    ("not found", "there is no such image or tag", True),
    ("no such host", "the node finds no such registry", True),
    ("denied|unauthorized|forbidden|no basic auth", "the registry knows no such image, or wants a login", True),
    ("timeout|timed out|deadline exceeded|refused|reset by peer", "the registry does not answer", False),
)  # fmt: skip
"""What is in the message of a failed pull, what that means, and whether trying again is in vain."""

CREATE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")

SECONDS_TO_RETRY = 13
"""After so long a kubelet has tried a second time to pull an image."""

SCALES_UP = ("TriggeredScaleUp", "Nominated", "NodeClaimCreated")
"""Events of cluster autoscalers (the upstream one, Karpenter): a node for this pod is on its way."""

SECONDS_TO_SCALE_UP = 12
"""A cluster autoscaler looks every ten seconds; without a sign of it after that, there is none."""

HEAD, WORKER = "ray-head", "ray-worker"
"""The containers with Ray."""
EPOCH = "1970-01-01T00:00:00Z"
"""When a container began that could not be started, by containerd."""

MOUNTED = ("Pulling", "Pulled", "Created", "Started")
"""Events of a pod that come after its volumes."""


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
    """Something in the way; it counts as final when it has been there for ``patience`` seconds."""

    key: str
    what: str
    fix: str
    patience: float = 0.0
    pod: str = ""
    """Whose log tells more."""
    crash: Crash | None = None
    """Another pod or container is started after it; so the wait ends only when that crashes, too."""


def of_containers(pod: Document, snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    """Images that cannot be pulled, containers that cannot be made, and those that ended."""
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
            yield Problem(f"create {group}", f"{group}: a container cannot be made: {message}", _missing_fix(message), 8)
        elif reason == "CrashLoopBackOff":
            # The kubelet starts a container again at once after its first crash, and backs off from the second one on.
            yield Problem(f"crash {group}", f"{group}: {status['name']} crashes again and again", _CRASH_FIX, 0, name)
        elif _crashed(pod, status["name"], ended, snapshot.head):
            yield _crash(pod, status, ended)
        elif not status.get("ready") and _crashed(pod, status["name"], before := _run_before(status), snapshot.head):
            yield _restarted(pod, status, before)


_CRASH_FIX = "mend what the lines tell: often the image (another Ray or Python), a Ray parameter or the environment"


SECONDS_TO_REPLACE = 60
"""By then the operator has replaced a pod whose Ray has ended; it takes seconds."""


def _crashed(pod: Document, container: str, ended: Mapping[str, Any], head: Document | None) -> bool:
    """Whether a container ended by itself, and not because of what happened to its node or its head."""
    return bool(ended.get("exitCode")) and not _taken_away(pod) and not _lost_its_head(container, ended, head)


def _crash(pod: Document, status: Mapping[str, Any], ended: Mapping[str, Any]) -> Problem:
    name, group, container = pod["metadata"]["name"], group_of(pod), status["name"]
    why = _why(ended)
    if container not in (HEAD, WORKER):
        what = f"{group}: the container {container} of {name} ended ({why})"
        # Beside a head that runs nothing starts it again: restartPolicy is Never, and the operator looks at Ray's container.
        patience = 0 if group == "head" else SECONDS_TO_REPLACE
        return Problem(f"crash {group} {container}", what, f"kubectl logs {name} -c {container} tells more", patience)
    crash = Crash(name, status.get("restartCount", 0), why)
    what = f"{group}: the pod {name} ended ({why})"
    return Problem(f"crash {group}", what, _crash_fix(ended), SECONDS_TO_REPLACE, name, crash)


def _restarted(pod: Document, status: Mapping[str, Any], ended: Mapping[str, Any]) -> Problem:
    """A container that runs again after a crash, in the same pod, and is not ready yet: its log is that of the new run."""
    name, group = pod["metadata"]["name"], group_of(pod)
    crash = Crash(name, status.get("restartCount", 1) - 1, _why(ended))
    what = f"{group}: {status['name']} of {name} starts again after it ended ({crash.why})"
    return Problem(f"crash {group}", what, _crash_fix(ended), math.inf, crash=crash)


def _run_before(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the run of a container with Ray before this one ended; empty if this is the first, or it does not run."""
    running = status["name"] in (HEAD, WORKER) and "running" in status.get("state", {})
    found: Mapping[str, Any] = status.get("lastState", {}).get("terminated") or {} if running else {}
    return found


def _why(ended: Mapping[str, Any]) -> str:
    return "not enough memory" if ended.get("reason") == "OOMKilled" else f"exit code {ended['exitCode']}"


def _crash_fix(ended: Mapping[str, Any]) -> str:
    return "give it more memory in the profile" if ended.get("reason") == "OOMKilled" else _CRASH_FIX


def crashed_before(pod: Document, head: Document | None) -> Iterator[Problem]:
    """Of a pod that leaves: a Ray container that had ended before anybody asked for that."""
    end = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"]).timestamp()
    asked = end - pod["metadata"].get("deletionGracePeriodSeconds", 0)
    for status in pod.get("status", {}).get("containerStatuses", []):
        ended = status.get("state", {}).get("terminated") or {}
        crashed = status["name"] in (HEAD, WORKER) and _crashed(pod, status["name"], ended, head)
        if crashed and (at := ended.get("finishedAt")) and datetime.fromisoformat(at).timestamp() <= asked:
            yield _crash(pod, status, ended)


def is_current(pod: Document, cluster: Document | None) -> bool:
    """Whether a pod has the template that its group has now, not one from before a change."""
    return cluster is not None and marks(cluster).get(group_of(pod)) == mark_of(pod["metadata"])


def _taken_away(pod: Document) -> bool:
    """Whether a pod ended because its node goes or its place is needed: another one comes, and nothing is wrong with it."""
    return condition(pod, "DisruptionTarget").get("status") == "True"


def _lost_its_head(container: str, ended: Mapping[str, Any], head: Document | None) -> bool:
    """Whether a worker's Ray was that of a head before this one: it ends within a minute, and another pod comes."""
    began = datetime.fromisoformat(ended.get("startedAt") or EPOCH)
    if container != WORKER or began == datetime.fromisoformat(EPOCH):
        return False
    runs = [s["state"]["running"]["startedAt"] for s in statuses(head or {}) if s["name"] == HEAD and "running" in s["state"]]
    return not runs or began < datetime.fromisoformat(runs[0])


def _pulls(pod: Document, events: list[Document]) -> bool:
    """Whether an image is being pulled now; the pod's status shows the failure of the last time until the image is there."""
    last = {reason: [event_time(e) for e in _about(pod, events) if e["reason"] == reason] for reason in ("Pulling", "Failed")}
    return max(last["Pulling"], default=0.0) > max(last["Failed"], default=0.0)


def _pull_reason(reason: str, message: str) -> tuple[str, bool]:
    """Why an image cannot be pulled, and whether it will stay so."""
    for pattern, meaning, final in PULL_REASONS:
        if re.search(pattern, message, re.IGNORECASE):
            return meaning, final
    return message[-150:] or reason, reason in ("InvalidImageName", "ErrImageNeverPull")


def _missing_fix(message: str) -> str:
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        return f"create the {found[1]} {found[2]}, or remove it from the profile"
    return "mend what it names in the profile"


def of_node(pod: Document, snapshot: Snapshot, profile: Profile) -> Iterator[Problem]:
    """Why no node takes it."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("reason") != "Unschedulable":
        return
    group, message = group_of(pod), scheduled.get("message", "")
    if found := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        yield Problem(
            f"claim {found[1]}",
            f"{group}: there is no claim {found[1]}",
            "set storage.size so that it is made, or correct storage.claim",
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
    # Without the right to see nodes or events, what is full and what is on its way cannot be told from what will never be.
    unseen = snapshot.nodes is None or snapshot.events is None
    if unseen or profile.node_autoscaling or _node_is_coming(pod, snapshot.events or []) or _replaceable(profile, group):
        patience = _start_seconds(profile, group) + 60
    yield Problem(f"unschedulable {group}", what, _shortage_fix(message, group), patience)


def _shortage(pod: Document, group: str, message: str, nodes: list[Document] | None) -> tuple[str, bool]:
    """What no node has (left), and whether a node could have it."""
    wanted = _requests(pod)
    short = sorted(set(re.findall(r"Insufficient ([\w./-]*\w)", message)))
    asks = ", ".join(f"{name} {_readable(name, wanted[name])}" for name in short if name in wanted)
    if nodes is None:
        return f"{group}: no node takes its pod: {message}", False
    if not asks:
        return f"{group}: no node takes its pod: {_plain(message)}", False
    fitting = [node for node in nodes if all(amount(node["status"]["allocatable"].get(n, "0")) >= a for n, a in wanted.items())]
    for name in short:
        having = [amount(node["status"]["allocatable"].get(name, "0")) for node in nodes]
        if max(having, default=0) < wanted.get(name, 0):
            many = sum(1 for most in having if most)
            return (
                f"{group}: no node is big enough for its pod ({asks}): of {len(nodes)} nodes {many} have {name}, "
                f"the largest {_readable(name, max(having, default=0))}",
                False,
            )
    if not fitting:
        return f"{group}: no node has together what its pod asks for ({asks}): {_plain(message)}", False
    return f"{group}: waits for {asks}: {len(fitting)} of {len(nodes)} nodes have it, and it is in use there", True


def _shortage_fix(message: str, group: str) -> str:
    if "untolerated taint" in message and "Insufficient" not in message:
        return f"add the taint that it names to groups.{group}.tolerations"
    if "affinity/selector" in message and "Insufficient" not in message:
        return f"correct groups.{group}.node_selector: kubectl get nodes --show-labels"
    return f"make the pods of {group} smaller in the profile, free what others use (heliostat status), or add nodes"


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
    """Whether another group can do the work when this one does not come: then the autoscaler turns to that one."""
    return any(_stands_in(other, this) for this in profile.groups if this.name == group for other in profile.groups)


def _stands_in(other: WorkerGroup, this: WorkerGroup) -> bool:
    same_kind = bool(other.gpu) == bool(this.gpu) and other is not this
    return same_kind and other.gpu >= this.gpu and cpus(other.cpu) >= cpus(this.cpu)


def of_volumes(pod: Document, events: list[Document]) -> Iterator[Problem]:
    """Volumes that cannot be mounted."""
    waiting = {(status.get("state", {}).get("waiting") or {}).get("reason") for status in statuses(pod)}
    if pod.get("status", {}).get("phase") != "Pending" or not waiting <= {"ContainerCreating", "PodInitializing"}:
        return  # what was in the way of the volumes is so no more
    of_pod = _about(pod, events)
    if any(event["reason"] in MOUNTED for event in of_pod):
        return
    for event in of_pod:
        if event["reason"] in ("FailedMount", "FailedAttachVolume"):
            message = event.get("message", "")
            yield Problem(
                f"mount {group_of(pod)}", f"{group_of(pod)}: a volume cannot be mounted: {message}", _missing_fix(message), 10
            )
