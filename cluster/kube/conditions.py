"""Conditions in the status of KubeRay objects."""

from collections.abc import Mapping
from typing import Any

from heliostat.cluster.names import Document


def ready(cluster: Document) -> bool:
    """Whether a cluster's head is ready and the operator has processed the latest change.

    ``status.state`` is not reliable: it stays "ready" when pods die later.
    """
    return observed(cluster) and bool(condition(cluster, "HeadPodReady").get("status") == "True")


def suspended(cluster: Document) -> bool:
    """Whether a cluster is suspended and its pods are deleted."""
    return condition(cluster, "RayClusterSuspended").get("status") == "True"


def observed(document: Document) -> bool:
    """Whether the operator has processed the latest change."""
    seen: int = document.get("status", {}).get("observedGeneration", 0)
    changed: int = document["metadata"]["generation"]
    return seen >= changed


def condition(document: Document, kind: str) -> Mapping[str, Any]:
    """A condition in the status of an object; empty if it does not exist."""
    conditions = document.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def finished(job: Document) -> bool:
    """Whether a RayJob has finished and is not retried."""
    return job.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed")
