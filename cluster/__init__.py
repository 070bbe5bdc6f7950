"""Clusters: profiles, the Kubernetes and local clusters that they describe, and the jobs on them."""

from typing import TYPE_CHECKING, Any

if __name__ != "heliostat.cluster":  # the clone's root is on the search path, as Ray puts it there
    from heliostat.modules import step_aside

    step_aside(__name__, __file__, "from heliostat.cluster import KubeRay")

if TYPE_CHECKING:
    from heliostat.cluster.kube.kuberay import KubeRay

__all__ = ["KubeRay"]


def __getattr__(name: str) -> Any:
    """Import `KubeRay` on first use, so that a local run does not wait for the Kubernetes library."""
    if name == "KubeRay":
        from heliostat.cluster.kube.kuberay import KubeRay

        return KubeRay
    raise AttributeError(f"module 'heliostat.cluster' has no attribute {name!r}")
