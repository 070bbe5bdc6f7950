"""Services on a real Kubernetes: OpenAI's client, lost nodes and heads, from zero replicas and back, retraining on a schedule.

The pods need Ray's extra ``serve``, as this environment has it, and for the first test a node that `HELIOSTAT_TEST_NODES` adds.
"""

import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes.client import CoreV1Api
from kubernetes.stream import stream
from ruamel.yaml import YAML

from heliostat.cluster.kube.conditions import condition
from heliostat.config import to_yaml
from heliostat.workloads.inference import load_run, predict
from tests.accept.test_serving import OPENAI, output_of, programs, text_files
from tests.accept.test_serving_on_clusters import CANCER, LEAST, RATE, ROW
from tests.conftest import Command, end_group, wait_for
from tests.kubernetes.conftest import (
    GPU,
    IMAGE,
    PODS,
    Machines,
    Place,
    Running,
    cpu_group,
    machines,
    place,
    ray_pods,
    worker_pods,
)

pytest.importorskip("fastapi", reason="ray[serve] is not installed")

__all__ = ["machines", "place", "programs"]
ON = ("--on", "cpu.yaml")
SLOW = '''
import time
from heliostat.workloads.tasks.tabular_classification import TabularClassification
class Slow(TabularClassification):
    """Takes half a second a batch, and no CPU."""
    def predict(self, model, batch):
        time.sleep(0.5)
        return super().predict(model, batch)
'''
LOAD = """
import collections, json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
host, rate, least, body = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
found = []
def ask():
    began = time.time()
    connection = HTTPConnection(host, timeout=300)
    try:
        connection.request("POST", "/v1/predict", body, {"Authorization": "Bearer " + os.environ["TOKEN"]})
        response = connection.getresponse()
        text = response.read()
        found.append((began, response.status, "" if response.status == 200 else text.decode()[:200]))
    except Exception as error:
        found.append((began, type(error).__name__, str(error)))
    finally:
        connection.close()
start = time.time()
with ThreadPoolExecutor(256) as many:
    began, sent = start, 0
    while not os.path.exists("/tmp/end") or sent < least:
        many.submit(ask)
        sent += 1
        time.sleep(max(0, began + sent / rate - time.time()))
lost = [each for each in found if each[1] != 200]
why = collections.defaultdict(list)
for began, *how in sorted(lost):
    why[str(how)].append(round(began - start, 1))
print(json.dumps({"sent": sent, "lost": len(lost), "for": lost and max(lost)[0] - min(lost)[0],
                  "why": {how: [len(times), times[0], times[-1]] for how, times in why.items()}}))
"""
"""Prints what became of requests at a fixed rate from a pod, at least so many, until there is a file; each is tried once.

Of those that were lost for one reason it has the number, and the seconds of the first and the last one.
"""


@pytest.fixture(scope="module")
def there(place: Place) -> Iterator[Command]:
    """A namespace whose storage has the models ``cancer``, ``slow`` and ``words``, and no cluster that stands."""
    cpu = cpu_group(price_per_hour=0, max=3, tolerations=[{"key": GPU}], idle_seconds=5)
    head = {"cpu": "300m", "memory": "3Gi", "tolerations": [{"key": GPU}], **PODS["head"]}
    place.profile("cpu", groups=[cpu], head=head)
    command, folder = place.command, place.command.cwd
    (folder / "slow.py").write_text(SLOW)
    configs = {"cancer": {**CANCER, "steps": 20}, "slow": {**CANCER, "task": "slow:Slow", "steps": 20},
               "words": {**text_files(folder), "dataset": {"source": "text", "options": {"path": "texts", "length": 32}},
                         "steps": 20, "global_batch": 48}}  # fmt: skip
    try:
        assert command("up", "cpu.yaml").code == 0
        for name, config in configs.items():
            (folder / f"{name}.yaml").write_text(to_yaml(config))
            trained = command("train", f"{name}.yaml", *ON)
            assert trained.code == 0, trained.err
        yield command
    finally:
        command("down", "cpu.yaml", "--yes")


@contextmanager
def served(place: Place, model: str, *options: str) -> Iterator[tuple[str, str]]:
    """The URL on this machine and the token of a service, which is ended afterwards."""
    service = Running(place, "serve", model, *ON, "--port", "0", *options)
    try:
        url = service.says(r"(http://127.0.0.1:\d+)", 1200)[1]
        yield url, Path(service.says(r"the token in (\S+)")[1]).read_text().strip()
        stopped = place.command("serve", "stop", model, *ON)
        assert stopped.code == 0, stopped.err
        wait_for(lambda: service.process.poll() is not None, "the end of the forwarding")
    finally:
        end_group(service.process)


def states(command: Command, name: str) -> dict[str, Any]:
    """What ``serve status`` says of a service."""
    done = command("serve", "status", name, *ON, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)[0]
    return found


def test_the_client_of_openai_gets_what_predict_says(programs: Path, place: Place, there: Command) -> None:
    pulled = there.cwd.parent / "pulled"  # not into the working directory: with other files the service would get new pods
    assert there("runs", "pull", "words", *ON, "--to", str(pulled)).code == 0
    wanted = predict(load_run(pulled / "words"), "def ")["text"]
    with served(place, "words") as (url, token):
        whole, pieces, _ = output_of(programs / "python", "-c", OPENAI, url, token)
    assert ("def " + whole, "".join(pieces)) == (wanted, whole)
    assert len(pieces) > 100


@contextmanager
def requests_of_a_pod(place: Place, name: str, token: str) -> Iterator[dict[str, Any]]:
    """Requests of a pod to a service while the block runs; what became of them is in what is yielded afterwards."""
    url, pod, found = f"serve-{name}-serve-svc:8000", f"load-{secrets.token_hex(3)}", dict[str, Any]()
    command = ["python", "-c", LOAD, url, str(RATE), str(LEAST), json.dumps({"rows": [ROW]})]
    container = {"name": "load", "image": IMAGE, "command": command, "env": [{"name": "TOKEN", "value": token}]}
    spec = {"restartPolicy": "Never", "tolerations": [{"key": GPU}], "containers": [container]}
    place.kube.objects("Pod").create({"metadata": {"name": pod}, "spec": spec})
    call = CoreV1Api(place.kube.api.client)

    def phase() -> str:
        return str(place.kube.objects("Pod").get(pod)["status"].get("phase"))

    wait_for(lambda: phase() == "Running", "the pod that sends requests")
    try:
        yield found
        execute(place, pod, "load", "touch /tmp/end")
        wait_for(lambda: phase() in ("Succeeded", "Failed"), f"{LEAST} requests", 900)
        printed: Any = call.read_namespaced_pod_log(pod, place.namespace, _preload_content=False)
        found |= json.loads(printed.data)
    finally:
        place.kube.objects("Pod").delete(pod)


def execute(place: Place, pod: str, container: str, command: str) -> str:
    """What a command prints in a container."""
    call = CoreV1Api(place.kube.api.client).connect_get_namespaced_pod_exec
    words = ["sh", "-c", command]
    return str(stream(call, pod, place.namespace, container=container, command=words, stdout=True, stderr=True))


KILL = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        line = open(f"/proc/{pid}/cmdline").read()
    except OSError:
        continue
    if "gcs_server" in line or "raylet/raylet" in line or "ray\\0start" in line:
        os.kill(int(pid), 9)
"""
"""Run in a head, kills Ray's processes there, with which its container ends."""


def test_what_is_lost_with_a_node_and_with_a_head(
    place: Place, there: Command, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a node that has a replica no request, and with a head those until the workers' proxies stand in for its own."""
    names, path, nodes = ("served-1", "served-2", "served-3", "head-2"), there.cwd / "cpu.yaml", place.kube.objects("Node")
    before = path.read_text()
    spread = {"node_selector": {"heliostat.dev/pool": "served"}, "topology_spread": [{"key": "kubernetes.io/hostname"}]}
    profile = YAML(typ="safe").load(before)
    (cpu,), on_head = profile["groups"], {"node_selector": {"heliostat.dev/pool": "head"}}
    place.profile("cpu", groups=[{**cpu, **spread}], head={**profile["head"], **on_head})
    options = ("--set", "replicas=2", "--set", "per_node=1", "--set", "requests=256")

    def heads() -> list[str]:
        """The heads of the service that are ready; the standing cluster has one, too."""
        ready = (pod for pod in ray_pods(place, "head") if condition(pod, "Ready").get("status") == "True")
        return [name for pod in ready if (name := pod["metadata"]["name"]).startswith("serve-")]

    try:
        for name in names:
            subprocess.run([machines.program, "node", "add", name], check=True)
        nodes.patch("head-1", {"spec": {"unschedulable": True}})  # its head is to be on a node that may be lost
        with served(place, "cancer", *options) as (_, token):
            nodes.patch("head-1", {"spec": {"unschedulable": None}})
            with requests_of_a_pod(place, "cancer", token) as node:
                machines.lose(next(pod["spec"]["nodeName"] for pod in worker_pods(place)))
                wait_for(lambda: states(there, "cancer")["replicas"] == 2, "the replica's successor", 900)
            found = {"node": node}
            for how in ("node lost", "deleted", "killed"):
                (head,) = heads()
                with requests_of_a_pod(place, "cancer", token) as found[how]:
                    if how == "node lost":
                        machines.lose("head-2")
                    elif how == "deleted":
                        place.kube.objects("Pod").delete(head)
                    else:
                        execute(place, head, "ray-head", f"python -c '{KILL}'")
                    wait_for(lambda head=head: heads() not in ([], [head]), "the new head", 900)  # type: ignore[misc]
                    wait_for(lambda: states(there, "cancer")["replicas"] == 2, "the replicas of before", 900)
        with capsys.disabled():
            print(json.dumps(found, indent=1))
        assert node["lost"] == 0
    finally:
        path.write_text(before)
        for name in names:
            subprocess.run([machines.program, "node", "kill", name], check=False)
            nodes.delete(name)
        nodes.patch("head-1", {"spec": {"unschedulable": None}})


def test_replicas_follow_the_requests_in_flight_and_go_to_none_and_back(
    place: Place, there: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--set", "replicas=[0,3]", "--set", "in_flight=2", "--set", "requests=256")
    with served(place, "slow", *options) as (url, token):

        def replicas() -> int:
            return int(states(there, "slow")["replicas"])

        # Each answer takes half a second to a second, so there are 20 and more at once.
        with requests_of_a_pod(place, "slow", token) as found:
            wait_for(lambda: replicas() == 3, "three replicas", 900)
        with capsys.disabled():
            print(json.dumps(found))
        assert found["lost"] == 0
        wait_for(lambda: replicas() == 0, "no replica", 900)
        wait_for(lambda: not ray_pods(place, "worker"), "the end of the idle nodes", 900)
        body, headers = json.dumps({"rows": [ROW]}), {"Authorization": f"Bearer {token}"}

        def answered() -> (
            bool
        ):  # not always by the first one: it waits no longer than a node takes on a machine that is not busy
            return urllib3.request("POST", f"{url}/v1/predict", body=body, headers=headers, timeout=900).status == 200

        wait_for(answered, "an answer from no replica", 900)


SHOP = """
task: gradient-boosting
dataset: {source: table, options: {path: /mnt/heliostat/shop.csv, target: bought}}
steps: 30
evaluate_every: 30
then: {steps: [gate, promote], metric: accuracy, margin: 0.05}
"""
WRITE = """
import random, sys
random.seed(int(sys.argv[1]))
rows = [(random.gauss(0, 1), random.choice(["de", "fr"])) for _ in range(1500)]
lines = [f"{a:.4f},{c},{'yes' if a + (c == 'fr') + random.gauss(0, 0.3) > 0.5 else 'no'}" for a, c in rows]
open("/mnt/heliostat/shop.csv", "w").write("\\n".join(["a,country,bought", *lines]))
"""


def test_a_schedule_trains_on_new_data_gates_and_promotes_and_a_service_follows(place: Place, there: Command) -> None:
    folder = there.cwd
    (folder / "shop.yaml").write_text(SHOP)
    (folder / "write.py").write_text(WRITE)

    def log() -> list[tuple[str, str]]:
        return re.findall(r"(add|gate|promote) +(\d)", there("model", "list", "shop", *ON).out.partition("\nlog ")[2])

    def write(day: int) -> None:
        assert there("submit", "cpu.yaml", "--", "python", "write.py", str(day)).code == 0

    write(1)
    assert there("train", "shop.yaml", *ON, "--if-new", "--cron", "* * * * *").code == 0
    try:
        wait_for(lambda: ("promote", "1") in log(), "the first version", 900)
        write(2)
        wait_for(lambda: ("promote", "2") in log(), "the second version", 900)
    finally:
        assert there("cron", "cpu.yaml", "--delete", "shop").code == 0
