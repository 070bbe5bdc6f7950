"""What the tests on a real Kubernetes share: the cluster that KUBECONFIG names, and a namespace that is gone afterwards.

They depend on nothing but KUBECONFIG, an image with Ray (``HELIOSTAT_TEST_IMAGE``) and the resource that nodes call their GPUs
(``HELIOSTAT_TEST_GPU``): two nodes with a GPU each, and a default storage class with ReadWriteMany.
"""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cluster.kuberay import KubeRay
from heliostat.config import to_yaml
from tests.conftest import Command, clean_environment

IMAGE = os.environ.get("HELIOSTAT_TEST_IMAGE", "heliostat/ray:2.60.0")
GPU = os.environ.get("HELIOSTAT_TEST_GPU", "nvidia.com/gpu")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a Kubernetes these tests are skipped; ``.ci/run`` starts one where it can."""
    if "KUBECONFIG" in os.environ:
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="KUBECONFIG is not set"))


@dataclass(frozen=True)
class Place:
    """A namespace of a real Kubernetes, a folder, and the command that works there."""

    kube: KubeRay
    command: Command

    @property
    def namespace(self) -> str:
        return self.kube.api.namespace

    def profile(self, name: str = "gpu", **changes: object) -> Path:
        """A profile small enough for any test cluster, in this namespace; ``changes`` replace its keys."""
        document = {
            "namespace": self.namespace,
            "image": IMAGE,
            "head": {"cpu": "300m", "memory": "3Gi"},
            "autoscaler": {"cpu": "100m", "memory": "512Mi"},
            "groups": [group()],
            "storage": {"claim": "runs", "size": "1Gi"},
            **changes,
        }
        path = self.command.cwd / f"{name}.yaml"
        path.write_text(to_yaml(document))
        return path

    def user(self, name: str) -> "Place":
        """The same place for a new user: a service account, with no rights but those that are bound to it."""
        api = self.kube.api
        self.kube.objects("ServiceAccount").create({"metadata": {"name": name}})
        token = api.request("POST", f"{api.path('ServiceAccount', name)}/token", {"spec": {}})["status"]["token"]
        server = {"server": api.server, "certificate-authority": str(api.configuration.ssl_ca_cert)}
        path = kubeconfig(self.command.cwd.parent / f"{name}.kubeconfig", server, {"token": token}, self.namespace)
        return replace(self.by(path), kube=KubeRay(str(path)))

    def by(self, kubeconfig: Path) -> "Place":
        """The same place, with a command that uses another kubeconfig."""
        return replace(self, command=replace(self.command, env={**self.command.env, "KUBECONFIG": str(kubeconfig)}))


def kubeconfig(path: Path, server: dict[str, str], user: dict[str, str], namespace: str) -> Path:
    """Write a kubeconfig with one context."""
    context = {"cluster": "test", "user": "test", "namespace": namespace}
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": context}],
    }  # fmt: skip
    path.write_text(to_yaml(document))
    return path


def group(**changes: object) -> dict[str, object]:
    """A worker group with a GPU, of which one fits on a node."""
    small = {"name": "gpu", "gpu": 1, "gpu_resource": GPU, "gpu_type": "H100", "cpu": "300m", "memory": "2Gi"}
    return {**small, "max": 2, "idle_seconds": 15, "start_seconds": 120, **changes}


def whole_node(kube: KubeRay) -> dict[str, object]:
    """A worker group whose pods take all GPUs of a node, so that two are never on the same."""
    nodes = kube.api.request("GET", kube.api.path("Node"))["items"]
    return group(gpu=max(int(node["status"]["allocatable"].get(GPU, 0)) for node in nodes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A new namespace for a module, deleted afterwards with everything in it."""
    assert "KUBECONFIG" in os.environ, "the continuous integration has no Kubernetes: KUBECONFIG is not set"
    folder = tmp_path_factory.mktemp("kubernetes")
    environment = {**clean_environment(folder / "home"), "KUBECONFIG": os.environ["KUBECONFIG"]}
    (folder / "work").mkdir()
    name = f"heliostat-{secrets.token_hex(3)}"
    kube = KubeRay(namespace=name)
    kube.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        yield Place(kube, Command(folder / "work", environment))
    finally:
        kube.api.request("DELETE", f"/api/v1/namespaces/{name}")
