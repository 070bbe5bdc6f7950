"""What the tests on a real Kubernetes share: the cluster that KUBECONFIG names, and a namespace that is gone afterwards.

They depend on nothing but KUBECONFIG, an image with Ray (``HELIOSTAT_TEST_IMAGE``) and the resource that nodes call their GPUs
(``HELIOSTAT_TEST_GPU``): two nodes with a GPU each, and a default storage class with ReadWriteMany. Killing a node takes more
than the API: ``HELIOSTAT_TEST_NODES`` names a program with ``node kill NAME``, ``node drain NAME`` and
``node add NAME --gpus N``; `.ci/run` sets it. On a cluster that others use, ``HELIOSTAT_TEST_PODS`` keeps the pods on nodes of
their own: keys of profiles in JSON, such as ``{"head": {"cpu": "1"}, "groups": {"node_selector": {"pool": "mine"}}}``, those of
``groups`` for each group. Where KubeRay's operator is a process of this machine, ``HELIOSTAT_TEST_OPERATOR`` is its id, and a
test of `make accept` halts it for some seconds.
"""

import json
import os
import re
import secrets
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.errors import NotFound
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.config import to_yaml
from tests.conftest import CI, Command, clean_environment, end_group, wait_for

IMAGE = os.environ.get("HELIOSTAT_TEST_IMAGE", "heliostat/ray:2.60.0")
GPU = os.environ.get("HELIOSTAT_TEST_GPU", "nvidia.com/gpu")
PODS = {"head": {}, "groups": {}, **json.loads(os.environ.get("HELIOSTAT_TEST_PODS", "{}"))}
HERE = Path(__file__).parent
SHORT = ["--set", "epochs=4"]
"""The digits example in a few seconds."""
ON_GPUS = pytest.mark.xdist_group("kubernetes/gpus")
"""Of modules that take GPUs or lose nodes: one process runs them, and beside it another one all that need a head at most."""


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
            "head": {"cpu": "300m", "memory": "3Gi", **PODS["head"]},
            "autoscaler": {"cpu": "100m", "memory": "512Mi"},
            "groups": [group()],
            "storage": {"claim": "runs", "size": "1Gi"},
            **{key: value for key, value in PODS.items() if key not in ("head", "groups")},
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
    return {**small, "max": 2, "idle_seconds": 15, "start_seconds": 120, **changes, **PODS["groups"]}


def cpu_group(**changes: object) -> dict[str, object]:
    """A worker group without GPUs, for tests that run beside those that take the GPUs and lose their nodes."""
    return group(**{"name": "cpu", "gpu": 0, "gpu_type": None, **changes})


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


def status(command: Command, path: Path) -> dict[str, Any]:
    """What ``heliostat status`` prints."""
    done = command("status", path, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.fixture(scope="module")
def kueue(place: Place) -> str:
    """The API version of Kueue, without which the tests that need it are skipped."""
    try:
        return place.kube.api.kueue
    except NotFound:
        assert not CI, "the continuous integration has no Kueue: kube kueue"
        pytest.skip("this Kubernetes has no Kueue")


class Running:
    """A ``heliostat train``, ``sweep`` or ``torchrun`` with ``--on``, with the lines of its job as they come."""

    def __init__(self, place: Place, *args: str | Path) -> None:
        self.process = place.command.start(*args)
        self.lines: list[str] = []
        self.out: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._errors = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True)
        self._errors.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.out.append(line)
            self.lines.append(line)

    def says(self, pattern: str, seconds: float = 600, after: int = 0) -> re.Match[str]:
        """Wait for a line, one that comes after the first so many."""

        def found() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in self.lines[after:])), None)

        def there() -> bool:
            over = not self._reader.is_alive() and not self._errors.is_alive()  # before the last look at what they have read
            assert found() or not over, "".join(self.lines)
            return bool(found())

        wait_for(there, f"{pattern} in {self.lines}", seconds)
        match = found()
        assert match
        return match

    def end(self) -> int:
        """Wait for its end; its exit code."""
        try:
            code = self.process.wait(timeout=900)
        finally:
            end_group(self.process)
        self._reader.join()
        self._errors.join()
        return code

    def result(self) -> dict[str, Any]:
        """Wait for its end, which must be a success; what ``--json`` has printed."""
        assert self.end() == 0, "".join(self.lines)
        return document_in("".join(self.out))


def first_document(process: "subprocess.Popen[str]") -> str:
    """The first JSON document that a process prints, which goes on."""
    lines: list[str] = []
    for line in process.stdout or ():
        lines.append(line)
        if line.rstrip() == "}":
            return "".join(lines)
    pytest.fail(f"it ended: {process.stderr.read() if process.stderr else ''}")


def document_in(output: str) -> dict[str, Any]:
    """The JSON document in what a job has printed."""
    document: dict[str, Any] = json.JSONDecoder().raw_decode(output, output.index("{\n"))[0]
    return document


def ray_pods(place: Place, kind: str) -> list[dict[str, Any]]:
    """The pods of a kind, ``head`` or ``worker``, that are there, of any cluster."""
    query = {"labelSelector": f"ray.io/node-type={kind}"}
    found: list[dict[str, Any]] = place.kube.api.request("GET", place.kube.api.path("Pod"), query=query)["items"]
    return found


def workers(place: Place) -> list[dict[str, Any]]:
    """The worker pods that are there, of any cluster."""
    return ray_pods(place, "worker")


def worker_pods(place: Place) -> list[dict[str, Any]]:
    """Those that are not being deleted."""
    return [pod for pod in workers(place) if not pod["metadata"].get("deletionTimestamp")]


def node_of_workers(place: Place) -> str:
    """A node with a worker and no head, once there is one: who loses the head needs the same command again."""

    def nodes(pods: list[dict[str, Any]]) -> set[str]:
        return {pod["spec"]["nodeName"] for pod in pods if pod["status"]["phase"] == "Running"}

    def found() -> set[str]:
        return nodes(worker_pods(place)) - nodes(ray_pods(place, "head"))

    wait_for(lambda: bool(found()), "a worker on a node without a head")
    return min(found())


def succeeded(place: Place) -> list[str]:
    """The names of the RayJobs whose job has succeeded."""
    return [j["metadata"]["name"] for j in place.kube.jobs.list() if j.get("status", {}).get("jobStatus") == "SUCCEEDED"]


@dataclass(frozen=True)
class Machines:
    """Takes nodes away, and brings new machines under their names."""

    place: Place
    program: str
    gpus: dict[str, str]
    """How many each node has."""

    def lose(self, name: str, how: str = "kill") -> None:
        """Without notice (``kill``), or with it (``drain``)."""
        subprocess.run([self.program, "node", how, name], check=True)
        if how == "kill":  # what a cloud does with a machine that is gone
            api = self.place.kube.api
            api.request("DELETE", api.path("Node", name))

    def bring(self, name: str) -> None:
        subprocess.run([self.program, "node", "add", name, "--gpus", self.gpus[name]], check=True)

    def replace(self, name: str, how: str = "kill") -> None:
        self.lose(name, how)
        self.bring(name)


@pytest.fixture(scope="module")
def machines(place: Place) -> Machines:
    program = os.environ.get("HELIOSTAT_TEST_NODES")
    if not program:
        pytest.skip("HELIOSTAT_TEST_NODES is not set")
    listed = place.kube.api.request("GET", place.kube.api.path("Node"))["items"]
    gpus = {node["metadata"]["name"]: node["status"]["allocatable"].get(GPU, "0") for node in listed}
    return Machines(place, program, gpus)
