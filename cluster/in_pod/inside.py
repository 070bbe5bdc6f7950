"""What runs in pods of ours, as ``python inside.py idle`` or ``... launch``. Standard library only: no image has us in it.

``idle``, beside a Ray head, suspends its own RayCluster after a time without work. Work is a job or another driver (a Ray
Client session is one) that has not ended, or a pod with a GPU. The head's service account is the autoscaler's, which may read
pods and patch RayClusters; ``up`` and ``--on`` wake the cluster again.

``launch``, in the pods of a CronJob, makes a RayJob from a document, unless the one before still runs, and clears away old
ones.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
LOOK_EVERY = 5.0


def watch() -> None:
    """Suspend the cluster when it is idle; ends only with the pod."""
    idle_limit = float(os.environ["IDLE_SECONDS"])
    idle_since = time.monotonic()
    while True:
        time.sleep(min(LOOK_EVERY, idle_limit / 4))
        try:
            reason = work()
            if reason:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= idle_limit:
                suspend(f"no work for {idle_limit:.0f} s")
        except (OSError, ValueError) as error:  # the head starts, or the API server is away: what is not known is not idle
            print(f"cannot look: {error}", flush=True)
            idle_since = time.monotonic()


def work() -> str:
    """What keeps the cluster awake; empty if nothing does."""
    request = urllib.request.Request("http://127.0.0.1:8265/api/jobs/")
    request.add_header("Authorization", "Bearer " + os.environ["RAY_AUTH_TOKEN"])
    with urllib.request.urlopen(request, timeout=10) as answer:
        for job in json.load(answer):
            if job["status"] not in ("SUCCEEDED", "FAILED", "STOPPED"):
                return f"job {job.get('submission_id') or job.get('job_id')}"
    query = f"labelSelector=ray.io/cluster%3D{os.environ['CLUSTER']},ray.io/node-type%3Dworker"
    for pod in kubernetes("GET", f"/api/v1/namespaces/{os.environ['NAMESPACE']}/pods?{query}")["items"]:
        for container in pod["spec"]["containers"]:
            if any("gpu" in name for name in container.get("resources", {}).get("limits", {})):
                return f"pod {pod['metadata']['name']}"
    return ""


def suspend(why: str) -> None:
    """Suspend this cluster: its pods go, the object stays and says why."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    print(f"{now} suspending: {why}", flush=True)
    path = f"/apis/ray.io/v1/namespaces/{os.environ['NAMESPACE']}/rayclusters/{os.environ['CLUSTER']}"
    patch = {"metadata": {"annotations": {"heliostat.dev/suspended": f"{why}, at {now}"}}, "spec": {"suspend": True}}
    kubernetes("PATCH", path, patch)


def launch() -> None:
    """Make the RayJob of a nightly run, with the time in its name."""
    with open(os.environ["DOCUMENT"]) as file:
        document = json.load(file)
    cron, kept = os.environ["CRON"], int(os.environ["KEEP"])
    path = f"/apis/ray.io/v1/namespaces/{os.environ['NAMESPACE']}/rayjobs"
    jobs = kubernetes("GET", f"{path}?labelSelector=heliostat.dev/cron%3D{cron}")["items"]
    jobs.sort(key=lambda job: str(job["metadata"]["creationTimestamp"]))
    ended = [
        job for job in jobs if job.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed")
    ]
    if len(ended) < len(jobs):
        print(f"{jobs[-1]['metadata']['name']} still runs: not this time", flush=True)
        return
    for job in ended[: max(0, len(ended) + 1 - kept)]:
        kubernetes("DELETE", f"{path}/{job['metadata']['name']}")
    document["metadata"]["name"] = f"{cron}-{datetime.now(UTC):%m%d%H%M}"
    print(f"makes {kubernetes('POST', path, document)['metadata']['name']}", flush=True)


def kubernetes(method: str, path: str, body: object = None) -> Any:
    """Ask the API server as the head's service account."""
    url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}"
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body else None)
    with open(f"{ACCOUNT}/token") as token:
        request.add_header("Authorization", "Bearer " + token.read())
    request.add_header("Content-Type", "application/merge-patch+json" if method == "PATCH" else "application/json")
    trust = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
        return json.load(answer)


if __name__ == "__main__":
    {"idle": watch, "launch": launch}[sys.argv[1]]()
