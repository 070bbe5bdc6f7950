"""The doctor finds each fault for real, and gives its fix."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from heliostat.cli import main
from heliostat.cluster.diagnosis.fit import shapes
from heliostat.cluster.documents.rbac import RIGHTS
from heliostat.cluster.kube.api import Api
from heliostat.cluster.names import ENFORCE, MANAGED_BY
from heliostat.cluster.ports import free_ports
from heliostat.cluster.profile import find
from tests.conftest import wait_for
from tests.kubernetes.conftest import GPU, ON_GPUS, Place, group, kubeconfig

HIDDEN = {"operator", "DNS"}
"""What may run outside of a cluster, where the API does not show it."""


@dataclass(frozen=True)
class Examined:
    """What ``heliostat doctor --json`` has found, by check and state."""

    code: int
    checks: list[dict[str, str]]

    def all(self, state: str, check: str = "") -> list[dict[str, str]]:
        return [each for each in self.checks if each["state"] == state and check in ("", each["check"])]

    def names(self, state: str) -> set[str]:
        """The checks that have found something of a state."""
        return {each["check"] for each in self.all(state)}

    def only_problem(self, check: str) -> str:
        """What it says of the one problem that there is, its cure included."""
        assert self.code == 1
        assert [each["check"] for each in self.all("problem")] == [check], self.all("problem")
        return " ".join((self.all("problem")[0]["what"], self.all("problem")[0]["fix"]))


def examined(place: Place, *args: str | Path) -> Examined:
    """In this process, because there are so many of these."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setenv("KUBECONFIG", place.command.env["KUBECONFIG"])
        code = main(["doctor", *map(str, args), "--json"])
    document: dict[str, Any] = json.loads(out.getvalue())
    found = Examined(code, document["checks"])
    assert document["problems"] == len(found.all("problem"))
    assert all(bool(each["fix"]) == (each["state"] != "ok") for each in found.checks)
    return found


@contextmanager
def there(place: Place, kind: str, name: str, body: dict[str, Any]) -> Iterator[None]:
    """An object that is there for a moment."""
    api = place.kube.api
    api.request("POST", api.path(kind), {"metadata": {"name": name}, **body})
    try:
        yield
    finally:
        api.request("DELETE", api.path(kind, name), {})


def test_a_good_namespace_and_profile_have_no_problem(place: Place) -> None:
    path = place.profile()
    found = examined(place, path)
    assert found.code == 0, found.all("problem")
    assert {each["check"] for each in found.all("unknown")} <= HIDDEN
    assert {each["check"] for each in found.checks} >= {
        "rights",
        "quota",
        "nodes",
        "storage",
        "image",
        "documents",
        "cluster",
        "Ray",
    }
    shown = place.command("doctor", path)
    assert shown.code == 0
    assert shown.out.endswith("cannot be checked from here\n" if found.all("unknown") else "no problem\n")


def test_without_a_profile_only_what_all_of_them_need(place: Place) -> None:
    found = examined(place)
    assert found.code == 0
    assert [each["check"] for each in found.checks] == [
        "kubeconfig", "API server", "KubeRay", "operator", "rights", "namespace", "DNS",
    ]  # fmt: skip


def test_pods_with_keys_of_their_own_are_tried(place: Place) -> None:
    pod = {"spec": {"hostPID": False}}
    found = examined(place, place.profile(annotations={"team": "vision"}, shared_memory="1Gi", run_as_user=1000, pod=pod))
    assert found.code == 0, found.all("problem")
    assert "the pods of gpu with annotations, shared_memory, pod, run_as_user" in str(found.all("ok", "pods"))
    for key, changes, words in (
        ("service_account", {"service_account": "ghost"}, 'serviceaccount "ghost" not found'),
        ("priority_class", {"priority_class": "ghost"}, "no PriorityClass with name ghost"),
        ("volumes", {"volumes": [{"claim": "ghost", "mount": "/data"}]}, "volumes names the claim ghost, which does not exist"),
    ):
        problems = examined(place, place.profile("gpu", **changes)).all("problem")
        assert {each["check"] for each in problems} == {"pods"}
        assert all(words in each["what"] and f"correct {key}" in each["fix"] for each in problems), problems


def test_a_namespace_that_does_not_exist(place: Place) -> None:
    output = examined(place, place.profile(namespace="no-such-namespace")).only_problem("namespace")
    assert 'namespaces "no-such-namespace" not found' in output
    assert "kubectl create namespace no-such-namespace" in output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpu": 99}, f"{GPU}, and it requests 99"),
        ({"node_selector": {"heliostat.dev/test": "nowhere"}}, "no label heliostat.dev/test=nowhere"),
        ({"cpu": 9999}, "cpu, and it requests 9999"),
    ],
)
def test_a_group_that_no_node_can_hold(place: Place, changes: dict[str, Any], words: str) -> None:
    groups = [group(), group(name="other", **changes)]
    output = examined(place, place.profile(groups=groups)).only_problem("nodes")
    assert output.startswith("other: no node could hold such a pod")
    assert words in output


@ON_GPUS  # the nodes with taints are those that tests in this group take away
def test_a_taint_that_is_not_tolerated_is_named(place: Place) -> None:
    """Only those with GPUs tolerate the taint of GPU nodes; for the others they are no place."""
    nodes = place.kube.api.request("GET", place.kube.api.path("Node"))["items"]
    labels = {
        label: value for node in nodes if node["spec"].get("taints") for label, value in node["metadata"]["labels"].items()
    }
    if "kubernetes.io/hostname" not in labels:
        pytest.skip("no node has a taint")
    cpu = group(gpu=0, gpu_type=None, node_selector={"kubernetes.io/hostname": labels["kubernetes.io/hostname"]})
    output = examined(place, place.profile(groups=[cpu])).only_problem("nodes")
    assert "has the taint" in output
    assert "groups.gpu.tolerations" in output


def test_secrets_that_do_not_exist_or_are_of_the_wrong_kind(place: Place) -> None:
    path = place.profile(storage={"uri": "s3://bucket/runs", "secret": "ghost"}, image_pull_secrets=["spirit", "plain"])
    with there(place, "Secret", "plain", {"stringData": {"key": "value"}}):
        found = examined(place, path)
    output = [each["what"] for each in found.all("problem", "secrets")]
    assert found.code == 1
    named = [("image_pull_secrets", "spirit"), ("image_pull_secrets", "plain"), ("storage.secret", "ghost")]
    assert [f"{key} names {name}" for key, name in named] == [what.partition(",")[0] for what in output]
    assert "Opaque" in output[1]


def test_a_claim_that_only_one_node_can_mount(place: Place) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    with there(place, "PersistentVolumeClaim", "single", {"spec": spec}):
        output = examined(place, place.profile(storage={"claim": "single"})).only_problem("storage")
    assert "only one node can mount" in output
    assert "ReadWriteMany" in output


def test_a_claim_that_is_not_created_and_one_without_a_class(place: Place) -> None:
    assert "set storage.size" in examined(place, place.profile(storage={"claim": "ghost"})).only_problem("storage")
    path = place.profile(storage={"claim": "new", "size": "1Gi", "storage_class": "nowhere"})
    assert "storage class nowhere, which does not exist" in examined(place, path).only_problem("storage")


def test_a_storage_class_whose_volumes_only_one_node_can_mount(place: Place) -> None:
    name = f"{place.namespace}-local"
    path = place.profile(storage={"claim": "new", "size": "1Gi", "storage_class": name})
    with there(place, "StorageClass", name, {"provisioner": "rancher.io/local-path"}):
        output = examined(place, path).only_problem("storage")
    assert "rancher.io/local-path can be mounted by one node only" in output


@pytest.mark.parametrize(
    ("hard", "words"),
    [
        ({"requests.memory": "1Gi"}, "the head and the minimum of workers: requests.memory (3.75Gi needed, 1Gi left)"),
        ({f"requests.{GPU}": "0"}, f"no room for a worker of gpu: requests.{GPU} (1 needed, 0 left)"),
        ({"pods": "1"}, "no room for a worker of gpu: pods (2 needed, 1 left)"),
        ({"limits.cpu": "100"}, "pods without a CPU limit are refused"),
    ],
)
def test_a_quota_too_small(place: Place, hard: dict[str, str], words: str) -> None:
    with there(place, "ResourceQuota", "tight", {"spec": {"hard": hard}}):
        assert words in examined(place, place.profile()).only_problem("quota")


def test_a_quota_with_room_for_some_says_for_how_many(place: Place) -> None:
    with there(place, "ResourceQuota", "some", {"spec": {"hard": {f"requests.{GPU}": "3", "requests.cpu": "1100m"}}}):
        found = examined(place, place.profile(groups=[group(max=7), group(name="big", gpu=2)]))
    assert found.code == 0
    # 500m are the head's, with its autoscaler, its watcher and its recorder.
    assert "room for the head and 2 of 7 gpu, 1 of 2 big; for all at once it lacks" in found.all("ok", "quota")[0]["what"]


def test_a_quota_that_does_not_count_our_pods_is_no_matter(place: Place) -> None:
    spec = {"hard": {"pods": "0"}, "scopes": ["BestEffort"]}
    with there(place, "ResourceQuota", "others", {"spec": spec}):
        assert examined(place, place.profile()).code == 0


def test_a_restricted_namespace_is_as_good_as_any_other(place: Place) -> None:
    api = place.kube.api
    place.kube.objects("Namespace").patch(place.namespace, {"metadata": {"labels": {ENFORCE: "restricted"}}})
    path = place.profile()
    found = examined(place, path)
    assert found.code == 0
    assert "level is restricted" in found.all("ok", "namespace")[0]["what"]
    for shape in shapes(find(str(path))):
        pod = {"metadata": {"name": f"try-{shape.name}"}, "spec": shape.spec}
        assert api.request("POST", api.path("Pod"), pod, {"dryRun": "All"})["spec"]["containers"]
    place.kube.objects("Namespace").patch(place.namespace, {"metadata": {"labels": {ENFORCE: None}}})


def test_a_document_that_the_api_server_does_not_take(place: Place) -> None:
    """Such as a claim that is there already and cannot become what the profile says."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "other"}
    claim = {"metadata": {"name": "fixed", "labels": {MANAGED_BY: "heliostat"}}, "spec": spec}
    with there(place, "PersistentVolumeClaim", "fixed", claim):
        found = examined(place, place.profile(storage={"claim": "fixed", "size": "2Gi", "storage_class": "another"}))
    assert found.code == 1
    assert "immutable" in found.all("problem", "documents")[0]["what"]


def test_an_image_that_cannot_be_pulled_or_has_not_been(place: Place) -> None:
    api, image = place.kube.api, "heliostat/nowhere:2.60.0"
    path = place.profile(image=image)
    assert f"no pod and no node has {image} yet" in examined(place, path).all("unknown", "image")[0]["what"]
    with there(place, "Pod", "puller", {"spec": {"containers": [{"name": "main", "image": image}]}}):
        wait_for(lambda: "ImagePull" in str(api.request("GET", api.path("Pod", "puller"))), "the pull to fail")
        output = examined(place, path).only_problem("image")
    assert f"puller cannot pull {image}" in output
    assert "image_pull_secrets" in output


def test_another_ray_here_than_in_the_profile(place: Place) -> None:
    path = place.profile(image="heliostat/ray:test", ray_version="2.59.0")
    assert "ray_version is 2.59.0, but this machine has Ray" in examined(place, path).only_problem("Ray")


def test_a_user_without_rights_learns_which_and_what_for(place: Place) -> None:
    found = examined(place.user("newcomer"), place.profile())
    output = [each["what"] for each in found.all("problem")]
    assert found.code == 1
    assert {each["check"] for each in found.all("problem")} == {"rights"}
    assert all(
        any(right.verb in what and f" {right.resource}, " in what and right.why in what for what in output) for right in RIGHTS
    )
    assert {each["check"] for each in found.all("unknown")} >= {
        "operator",
        "namespace",
        "nodes",
        "quota",
        "storage",
        "image",
        "cluster",
    }
    assert "cannot list resource" in found.all("unknown", "nodes")[0]["what"]


@pytest.mark.parametrize(
    ("text", "words"), [(None, "does not exist"), ("{not: [yaml", "is broken"), ("a: 1", "cannot be used")]
)
def test_a_kubeconfig_that_is_missing_or_broken(place: Place, tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "kubeconfig"
    if text:
        path.write_text(text)
    assert words in refused(place.by(path))


def test_credentials_that_hold_no_longer(place: Place) -> None:
    user = place.user("leaver")
    place.kube.objects("ServiceAccount").delete("leaver")
    assert "rejects these credentials" in refused(user)


def test_an_api_server_that_does_not_answer(place: Place, tmp_path: Path) -> None:
    server = {"server": f"https://127.0.0.1:{free_ports(1)[0]}"}
    assert "does not answer" in refused(place.by(kubeconfig(tmp_path / "kubeconfig", server, {}, "default")), code=75)


def refused(place: Place, code: int = 2) -> str:
    """What is said at once when nothing can be looked at."""
    done = place.command("doctor")
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert "fix:" in done.err
    return done.err


def test_a_kubernetes_without_kuberay(place: Place, tmp_path: Path) -> None:
    with without_kuberay(place.kube.api) as url:
        found = examined(place.by(kubeconfig(tmp_path / "kubeconfig", {"server": url}, {}, place.namespace)))
    output = found.all("problem", "KubeRay")[0]
    assert "has no KubeRay" in output["what"]
    assert "helm install kuberay-operator" in output["fix"]
    assert found.code == 1


@contextmanager
def without_kuberay(api: Api) -> Iterator[str]:
    """The URL of a small server that passes on to the API server what does not concern KubeRay, and knows nothing of that."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {"Content-Type": "application/json", **api.headers()}
            answer = api.pool.request(self.command, f"{api.server}{self.path}", body=body, headers=headers)
            hidden = "/ray.io/" in self.path
            self.send_response(404 if hidden else answer.status)
            self.end_headers()
            self.wfile.write(b"404 page not found" if hidden else answer.data)

        do_POST = do_GET  # noqa: N815  # the name that http.server calls

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test is quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
