"""In a queue of Kueue: what waits says so for as long as it takes, and then runs. Needs Kueue, as `kube kueue` installs it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.documents.pods import RESTRICTED
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.profile import find
from heliostat.cluster.targets import ephemeral
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.config import to_yaml
from tests.conftest import ROOT, Command, wait_for
from tests.kubernetes.conftest import GPU, IMAGE, SHORT, Place, cpu_group
from tests.kubernetes.test_cluster import DIGITS


class Queue:
    """A local queue, and the quota behind it."""

    def __init__(self, place: Place, version: str) -> None:
        self.place, self.version, self.name = place, version, "team"
        self._path = f"/apis/{version}"
        self._make("ResourceFlavor", "resourceflavors", place.namespace, {})
        self._make("ClusterQueue", "clusterqueues", place.namespace, self._spec("0"))
        here = f"namespaces/{place.namespace}/localqueues"
        self._make("LocalQueue", here, self.name, {"clusterQueue": place.namespace})

    def open(self, cpus: str) -> None:
        """So many CPUs may be used at the same time."""
        path = f"clusterqueues/{self.place.namespace}"
        self._request("PATCH", path, {"spec": self._spec(cpus)}, content_type="application/merge-patch+json")

    def evict(self, name: str) -> None:
        """Take away what runs, as Kueue does for a workload with a higher priority, and do not let it in again."""
        path = f"namespaces/{self.place.namespace}/workloads"
        found = [w["metadata"]["name"] for w in self._request("GET", path)["items"] if name in w["metadata"]["name"]]
        patch = {"spec": {"active": False}}
        self._request("PATCH", f"{path}/{found[0]}", patch, content_type="application/merge-patch+json")

    def delete(self) -> None:
        for kind in ("clusterqueues", "resourceflavors"):
            self._request("DELETE", f"{kind}/{self.place.namespace}")

    def _spec(self, cpus: str) -> dict[str, Any]:
        quota = {"cpu": cpus, "memory": "64Gi"}
        resources = [{"name": name, "nominalQuota": amount} for name, amount in quota.items()]
        flavors = [{"name": self.place.namespace, "resources": resources}]
        only_here = {"matchLabels": {"kubernetes.io/metadata.name": self.place.namespace}}
        groups = [{"coveredResources": list(quota), "flavors": flavors}]
        return {"namespaceSelector": only_here, "resourceGroups": groups}

    def _make(self, kind: str, path: str, name: str, spec: dict[str, Any]) -> None:
        self._request("POST", path, {"apiVersion": self.version, "kind": kind, "metadata": {"name": name}, "spec": spec})

    def _request(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        return self.place.kube.api.request(method, f"{self._path}/{path}", body, **more)


@pytest.fixture(scope="module")
def queue(place: Place, kueue: str) -> Iterator[Queue]:
    queue = Queue(place, kueue)
    yield queue
    queue.delete()


@pytest.fixture
def path(place: Place, queue: Queue) -> Path:
    """A profile in a queue that has no CPUs yet."""
    queue.open("0")
    return profile(place, queue.name)


def profile(place: Place, queue: str, name: str = "queued", least: int = 2) -> Path:
    return place.profile(name, queue=queue, groups=[cpu_group(min=least, max=2)], idle_shutdown_seconds=None)


@pytest.fixture
def here(place: Place) -> Command:
    return Command(ROOT, place.command.env)


def test_a_queue_that_does_not_exist_is_refused_before_anything_is_made(place: Place, queue: Queue) -> None:
    wrong = profile(place, "taem", "lost")
    done = place.command("up", wrong)
    assert done.code == 2
    assert f"queue is taem, but namespace {place.namespace} has no such local queue" in done.err
    assert "kubectl get localqueues" in done.err
    assert place.kube.clusters.find("lost") is None


def test_an_ephemeral_run_waits_in_the_queue_and_reaches_its_metrics(
    place: Place, queue: Queue, path: Path, here: Command
) -> None:
    process = here.start("train", DIGITS, "--on", path, "--ephemeral", "--set", "name=queued", *SHORT)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "waits in the queue team: " in line)
    assert "insufficient quota for cpu" in said
    queue.open("8")
    admitted = time.monotonic()
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    print(f"metrics {time.monotonic() - admitted:.0f} s after the quota was there")
    assert "queued finished at step 84" in out
    assert "accuracy" in out
    wait_for(lambda: place.kube.jobs.list() == [], "the RayJob to be deleted")


def test_the_time_in_the_queue_does_not_count(place: Place, queue: Queue, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "START_SECONDS", 2)
    queued: list[float] = []

    def say(line: str) -> None:
        if line.startswith("waits in the queue team: "):
            queued.append(time.monotonic())
        if queued and queued[-1] - queued[0] > 10:
            raise TimeoutError

    target = KubernetesCluster(find(str(path)), place.kube)
    with pytest.raises(TimeoutError), ephemeral.own_cluster(target, "patient-1234", say):
        pytest.fail("there is no room for it")
    wait_for(lambda: place.kube.jobs.list() == [], "the RayJob to be deleted")


def test_a_run_whose_cluster_the_queue_suspends_says_so(place: Place, queue: Queue, path: Path, here: Command) -> None:
    queue.open("8")
    process = here.start("submit", path, "--ephemeral", "--", "bash", "-c", "echo runs; sleep 300")
    assert process.stdout is not None
    assert any("runs" in line for line in process.stdout)
    queue.evict("queued-")
    err = process.communicate(timeout=900)[1]
    assert process.returncode == 1, err
    assert "the queue team suspended queued-" in err
    assert "the same command resumes from the last checkpoint" in err
    wait_for(lambda: place.kube.jobs.list() == [], "the RayJob to be deleted")


def test_a_standing_cluster_waits_in_the_queue_and_then_grows_in_it_and_trains(
    place: Place, queue: Queue, here: Command
) -> None:
    """Kueue admits the head first, and the workers when the run needs them."""
    queue.open("0")
    path = profile(place, queue.name, least=0)
    process = place.command.start("up", path)
    assert process.stderr is not None
    assert any("waits in the queue team: couldn't assign flavors" in line for line in process.stderr)
    seen = place.command("status", path)
    assert "suspended" in seen.out
    assert "waits in the queue team" in seen.out
    output = place.command("session", path)
    assert output.code == 2
    assert "waits in the queue team" in output.err
    queue.open("8")
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert "queued is ready" in out
    assert place.command("diff", path).out == ""
    assert place.command("up", path).code == 0, "nothing of what Kueue has set is in the way of the next apply"
    changed = place.command("up", path, "--set", "env={TEAM: vision}", "--yes")
    assert changed.code == 2
    assert "which the queue team has admitted" in changed.err
    done = here("train", DIGITS, "--on", path, "--set", "name=standing", *SHORT)
    assert done.code == 0, done.err
    assert "standing finished at step 84" in done.out
    assert place.command("down", path, "--yes").code == 0


@contextmanager
def team(place: Place, name: str) -> Iterator[Place]:
    """A team with room for a head and no worker, which may borrow as much from another one."""
    command = Command(place.command.cwd / name, place.command.env)
    command.cwd.mkdir()
    queue = {"cohort": place.namespace, "borrow": 1, "flavor": place.namespace}
    share = {"gpus": 1, "gpu_resource": GPU, "cpu": "500m", "memory": "8Gi"}
    document = {"members": [{"user": "ann"}], **share, "queue": queue}
    (command.cwd / f"{name}.yaml").write_text(to_yaml(document))
    kube = KubeRay(namespace=name)
    try:
        done = command("team", "apply", name)
        assert done.code == 0, done.err
        yield Place(kube, command)
    finally:
        kube.objects("Namespace").delete(name)
        kube.objects("ClusterQueue").delete(name)


GROWS = "import ray, time; ray.init(); print(ray.get(ray.remote(num_cpus=1)(lambda: 'grown').remote())); time.sleep(600)"


def claiming(cpu: str, seconds: int) -> dict[str, Any]:
    """A Job in the queue of a team, which passes the restricted standard."""
    amounts = {"requests": {"cpu": cpu, "memory": "64Mi"}}
    container = {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", str(seconds)],
                 "securityContext": RESTRICTED, "resources": amounts}  # fmt: skip
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "tolerations": [{"key": GPU}],
    }
    metadata = {"name": "claiming", "labels": {"kueue.x-k8s.io/queue-name": "team"}}
    spec = {"suspend": True, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


@pytest.mark.accept  # make test has what is sent: tests/cluster/targets/test_submission.py
def test_a_cluster_that_has_grown_and_is_preempted_starts_again_with_the_next_command(place: Place, kueue: str) -> None:
    with team(place, f"{place.namespace}-a") as mine, team(place, f"{place.namespace}-b") as theirs:
        path = profile(mine, "team", "grown", least=0)
        started = mine.command("up", path)
        assert started.code == 0, started.err
        process = mine.command.start("submit", path, "--", "python", "-u", "-c", GROWS)
        assert process.stdout is not None
        assert any("grown" in line for line in process.stdout)
        theirs.kube.objects("Job").create(claiming("500m", 20))
        err = process.communicate(timeout=300)[1]
        assert process.returncode == 1, err
        assert "grown was suspended, in favour of others in the queue team, and its jobs have ended with it" in err
        wait_for(lambda: "Kueue could not start it" in mine.command("why", "--on", path).out, "Kueue to try to start it", 300)
        done = mine.command("submit", path, "--", "echo", "again")
        assert done.code == 0, done.err
        assert "puts the cluster into the queue again" in done.err
        assert "again" in done.out
        assert mine.command("down", path, "--yes").code == 0
