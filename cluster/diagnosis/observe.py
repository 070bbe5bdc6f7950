"""Reads the state of a cluster from the API server, with few requests: a quiet job is polled every second for days."""

import time
from collections.abc import Callable
from dataclasses import replace

from heliostat.cluster.diagnosis.snapshot import Snapshot, all_ready, any_unschedulable
from heliostat.cluster.errors import Forbidden
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import Document

EVENTS_SECONDS, NODES_SECONDS = 3.0, 10.0
"""The maximum age of namespace-wide and cluster-wide lists; nodes are listed twice before a wait is given up."""


class Observer:
    """Takes snapshots of one cluster.

    A snapshot of a healthy cluster costs two small requests. The events of the namespace are listed only while something is
    not ready, and all nodes only while a pod is unschedulable.

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
            seen = replace(seen, events=self.events())
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

    def _pods(self, cluster: str) -> list[Document]:
        query = {"labelSelector": f"ray.io/cluster={cluster}"}
        found: list[Document] = self.kube.api.request("GET", self.kube.api.path("Pod"), query=query)["items"]
        return found

    def _listed(self, kind: str, seconds: float) -> list[Document] | None:
        at, found = self._cache.get(kind, (float("-inf"), None))
        if self.clock() - at >= seconds:
            try:
                found = self.kube.api.request("GET", self.kube.api.path(kind))["items"]
            except Forbidden:
                found = None
            self._cache[kind] = (self.clock(), found)
        return found
