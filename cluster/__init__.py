"""Where it runs: profiles, the Kubernetes and laptop clusters that they describe, and the jobs on them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.cluster.kube.kuberay import KubeRay

__all__ = ["KubeRay"]


def __getattr__(name: str) -> Any:
    """`KubeRay` on first use: the local Ray must not wait for a Kubernetes library."""
    if name == "KubeRay":
        from heliostat.cluster.kube.kuberay import KubeRay

        return KubeRay
    raise AttributeError(f"module 'heliostat.cluster' has no attribute {name!r}")
