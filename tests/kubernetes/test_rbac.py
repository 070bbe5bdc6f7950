"""The Role that `render --rbac` prints is enough for every command, and nothing in it is more than some command needs."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3

from heliostat.cluster.documents.manifests import documents, ray_job, ray_service
from heliostat.cluster.documents.rbac import NAME, RIGHTS, Right, granting, role
from heliostat.cluster.documents.serving import serve_config
from heliostat.cluster.errors import Forbidden
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.follow import Work
from heliostat.cluster.jobs.packaging import Package
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.port_forward import Forward
from heliostat.cluster.kube.rights import missing
from heliostat.cluster.names import ENFORCE, TOKEN_KEY, Document
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets import scheduled
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.run import run_there
from tests.conftest import end_group, wait_for
from tests.kubernetes.conftest import Place
from tests.kubernetes.test_doctor import examined

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
CODE = [Package("gcs://code.zip", EMPTY_ZIP)]


@pytest.fixture(scope="module")
def user(place: Place) -> Place:
    """A user with the Role, in a namespace of the strictest pod-security level."""
    place.kube.objects("Namespace").patch(place.namespace, {"metadata": {"labels": {ENFORCE: "restricted"}}})
    for document in role(find(str(place.profile())), users=f"system:serviceaccounts:{place.namespace}"):
        place.kube.objects(document["kind"]).apply(document)
    return place.user("researcher")


@pytest.fixture
def path(place: Place) -> Path:
    """A profile whose cluster is one small head as long as nothing runs."""
    return place.profile(groups=[{"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 1}])


def test_with_the_role_all_commands_work(
    place: Place, user: Place, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = find(str(path))
    cluster = KubernetesCluster(profile, user.kube)
    assert missing(user.kube.api) == []
    assert "gpu is ready" in done(user, "up", path)
    assert "gpu  ready" in done(user, "status", path)
    assert done(user, "diff", path) == ""

    monkeypatch.setenv("KUBECONFIG", user.command.env["KUBECONFIG"])
    printed: list[str] = []
    work = Work("trivial", ["python", "-c", "print(1)"], contents(tmp_path))
    assert run_there(profile, work, printed.append, lambda line: None).status == "SUCCEEDED"
    assert "1\n" in "".join(printed)
    assert done(user, "logs", path, "trivial").endswith("1\n")
    assert "INFO" in cluster.log(cluster.snapshot().pods[0]["metadata"]["name"], container="autoscaler")

    with Forward(user.kube.api, "gpu", {8265: 0}) as forward:
        url = f"http://127.0.0.1:{forward.ports[8265]}/api/version"
        answer = urllib3.request("GET", url, headers={"Authorization": f"Bearer {cluster.token}"})
    assert answer.json()["ray_version"] == profile.ray_version

    the_doctor_knows_the_running_cluster(place, user, path)
    scheduled_runs_come_and_go(user, path)
    assert "RayCluster gpu" in done(user, "down", path, "--no-wait")


def the_doctor_knows_the_running_cluster(place: Place, user: Place, path: Path) -> None:
    found = examined(user, path)
    assert found.code == 0, found.all("problem")
    assert found.names("ok") >= {
        "operator",
        "rights",
        "namespace",
        "storage",
        "image",
        "cluster",
        "token",
        "Ray",
        "network policy",
    }
    assert found.names("unknown") <= {"nodes", "DNS"}
    secrets = place.kube.objects("Secret")
    token = secrets.get("gpu")["data"]
    secrets.patch("gpu", {"data": {TOKEN_KEY: base64.b64encode(b"0" * 64).decode()}})
    try:
        assert "rejected the token" in examined(user, path).only_problem("token")
    finally:
        secrets.patch("gpu", {"data": token})
    place.kube.objects("NetworkPolicy").delete("gpu")
    assert "heliostat up gpu" in examined(user, path).only_problem("network policy")


def scheduled_runs_come_and_go(user: Place, path: Path) -> None:
    profile, features = find(str(path)), user.kube.api.features
    documents = scheduled.documents(profile, "nightly", "0 0 1 1 *", "true", CODE, features, secret_env={"TOKEN": "x"})
    scheduled.create(user.kube, profile, "nightly", documents)
    assert "nightly" in done(user, "cron", path)
    assert "deleted nightly" in done(user, "cron", path, "--delete", "nightly")


def done(place: Place, *args: str | Path) -> str:
    """What a command prints, which must succeed."""
    ended = place.command(*args)
    assert ended.code == 0, ended.err
    return ended.out


def test_the_role_opens_nothing_else(user: Place, path: Path) -> None:
    api = user.kube.api
    elsewhere = (api.path("Secret", "any", "kube-system"), api.path("RayCluster", namespace="default"), api.path("Node"))
    more = (api.path("StorageClass"), api.path("Namespace"), api.path("Secret"), api.path("Role"))
    for place in (*elsewhere, *more):
        with pytest.raises(Forbidden) as refused:
            api.request("GET", place)
        assert "heliostat render --rbac" in refused.value.fix
    assert not api.may("create", "pods")
    assert not api.may("create", "pods", subresource="exec")
    assert not api.may("escalate", "roles", "rbac.authorization.k8s.io")
    assert KubernetesCluster(find(str(path)), user.kube).observer.nodes() is None


def test_a_user_cannot_grant_more_than_the_role_has(user: Place) -> None:
    """Nightly runs need a right to make Roles; Kubernetes itself keeps that from becoming a way to more."""
    more = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}
    with pytest.raises(Forbidden, match="permissions not currently held"):
        user.kube.objects("Role").create({"metadata": {"name": "more"}, "rules": [more]})


KINDS = {
    "rayclusters": "RayCluster", "rayjobs": "RayJob", "rayservices": "RayService", "configmaps": "ConfigMap",
    "networkpolicies": "NetworkPolicy", "persistentvolumeclaims": "PersistentVolumeClaim", "secrets": "Secret",
    "cronjobs": "CronJob", "serviceaccounts": "ServiceAccount", "roles": "Role", "rolebindings": "RoleBinding",
}  # fmt: skip
CALLS: dict[str, Callable[[KubernetesCluster], Any]] = {
    "list pods": KubernetesCluster.snapshot,
    "delete pods": lambda cluster: cluster.api.request("DELETE", cluster.api.path("Pod", "any"), {}),
    "get pods/log": lambda cluster: cluster.api.raw("GET", f"{cluster.api.path('Pod', 'any')}/log"),
    "get pods/portforward": lambda cluster: Forward(cluster.api, "any", {8265: 0}).__enter__(),
    "create pods/portforward": lambda cluster: Forward(cluster.api, "any", {8265: 0}).__enter__(),
    "get services/proxy": lambda cluster: cluster.dashboard().jobs(),
    "create services/proxy": lambda cluster: cluster.dashboard().submit("any", "true", {}, {}),
    "update services/proxy": lambda cluster: cluster.dashboard().upload("gcs://any.zip", b""),
    "list events": lambda cluster: cluster.api.request("GET", cluster.api.path("Event")),
    "get localqueues": lambda cluster: cluster.api.request(
        "GET", f"/apis/kueue.x-k8s.io/v1beta1/namespaces/{cluster.api.namespace}/localqueues/any"
    ),
    "list workloads": lambda cluster: cluster.api.request(
        "GET", f"/apis/{cluster.api.kueue}/namespaces/{cluster.api.namespace}/workloads"
    ),
    "list resourcequotas": lambda cluster: cluster.api.request("GET", cluster.api.path("ResourceQuota")),
    "get namespaces": lambda cluster: cluster.api.request("GET", cluster.api.path("Namespace", cluster.api.namespace)),
}
"""For each right that is not about an object of ours, what needs it."""


def call_of(right: Right, profile: Profile) -> Callable[[KubernetesCluster], Any]:
    if str(right) in CALLS:
        return CALLS[str(right)]
    kind = KINDS[right.resource]
    calls: dict[str, Callable[[KubernetesCluster], Any]] = {
        "get": lambda cluster: cluster.kube.objects(kind).find("any"),
        "list": lambda cluster: cluster.kube.objects(kind).list(),
        "create": lambda cluster: cluster.kube.objects(kind).apply(document_of(kind, profile), dry_run=True),
        "patch": lambda cluster: cluster.kube.objects(kind).patch("any", {}),
        "delete": lambda cluster: cluster.kube.objects(kind).delete("any"),
    }
    return calls[right.verb]


def document_of(kind: str, profile: Profile) -> Document:
    """A document of a kind, as the commands make it."""
    features: frozenset[str] = frozenset()
    nightly = scheduled.documents(profile, "new", "0 0 1 1 *", "true", CODE, features, secret_env={"TOKEN": "x"})
    everything = [
        *documents(profile, features),
        ray_job(profile, "new", features),
        ray_service(profile, "new", serve_config({}, "0.0.0.0", 8000, 30.0), features),
        *nightly,
    ]
    document = next(document for document in everything if document["kind"] == kind)
    if kind == "RoleBinding":
        document["roleRef"]["name"] = NAME  # else it is the Role that is reported as missing
    return document


@pytest.fixture
def other(place: Place) -> KubernetesCluster:
    """Another cluster of the same user, of which there is nothing but a token."""
    secret = {"metadata": {"name": "other"}, "stringData": {TOKEN_KEY: "token"}}
    if place.kube.objects("Secret").find("other") is None:
        place.kube.objects("Secret").create(secret)
    path = place.profile("other", storage={"claim": "other", "size": "1Gi"})
    return KubernetesCluster(find(str(path)), place.kube)


@pytest.mark.parametrize("right", RIGHTS, ids=str)
def test_each_missing_right_is_named(place: Place, user: Place, other: KubernetesCluster, right: Right) -> None:
    place.kube.objects("Role").patch(NAME, {"rules": granting(tuple(each for each in RIGHTS if each != right))})
    wait_for(lambda: missing(user.kube.api) == [right], f"the right to {right} to be missed")
    with pytest.raises(Forbidden) as refused:
        call_of(right, other.profile)(KubernetesCluster(other.profile, user.kube))
    assert right.verb in refused.value.what
    assert right.resource in refused.value.what


def test_without_a_right_to_events_a_cluster_is_still_shown(
    place: Place, user: Place, path: Path, other: KubernetesCluster
) -> None:
    rights = tuple(right for right in RIGHTS if right.resource != "events")
    place.kube.objects("Role").patch(NAME, {"rules": granting(rights)})
    api: Api = user.kube.api
    wait_for(lambda: not api.may("list", "events"), "the right to be gone")
    cluster = KubernetesCluster(other.profile, user.kube)
    assert cluster.observer.events() is None
    assert cluster.state().state == "absent"
    words, nowhere = "without the right to list events, problems may stay undetected", {"heliostat.dev/test": "nowhere"}
    waits = place.profile("waits", head={"cpu": "300m", "memory": "3Gi", "node_selector": nowhere})
    process = user.command.start("up", waits)
    try:
        assert any(words in line for line in process.stderr or ())
        assert words in " ".join(done(user, "status", waits).split())
    finally:
        end_group(process)
        process.communicate()
    assert "RayCluster waits" in done(user, "down", waits, "--yes", "--no-wait")
    done(user, "up", path)
    assert "undetected" not in done(user, "status", path), "of a cluster that is ready there is nothing to explain"
    done(user, "down", path, "--yes", "--no-wait")
