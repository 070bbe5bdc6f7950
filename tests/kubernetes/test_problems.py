"""Whatever keeps a cluster or a job from coming up is explained within seconds; every fault here is a real one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kubernetes import client
from kubernetes.stream import stream

from heliostat.cluster.diagnosis.container_problems import HEAD
from heliostat.cluster.diagnosis.snapshot import statuses
from tests.conftest import Done, end_group, wait_for
from tests.kubernetes.conftest import IMAGE, Place, Running, group, ray_pods


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: explained after {time.monotonic() - began:.1f} s")


def refused(place: Place, what: str, path: Path, code: int = 1) -> str:
    """Bring the cluster up, which must fail with one message and leave no waiting behind; returns the message."""
    with timed(what):
        done: Done = place.command("up", path, timeout=300)
    place.command("down", path, "--yes", "--no-wait")
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert "fix:" in done.err
    return done.err


def test_an_image_that_does_not_exist(place: Place) -> None:
    tag = "heliostat/nowhere:2.60.0"
    message = refused(place, "image", place.profile("image", image=tag))
    assert f"image {tag} cannot be pulled" in message
    assert "correct image in the profile" in message


def test_a_head_bigger_than_any_node_is_refused_before_anything_is_made(place: Place) -> None:
    path = place.profile("giant", head={"cpu": 900, "memory": "3Gi"})
    message = refused(place, "giant head", path, code=2)
    assert "head.cpu is 900" in message
    assert "and it requests 900" in message
    assert place.kube.clusters.find("giant") is None


def test_a_worker_that_no_node_can_hold(place: Place) -> None:
    message = refused(place, "unschedulable", place.profile("greedy", groups=[group(gpu=7, min=1)]))
    assert "no node is large enough" in message
    assert "nodes" in message
    assert "gpu 7" in message


def test_a_claim_that_does_not_exist(place: Place) -> None:
    message = refused(place, "claim", place.profile("claimless", storage={"claim": "ghost"}), code=2)
    assert "storage.claim is ghost" in message
    assert "set storage.size" in message


def test_a_claim_that_only_one_node_can_mount(place: Place) -> None:
    body = {
        "metadata": {"name": "single"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    place.kube.api.request("POST", place.kube.api.path("PersistentVolumeClaim"), body)
    message = refused(place, "access mode", place.profile("single", storage={"claim": "single"}), code=2)
    assert "only one node can mount" in message


def test_a_secret_that_does_not_exist(place: Place) -> None:
    path = place.profile("secretless", storage={"uri": "s3://bucket/runs", "secret": "ghost"})
    message = refused(place, "secret", path)
    assert 'secret "ghost" not found' in message
    assert "create the secret ghost" in message


def test_a_secret_without_the_key_that_the_profile_names(place: Place) -> None:
    place.kube.objects("Secret").create({"metadata": {"name": "keyless"}, "stringData": {"other": "x"}})
    path = place.profile("keyless-cluster", env={"TOKEN": {"secret": "keyless", "key": "token"}})
    message = refused(place, "key of a secret", path)
    assert "couldn't find key token" in message
    assert "add the key token to the Secret keyless" in message


def test_a_quota_that_is_used_up(place: Place) -> None:
    quota = {"metadata": {"name": "tight"}, "spec": {"hard": {"requests.memory": "1Gi"}}}
    place.kube.api.request("POST", place.kube.api.path("ResourceQuota"), quota)
    try:
        message = refused(place, "quota", place.profile("quota"))
    finally:
        place.kube.api.request("DELETE", place.kube.api.path("ResourceQuota", "tight"))
    assert "quota of the namespace is used up" in message
    assert "requests.memory" in message


def test_a_namespace_that_does_not_exist(place: Place) -> None:
    message = refused(place, "namespace", place.profile("lost", namespace="no-such-namespace"), code=2)
    assert 'namespaces "no-such-namespace" not found' in message
    assert "kubectl create namespace" in message


def test_a_head_that_crashes_twice_shows_its_last_lines(place: Place) -> None:
    path = place.profile("crash", env={"PYTHONHOME": "/nowhere"})
    message = refused(place, "crash", path)
    assert "exited (exit code 1), 2 crashes in a row, its last lines:" in message
    assert "No module named 'encodings'" in message


def test_a_head_that_crashes_once_is_shown_and_waited_for(place: Place) -> None:
    running = Running(place, "up", place.profile("once", groups=[group(min=0)]))
    try:
        running.says("waits for the head: starting")
        wait_for(lambda: killed(place, "once", "gcs_server"), "the first process of a head to kill")
        output = running.says(r"head: the pod once-head-\w+ exited \(exit code \d+\): .*")
        running.says(r"waits for the head.* \(before: once-head-\w+ ended: exit code \d+")
        assert running.end() == 0, "".join(running.lines)
        print(output[0])
    finally:
        end_group(running.process)
        place.command("down", "once.yaml", "--yes", "--no-wait")


def killed(place: Place, cluster: str, program: str) -> bool:
    """Kill a program in the container of a cluster's head; whether one was there."""
    api = client.CoreV1Api(place.kube.api.client)
    for pod in ray_pods(place, "head"):
        if pod["metadata"]["labels"]["ray.io/cluster"] != cluster:
            continue  # one of a test before, which ends
        if not any("running" in status["state"] for status in statuses(pod) if status["name"] == HEAD):
            continue
        answer = stream(
            api.connect_get_namespaced_pod_exec, pod["metadata"]["name"], place.namespace, container="ray-head",
            command=["sh", "-c", f"pkill -9 -f [/]{program} && echo killed"], stdout=True, stderr=True,
        )  # fmt: skip
        return "killed" in answer
    return False


def test_an_image_with_another_ray_than_the_profile_says(place: Place) -> None:
    path = place.profile("version", image=IMAGE.partition(":")[0] + ":test", ray_version="2.59.0")
    with timed("version"):
        done = place.command("up", path, timeout=300)
    place.command("down", path, "--yes", "--no-wait")
    if "cannot be pulled" in done.err:
        pytest.fail("the test cluster needs the image under the tag `test` too: kube image heliostat/ray:test")
    assert done.code == 1, done.err
    assert "has Ray 2.60.0, but ray_version is 2.59.0" in done.err


def test_what_the_operator_says_only_by_an_event(place: Place) -> None:
    """A document that the API server takes and the operator does not: our own rules are left out to send it."""
    from heliostat.cluster.diagnosis.wait import Watchdog, poll
    from heliostat.cluster.documents.manifests import documents
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.kubernetes import KubernetesCluster
    from heliostat.errors import NotComing

    profile = find(str(place.profile("event")))
    document = next(d for d in documents(profile, place.kube.api.features) if d["kind"] == "RayCluster")
    document["spec"]["workerGroupSpecs"][0]["minReplicas"] = 9
    place.kube.api.request("POST", place.kube.api.path("RayCluster"), document)
    cluster, dog = KubernetesCluster(profile, place.kube), Watchdog(profile, lambda pod: "")
    lines = poll(lambda: dog.look(cluster.snapshot()), lambda: False, 300, "event")
    with timed("invalid"), pytest.raises(NotComing, match="minReplicas 9 greater than maxReplicas 2"):
        list(lines)
    place.kube.clusters.delete("event")
