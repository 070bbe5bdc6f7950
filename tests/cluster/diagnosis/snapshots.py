"""Objects as Kubernetes 1.34 and KubeRay 1.6.1 write them, and a Watchdog that checks them on a test's clock."""

from collections.abc import Callable
from typing import Any

from heliostat.cluster.diagnosis.snapshot import Snapshot
from heliostat.cluster.diagnosis.wait import Watchdog
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile, find
from heliostat.errors import NotComing

APPLIED, LATER, BEFORE = "2026-11-24T09:00:00Z", "2026-11-24T09:00:01Z", "2026-11-24T08:50:00Z"
IMAGE = "heliostat/ray:2.60.0"
PULL = f'failed to pull and unpack image "docker.io/{IMAGE}": failed to resolve reference "docker.io/{IMAGE}": '
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims found."
QUOTA = 'pods "gpu-head-x" is forbidden: exceeded quota: q, requested: requests.cpu=400m, limited: requests.cpu=100m'
SECURITY = 'pods "p1-head-x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
START_SECONDS = 240
"""Of both groups of the profile ``spot``."""


class Clock:
    """A clock that a test advances."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def cluster(condition: Document | None = None, **spec: Any) -> Document:
    conditions = [condition] if condition else []
    return {
        "metadata": {
            "name": "gpu",
            "uid": "u-cluster",
            "generation": 1,
            "creationTimestamp": BEFORE,
            "managedFields": [{"operation": "Apply", "time": APPLIED}, {"operation": "Update", "time": LATER}],
        },
        "spec": spec,
        "status": {"observedGeneration": 1, "conditions": conditions},
    }


def failure(reason: str, message: str) -> Document:
    return cluster({"type": "ReplicaFailure", "status": "True", "reason": reason, "message": message})


def pod(group: str = "head", name: str = "", conditions: list[Document] | None = None, **status: Any) -> Document:
    """A pod of the head or of a worker group, with this status."""
    kind = "head" if group == "head" else "worker"
    requests = {"cpu": "8", "memory": "64Gi", **({} if group == "head" else {"nvidia.com/gpu": "1"})}
    container = {"name": f"ray-{kind}", "image": IMAGE, "resources": {"requests": requests}}
    name = name or f"gpu-{group}-x"
    return {
        "metadata": {"name": name, "uid": f"u-{name}", "labels": {"ray.io/node-type": kind, "ray.io/group": group}},
        "spec": {"containers": [container]},
        "status": {"phase": "Pending", "conditions": conditions or [], **status},
    }


def waiting(reason: str, message: str = "", container: str = "ray-head") -> list[Document]:
    return [{"name": container, "image": IMAGE, "state": {"waiting": {"reason": reason, "message": message}}}]


def ended(container: str, code: int = 2, reason: str = "Error") -> list[Document]:
    return [{"name": container, "image": IMAGE, "state": {"terminated": {"exitCode": code, "reason": reason}}}]


def unschedulable(message: str) -> list[Document]:
    return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]


def event(
    reason: str, message: str = "", uid: str = "u-cluster", kind: str = "RayCluster", name: str = "gpu", at: str = LATER
) -> Document:
    return {
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": kind, "name": name, "uid": uid},
        "lastTimestamp": at,
        "metadata": {"creationTimestamp": at},
    }


def mount_failure(message: str, times: int = 1) -> Document:
    """Of the head's pod, as the kubelet counts an event with the same text."""
    return event("FailedMount", message, "u-gpu-head-x", "Pod", "gpu-head-x") | {"count": times}


def node(gpus: int, cpu: str = "16", memory: str = "128Gi") -> Document:
    return {
        "metadata": {"labels": {}},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "nvidia.com/gpu": str(gpus)}},
    }


def job(**status: Any) -> Document:
    return {"metadata": {"name": "gpu-job", "creationTimestamp": APPLIED}, "spec": {}, "status": status}


def seen(*pods: Document, **more: Any) -> Snapshot:
    return Snapshot(**{"cluster": cluster(), "pods": list(pods), "events": [], **more})


def fixed(name: str) -> Profile:
    """A bundled profile on a Kubernetes that adds no nodes."""
    return find(name, ["node_autoscaling=false"])


def watch(
    snapshot: Snapshot | Callable[[float], Snapshot],
    seconds: float,
    profile: Profile | None = None,
    log: str | Callable[[str], str] = "",
) -> tuple[NotComing | None, float, list[str]]:
    """Check twice a second: the error, after how many seconds it came, and the status lines."""
    clock = Clock()
    dog = Watchdog(profile or fixed("spot"), log if callable(log) else lambda _: log, clock)
    said: list[str] = []
    while (passed := clock.now - Clock.now) <= seconds:
        try:
            said.append(dog.look(snapshot(passed) if callable(snapshot) else snapshot))
        except NotComing as error:
            return error, passed, said
        clock.now += 0.5
    return None, seconds, said
