"""How an object of KubeRay is, as its status tells."""

from collections.abc import Mapping
from typing import Any

from heliostat.cluster.names import Document


def ready(cluster: Document) -> bool:
    """Whether a cluster's head is ready, as of its latest change.

    ``status.state`` does not tell: it stays "ready" when pods die later.
    """
    return observed(cluster) and bool(condition(cluster, "HeadPodReady").get("status") == "True")


def suspended(cluster: Document) -> bool:
    """Whether a cluster's pods are gone because it is suspended."""
    return condition(cluster, "RayClusterSuspended").get("status") == "True"


def observed(document: Document) -> bool:
    """Whether the operator has seen the latest change."""
    seen: int = document.get("status", {}).get("observedGeneration", 0)
    changed: int = document["metadata"]["generation"]
    return seen >= changed


def condition(document: Document, kind: str) -> Mapping[str, Any]:
    """A condition of an object's status; empty if it has none."""
    conditions = document.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def finished(job: Document) -> bool:
    """Whether a RayJob has ended for good."""
    return job.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed")
