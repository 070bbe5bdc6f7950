"""What a run on Kubernetes costs beyond its bare steps, side by side on the cluster that KUBECONFIG names.

python -m tests.benchmarks.kubernetes PROFILE [--rounds 3]

The profile needs a GPU group with two GPUs at most rounds apart, and ``kubectl`` must be on the PATH: it is what a person would
use instead. The by-hand run is a RayJob with the same code and config, applied and waited for with kubectl.
"""

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.packaging import packages
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.names import SCHEDULED_LABEL
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets import scheduled
from tests.benchmarks import spread

DIGITS = "workloads/configs/digits.yaml"
HELIOSTAT = [sys.executable, "-m", "heliostat"]


def timed(*command: str) -> tuple[float, str]:
    """The seconds of a command that must succeed, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def by_hand(profile: Profile, kube: KubeRay) -> float:
    """A RayJob with kubectl: applied, waited for, its metrics read from the storage by its own last step."""
    name = f"hand-{secrets.token_hex(2)}"
    command = f"python -m heliostat train {DIGITS} --set name={name}"
    parts = scheduled.documents(profile, name, "0 2 * * *", command, packages(contents(Path.cwd())), kube.api.features)
    config_map = parts[0]
    job = json.loads(config_map["data"]["job.json"])
    del job["metadata"]["labels"][SCHEDULED_LABEL]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": [config_map, job]}, file)
        file.flush()
        seconds, _ = timed("kubectl", "apply", "-n", kube.api.namespace, "--server-side", "-f", file.name)
        for status in ("{.status.jobStatus}=SUCCEEDED",):
            waited, _ = timed(
                "kubectl", "wait", "-n", kube.api.namespace, f"rayjob/{name}", f"--for=jsonpath={status}", "--timeout=300s"
            )
            seconds += waited
        timed("kubectl", "delete", "-n", kube.api.namespace, "-f", file.name, "--wait=true", "--timeout=120s")
    return seconds


def ephemeral(profile: str) -> float:
    """The same by heliostat: from no cluster to the metrics shown here."""
    name = f"ours-{secrets.token_hex(2)}"
    return timed(*HELIOSTAT, "train", DIGITS, "--on", profile, "--ephemeral", "--set", f"name={name}", "--json")[0]


def standing(profile: str) -> tuple[float, float]:
    """On a cluster whose workers are up: all seconds, and those of the run itself, from its driver's start to its report."""
    name = f"up-{secrets.token_hex(2)}"
    seconds, out = timed(*HELIOSTAT, "train", DIGITS, "--on", profile, "--set", f"name={name}", "--json")
    return seconds, json.loads(out)["seconds"]["training"]


def over_the_library(*arguments: str) -> float:
    """The seconds of a command beyond the import of the Kubernetes library."""
    library = timed(sys.executable, "-c", "import kubernetes.client, kubernetes.config, kubernetes.stream")[0]
    return timed(*HELIOSTAT, *arguments)[0] - library


def listing(kube: KubeRay, profile: str, count: int = 1000) -> tuple[float, float, float]:
    """So many clusters: our client's list, ``heliostat status`` of another one beside them, and kubectl's list, in seconds."""
    began = time.perf_counter()
    found = kube.clusters.list("heliostat.dev/many=yes")
    ours = time.perf_counter() - began
    assert len(found) == count
    status = timed(*HELIOSTAT, "status", profile)[0]
    theirs, out = timed("kubectl", "get", "rayclusters", "-n", kube.api.namespace, "-l", "heliostat.dev/many=yes", "-o", "json")
    assert len(json.loads(out)["items"]) == count
    return ours, status, theirs


def many(kube: KubeRay, document: dict[str, Any], count: int = 1000) -> None:
    """Make so many clusters that the operator leaves alone."""
    document["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    for number in range(count):
        document["metadata"] = {"name": f"c-{number:04}", "labels": {"heliostat.dev/many": "yes"}}
        kube.clusters.create(document)


def main() -> None:
    """Print each figure as a ratio or as seconds, with its median and range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    profile = find(args.profile)
    kube = KubeRay(namespace=profile.namespace)
    quick = {
        command: [over_the_library(command, args.profile) for _ in range(2 * args.rounds)]
        for command in ("status", "render", "diff")
    }
    for command, seconds in quick.items():
        print(f"{command}, seconds over the import of the library   {spread(seconds, 2)}", flush=True)
    timed(*HELIOSTAT, "up", args.profile, "--yes")
    standing(args.profile)  # from here on the workers are up
    over = [all_of - run for all_of, run in (standing(args.profile) for _ in range(args.rounds))]
    print(f"on a standing cluster, seconds over the training itself   {spread(over, 1)}", flush=True)
    timed(*HELIOSTAT, "down", args.profile, "--yes")
    pairs = [(ephemeral(args.profile), by_hand(profile, kube)) for _ in range(args.rounds)]
    hand = statistics.median(theirs for _, theirs in pairs)
    print(f"from no cluster to the metrics / by hand ({hand:.0f} s)   {spread([o / t for o, t in pairs], 2)}", flush=True)
    from heliostat.cluster.documents.manifests import ray_cluster

    try:
        many(kube, ray_cluster(profile, kube.api.features))
        lists = [listing(kube, args.profile) for _ in range(args.rounds)]
        print(f"a list of 1,000 clusters / kubectl's   {spread([ours / theirs for ours, _, theirs in lists], 2)}", flush=True)
        beside = spread([status / theirs for _, status, theirs in lists], 2)
        print(f"status beside them, seconds   {spread([status for _, status, _ in lists], 2)}, / kubectl's list   {beside}")
    finally:
        kube.api.request("DELETE", kube.api.path("RayCluster"), query={"labelSelector": "heliostat.dev/many=yes"})


if __name__ == "__main__":
    main()
