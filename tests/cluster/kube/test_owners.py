"""Objects of other owners are neither changed nor deleted, and what may be lost is asked; against a small real server."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.documents.ownership import contains, is_ours, is_unclaimed, owner_of
from heliostat.cluster.errors import Conflict
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import CLUSTER_LABEL, MANAGED_BY, TOKEN_KEY
from heliostat.cluster.targets.status import State
from heliostat.commands.terminal.live import possible_jobs
from tests.cluster.kube.api_server import ApiServer, kubeconfig, serving
from tests.conftest import Command

CORE, TEAM = "/api/v1/namespaces/team", "namespaces/team"
CLUSTER, POLICY = f"/apis/ray.io/v1/{TEAM}/rayclusters/gpu", f"/apis/networking.k8s.io/v1/{TEAM}/networkpolicies/gpu"
FILES, CLAIM = f"{CORE}/configmaps/gpu", f"{CORE}/persistentvolumeclaims/runs"
CREATED = "2026-11-24T09:00:00Z"
OURS, OTHERS = {CLUSTER_LABEL: "gpu"}, {CLUSTER_LABEL: "nightly"}
PROFILE = """
name: gpu
image: registry.example.com/ray:2.60.0
groups: [{name: gpu, gpu: 1, gpu_type: H100, max: 2}]
storage: {claim: runs, size: 1Gi}
"""


GROUPS: dict[str, Any] = {"properties": {"workerGroupSpecs": {"items": {"properties": {}}}}}
SCHEMA = {"components": {"schemas": {"io.ray.v1.RayCluster": {"properties": {"spec": GROUPS}}}}}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving() as server:
        server.objects["/openapi/v3/apis/ray.io/v1"] = SCHEMA
        yield server


@pytest.fixture
def there(server: ApiServer, command: Command, tmp_path: Path) -> Command:
    (command.cwd / "gpu.yaml").write_text(PROFILE)
    return replace(command, env={**command.env, "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", server))})


def put(server: ApiServer, path: str, kind: str, labels: dict[str, str], **document: Any) -> None:
    fields = [{"manager": "kubectl-create", "operation": "Update"}]
    metadata = {"labels": labels, "managedFields": fields, "generation": 1, "creationTimestamp": CREATED}
    server.put(path, kind=kind, metadata=metadata, **document)


def with_a_head(server: ApiServer, **state: Any) -> None:
    """A cluster of ours, whose head's container is in this state, and whose dashboard does not respond."""
    put(server, CLUSTER, "RayCluster", OURS, spec={})
    put(server, FILES, "ConfigMap", OURS)
    server.put(f"{CORE}/secrets/gpu", data={TOKEN_KEY: base64.b64encode(b"token").decode()})
    labels = {"ray.io/node-type": "head"}
    container = {"name": "ray-head", "state": state}
    status = {"containerStatuses": [container], "conditions": [{"type": "Ready", "status": "True"}]}
    server.put(f"{CORE}/pods/gpu-head", metadata={"labels": labels}, spec={"containers": []}, status=status)


def test_whose_an_object_is() -> None:
    def labelled(**labels: str) -> dict[str, Any]:
        return {"metadata": {"labels": labels} if labels else {}}

    document, claim = labelled(**{MANAGED_BY: "heliostat", CLUSTER_LABEL: "gpu"}), labelled(**{MANAGED_BY: "heliostat"})
    assert is_ours(labelled(**{CLUSTER_LABEL: "gpu", MANAGED_BY: "argocd"}), document)
    assert not is_ours(labelled(**{CLUSTER_LABEL: "other", MANAGED_BY: "heliostat"}), document)
    assert not is_ours(labelled(), document)
    assert is_ours(labelled(**{CLUSTER_LABEL: "other", MANAGED_BY: "heliostat"}), claim), "several clusters may share it"
    assert not is_ours(labelled(), claim)
    assert is_ours(labelled(), labelled()), "a document of a program that uses the client"
    assert owner_of(labelled(**{CLUSTER_LABEL: "other"})) == "of other"
    owned = {"kind": "RayCluster", "metadata": {"ownerReferences": [{"kind": "RayService", "name": "llm"}]}}
    assert (is_unclaimed({**owned, "metadata": {}}), is_unclaimed(owned)) == (True, False)
    assert contains({"a": [{"b": 1, "default": 2}], "c": 3}, {"a": [{"b": 1}]})
    assert not contains({"a": [{"b": 1}, {}]}, {"a": [{"b": 1}]})


def test_down_deletes_no_object_of_others_and_names_them_all(server: ApiServer, there: Command) -> None:
    put(server, CLUSTER, "RayCluster", {}, spec={})
    put(server, FILES, "ConfigMap", OTHERS)
    put(server, POLICY, "NetworkPolicy", OURS)
    done = there("down", "gpu.yaml", "--yes")
    assert done.code == 2
    named = "RayCluster gpu (made by kubectl-create), ConfigMap gpu (of nightly) exist, and are not of gpu; nothing was changed"
    assert named in done.err
    assert "NetworkPolicy" not in done.err
    assert server.methods("DELETE") == []


def test_up_changes_no_object_of_others_and_names_them_all(server: ApiServer, there: Command) -> None:
    put(server, FILES, "ConfigMap", OTHERS)
    put(server, CLAIM, "PersistentVolumeClaim", {}, spec={"accessModes": ["ReadWriteMany"]})
    done = there("up", "gpu.yaml", "--yes", "--force")
    assert done.code == 2
    assert "PersistentVolumeClaim runs (made by kubectl-create), ConfigMap gpu (of nightly) exist" in done.err
    assert "remove storage.size from the profile: then the claim is used as it is" in done.err
    assert "kubectl delete --namespace team configmap/gpu" in done.err
    assert "or take over what no profile has: heliostat up gpu --adopt" in done.err
    assert server.methods("PATCH") == server.methods("POST") == []


def test_up_takes_over_what_no_profile_has_only_after_it_has_shown_the_changes(server: ApiServer, there: Command) -> None:
    group = {"groupName": "old", "replicas": 2, "minReplicas": 0, "maxReplicas": 2, "template": {"spec": {"containers": []}}}
    put(server, CLUSTER, "RayCluster", {"team": "a"}, spec={"rayVersion": "2.9.0", "workerGroupSpecs": [group]})
    claim = ("--set", "storage.size=null")
    put(server, CLAIM, "PersistentVolumeClaim", {}, spec={"accessModes": ["ReadWriteMany"]})
    asked = there("up", "gpu.yaml", "--adopt", *claim)
    assert asked.code == 2
    assert "RayCluster gpu: ~ spec.rayVersion: 2.9.0 -> 2.60.0" in asked.out
    assert "RayCluster gpu (made by kubectl-create) will be of this profile, with the changes above" in asked.err
    assert server.objects[CLUSTER]["metadata"]["labels"] == {"team": "a"}
    server.objects[CLUSTER]["metadata"]["labels"] = OTHERS
    assert "RayCluster gpu (of nightly) exists, and is not of gpu" in there("up", "gpu.yaml", "--adopt", *claim).err


def test_scheduled_runs_change_and_delete_no_object_of_others(server: ApiServer, there: Command) -> None:
    name = f"/apis/batch/v1/{TEAM}/cronjobs/weekly"
    for path, kind in ((f"{CORE}/configmaps/weekly", "ConfigMap"), (POLICY.replace("gpu", "weekly"), "NetworkPolicy")):
        put(server, path, kind, {CLUSTER_LABEL: "weekly"})
    train = ("train", "digits", "--on", "gpu.yaml", "--cron", "0 2 * * *", "--set", "name=weekly", "--set", "workers=1")
    done = there(*train)
    assert done.code == 2
    assert "ConfigMap weekly (of weekly), NetworkPolicy weekly (of weekly) exist, and are not of gpu" in done.err
    assert "--set name=weekly-2" in done.err
    put(server, name, "CronJob", OURS, spec={"schedule": "0 2 * * *"})
    deleted = there("cron", "gpu.yaml", "--delete", "weekly")
    assert (deleted.code, server.methods("PATCH"), server.methods("DELETE")) == (2, [], [])


def test_a_suspended_cluster_of_others_is_not_resumed(server: ApiServer, there: Command) -> None:
    put(server, CLUSTER, "RayCluster", OTHERS, spec={"suspend": True})
    done = there("submit", "gpu.yaml", "--", "true")
    assert done.code == 2
    assert "RayCluster gpu (of nightly) is not of gpu, and does not run" in done.err
    assert server.methods("PATCH") == []


def test_down_asks_when_it_is_not_known_whether_jobs_run(server: ApiServer, there: Command) -> None:
    with_a_head(server, running={})
    done = there("down", "gpu.yaml")
    assert done.code == 2
    assert "deleting gpu stops its jobs: which ones is not known" in done.err
    assert "add --yes to confirm" in done.err
    assert server.methods("DELETE") == []
    confirmed = there("down", "gpu.yaml", "--yes", "--no-wait")
    assert confirmed.out == "deleted RayCluster gpu, ConfigMap gpu\n"


@pytest.mark.parametrize("state", [{"waiting": {"reason": "ImagePullBackOff"}}, {"terminated": {"exitCode": 1}}])
def test_down_does_not_ask_about_a_head_that_cannot_have_jobs(server: ApiServer, there: Command, state: dict[str, Any]) -> None:
    with_a_head(server, **state)
    assert there("down", "gpu.yaml", "--no-wait").out == "deleted RayCluster gpu, ConfigMap gpu\n"


def test_the_same_question_for_a_cluster_on_this_machine() -> None:
    starting = State("local", "local", "starting", jobs_unknown="the dashboard of local does not answer")
    assert possible_jobs(starting) == "which ones is not known (the dashboard of local does not answer)"
    assert possible_jobs(State("local", "local", "ready")) == ""


def test_only_what_was_looked_at_is_deleted(server: ApiServer, there: Command) -> None:
    put(server, CLUSTER, "RayCluster", OURS, spec={})
    kube = KubeRay(there.env["KUBECONFIG"])
    seen = kube.clusters.get("gpu")
    server.objects[CLUSTER]["metadata"]["uid"] = "another"
    with pytest.raises(Conflict, match="UID in the precondition"):
        kube.clusters.delete("gpu", seen=seen)
    assert kube.clusters.delete("gpu")
    assert kube.clusters.delete("gpu", seen=seen), "the answer to the first request may have been lost"
    assert not kube.clusters.delete("gpu")
