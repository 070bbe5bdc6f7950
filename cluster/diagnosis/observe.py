"""Reads the state of a cluster from the API server, with few requests: a quiet job is polled every second for days."""

import time
from collections.abc import Callable
from dataclasses import replace

from heliostat.cluster.diagnosis.snapshot import Queue, Snapshot, all_ready, any_unschedulable, gated
from heliostat.cluster.errors import Forbidden, NotFound
from heliostat.cluster.jobs.dashboard import Dashboard
from heliostat.cluster.jobs.demand import RayState, ray_state
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import QUEUE_LABEL, Document

EVENTS_SECONDS, NODES_SECONDS, QUEUE_SECONDS = 3.0, 10.0, 3.0
"""The maximum age of namespace-wide and cluster-wide lists; nodes are listed twice before a wait is given up."""
RAY_SECONDS, QUIET_SECONDS = 5.0, 15.0
"""The maximum age of what Ray's jobs wait for; if they waited for nothing, the second."""


class Observer:
    """Takes snapshots of one cluster.

    A snapshot of a healthy cluster costs two small requests. The events of the namespace are listed only while something is
    not ready, all nodes only while a pod is unschedulable, and a queue is asked only while it is waited in.

    Args:
        kube: the namespace.
        name: of the RayCluster, or of the RayJob that makes one.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, kube: KubeRay, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.kube, self.name, self.clock = kube, name, clock
        self._cache: dict[str, tuple[float, list[Document] | None]] = {}

    def snapshot(self, job: Document | None = None) -> Snapshot:
        """The current state of the cluster, and the objects that may explain it.

        Args:
            job: the RayJob that it belongs to, of the same name; the operator then chooses that of the RayCluster.
        """
        chosen = job.get("status", {}).get("rayClusterName") if job else self.name
        cluster = self.kube.clusters.find(chosen) if chosen else None
        seen = Snapshot(cluster, self._pods(chosen) if chosen else [], [], job, [])
        if not all_ready(seen):
            seen = replace(seen, events=self.events(), queue=self._queue(job or cluster, seen.pods))
        return replace(seen, nodes=self.nodes()) if any_unschedulable(seen) else seen

    def events(self) -> list[Document] | None:
        """The events about the cluster and its objects; None without the right to list them."""
        events = self._listed("Event", EVENTS_SECONDS)
        # Kueue names its objects after the kind and the name of the queued object.
        names = tuple(f"{kind}{self.name}" for kind in ("", "raycluster-", "rayjob-"))
        return events and [event for event in events if event["involvedObject"].get("name", "").startswith(names)]

    def nodes(self) -> list[Document] | None:
        """All nodes; None without the right to list them."""
        return self._listed("Node", NODES_SECONDS)

    def _queue(self, waiting: Document | None, pods: list[Document]) -> Queue | None:
        """The queue that keeps an object suspended, or its new pods gated."""
        if not waiting or not (waiting["spec"].get("suspend") or any(map(gated, pods))):
            return None
        name = waiting["metadata"].get("labels", {}).get(QUEUE_LABEL)
        if not name:
            return None
        api = self.kube.api
        try:
            path = f"/apis/{api.kueue}/namespaces/{api.namespace}"
        except NotFound:  # it was uninstalled: nothing will admit it
            return Queue(name, None, [])
        local = self._get(f"{path}/localqueues/{name}")
        return Queue(name, local[0] if local else None, self._get(f"{path}/workloads"))

    def _pods(self, cluster: str) -> list[Document]:
        query = {"labelSelector": f"ray.io/cluster={cluster}"}
        found: list[Document] = self.kube.api.request("GET", self.kube.api.path("Pod"), query=query)["items"]
        return found

    def _listed(self, kind: str, seconds: float) -> list[Document] | None:
        return self._get(self.kube.api.path(kind), seconds)

    def _get(self, path: str, seconds: float = QUEUE_SECONDS) -> list[Document] | None:
        """The objects at a path, or the one; None if the user may not read it, or it does not exist."""
        at, found = self._cache.get(path, (float("-inf"), None))
        if self.clock() - at >= seconds:
            try:
                answer = self.kube.api.request("GET", path)
                found = answer.get("items", [answer])
            except (Forbidden, NotFound):
                found = None
            self._cache[path] = (self.clock(), found)
        return found


class RayObserver:
    """What Ray knows, asked for at most every `RAY_SECONDS`, and less often while no job waits.

    Args:
        dashboard: of the cluster.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, dashboard: Dashboard, clock: Callable[[], float] = time.monotonic) -> None:
        self.dashboard, self.clock = dashboard, clock
        self._at, self._found = float("-inf"), RayState((), {}, (), ())

    def __call__(self) -> RayState:
        """The state of Ray.

        Raises:
            KubernetesError: its dashboard does not respond.
        """
        if self.clock() - self._at >= (RAY_SECONDS if self._found.demands else QUIET_SECONDS):
            self._found, self._at = ray_state(self.dashboard), self.clock()
        return self._found
