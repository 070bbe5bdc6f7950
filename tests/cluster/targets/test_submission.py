"""The exit code of a submission says whether the job may run, 75 only if it may; against a small real server."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster import jobs, retries
from heliostat.cluster.diagnosis import wait
from heliostat.cluster.documents.manifests import ray_cluster
from heliostat.cluster.errors import Unreachable
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.follow import Work, follow
from heliostat.cluster.names import SUSPENDED
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.ephemeral import Ephemeral, own_cluster
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.run import run_there
from heliostat.config import validate
from heliostat.errors import ContactLost, JobFailed
from tests.cluster.kube.api_server import ApiServer, Handler, failing, kubeconfig, lost, serving
from tests.cluster.kube.test_clients import CLUSTERS, JOBS, Clock
from tests.cluster.kube.test_owners import SCHEMA

GROUPS = [{"name": "gpu", "gpu": 1, "gpu_type": "H100", "min": 2, "max": 4}, {"name": "cpu", "max": 1}]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    clock = Clock()
    for module in (retries, wait):
        monkeypatch.setattr(module, "time", clock)
    with serving() as server:
        server.objects["/openapi/v3/apis/ray.io/v1"] = SCHEMA
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", server)))
        yield server


@pytest.fixture
def profile() -> Profile:
    return validate({"name": "gpu", "groups": GROUPS, "storage": {"claim": "runs", "size": "1Gi"}}, Profile)


def where(server: ApiServer, condition: Callable[[Handler], bool], fault: Callable[[Handler], bool] = lost) -> None:
    """Have each request of a kind fail."""
    server.faults = deque(itertools.repeat(lambda handler: condition(handler) and fault(handler), 10_000))


def is_of_jobs(method: str) -> Callable[[Handler], bool]:
    return lambda handler: handler.command == method and f"{JOBS}/" in handler.path


@pytest.mark.parametrize("ephemeral", [False, True])
def test_a_job_that_was_not_submitted_is_not_said_to_run(
    server: ApiServer, profile: Profile, tmp_path: Path, ephemeral: bool
) -> None:
    where(server, is_of_jobs("GET") if ephemeral else lambda handler: True)
    work = Work("job-1", ["true"], contents(tmp_path))
    with pytest.raises(Unreachable) as error:
        run_there(profile, work, print, lambda line: None, ephemeral)
    assert error.value.exit_code == 1
    assert error.value.__notes__ == ["job job-1 was not submitted"]
    assert [path for path in server.objects if path.startswith(JOBS)] == []
    assert (f"{JOBS}/gpu-1" in server.methods("DELETE")) == ephemeral


def test_a_job_of_which_its_own_cluster_does_not_know_is_deleted_with_it(
    server: ApiServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ephemeral, "answers", lambda self: True)
    target, said = KubernetesCluster(profile), list[str]()
    with pytest.raises(JobFailed, match="no answer\n  gpu-1 was deleted, and with it the job if it ran") as error:
        lose_contact(target, "job-1", said.append)
    assert error.value.exit_code == 1
    assert f"{JOBS}/gpu-1" not in server.objects
    with pytest.raises(ContactLost) as lost:
        lose_contact(target, "job-2", said.append, lambda: where(server, is_of_jobs("DELETE"), failing(500)))
    assert lost.value.exit_code == 75
    assert said[-1].startswith("gpu-2 could not be deleted, and is deleted by its own time limits")


def lose_contact(
    target: KubernetesCluster, job: str, say: Callable[[str], None], meanwhile: Callable[[], None] = lambda: None
) -> None:
    with own_cluster(target, job, say):
        meanwhile()
        raise ContactLost("no answer")


def test_a_job_that_its_own_cluster_could_not_be_told_of_may_run(server: ApiServer, profile: Profile) -> None:
    own = Ephemeral(KubernetesCluster(profile), "gpu-1")
    server.put(f"{JOBS}/gpu-1")
    where(server, is_of_jobs("PATCH"))
    with pytest.raises(ContactLost, match="job job-1 was submitted, and gpu-1 does not know it"):
        own.started("job-1")
    assert own.job_id == ""


def test_a_job_has_ended_with_a_cluster_that_was_suspended_or_deleted(
    server: ApiServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.follow, "time", Clock())
    target = KubernetesCluster(profile.model_copy(update={"queue": "team"}))

    def followed() -> None:
        follow(target.dashboard(), "job-1", print, fallback=target.ended)

    server.put("/api/v1/namespaces/team/secrets/gpu", kind="Secret", data={"auth_token": "YQ=="})
    server.put(f"{CLUSTERS}/gpu", spec={})
    where(server, lambda handler: "/proxy/" in handler.path)
    with pytest.raises(ContactLost):
        followed()
    server.put(f"{CLUSTERS}/gpu", spec={"suspend": True})
    with pytest.raises(JobFailed, match="gpu was suspended, in favour of others in the queue team, and its jobs"):
        followed()
    # It may have succeeded before.
    server.put(f"{CLUSTERS}/gpu", spec={"suspend": True}, metadata={"annotations": {SUSPENDED: "no work for 600 s"}})
    with pytest.raises(ContactLost, match="gpu was suspended, no work for 600 s; how the job has ended is not known from here"):
        followed()
    del server.objects[f"{CLUSTERS}/gpu"]
    with pytest.raises(ContactLost, match="gpu was deleted; how the job has ended is not known from here\n  heliostat logs"):
        followed()


def test_a_cluster_that_kueue_has_suspended_and_cannot_start_again_is_put_into_the_queue_again(
    server: ApiServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kueue 0.17 leaves the names of its Workload in the templates of a growing cluster, and refuses them afterwards."""
    monkeypatch.setattr(KubernetesCluster, "answers", lambda self: True)
    target = KubernetesCluster(profile.model_copy(update={"queue": "team"}))
    live = server.put(f"{CLUSTERS}/gpu", **ray_cluster(target.profile))
    live["spec"]["suspend"] = True
    assert list(target.wake()) == [], "it waits in the queue for the first time"
    place, patches = "metadata/annotations", list[Any]()
    for group in (live["spec"]["headGroupSpec"], live["spec"]["workerGroupSpecs"][1]):
        left = {"kueue.x-k8s.io/workload": "a", "kueue.x-k8s.io/workload-slice-name": "a"}
        group["template"]["metadata"]["annotations"] = {"mine": "kept", **left}

    def note(handler: Handler) -> bool:
        patches.append(handler.body)
        return False

    where(server, lambda handler: handler.command == "PATCH", note)
    assert list(target.wake()) == ["puts the cluster into the queue again"]
    assert patches == [[
        {"op": "test", "path": "/spec/suspend", "value": True},
        *({"op": "remove", "path": f"/spec/{group}/template/{place}/kueue.x-k8s.io~1{key}"}
          for group in ("headGroupSpec", "workerGroupSpecs/1") for key in ("workload", "workload-slice-name")),
    ]]  # fmt: skip


def test_the_least_workers_of_a_job_are_requested_when_its_head_answers(
    server: ApiServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ephemeral, "answers", lambda self: True)
    patches: list[Any] = []

    def note(handler: Handler) -> bool:
        patches.append(handler.body)
        return False

    with own_cluster(KubernetesCluster(profile), "job-1", lambda line: None) as own:
        job = server.objects[f"{JOBS}/gpu-1"]
        spec = job["spec"]["rayClusterSpec"]
        assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0, 0]
        job["status"] = {"rayClusterName": "gpu-1-x"}
        server.put(f"{CLUSTERS}/gpu-1-x", spec=spec)
        where(server, lambda handler: handler.command == "PATCH", note)
        own.keep_least()
    assert patches == [[
        {"op": "test", "path": "/spec/workerGroupSpecs/0/groupName", "value": "gpu"},
        {"op": "add", "path": "/spec/workerGroupSpecs/0/minReplicas", "value": 2},
    ]]  # fmt: skip
