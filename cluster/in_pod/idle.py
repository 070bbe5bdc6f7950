"""Suspends the RayCluster of its pod after a time without work; runs beside the head as ``python -m in_pod.idle``.

Work is a job or another driver (a Ray Client session is one) that has not finished, or a pod with a GPU. The head's service
account is the autoscaler's, which may read pods and patch RayClusters; ``up`` and ``--on`` resume the cluster.
"""

import json
import os
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

from .actions import action, annotation
from .api import kubernetes, ray_cluster

POLL_SECONDS = 5.0


def watch() -> None:
    """Suspend the cluster when it has been idle for long enough; runs as long as the pod."""
    idle_limit = float(os.environ["IDLE_SECONDS"])
    idle_since = time.monotonic()
    while True:
        time.sleep(min(POLL_SECONDS, idle_limit / 4))
        try:
            reason = work()
            if reason:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= idle_limit:
                suspend(f"no work for {idle_limit:.0f} s")
        except (OSError, ValueError) as error:  # the head starts, or the API server is down: unknown is not idle
            print(f"cannot check for work: {error}", flush=True)
            idle_since = time.monotonic()


def work() -> str:
    """The job or the pod for which the cluster must keep running; empty if there is none."""
    request = urllib.request.Request("http://127.0.0.1:8265/api/jobs/")
    request.add_header("Authorization", "Bearer " + os.environ["RAY_AUTH_TOKEN"])
    with urllib.request.urlopen(request, timeout=10) as response:
        for job in json.load(response):
            if job["status"] not in ("SUCCEEDED", "FAILED", "STOPPED"):
                return f"job {job.get('submission_id') or job.get('job_id')}"
    query = f"labelSelector=ray.io/cluster%3D{os.environ['CLUSTER']},ray.io/node-type%3Dworker"
    for pod in kubernetes("GET", f"/api/v1/namespaces/{os.environ['NAMESPACE']}/pods?{query}")["items"]:
        for container in pod["spec"]["containers"]:
            if any("gpu" in name for name in container.get("resources", {}).get("limits", {})):
                return f"pod {pod['metadata']['name']}"
    return ""


def suspend(why: str) -> None:
    """Suspend this cluster: its pods are deleted, the object stays and has the reason as an annotation."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    print(f"{now} suspending: {why}", flush=True)
    path = ray_cluster(os.environ["CLUSTER"])
    noted = annotation(*action("idle watcher", os.environ["CLUSTER"], "suspend", os.environ["CLUSTER"]))
    patch = {"metadata": {"annotations": {"heliostat.dev/suspended": f"{why}, at {now}", **noted}}, "spec": {"suspend": True}}
    kubernetes("PATCH", path, patch)


if __name__ == "__main__":
    watch()
