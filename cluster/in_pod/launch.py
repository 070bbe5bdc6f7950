"""Creates the RayJob of a scheduled run; runs in the pods of a CronJob as ``python -m in_pod.launch``.

It creates none while the previous one runs, and deletes the oldest of those that have finished.
"""

import json
import os
from datetime import UTC, datetime

from .api import kubernetes


def launch() -> None:
    """Create the RayJob of a scheduled run, with the time in its name."""
    with open(os.environ["DOCUMENT"]) as file:
        document = json.load(file)
    cron, keep = os.environ["CRON"], int(os.environ["KEEP"])
    path = f"/apis/ray.io/v1/namespaces/{os.environ['NAMESPACE']}/rayjobs"
    own = f"heliostat.dev/cron%3D{cron},heliostat.dev/cluster%3D{document['metadata']['labels']['heliostat.dev/cluster']}"
    jobs = kubernetes("GET", f"{path}?labelSelector={own}")["items"]
    jobs.sort(key=lambda job: str(job["metadata"]["creationTimestamp"]))
    finished = [
        job for job in jobs if job.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed")
    ]
    if len(finished) < len(jobs):
        print(f"{jobs[-1]['metadata']['name']} is still running: skipped", flush=True)
        return
    for job in finished[: max(0, len(finished) + 1 - keep)]:
        kubernetes("DELETE", f"{path}/{job['metadata']['name']}", {"preconditions": {"uid": job["metadata"]["uid"]}})
    document["metadata"]["name"] = f"{cron}-{datetime.now(UTC):%m%d%H%M}"
    print(f"created {kubernetes('POST', path, document)['metadata']['name']}", flush=True)


if __name__ == "__main__":
    launch()
