"""What `up` would change, and what it applies; against a small real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.cluster.documents.manifests import PLANNING
from heliostat.cluster.kube.steps import applied
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.config import validate
from tests.cluster.kube.api_server import ApiServer, kubeconfig, serving
from tests.cluster.kube.test_owners import CLUSTER, SCHEMA


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serving() as server:
        server.objects["/openapi/v3/apis/ray.io/v1"] = SCHEMA
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", server)))
        yield server


def cluster(job_hours: int) -> KubernetesCluster:
    keys = {"storage": {"claim": "runs", "size": "1Gi"}, "groups": [{"name": "cpu", "max": 1}]}
    return KubernetesCluster(validate({"name": "gpu", **keys, "job_hours": job_hours}, Profile))


def test_a_change_of_an_annotation_alone_is_shown_and_applied(server: ApiServer) -> None:
    first, other = cluster(5), cluster(9)
    list(applied(first.kube, first.plan()))
    annotations = server.objects[CLUSTER]["metadata"]["annotations"]
    annotations["of.others/annotation"] = "1"
    assert [step.title for step in first.plan() if step.changes] == []
    steps = other.plan()
    changed = {step.title: [change.path for change in step.changes] for step in steps if step.changes}
    assert changed == {"RayCluster gpu": [f"annotations.{PLANNING}"]}
    assert list(applied(other.kube, steps)) == ["applies RayCluster gpu"]
    annotations = server.objects[CLUSTER]["metadata"]["annotations"]
    assert '"job_hours": 9' in annotations[PLANNING]
    assert annotations["of.others/annotation"] == "1"
    assert [step.title for step in other.plan() if step.changes] == []
