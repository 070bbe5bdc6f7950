"""The objects of a cluster in the API server at one moment, and the state of its pods."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from heliostat.cluster.diagnosis.group_nodes import GroupNodes
from heliostat.cluster.kube.conditions import condition, ready
from heliostat.cluster.names import ELASTIC, MANAGER, TEMPLATE, Document
from heliostat.cluster.profile import WorkerGroup


@dataclass(frozen=True)
class Queue:
    """A Kueue queue at one moment."""

    name: str
    local: Document | None
    """The LocalQueue; None if it does not exist, or the user may not read it."""
    workloads: list[Document] | None
    """What is in the queues of the namespace; None if the user may not list it."""


@dataclass(frozen=True)
class Snapshot:
    """The objects of one cluster at one moment."""

    cluster: Document | None
    pods: list[Document]
    events: list[Document] | None
    """None: the user may not list events. They are not listed while it is `all_ready`."""
    job: Document | None = None
    """The RayJob that the cluster belongs to."""
    nodes: list[Document] | None = None
    """None: the user may not list nodes. They are not listed while no pod is unschedulable."""
    queue: Queue | None = None
    """None while it is in no queue."""

    @property
    def head(self) -> Document | None:
        """The head's pod."""
        return next((pod for pod in self.pods if group_of(pod) == "head" and not terminating(pod)), None)

    def workers(self, group: str | None = None) -> list[Document]:
        """The workers' pods, of one group or all."""
        return [pod for pod in self.pods if group_of(pod) != "head" and not terminating(pod) and group in (None, group_of(pod))]


def all_ready(seen: Snapshot) -> bool:
    """Whether the cluster and all its pods are ready, so that events explain nothing."""
    if seen.cluster is None or seen.head is None or not ready(seen.cluster):
        return False
    return all(pod_ready(pod) for pod in seen.pods if not terminating(pod))


def any_unschedulable(seen: Snapshot) -> bool:
    """Whether a pod is unschedulable."""
    return any(condition(pod, "PodScheduled").get("reason") == "Unschedulable" for pod in seen.pods)


def pod_ready(pod: Document) -> bool:
    """Whether all containers of a pod are ready."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def ray_runs(head: Document) -> bool:
    """Whether the Ray container of a head's pod runs, as far as the API server knows."""
    return any(status["name"] == "ray-head" and "running" in status.get("state", {}) for status in statuses(head))


def terminating(pod: Document) -> bool:
    """Whether a pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def gated(pod: Document) -> bool:
    """Whether a pod waits in a queue with the growth that it is a part of."""
    return any(gate["name"] == ELASTIC for gate in pod["spec"].get("schedulingGates", []))


def pod_state(pod: Document) -> str:
    """The state of a pod, in a word or two."""
    if terminating(pod):
        return "terminating"
    if pod_ready(pod):
        return "ready"
    for status in statuses(pod):
        state = status.get("state", {})
        if reason := state.get("waiting", {}).get("reason"):
            if reason not in ("PodInitializing", "ContainerCreating"):
                return str(reason)
        elif state.get("terminated", {}).get("exitCode"):
            return f"ended with {state['terminated']['exitCode']}"
    if any(c.get("reason") == "Unschedulable" for c in pod.get("status", {}).get("conditions", [])):
        return "unschedulable"
    phase = pod.get("status", {}).get("phase", "Pending")
    return {"Pending": "starting", "Running": "starting"}.get(phase, str(phase).lower())


def event_time(event: Document) -> float:
    """When an event was last seen, in seconds since the epoch; old and new operators write it in different fields."""
    series = (event.get("series") or {}).get("lastObservedTime")
    text = series or event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(text).timestamp()


def applied_at(document: Document) -> float:
    """When an object was last applied, by the API server's clock."""
    times = [f["time"] for f in document["metadata"].get("managedFields", []) if f.get("operation") == "Apply" and "time" in f]
    return datetime.fromisoformat(max([*times, document["metadata"]["creationTimestamp"]])).timestamp()


def changed_at(document: Document) -> float:
    """When any client last wrote an object, but for its status, by the API server's clock."""
    times = [f["time"] for f in document["metadata"].get("managedFields", []) if "time" in f and not f.get("subresource")]
    return datetime.fromisoformat(max([*times, document["metadata"]["creationTimestamp"]])).timestamp()


def decided_at(document: Document) -> float:
    """When a command of heliostat last wrote an object, by the API server's clock."""
    times = [f["time"] for f in document["metadata"].get("managedFields", []) if f.get("manager") == MANAGER and "time" in f]
    return datetime.fromisoformat(max([*times, document["metadata"]["creationTimestamp"]])).timestamp()


def group_of(pod: Document) -> str:
    """The worker group of a pod; ``head`` for the head's."""
    labels = pod["metadata"].get("labels", {})
    return "head" if labels.get("ray.io/node-type") == "head" else str(labels.get("ray.io/group", "?"))


def template_hash(metadata: Mapping[str, Any]) -> str | None:
    """The template hash in the annotations of a pod or a template (`heliostat.cluster.names.TEMPLATE`)."""
    mark: str | None = metadata.get("annotations", {}).get(TEMPLATE)
    return mark


def template_hashes(cluster: Document) -> dict[str, str | None]:
    """The current template hash of each group; ``head`` for the head's."""
    spec = cluster["spec"]
    groups = {"head": spec.get("headGroupSpec", {}), **{g["groupName"]: g for g in spec.get("workerGroupSpecs", [])}}
    return {name: template_hash(group.get("template", {}).get("metadata", {})) for name, group in groups.items()}


def statuses(pod: Document) -> list[Mapping[str, Any]]:
    """The states of a pod's containers, those that run before the others first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def fleet_of(seen: Snapshot, groups: Iterable[WorkerGroup]) -> dict[str, GroupNodes]:
    """The nodes by worker group, with the limits that the live cluster has."""
    live = {g["groupName"]: g for g in seen.cluster["spec"].get("workerGroupSpecs", [])} if seen.cluster else {}
    return {group.name: _group_nodes(seen.workers(group.name), live.get(group.name, {}), group.max) for group in groups}


def _group_nodes(pods: list[Document], spec: Mapping[str, Any], most: int) -> GroupNodes:
    ready = [pod["metadata"]["name"] for pod in pods if pod_ready(pod)]
    starting = {pod["metadata"]["name"]: created_at(pod) for pod in pods if not pod_ready(pod)}
    return GroupNodes(spec.get("maxReplicas", most), ready, starting, spec.get("replicas", 0))


def created_at(document: Document) -> float | None:
    """When an object was created, by the API server's clock; None if it does not say."""
    return time_of(document["metadata"].get("creationTimestamp"))


def time_of(text: str | None) -> float | None:
    """A time of the API server in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp() if text else None


def amount(quantity: str) -> float:
    """A Kubernetes quantity as a number, such as 0.5 for ``500m``."""
    return float(parse_quantity(quantity))  # type: ignore[no-untyped-call]
