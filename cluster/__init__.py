"""Clusters: profiles, the Kubernetes and local clusters that they describe, and the jobs on them."""

from typing import TYPE_CHECKING, Any

# Ray may put the root of a clone on the search path; the package must not be loaded under a second name.
if __name__ != "heliostat.cluster":
    raise ModuleNotFoundError(f"no module {__name__!r}; Heliostat's is heliostat.cluster", name=__name__)

if TYPE_CHECKING:
    from heliostat.cluster.kube.kuberay import KubeRay

__all__ = ["KubeRay"]


def __getattr__(name: str) -> Any:
    """Import `KubeRay` on first use, so that a local run does not wait for the Kubernetes library."""
    if name == "KubeRay":
        from heliostat.cluster.kube.kuberay import KubeRay

        return KubeRay
    raise AttributeError(f"module 'heliostat.cluster' has no attribute {name!r}")
