"""From nothing to the first answer, in parts: of a service on this machine from no process, on Kubernetes from no replica.

    python -m tests.benchmarks.serving_from_zero MODEL BODY [--on PROFILE] [--storage runs] [--rounds 3]

BODY is that of a request to /v1/predict, such as '{"rows": [{"age": 41}]}'.

On Kubernetes it starts the service with ``replicas=[0,1]``, waits before each round until no worker pod is left (the two
minutes of Serve, and the group's ``idle_seconds``), and ends the service. Times of pods are whole seconds.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import urllib3
from kubernetes.client import CoreV1Api
from kubernetes.stream import stream

from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.names import Document
from heliostat.cluster.ports import free_ports
from heliostat.cluster.profile import find
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.kubernetes_serving import KubernetesService
from heliostat.commands.serve.on_cluster import name_of
from tests.benchmarks import spread
from tests.conftest import wait_for

HELIOSTAT = (sys.executable, "-m", "heliostat")
TOOK = re.compile(r"loaded in ([\d.]+) s, warmed up in ([\d.]+) s")
READY = re.compile(r"is ready at ([\d:.]+) UTC: started in ([\d.]+) s")
LOG = "grep -h 'is ready at' /tmp/ray/session_latest/logs/serve/replica_*.log | tail -n 1"
PROCESS, MODEL, WARM_UP, ANSWER = "the process", "the model loaded", "warm-up", "the first answer"
Parts = dict[str, float]


def ask(url: str, token: str, body: str) -> bool:
    """Whether a request is answered; one that waits for a replica does."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = urllib3.request("POST", f"{url}/v1/predict", body=body, headers=headers, timeout=900, retries=False)
    except urllib3.exceptions.HTTPError:  # nothing listens yet
        return False
    if answer.status != 200:
        sys.exit(f"the request was answered with {answer.status}: {answer.data.decode()}")
    return True


def here(args: argparse.Namespace) -> Iterator[Parts]:
    """The parts of each round on this machine."""
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            (port,), token, log = free_ports(1), Path(folder, "token"), Path(folder, "log")
            token.write_text("0123456789abcdef")
            command = [*HELIOSTAT, "serve", args.model, "--port", str(port), "--token-file", token, "--storage", args.storage]
            with log.open("w") as file:
                began = time.time()
                process = subprocess.Popen(command, stdout=file, stderr=file)
            try:
                asked = began
                while not ask(f"http://127.0.0.1:{port}", token.read_text(), args.body):
                    if process.poll() is not None:
                        sys.exit(log.read_text())
                    time.sleep(0.01)
                    asked = time.time()
                ended = time.time()
            finally:
                process.terminate()
                process.wait()
            loaded, warmed_up = of_line(log.read_text())
            process_seconds = asked - began - loaded - warmed_up
            yield {PROCESS: process_seconds, MODEL: loaded, WARM_UP: warmed_up, ANSWER: ended - asked}


def of_line(text: str) -> list[float]:
    """The seconds that a service has told."""
    found = TOOK.search(text)
    assert found, text
    return [float(each) for each in found.groups()]


def there(args: argparse.Namespace) -> Iterator[Parts]:
    """The parts of each round on Kubernetes."""
    options = ("--on", args.on)
    command = ["serve", args.model, *options, "--storage", args.storage, "--detach", "--set", "replicas=[0,1]"]
    subprocess.run([*HELIOSTAT, *command], check=True)
    service = KubernetesService(KubernetesCluster(find(args.on)), name_of(args.model))
    try:
        with service.reached() as (url, token):
            for _ in range(args.rounds):
                wait_for(lambda: not workers(service), "no worker pod", 900)
                began = time.time()
                if not ask(url, token, args.body):
                    sys.exit("the request was not answered")
                yield parts_of(service, began, time.time())
    finally:
        subprocess.run([*HELIOSTAT, "serve", "stop", service.name, *options], check=True)


def workers(service: KubernetesService) -> list[Document]:
    """The pods of its workers."""
    label = f"ray.io/cluster={service.cluster().name},ray.io/node-type=worker"
    return service.kube.objects("Pod").list(label)


def parts_of(service: KubernetesService, began: float, ended: float) -> Parts:
    """The parts of the time of a request that a new worker has answered."""
    (pod,) = workers(service)
    name, namespace = pod["metadata"]["name"], service.kube.api.namespace
    call = CoreV1Api(service.kube.api.client).connect_get_namespaced_pod_exec
    line = stream(call, name, namespace, container="ray-worker", command=["sh", "-c", LOG], stdout=True)
    found = READY.search(line)
    assert found, line
    at = datetime.strptime(found[1], "%H:%M:%S.%f").time()
    ready, started = datetime.combine(datetime.now(UTC), at, UTC).timestamp(), float(found[2])
    loaded, warmed_up = of_line(line)
    created = seconds(pod["metadata"]["creationTimestamp"])
    scheduled = seconds(condition(pod, "PodScheduled")["lastTransitionTime"])
    running = seconds(pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"])
    return {
        "Serve and Ray ask for a pod": created - began,
        "the pod is scheduled": scheduled - created,
        "its container is started": running - scheduled,
        "Ray's node starts": ready - started - loaded - warmed_up - running,
        PROCESS: started,
        MODEL: loaded,
        WARM_UP: warmed_up,
        ANSWER: ended - ready,
    }


def seconds(time_of_pod: str) -> float:
    """In seconds since the epoch."""
    return datetime.fromisoformat(time_of_pod).timestamp()


def main() -> None:
    """Print the parts of each round, and their medians with the range."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("body")
    parser.add_argument("--on")
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds: list[Parts] = []
    for parts in (there if args.on else here)(args):
        rounds.append(parts)
        print(json.dumps({name: round(value, 2) for name, value in parts.items()}), flush=True)
    for name in rounds[0]:
        print(f"{name:28} {spread([each[name] for each in rounds], 2)}")
    print(f"{'in all':28} {spread([sum(each.values()) for each in rounds], 2)}")


if __name__ == "__main__":
    main()
