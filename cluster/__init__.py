"""Where it runs: profiles, the Kubernetes and laptop clusters that they describe, and the jobs on them."""

from typing import TYPE_CHECKING, Any

# The root of a clone may be on a search path, as Ray puts it there: nothing of ours is loaded under a second name.
if __name__ != "heliostat.cluster":
    raise ModuleNotFoundError(f"no module {__name__!r}; Heliostat's is heliostat.cluster", name=__name__)

if TYPE_CHECKING:
    from heliostat.cluster.kube.kuberay import KubeRay

__all__ = ["KubeRay"]


def __getattr__(name: str) -> Any:
    """`KubeRay` on first use: the local Ray must not wait for a Kubernetes library."""
    if name == "KubeRay":
        from heliostat.cluster.kube.kuberay import KubeRay

        return KubeRay
    raise AttributeError(f"module 'heliostat.cluster' has no attribute {name!r}")
