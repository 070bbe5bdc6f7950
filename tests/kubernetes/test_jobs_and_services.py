"""RayJobs, RayServices and RayCronJobs through the client, on a real operator."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.cluster.documents.manifests import ray_job
from heliostat.cluster.errors import Conflict, Invalid, NotFound
from heliostat.cluster.kube.conditions import finished
from heliostat.cluster.names import API_VERSION, Document
from heliostat.cluster.profile import Profile, find
from heliostat.errors import NotComing
from tests.conftest import wait_for
from tests.kubernetes.conftest import Place


@pytest.fixture
def profile(place: Place) -> Profile:
    """One small head, and no worker before something asks for one."""
    path: Path = place.profile("small", groups=[{"name": "cpu", "cpu": "100m", "memory": "1Gi", "max": 1}])
    return find(str(path))


@pytest.fixture(autouse=True)
def claim(place: Place, profile: Profile) -> None:
    """The claim that all these pods mount."""
    claims = place.kube.objects("PersistentVolumeClaim")
    claims.apply({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "runs"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    })  # fmt: skip


def job(place: Place, profile: Profile, name: str, entrypoint: str) -> Document:
    return ray_job(profile, name, place.kube.api.features, entrypoint)


def test_a_suspended_job_releases_its_cluster_and_restarts_when_it_is_resumed(place: Place, profile: Profile) -> None:
    jobs, clusters = place.kube.jobs, place.kube.clusters
    jobs.create(job(place, profile, "pausing", "sleep 3600"))
    wait_for(lambda: jobs.get("pausing").get("status", {}).get("rayClusterName"), "the job's cluster")
    first = jobs.get("pausing")["status"]["rayClusterName"]
    jobs.suspend("pausing")
    jobs.wait(["pausing"], lambda seen: seen.get("status", {}).get("jobDeploymentStatus") == "Suspended", 300)
    wait_for(lambda: clusters.find(first) is None, "the cluster to go")
    assert not finished(jobs.get("pausing"))
    jobs.patch("pausing", {"spec": {"entrypoint": "true"}})  # else it would have to end before it is suspended, or never
    jobs.resume("pausing")
    ended = jobs.wait_finished("pausing", 600)
    assert ended["status"]["jobStatus"] == "SUCCEEDED"
    assert ended["status"]["rayClusterName"] != first
    assert jobs.delete("pausing", timeout=300)


def test_a_job_that_keeps_its_cluster_cannot_be_suspended(place: Place, profile: Profile) -> None:
    document = ray_job(profile, "keeps", place.kube.api.features)
    del document["spec"]["shutdownAfterJobFinishes"], document["spec"]["ttlSecondsAfterFinished"]
    place.kube.jobs.create(document)
    with pytest.raises(Invalid, match="suspend needs shutdownAfterJobFinishes"):
        place.kube.jobs.suspend("keeps")
    assert place.kube.jobs.delete("keeps", timeout=300)


def test_a_job_that_fails_is_explained_when_it_was_waited_for(place: Place, profile: Profile) -> None:
    jobs = place.kube.jobs
    document = job(place, profile, "failing", "exit 3")
    document["spec"]["suspend"] = True
    jobs.create(document)
    with pytest.raises(NotComing, match="not ready after 1 s"):
        jobs.wait_finished("failing", 1)
    jobs.resume("failing")
    with pytest.raises(NotComing, match="RayJob failing ended with AppFailed") as failed:
        jobs.wait_finished("failing", 600)
    assert "exit code 3" in failed.value.what
    assert jobs.delete("failing", timeout=300)


def test_a_job_that_the_operator_refuses_is_not_waited_for(place: Place, profile: Profile) -> None:
    jobs = place.kube.jobs
    document = job(place, profile, "refused", "true")
    document["spec"]["backoffLimit"] = -1  # our own rules would not send it
    place.kube.api.request("POST", place.kube.api.path("RayJob"), document)
    with pytest.raises(NotComing, match="RayJob refused ended with ValidationFailed"):
        jobs.wait_finished("refused", 300)
    assert jobs.delete("refused", timeout=300)


@pytest.fixture
def service(place: Place, profile: Profile) -> Iterator[Document]:
    cluster = ray_job(profile, "serves", place.kube.api.features)["spec"]["rayClusterSpec"]
    config = "applications:\n- {name: a, import_path: a:app}\n"
    spec = {"serveConfigV2": config, "rayClusterConfig": cluster}
    yield {"apiVersion": API_VERSION, "kind": "RayService", "metadata": {"name": "serves"}, "spec": spec}
    place.kube.services.delete("serves")


def test_a_service_is_created_waited_for_and_deleted_with_its_cluster(place: Place, service: Document) -> None:
    services, clusters = place.kube.services, place.kube.clusters
    services.create(service)
    with pytest.raises(Conflict):
        services.create(service)

    def its_cluster(seen: Document) -> str:
        return str(seen.get("status", {}).get("pendingServiceStatus", {}).get("rayClusterName", ""))

    found = services.wait(["serves"], lambda seen: bool(its_cluster(seen)), 300)["serves"]
    assert services.get("serves")["metadata"]["uid"] == found["metadata"]["uid"]
    wait_for(lambda: clusters.find(its_cluster(found)) is not None, "its cluster")
    assert services.delete("serves", timeout=300)
    wait_for(lambda: clusters.find(its_cluster(found)) is None, "its cluster to go")
    with pytest.raises(NotFound):
        services.get("serves")


def test_a_service_with_a_rule_that_the_operator_has_is_not_sent(place: Place, service: Document) -> None:
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplicas"] = 9
    with pytest.raises(Invalid, match="minReplicas is 9"):
        place.kube.services.create(service)
    assert place.kube.services.find("serves") is None


def test_a_cron_is_created_listed_suspended_resumed_and_deleted(place: Place, profile: Profile) -> None:
    """As an object; it makes jobs only where the operator's gate RayCronJob is open."""
    crons = place.kube.crons
    spec = {"schedule": "0 0 1 1 *", "jobTemplate": job(place, profile, "x", "true")["spec"]}
    document = {"apiVersion": API_VERSION, "kind": "RayCronJob", "metadata": {"name": "yearly"}, "spec": spec}
    crons.create(document)
    with pytest.raises(Invalid, match="schedule is 'soon'"):
        crons.create({**document, "spec": {**spec, "schedule": "soon"}})
    assert [cron["metadata"]["name"] for cron in crons.list()] == ["yearly"]
    assert crons.suspend("yearly")["spec"]["suspend"] is True
    assert crons.resume("yearly")["spec"]["suspend"] is False
    assert crons.apply({**document, "spec": {**spec, "schedule": "0 1 1 1 *"}}, force=True)["spec"]["schedule"] == "0 1 1 1 *"
    assert crons.delete("yearly", timeout=300)
    assert crons.list() == []
