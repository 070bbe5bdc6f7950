"""Looks at the pods of a cluster: which node each of them is, and what Ray says that it is used for."""

import json
import os
import secrets
import threading
import time
from datetime import datetime
from typing import Any
from urllib.error import HTTPError

from . import ray_usage
from .api import kubernetes, ray_cluster
from .metrics import cause_of
from .ray_usage import NOT_KNOWN, Node


class Pods:
    """Looks at the pods of a cluster, and at their use in Ray until the event ``ended``.

    Args:
        get: of the dashboard.
        ended: that this pod ends.
        own: whether a job or a service has the cluster to itself.
    """

    def __init__(self, get: ray_usage.Get, ended: threading.Event, own: bool = False) -> None:
        self._get, self._ended, self._own = get, ended, own
        self._before: dict[str, Node] = {}
        self._done = False
        self.causes: dict[str, str] = {}
        """Why pods are not ready, by their id."""
        self.gated = 0.0
        """When the oldest pod was asked for that Kueue has not let go yet; 0 without one."""

    def __call__(self) -> tuple[dict[str, Node], dict[str, Node]]:
        prices = loaded(os.environ["PRICES"])  # `up` changes it, without a restart
        pods = _pods()
        jobs: dict[str, Node] = {}
        used: dict[str, Node] | None = None
        try:
            if pods is None or not self._ended.is_set():
                used, jobs = ray_usage.uses(self._get)
        except NOT_KNOWN as error:
            if pods is None:
                raise
            print(f"cannot ask Ray what its nodes do: {error!r}", flush=True)
        if submitted := [job for id, job in jobs.items() if id != job["driver"]]:  # a service has drivers alone
            self._done = all(job["status"] in ray_usage.FINISHED for job in submitted)
        if pods is None and self._before:
            raise PermissionError("the right to list pods has gone with the cluster")  # Ray knows them by other ids
        if pods is None:
            return {about["id"]: _of_ray(name, about, prices) for name, about in (used or {}).items()}, jobs
        nodes = {pod["metadata"]["uid"]: node_of(pod, prices) for pod in pods}
        self.causes = {pod["metadata"]["uid"]: cause_of(pod) for pod in pods}
        gated = [seconds(pod["metadata"]["creationTimestamp"]) for pod in pods if pod["spec"].get("schedulingGates")]
        self.gated = min(gated, default=0.0)
        self._before = with_uses(nodes, used, self._before, self._ended.is_set())
        return nodes, jobs

    def going(self) -> bool:
        """Whether the cluster is being suspended or deleted; Kubernetes takes the rights to ask away with it.

        A cluster of fixed size never had them: that of a job is being deleted if its head ends after the job.
        """
        try:
            cluster = _cluster(os.environ["CLUSTER"])
        except HTTPError as error:
            if error.code in (401, 403) and (self._before or (self._own and self._done)):
                return True
            raise
        return cluster is None or bool(cluster["spec"].get("suspend")) or "deletionTimestamp" in cluster["metadata"]


def remind() -> None:
    """Have Kueue (0.17.0) look at the cluster once more: it may have overlooked a pod that came just after it had admitted it.

    It lets pods go when the cluster changes, which it does not do by itself while it waits for that pod.
    """
    annotations = {"heliostat.dev/again": secrets.token_hex(4)}
    kubernetes("PATCH", ray_cluster(os.environ["CLUSTER"]), {"metadata": {"annotations": annotations}})


def is_gone(name: str) -> bool:
    """Whether there is no RayCluster of that name, or it is being deleted."""
    cluster = _cluster(name)
    return cluster is None or "deletionTimestamp" in cluster["metadata"]


def _cluster(name: str) -> Any:
    """The RayCluster of that name; None if there is none."""
    try:
        return kubernetes("GET", ray_cluster(name))
    except HTTPError as error:
        if error.code == 404:
            return None
        raise


def loaded(path: str) -> Any:
    """A file with JSON."""
    with open(path) as file:
        return json.load(file)


def _pods() -> Any:
    """The pods of the cluster; None without the right to list them, which only the autoscaler's account has by itself."""
    query = f"labelSelector=ray.io/cluster%3D{os.environ['CLUSTER']}"
    try:
        return kubernetes("GET", f"/api/v1/namespaces/{os.environ['NAMESPACE']}/pods?{query}")["items"]
    except HTTPError as error:
        if error.code == 403:
            return None
        raise


def _of_ray(name: str, about: Node, prices: dict[str, Node]) -> Node:
    """A node as Ray knows it: without the time in which it starts."""
    known = {"market": "on-demand", "price": None, "gpus": 0, **prices.get(about["group"], {})}
    return {
        "name": name, "group": about["group"], **known, "asked": about["began"], "begin": about["began"], "until": None,
        "state": "busy" if about["work"] else "idle", "work": about["work"],
    }  # fmt: skip


def with_uses(nodes: dict[str, Node], used: dict[str, Node] | None, before: dict[str, Node], ending: bool) -> dict[str, Node]:
    """The nodes with their states and work; while the cluster is ``ending``, those of the look before."""
    for key, node in nodes.items():
        last = before.get(key, {})
        with_use(node, used, last.get("state", ""))
        if ending and last:
            node["state"], node["work"] = last["state"], last["work"]
    return nodes


def with_use(node: Node, used: dict[str, Node] | None, before: str) -> str:
    """Set the state and the work of a node that has a machine, and return the state.

    Args:
        node: as the API server or the process table knows it.
        used: the nodes of Ray by name; None if it does not answer.
        before: the state of the node at the last look.
    """
    state, work = node["state"], {}
    if state == "starting":
        if used is None:
            state = "starting" if before in ("", "asked", "starting") and not node["ready"] else "unknown"
        elif node["name"] in used:
            work = used[node["name"]]["work"]
            state = "busy" if work else "idle"
        elif before in ("idle", "busy", "unknown") or node["until"]:
            state = "idle"
    del node["ready"]
    node["state"], node["work"] = state, work
    return str(state)


def node_of(pod: Node, prices: dict[str, Node]) -> Node:
    """A node from its pod, without its use."""
    meta, status = pod["metadata"], pod.get("status", {})
    labels = meta.get("labels", {})
    group = "head" if labels.get("ray.io/node-type") == "head" else labels.get("ray.io/group", "?")
    known = {"market": "on-demand", "price": None, "gpus": 0, **prices.get(group, {})}
    since = {c["type"]: seconds(c["lastTransitionTime"]) for c in status.get("conditions", []) if c["status"] == "True"}
    begin = since.get("PodScheduled")
    node = {
        "name": meta["name"], "group": group, **known, "asked": seconds(meta["creationTimestamp"]), "begin": begin,
        "until": seconds(meta["deletionTimestamp"]) if "deletionTimestamp" in meta else None,
        "grace": pod["spec"].get("terminationGracePeriodSeconds", 0),
        "state": "asked" if begin is None else "starting", "ready": "Ready" in since,
    }  # fmt: skip
    if status.get("phase") in ("Succeeded", "Failed"):
        ends = [c.get("state", {}).get("terminated", {}).get("finishedAt") for c in status.get("containerStatuses", [])]
        node["end"] = max((seconds(end) for end in ends if end), default=time.time())
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            node["drained"] = {"t": seconds(condition["lastTransitionTime"]), "why": condition.get("reason", "")}
    return node


def seconds(text: str) -> float:
    """A time of the API server in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
