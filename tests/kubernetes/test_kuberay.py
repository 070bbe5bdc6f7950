"""The client for KubeRay against a real API server: what an apply leaves alone, who conflicts, and many clusters at once."""

import copy
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from heliostat.cluster import retries
from heliostat.cluster.documents.manifests import ray_cluster, ray_job
from heliostat.cluster.documents.ownership import AUTOSCALER
from heliostat.cluster.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized, Unreachable
from heliostat.cluster.kube.conditions import finished, suspended
from heliostat.cluster.kube.kuberay import Clusters, KubeRay
from heliostat.cluster.kube.objects import APPLY, Objects
from heliostat.cluster.names import Document
from heliostat.cluster.ports import free_ports
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from tests.conftest import wait_for
from tests.kubernetes.conftest import Place, group
from tests.kubernetes.test_wait import counted


@pytest.fixture
def document(place: Place) -> Iterator[Document]:
    """A cluster that is suspended from its beginning, so that it needs no pod."""
    document = ray_cluster(find(str(place.profile("quiet"))), place.kube.api.features)
    document["spec"]["suspend"] = True
    yield document
    place.kube.clusters.delete("quiet", timeout=300)


def scale_like_the_autoscaler(place: Place, replicas: int, to_delete: list[str]) -> None:
    """Patch as Ray's autoscaler does: by JSON patch, under the name of its HTTP library."""
    group = "/spec/workerGroupSpecs/0"
    patch = [
        {"op": "replace", "path": f"{group}/replicas", "value": replicas},
        {"op": "add", "path": f"{group}/scaleStrategy", "value": {"workersToDelete": to_delete}},
    ]
    path = place.kube.api.path("RayCluster", "quiet")
    place.kube.api.request("PATCH", path, patch, {"fieldManager": AUTOSCALER}, "application/json-patch+json")


def group_of(cluster: Document) -> Any:
    return cluster["spec"]["workerGroupSpecs"][0]


def test_what_the_autoscaler_has_set_survives_an_apply(place: Place, document: Document) -> None:
    clusters = place.kube.clusters
    clusters.apply(document)
    scale_like_the_autoscaler(place, 2, ["quiet-gpu-worker-x"])
    changed = copy.deepcopy(document)
    group_of(changed)["maxReplicas"] = 3
    live = clusters.apply(changed)
    assert group_of(live)["maxReplicas"] == 3
    assert group_of(live)["replicas"] == 2
    assert group_of(live)["scaleStrategy"] == {"workersToDelete": ["quiet-gpu-worker-x"]}


def test_an_autoscaler_that_patches_between_our_read_and_our_write_loses_nothing(
    place: Place, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = place.kube.clusters
    clusters.apply(document)
    scaled = iter((1, 2))
    request = place.kube.api.request

    def interleaved(method: str, path: str, body: Any = None, query: Any = None, content_type: str = "application/json") -> Any:
        if content_type == APPLY and (replicas := next(scaled, None)):
            monkeypatch.setattr(place.kube.api, "request", request)
            scale_like_the_autoscaler(place, replicas, [f"quiet-gpu-worker-{replicas}"])
            monkeypatch.setattr(place.kube.api, "request", interleaved)
        return request(method, path, body, query, content_type)

    monkeypatch.setattr(place.kube.api, "request", interleaved)
    changed = copy.deepcopy(document)
    group_of(changed)["maxReplicas"] = 4
    live = clusters.apply(changed)
    assert next(scaled, None) is None, "both patches came between a read and a write"
    assert group_of(live)["maxReplicas"] == 4
    assert group_of(live)["replicas"] == 2
    assert group_of(live)["scaleStrategy"] == {"workersToDelete": ["quiet-gpu-worker-2"]}


def test_two_people_who_apply_at_the_same_time_conflict_loudly(place: Place, document: Document) -> None:
    clusters = place.kube.clusters
    seen = clusters.apply(document)
    hers, his = copy.deepcopy(document), copy.deepcopy(document)
    group_of(hers)["maxReplicas"], group_of(his)["maxReplicas"] = 5, 6
    clusters.apply(hers, seen=seen)
    with pytest.raises(Conflict, match="changed by another client"):
        clusters.apply(his, seen=seen)
    assert group_of(clusters.get("quiet"))["maxReplicas"] == 5


def test_only_the_object_that_was_looked_at_is_changed_and_deleted(place: Place, document: Document) -> None:
    clusters = place.kube.clusters
    live = clusters.apply(document)
    before = {"metadata": {**live["metadata"], "uid": "00000000-0000-0000-0000-000000000000"}}
    with pytest.raises(Conflict, match="deleted and created again"):
        clusters.resume("quiet", before)
    with pytest.raises(Conflict, match="UID in the precondition"):
        clusters.delete("quiet", seen=before)
    assert clusters.patch("quiet", {"metadata": {"annotations": {"a": "b"}}}, live)["metadata"]["annotations"]["a"] == "b"
    other = copy.deepcopy(document)
    other["metadata"]["labels"]["heliostat.dev/cluster"] = "other"
    with pytest.raises(Conflict, match="RayCluster quiet exists, and is of quiet"):
        clusters.apply(other, force=True)


def test_a_field_that_another_tool_has_set_is_not_taken_over_without_force(place: Place, document: Document) -> None:
    clusters = place.kube.clusters
    clusters.apply(document)
    other = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "quiet"}, "spec": {"rayVersion": "2.59.0"}}
    path = place.kube.api.path("RayCluster", "quiet")
    place.kube.api.request("PATCH", path, other, {"fieldManager": "argocd-controller", "force": "true"}, APPLY)
    with pytest.raises(Conflict, match="argocd-controller"):
        clusters.apply(document)
    assert clusters.apply(document, force=True)["spec"]["rayVersion"] == "2.60.0"


def test_an_unknown_field_is_refused_and_not_dropped(place: Place, document: Document) -> None:
    wrong = copy.deepcopy(document)
    wrong["spec"]["networkPolicyy"] = {"mode": "DenyAll"}
    for write in (place.kube.clusters.create, place.kube.clusters.apply):
        with pytest.raises(Invalid, match="networkPolicyy"):
            write(wrong)
    assert place.kube.clusters.find("quiet") is None


def test_each_kind_of_refusal_is_an_exception_of_its_own(
    place: Place, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_late", lambda *_: True)
    clusters = place.kube.clusters
    with pytest.raises(NotFound):
        clusters.get("absent")
    clusters.create(document)
    with pytest.raises(Conflict):
        clusters.create(document)
    wrong = copy.deepcopy(document)
    group_of(wrong)["minReplicas"] = 9
    with pytest.raises(Invalid, match="minReplicas is 9"):
        clusters.create(wrong)
    stranger = KubeRay(namespace=place.namespace)
    stranger.api.configuration.host = f"https://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(Unreachable, match="does not answer"):
        stranger.clusters.list()
    stranger = KubeRay(namespace=place.namespace)
    stranger.api.authenticate("nonsense")
    with pytest.raises(Unauthorized, match="credentials"):
        stranger.clusters.list()


def test_a_job_can_be_created_listed_suspended_and_deleted(place: Place) -> None:
    profile = find(str(place.profile("job", queue="nowhere", groups=[group(min=1, max=1)], idle_shutdown_seconds=None)))
    jobs = place.kube.jobs
    made = jobs.create(ray_job(profile, "queued", place.kube.api.features))
    assert made["spec"]["suspend"], "Kueue starts it"
    jobs.wait(["queued"], lambda job: job.get("status", {}).get("jobDeploymentStatus") == "Suspended", 300)
    assert [job["metadata"]["name"] for job in jobs.list()] == ["queued"]
    assert not finished(jobs.get("queued"))
    assert jobs.delete("queued", timeout=300)
    assert not jobs.delete("queued")


def test_twenty_clusters_are_created_seen_and_deleted_over_one_watch(place: Place, document: Document) -> None:
    clusters = place.kube.clusters
    names = [f"many-{number}" for number in range(20)]
    requests: list[str] = []
    raw = place.kube.api.raw

    def counted(method: str, path: str, *rest: Any, **more: Any) -> Any:
        requests.append(method)
        return raw(method, path, *rest, **more)

    def named(name: str) -> Document:
        return {**document, "metadata": {**document["metadata"], "name": name}}

    makers = [threading.Thread(target=clusters.apply, args=(named(name),)) for name in names]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    place.kube.api.raw = counted  # type: ignore[method-assign]
    try:
        found = clusters.wait(names, suspended, 300)
    finally:
        place.kube.api.raw = raw  # type: ignore[method-assign]
    assert sorted(found) == sorted(names)
    assert len(requests) <= 4, "one list and one watch, not twenty polls"
    for name in names:
        assert clusters.delete(name)
    wait_for(lambda: not any(c["metadata"]["name"] in names for c in clusters.list()), "the clusters to go")


def test_a_watch_reports_what_is_created_changed_and_deleted(place: Place, document: Document) -> None:
    seen: list[str] = []

    def look() -> None:
        for change, item in place.kube.clusters.watch(timeout=300):
            if item["metadata"]["name"] == "quiet":
                seen.append(change)
                if change == "DELETED":
                    return

    watcher = threading.Thread(target=look)
    watcher.start()
    place.kube.clusters.create(document)
    wait_for(lambda: seen[:1] == ["ADDED"], "what is created")
    place.kube.clusters.patch("quiet", {"metadata": {"labels": {"team": "vision"}}})
    wait_for(lambda: "MODIFIED" in seen, "what is changed")
    place.kube.clusters.delete("quiet", timeout=300)
    watcher.join(300)
    assert seen[-1] == "DELETED"


def test_two_namespaces_do_not_reach_each_others_token(place: Place) -> None:
    """A user of one namespace, with the rights that heliostat asks for, is refused the other one's Secret."""
    api = place.kube.api
    api.request("POST", api.path("ServiceAccount"), {"metadata": {"name": "ml"}})
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    api.request("POST", api.path("Role"), {"metadata": {"name": "ml"}, "rules": [rule]})
    binding = {
        "metadata": {"name": "ml"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ml"},
        "subjects": [{"kind": "ServiceAccount", "name": "ml", "namespace": place.namespace}],
    }
    api.request("POST", api.path("RoleBinding"), binding)
    api.request("POST", api.path("Secret"), {"metadata": {"name": "mine"}, "stringData": {"auth_token": "x"}})
    token = api.request("POST", f"{api.path('ServiceAccount', 'ml')}/token", {"spec": {"expirationSeconds": 600}})["status"][
        "token"
    ]
    user = KubeRay(namespace=place.namespace)
    user.api.authenticate(token)
    assert Objects(user.api, "Secret").get("mine")["data"]
    with pytest.raises(Forbidden, match="secrets"):
        user.api.request("GET", user.api.path("Secret", "gpu", "default"))


def test_a_cluster_among_hundreds_costs_no_more_requests(place: Place, document: Document) -> None:
    """The list of all is complete; `make bench-kube` times one of a thousand beside kubectl."""
    clusters: Clusters = place.kube.clusters
    small = {**document, "spec": {**document["spec"], "managedBy": "kueue.x-k8s.io/multikueue"}}

    def create(number: int) -> None:
        clusters.create({**small, "metadata": {"name": f"c-{number:04}", "labels": {"heliostat.dev/many": "yes"}}})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(300)))
    try:
        assert len(clusters.list("heliostat.dev/many=yes")) == 300
        with counted(place.kube.api) as asked:
            began = time.monotonic()
            state = KubernetesCluster(find(str(place.profile("c-0150"))), place.kube).state()
            print(f"status beside 300 clusters: {time.monotonic() - began:.2f} s, {sum(asked.values())} requests")
        assert state.name == "c-0150"
        assert asked["c-0150"] == 1
        assert asked["rayclusters"] == 0, "what it costs does not depend on how many others there are"
        began = time.monotonic()
        done = place.command("status", place.profile("c-0150"))
        print(f"the command: {time.monotonic() - began:.2f} s")
        assert done.code == 0, done.err
        assert "c-0150" in done.out
    finally:
        query = {"labelSelector": "heliostat.dev/many=yes"}
        place.kube.api.request("DELETE", place.kube.api.path("RayCluster"), query=query, timeout=300)
