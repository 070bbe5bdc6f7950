"""`heliostat why` on a real Kubernetes: each cause is provoked, and named within seconds after the first sign of it.

`make accept` runs these. Each prints the seconds from the first look at the API server, or at Ray, that shows the cause until
`why` names it as the one that decides; docs/waiting.md has them in a table.
"""

import base64
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.stream import stream

from heliostat.cause import Cause
from heliostat.cluster.diagnosis.placement_problems import ELSEWHERE
from heliostat.cluster.diagnosis.snapshot import statuses
from heliostat.cluster.documents.manifests import documents
from heliostat.cluster.kube.conditions import condition, observed
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import RETRY
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.observation import of_cluster, of_job
from tests.conftest import Command, beside, wait_for
from tests.kubernetes.conftest import GPU, IMAGE, ON_GPUS, PODS, Place, cpu_group, group, ray_pods, worker_pods
from tests.kubernetes.test_queue import Queue, profile, queue

pytestmark = [pytest.mark.accept, ON_GPUS]
__all__ = ["queue"]

SMALL = {"head": {**PODS["head"], "cpu": "100m", "memory": "3Gi"}}
"""Of clusters whose head need not run, so that it gets a node where others are at work."""
LIMIT = 15.0
"""Seconds after its first sign within which a cause must be named."""
PATIENCE = 300.0
"""Seconds until Kubernetes itself shows a cause."""
Sign = Callable[[KubernetesCluster], Any]


def made(place: Place, path: Path) -> KubernetesCluster:
    """A cluster that is applied, and not waited for."""
    cluster = KubernetesCluster(find(str(path)), place.kube)
    for document in documents(cluster.profile, cluster.api.features):
        cluster.kube.objects(document["kind"]).apply(document)
    return cluster


def named(cluster: KubernetesCluster, what: str, sign: Sign, pattern: str, job: str = "", of: str = "") -> list[Cause]:
    """Look until the first cause of the cluster, a job or a group matches; prints the seconds since the first sign.

    Returns all causes.
    """
    shown, causes, ended = list[float](), list[Cause](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            if sign(own):
                shown.append(time.monotonic())
                return

    own = KubernetesCluster(cluster.profile, KubeRay(namespace=cluster.api.namespace))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            seen = cluster.observe()
            found = seen.job(job) if job else None
            causes = [*(of_job(seen, found) if found else of_cluster(seen)).causes]
            causes = [cause for cause in causes if of in ("", cause.group)]
            if causes and re.search(pattern, causes[0].what):
                now = time.monotonic()
                seconds = max(0.0, now - shown[0]) if shown else 0.0
                print(f"{what}: named after {seconds:.1f} s: {causes[0].what}; fix: {causes[0].fix}")
                assert seconds < LIMIT
                return causes
            time.sleep(0.2)
    finally:
        ended.set()
        watcher.join()
    pytest.fail(f"{what} is not named: {causes}")


@pytest.fixture
def gone(place: Place) -> Iterator[None]:
    """Afterwards, no cluster is left."""
    yield
    for cluster in place.kube.clusters.list():
        place.kube.clusters.delete(cluster["metadata"]["name"])


@pytest.fixture
def limits(place: Place) -> Iterator[Callable[..., None]]:
    """Sets the quota of the namespace, which has none afterwards."""
    path = place.kube.api.path("ResourceQuota")

    def limit(**hard: str) -> None:
        document = {"metadata": {"name": "tight"}, "spec": {"hard": {name.replace("_", "."): v for name, v in hard.items()}}}
        place.kube.api.request("POST", path, document)

    yield limit
    place.kube.api.request("DELETE", f"{path}/tight")


def refused(cluster: KubernetesCluster) -> bool:
    """Whether the operator has said that it cannot create a pod."""
    live = cluster.kube.clusters.find(cluster.name)
    return live is not None and condition(live, "ReplicaFailure").get("status") == "True"


def no_node_for_a_worker(cluster: KubernetesCluster) -> bool:
    return any(condition(pod, "PodScheduled").get("reason") == "Unschedulable" for pod in cluster.snapshot().workers())


def not_pulled(cluster: KubernetesCluster) -> bool:
    return "ErrImagePull" in json.dumps(cluster.snapshot().pods) or "ImagePullBackOff" in json.dumps(cluster.snapshot().pods)


def test_quota(place: Place, gone: None, limits: Callable[..., None]) -> None:
    limits(requests_memory="1Gi")
    causes = named(made(place, place.profile("quota")), "quota", refused, "the quota of the namespace is used up")
    assert "five minutes" in causes[0].then
    assert causes[0].since


def test_an_image_that_does_not_exist(place: Place, gone: None) -> None:
    cluster = made(place, place.profile("image", **SMALL, image="heliostat/nowhere:2.60.0"))
    named(cluster, "image", not_pulled, "head: the image heliostat/nowhere:2.60.0 cannot be pulled")


def test_quota_and_image_at_once(place: Place, gone: None, limits: Callable[..., None]) -> None:
    limits(pods="1")
    cluster = made(place, place.profile("both", **SMALL, image="heliostat/nowhere:2.60.0", groups=[group(min=1)]))
    named(cluster, "image, with a quota", lambda c: not_pulled(c) and refused(c), "head: the image")
    texts = [cause.what for cause in named(cluster, "both", refused, "head: the image")]
    assert any("the quota of the namespace is used up" in text for text in texts), texts


def test_a_cause_that_changes_meanwhile(place: Place, gone: None) -> None:
    api = place.kube.api
    path = api.path("ResourceQuota")
    api.request("POST", path, {"metadata": {"name": "first"}, "spec": {"hard": {"requests.memory": "1Gi"}}})
    cluster = made(place, place.profile("changes", **SMALL, image="heliostat/nowhere:2.60.0"))
    try:
        named(cluster, "first the quota", refused, "the quota of the namespace is used up")
    finally:
        api.request("DELETE", f"{path}/first")
    cluster.kube.clusters.patch(cluster.name, {"metadata": {"annotations": {RETRY: "now"}}})  # as heliostat up does
    named(cluster, "then the image", not_pulled, "head: the image")


def test_gpus_that_no_node_has(place: Place, gone: None) -> None:
    cluster = made(place, place.profile("greedy", **SMALL, groups=[group(gpu=7, min=1)]))
    named(cluster, "GPUs that no node has", no_node_for_a_worker, r"gpu: no node is large enough .*gpu 7\)", of="gpu")


def test_a_taint_without_a_toleration(place: Place, gone: None) -> None:
    nodes = place.kube.api.request("GET", place.kube.api.path("Node"))["items"]
    tainted = [n for n in nodes if any(taint["effect"] == "NoSchedule" for taint in n["spec"].get("taints", []))]
    if not tainted:
        pytest.skip("no node has a taint")
    there = {"kubernetes.io/hostname": tainted[0]["metadata"]["labels"]["kubernetes.io/hostname"]}
    workers = {"name": "cpu", "cpu": "100m", "memory": "1Gi", "min": 1, "max": 1, "node_selector": there}
    cluster = made(place, place.profile("tainted", **SMALL, groups=[workers]))
    named(cluster, "taint", no_node_for_a_worker, "cpu: no node accepts its pod: .*1 of .* has the taint ", of="cpu")


@pytest.fixture
def pressed(place: Place) -> Iterator[str]:
    """The name, and the value of the label ``pool``, of a node under disk pressure.

    It is a Node whose kubelet is this test: it sets the condition and renews them, and Kubernetes makes the taint of it.
    """
    api, name = place.kube.api, f"{place.namespace}-disk"
    node, leases = api.path("Node", name), "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

    def beat(over: threading.Event) -> None:
        while not over.wait(2):
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            merge = "application/merge-patch+json"
            api.request("PATCH", f"{leases}/{name}", {"spec": {"renewTime": now}}, content_type=merge)
            is_so = {"Ready": "True", "DiskPressure": "True", "MemoryPressure": "False", "PIDPressure": "False"}
            conditions = [
                {"type": kind, "status": status, "reason": "Test", "message": "test", "lastHeartbeatTime": now[:19] + "Z"}
                for kind, status in is_so.items()
            ]
            room = {"cpu": "64", "memory": "512Gi", "pods": "110", GPU: "8"}
            status = {"conditions": conditions, "allocatable": room, "capacity": room}
            api.request("PATCH", f"{node}/status", {"status": status}, content_type=merge)

    def tainted() -> bool:
        taints = [taint["key"] for taint in api.request("GET", node)["spec"].get("taints", [])]
        return taints == ["node.kubernetes.io/disk-pressure"]

    api.request("POST", api.path("Node"), {"metadata": {"name": name, "labels": {"pool": name}}})
    try:
        lease = {"holderIdentity": name, "leaseDurationSeconds": 40}
        api.request("POST", leases, {"metadata": {"name": name}, "spec": lease})
        with beside(beat):
            wait_for(tainted, "the taint of the condition")
            yield name
    finally:
        api.request("DELETE", node)


def test_a_node_under_disk_pressure(place: Place, gone: None, pressed: str) -> None:
    workers = {"name": "cpu", "cpu": "100m", "memory": "1Gi", "min": 1, "max": 1, "node_selector": {"pool": pressed}}
    cluster = made(place, place.profile("pressed", **SMALL, groups=[workers]))
    pattern = r"cpu: no node accepts its pod: .*1 of \d+ are under disk pressure"
    causes = named(cluster, "disk pressure", no_node_for_a_worker, pattern, of="cpu")
    assert "free disk space" in causes[0].fix


@pytest.fixture
def no_operator() -> Iterator[None]:
    """KubeRay's operator, a process of this machine whose id is in HELIOSTAT_TEST_OPERATOR, is stopped for a minute at most."""
    if not (number := os.environ.get("HELIOSTAT_TEST_OPERATOR")):
        pytest.skip("HELIOSTAT_TEST_OPERATOR is not set")
    go_on = threading.Timer(60, os.kill, (int(number), signal.SIGCONT))
    os.kill(int(number), signal.SIGSTOP)
    go_on.start()
    try:
        yield
    finally:
        go_on.cancel()
        os.kill(int(number), signal.SIGCONT)


def test_an_operator_that_is_stopped(place: Place, gone: None, no_operator: None) -> None:
    def waits(cluster: KubernetesCluster) -> bool:
        live = cluster.kube.clusters.find(cluster.name)
        return live is not None and not observed(live)

    pattern = "waits for the operator, which has not processed the change of .*: KubeRay's operator is down, or behind"
    causes = named(made(place, place.profile("unmade", **SMALL)), "stopped operator", waits, pattern)
    assert "heliostat doctor" in causes[0].fix


def test_a_claim_in_another_zone(place: Place, gone: None) -> None:
    api, name = place.kube.api, f"{place.namespace}-zone"
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["elsewhere"]}
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "capacity": {"storage": "1Gi"}}
    volume = {
        "metadata": {"name": name},
        "spec": {
            **spec, "hostPath": {"path": "/tmp"}, "persistentVolumeReclaimPolicy": "Retain",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}},
        },
    }  # fmt: skip
    api.request("POST", "/api/v1/persistentvolumes", volume)
    try:
        asked = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name}
        claim = {"metadata": {"name": "far"}, "spec": {**asked, "resources": {"requests": {"storage": "1Gi"}}}}
        api.request("POST", api.path("PersistentVolumeClaim"), claim)
        cluster = made(place, place.profile("zone", **SMALL, storage={"claim": "far"}))

        def elsewhere(seen: KubernetesCluster) -> bool:
            return bool(re.search(ELSEWHERE, json.dumps(seen.snapshot().pods)))

        named(cluster, "claim in another zone", elsewhere, "head: no node can mount its volume, which is bound to another")
    finally:
        api.request("DELETE", f"/api/v1/persistentvolumes/{name}")


# --- an admission webhook -------------------------------------------------------------------------------------------------


class Refuses(BaseHTTPRequestHandler):
    """Answers every review with a refusal."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        why = {"code": 403, "message": "pods of team vision must have a cost centre"}
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": why}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not in the test's output."""


@pytest.fixture
def webhook(place: Place, tmp_path: Path) -> Iterator[None]:
    """An admission webhook that refuses all pods of the namespace; the API server must reach this machine."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=webhook", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([*command, *names], check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place_ = {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}}
    hook = {
        "name": "cost.centre.example", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
        "namespaceSelector": place_,
        "clientConfig": {
            "url": f"https://127.0.0.1:{server.server_port}/", "caBundle": base64.b64encode(certificate.read_bytes()).decode()
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }  # fmt: skip
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    place.kube.api.request("POST", path, {"metadata": {"name": place.namespace}, "webhooks": [hook]})
    yield
    place.kube.api.request("DELETE", f"{path}/{place.namespace}")
    server.shutdown()


def test_a_refusal_by_an_admission_webhook(place: Place, gone: None, webhook: None) -> None:
    cluster = made(place, place.profile("refused"))
    pattern = r'no pod can be created: admission webhook "cost.centre.example" denied the request: pods of team vision'
    named(cluster, "webhook", refused, pattern)


# --- in a queue -----------------------------------------------------------------------------------------------------------


def suspended(cluster: KubernetesCluster) -> bool:
    live = cluster.kube.clusters.find(cluster.name)
    return bool(live and live["spec"].get("suspend"))


def test_a_queue_without_quota(place: Place, gone: None, queue: Queue) -> None:
    queue.open("0")
    cluster = made(place, profile(place, queue.name, "short"))
    named(cluster, "quota of a queue", suspended, "waits in the queue team: couldn't assign flavors.*insufficient quota")


def test_a_stopped_queue(place: Place, gone: None, queue: Queue) -> None:
    queue.open("8")
    path = f"clusterqueues/{place.namespace}"
    change: dict[str, Any] = {"content_type": "application/merge-patch+json"}
    queue._request("PATCH", path, {"spec": {"stopPolicy": "Hold"}}, **change)
    try:
        cluster = made(place, profile(place, queue.name, "held"))
        causes = named(cluster, "stopped queue", suspended, "waits in the queue team: .*is stopped")
        assert "spec.stopPolicy of clusterqueue" in causes[0].fix
    finally:
        queue._request("PATCH", path, {"spec": {"stopPolicy": "None"}}, **change)


def test_behind_a_bigger_one_in_the_queue(place: Place, gone: None, queue: Queue) -> None:
    queue.open("500m")
    made(place, profile(place, queue.name, "big"))
    small = place.profile("small", queue=queue.name, groups=[cpu_group(min=3, max=3)], idle_shutdown_seconds=None)
    cluster = made(place, small)
    named(
        cluster, "behind another in the queue", suspended, r"waits in the queue team: .*position 2 of 2, behind RayCluster big"
    )


# --- in Ray ---------------------------------------------------------------------------------------------------------------

HOLDS = """
import time
import ray
ray.init()
@ray.remote(num_cpus=0, num_gpus=1)
class Idle:
    def here(self):
        return 1
idle = Idle.remote()
ray.get(idle.here.remote())
print("has its", "GPU", flush=True)
time.sleep(900)
"""
WAITS = """
import time
import ray
from ray.util import placement_group
ray.init()
groups = placement_group([{"GPU": 1}], name="one"), placement_group([{"GPU": 1}] * 5, strategy="STRICT_SPREAD", name="gang")
time.sleep(900)
"""


def test_a_group_at_its_maximum_and_a_gang_that_cannot_be_spread(place: Place, gone: None) -> None:
    path = place.profile("ray", groups=[group(max=1)])
    command = Command(place.command.cwd, place.command.env)
    assert command("up", path, timeout=400).code == 0
    cluster = KubernetesCluster(find(str(path)), place.kube)
    dashboard = cluster.dashboard()
    dashboard.submit("holds", f"python -c '{HOLDS}'", {}, {})
    deadline = time.monotonic() + 400
    while "has its GPU" not in dashboard.logs("holds") and time.monotonic() < deadline:
        time.sleep(0.5)
    assert worker_pods(place)
    dashboard.submit("waits", f"python -c '{WAITS.replace(chr(39), chr(34))}'", {}, {})

    def pending(_: KubernetesCluster) -> bool:
        return "PENDING" in json.dumps(dashboard.get("/api/v0/placement_groups?detail=1"))

    causes = named(cluster, "gang that cannot be spread", pending, "each on another node.*room for 1 node ", job="waits")
    held = [cause for cause in causes if "has its maximum of 1 node" in cause.what]
    assert "is held by job holds (actor Idle: 1 GPU)" in held[0].what, causes
    assert "heliostat stop ray holds" in held[0].fix
    began = time.monotonic()
    cluster.observe()
    print(f"one look: {time.monotonic() - began:.2f} s with {IMAGE}")
    done = place.command("why", "waits", "--on", path, timeout=120)
    assert done.code == 0, done.err
    assert "1. waits for 5 x (1 GPU) at once, each on another node" in done.out
    dashboard.stop("waits")
    dashboard.stop("holds")


ONE_GPU = """
import ray
ray.init()
ray.get(ray.remote(num_cpus=0, num_gpus=1)(lambda: 1).remote())
"""


def test_a_spot_group_that_never_comes_and_an_autoscaler_that_has_ended(place: Place, gone: None) -> None:
    nowhere = {"node_selector": {"market": "no-such"}}
    spot = group(name="spot", market="spot", max=1, start_seconds=600)
    path = place.profile("spot", groups=[{**spot, **nowhere}, group(max=1)])
    command = Command(place.command.cwd, place.command.env)
    assert command("up", path, timeout=400).code == 0
    cluster = KubernetesCluster(find(str(path)), place.kube)
    dashboard = cluster.dashboard()
    dashboard.submit("one", f"python -c '{ONE_GPU}'", {}, {})
    pattern = "spot: no node accepts its pod: .*have no label market=no-such"
    causes = named(cluster, "spot that never comes", no_node_for_a_worker, pattern, of="spot")
    assert re.search("gives it up at .* UTC, and uses another group", causes[0].then)
    dashboard.stop("one")

    (head,) = ray_pods(place, "head")
    interrupt = ["sh", "-c", "pkill -INT -f [k]uberay-autoscaler"]
    api = client.CoreV1Api(place.kube.api.client)
    stream(
        api.connect_get_namespaced_pod_exec, head["metadata"]["name"], place.namespace, container="autoscaler",
        command=interrupt, stdout=True, stderr=True,
    )  # fmt: skip

    def ended(seen: KubernetesCluster) -> bool:
        pods = [pod for pod in seen.snapshot().pods if pod["metadata"]["name"] == head["metadata"]["name"]]
        states = [status for pod in pods for status in statuses(pod) if status["name"] == "autoscaler"]
        return any("terminated" in status["state"] for status in states)

    named(cluster, "autoscaler that has ended", ended, "head: the container autoscaler of spot-head-.* exited", of="head")
