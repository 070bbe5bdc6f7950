"""Services in replicas: real clients get what predict says, and no request is lost while replicas and versions change.

The pods of the Kubernetes need Ray's extra ``serve``, as this environment does.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import CoreV1Api
from kubernetes.stream import stream

from heliostat.config import to_yaml
from heliostat.workloads.inference import load_run, predict
from tests.accept.test_serving import OPENAI, TRITON, output_of, programs, text_files
from tests.conftest import Command, clean_environment, end_group, gone, wait_for
from tests.kubernetes.conftest import GPU, PODS, Place, Running, group, place
from tests.workloads.training.test_loop import config, train

pytest.importorskip("fastapi", reason="ray[serve] is not installed")

__all__ = ["place", "programs"]
RATE, LEAST = 40, 2000
"""Requests a second, and how many at least."""
SLOW = ("--set", "seconds=300", "--set", "requests=256")
"""Limits of services that answer late on a busy machine, which loses no request."""
CANCER = {"task": "tabular-classification", "dataset": {"source": "breast-cancer"}, "global_batch": 32, "model": {}}
ROW = {"mean_radius": 14.1, "mean_texture": 19.3}


class Load:
    """Requests at a fixed rate, whatever becomes of the ones before; each is tried once."""

    def __init__(self, url: str, token: str) -> None:
        self.host, self.headers = url.removeprefix("http://"), {"Authorization": f"Bearer {token}"}
        self.answers: list[tuple[Any, str]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with ThreadPoolExecutor(256) as many:
            began, sent = time.monotonic(), 0
            while not self._ended.wait(max(0.0, began + sent / RATE - time.monotonic())):
                many.submit(self._ask)
                sent += 1

    def _ask(self) -> None:
        connection = HTTPConnection(self.host, timeout=300)
        try:
            connection.request("POST", "/v1/predict", json.dumps({"rows": [ROW]}), self.headers)
            response = connection.getresponse()
            body = response.read()
            self.answers.append((response.status, json.loads(body)["version"] if response.status == 200 else str(body[:200])))
        except Exception as error:  # whatever it is, the request was lost
            self.answers.append((type(error).__name__, str(error)))
        finally:
            connection.close()

    def seen(self, version: str) -> bool:
        """Whether one of the last answers is of this version."""
        return version in [each[1] for each in self.answers[-RATE:]]

    @property
    def lost(self) -> Counter[tuple[Any, str]]:
        """The requests that were not answered."""
        return Counter(each for each in self.answers if each[0] != 200)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                wait_for(lambda: len(self.answers) >= LEAST, f"{LEAST} answers")
        finally:
            self._ended.set()
            self._thread.join()


def check_clients(clients: Path, run: Path, url: str, token: str) -> None:
    """Triton's client, in JSON and binary, and curl get what predict says, up to 1e-5."""

    def curl(path: str, *sent: str) -> Any:
        return output_of("curl", "--silent", "--fail", "-H", f"Authorization: Bearer {token}", f"{url}{path}", *sent)

    names = [each["name"] for each in curl(f"/v2/models/{run.name}")["inputs"]]
    rows = [dict.fromkeys(names, 0.5 + number) for number in range(8)]
    wanted = load_run(run).predict(rows)["probability_malignant"].to_pylist()
    (run / "columns.json").write_text(json.dumps({name: [row[name] for row in rows] for name in names}))
    words = [url.removeprefix("http://"), token, run.name, run / "columns.json", "probability_malignant"]
    curled = curl("/v1/predict", "-d", json.dumps({"rows": rows}))["predictions"]
    for each in (
        *output_of(clients / "python", "-c", TRITON, *words),
        [row["probability_malignant"] for row in curled],
    ):
        assert each == pytest.approx(wanted, abs=1e-5)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A local cluster that runs, in whose storage are two versions of ``cancer`` and the language model ``words``."""
    folder = tmp_path_factory.mktemp("laptop")
    environment = clean_environment(folder / "home")
    nodes = [{"name": "cpu", "cpu": "1", "memory": "2Gi", "max": 3, "idle_seconds": 10, "price_per_hour": 0}]
    profile = {"platform": "local", "groups": nodes, "storage": {"uri": "."}, "idle_shutdown_seconds": None}
    (folder / "laptop.yaml").write_text(to_yaml(profile))
    for name, steps in (("cancer", 20), ("longer", 40)):
        train(config(folder / "runs", name=name, steps=steps, **CANCER))
    train(config(folder / "runs", name="words", **text_files(folder)))
    command = Command(folder, environment)
    try:
        for words in (["add", "cancer", "--alias", "champion"], ["add", "longer", "--name", "cancer"]):
            assert command("model", *words).code == 0
        assert command("up", "laptop.yaml").code == 0
        yield command
    finally:
        command("down", "laptop.yaml", "--yes")
        gone(environment)


@contextmanager
def on_laptop(command: Command, model: str, *options: str) -> Iterator[tuple[str, str]]:
    """The URL and the token of a service on the local cluster."""
    name = model.partition("@")[0]
    served = command("serve", model, "--on", "laptop.yaml", "--port", "0", *options)
    assert served.code == 0, served.err
    (state,) = json.loads(command("serve", "status", name, "--on", "laptop.yaml", "--json").out)
    try:
        yield state["url"], (command.cwd / f"home/.heliostat/services/{name}.token").read_text().strip()
    finally:
        assert command("serve", "stop", name, "--on", "laptop.yaml").code == 0


def test_clients_of_a_local_cluster_get_what_predict_says(programs: Path, laptop: Command) -> None:
    with on_laptop(laptop, "cancer@champion") as (url, token):
        check_clients(programs, laptop.cwd / "runs/cancer", url, token)
    wanted = predict(load_run(laptop.cwd / "runs/words"), "def ")["text"]
    with on_laptop(laptop, "words") as (url, token):
        whole, pieces, _ = output_of(programs / "python", "-c", OPENAI, url, token)
    assert ("def " + whole, "".join(pieces)) == (wanted, whole)
    assert len(pieces) > 100


def test_a_local_cluster_loses_no_request_when_versions_and_replicas_change(laptop: Command) -> None:
    with (
        on_laptop(laptop, "cancer@champion", *SLOW, "--set", "replicas=2") as (url, token),
        Load(url, token) as load,
    ):
        assert laptop("model", "promote", "cancer@2").code == 0
        wait_for(lambda: load.seen("2"), "the second version")
        assert laptop("model", "rollback", "cancer").code == 0
        wait_for(lambda: load.seen("1"), "the first version")
        assert laptop("serve", "cancer@champion", "--on", "laptop.yaml", *SLOW, "--set", "replicas=1").code == 0
    assert load.lost == Counter()


def test_kubernetes_answers_like_predict_and_loses_no_request(programs: Path, place: Place) -> None:
    """While versions change, a replica is killed, and their number is lowered."""
    cpu = group(name="cpu", gpu=0, gpu_type=None, price_per_hour=0, max=3, tolerations=[{"key": GPU}])
    head = {"cpu": "300m", "memory": "3Gi", "tolerations": [{"key": GPU}], **PODS["head"]}
    place.profile("cpu", groups=[cpu], head=head)
    (place.command.cwd / "cancer.yaml").write_text(to_yaml({**CANCER, "steps": 20}))
    there, options = place.command, ("--on", "cpu.yaml")

    def done(*words: str) -> str:
        ended = there(*words, *options)
        assert ended.code == 0, ended.err
        return ended.out

    assert there("up", "cpu.yaml").code == 0
    done("train", "cancer.yaml")
    done("model", "add", "cancer", "--alias", "champion")
    done("train", "cancer.yaml", "--set", "name=longer", "--set", "steps=40")
    done("model", "add", "longer", "--name", "cancer")
    service = Running(place, "serve", "cancer@champion", *options, "--port", "0", *SLOW, "--set", "replicas=2")
    try:
        url = service.says(r"(http://127.0.0.1:\d+)", 1200)[1]
        token = Path(service.says(r"the token in (\S+)")[1]).read_text().strip()
        # Not into the working directory: with other files in it the service would get new pods.
        pulled = there.cwd.parent / "pulled"
        assert there("runs", "pull", "cancer", *options, "--to", str(pulled)).code == 0
        check_clients(programs, pulled / "cancer", url, token)
        with Load(url, token) as load:
            done("model", "promote", "cancer@2")
            wait_for(lambda: load.seen("2"), "the second version")
            done("model", "rollback", "cancer")
            wait_for(lambda: load.seen("1"), "the first version")
            kill_a_replica(place)
            wait_for(lambda: '"replicas": 2' in done("serve", "status", "cancer", "--json"), "the replica's successor")
            done("serve", "cancer@champion", "--detach", *SLOW, "--set", "replicas=1")
        assert load.lost == Counter()
        assert there("serve", "stop", "cancer", *options).code == 0
        wait_for(lambda: service.process.poll() is not None, "the end of the forwarding")
        cost = there("cost", "cpu.yaml", "--by", "run", "--json")
        assert cost.code == 0, cost.err
        (row,) = [row for row in json.loads(cost.out)["rows"] if row["key"] == "serve:cancer"]
        assert row["hours"]["productive"] > 0
    finally:
        end_group(service.process)
        there("down", "cpu.yaml", "--yes")
    left = place.kube.api.request("GET", place.kube.api.path("ConfigMap"))["items"]
    assert not [each for each in left if each["metadata"]["name"].startswith("serve-")]


def kill_a_replica(place: Place) -> None:
    """Kill -9 of a replica in its pod."""
    pods = place.kube.api.request("GET", place.kube.api.path("Pod"), query={"labelSelector": "ray.io/node-type=worker"})[
        "items"
    ]
    call = CoreV1Api(place.kube.api.client).connect_get_namespaced_pod_exec
    for pod in pods:
        if re.match("serve-", pod["metadata"]["name"]):
            command = ["pkill", "-9", "-f", "ray::ServeReplica"]
            stream(call, pod["metadata"]["name"], place.namespace, container="ray-worker", command=command, stdout=True)
            return
    raise AssertionError("no pod has a replica")
