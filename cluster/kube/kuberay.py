"""Client for KubeRay: create, get, list, apply, patch, scale, suspend, resume, delete, wait and watch.

    from heliostat.cluster import KubeRay

    kube = KubeRay(namespace="research")
    kube.clusters.apply(document)
    kube.clusters.wait(["gpu"], ready, timeout=300)
    kube.clusters.scale("gpu", "workers", 4)

Documents are plain dictionaries. Every refusal is an exception of `heliostat.cluster.errors`.
"""

from heliostat.cluster.documents import validation
from heliostat.cluster.kube.api import KINDS, Api
from heliostat.cluster.kube.conditions import finished, ready, suspended
from heliostat.cluster.kube.objects import JSON_PATCH, STRICT, Objects
from heliostat.cluster.names import OF_WORKLOAD, SUSPENDED, Document
from heliostat.errors import NotComing, UserError


class Clusters(Objects):
    """RayClusters."""

    def scale(self, name: str, group: str, replicas: int) -> Document:
        """Set the replicas of a worker group; an autoscaler continues from there.

        Raises:
            UserError: the group does not exist, or the number is outside its limits.
        """
        index, live = self._group(name, group)
        least, most = live.get("minReplicas", 0), live.get("maxReplicas", 2**31 - 1)
        if not least <= replicas <= most:
            raise UserError(
                f"replicas is {replicas}, but {group} has {least} to {most}", "change min or max in the profile first"
            )
        return self._set(name, index, group, "replicas", replicas)

    def keep(self, name: str, group: str, least: int) -> Document:
        """Set the least replicas of a worker group, which the operator then creates.

        Raises:
            UserError: the group does not exist.
        """
        index, _ = self._group(name, group)
        return self._set(name, index, group, "minReplicas", least)

    def _group(self, name: str, group: str) -> tuple[int, Document]:
        """A worker group, and its place in the list."""
        groups = self.get(name)["spec"].get("workerGroupSpecs", [])
        for index, live in enumerate(groups):
            if live["groupName"] == group:
                return index, live
        names = ", ".join(live["groupName"] for live in groups)
        raise UserError(f"{name} has no worker group {group}", f"use one of: {names}")

    def _set(self, name: str, index: int, group: str, key: str, value: int) -> Document:
        place = f"/spec/workerGroupSpecs/{index}"
        # The test operation fails if the list has changed since it was read.
        patch = [
            {"op": "test", "path": f"{place}/groupName", "value": group},
            {"op": "add", "path": f"{place}/{key}", "value": value},
        ]
        changed: Document = self.api.request("PATCH", self._path(name), patch, STRICT, JSON_PATCH)
        return changed

    def suspend(self, name: str, why: str = "by hand") -> Document:
        """Delete the pods of a cluster, including the head, and keep the object."""
        return self.patch(name, {"metadata": {"annotations": {SUSPENDED: why}}, "spec": {"suspend": True}})

    def requeue(self, live: Document) -> bool:
        """Take away what Kueue (0.17) has left in the pod templates of a growing cluster that it has suspended.

        It would keep the cluster from starting again: Kueue admits it, and finds that the templates are of another workload.
        Returns whether there was something.

        Raises:
            Invalid: Kueue starts it at this moment.
        """
        workers = enumerate(live["spec"].get("workerGroupSpecs", ()))
        groups = {"headGroupSpec": live["spec"]["headGroupSpec"], **{f"workerGroupSpecs/{n}": group for n, group in workers}}
        left = [
            {"op": "remove", "path": f"/spec/{place}/template/metadata/annotations/{key.replace('/', '~1')}"}
            for place, group in groups.items()
            for key in group["template"].get("metadata", {}).get("annotations", {})
            if key.startswith(OF_WORKLOAD)
        ]
        if left:
            patch = [{"op": "test", "path": "/spec/suspend", "value": True}, *left]
            self.api.request("PATCH", self._path(live["metadata"]["name"]), patch, STRICT, JSON_PATCH)
        return bool(left)

    def resume(self, name: str, seen: Document | None = None) -> Document:
        """Resume a suspended cluster; the new head has no jobs or history from before.

        Raises:
            Conflict: it is another cluster than ``seen``.
        """
        return self.patch(name, {"metadata": {"annotations": {SUSPENDED: None}}, "spec": {"suspend": False}}, seen)


class Suspendable(Objects):
    """Objects that can be suspended: RayJobs and RayCronJobs."""

    def suspend(self, name: str) -> Document:
        """Suspend it: a job stops, its cluster is deleted and `resume` restarts it; a cron creates no more jobs.

        Raises:
            Invalid: the operator would reject it, such as for a job that does not shut down its cluster.
        """
        live = self.get(name)
        validation.check({**live, "spec": {**live["spec"], "suspend": True}})
        return self.patch(name, {"spec": {"suspend": True}})

    def resume(self, name: str) -> Document:
        """Resume a suspended object."""
        return self.patch(name, {"spec": {"suspend": False}})


class Jobs(Suspendable):
    """RayJobs."""

    def wait_finished(self, name: str, timeout: float) -> Document:
        """Wait until a job has finished: succeeded, failed without a retry left, or rejected.

        Raises:
            NotComing: it has not finished after ``timeout`` seconds, or did not succeed; the message says why.
        """
        job = self.wait([name], finished, timeout)[name]
        status = job["status"]
        if status.get("jobStatus") != "SUCCEEDED":
            reason = status.get("reason") or status.get("jobStatus") or status["jobDeploymentStatus"]
            raise NotComing(
                f"RayJob {name} ended with {reason}: {status.get('message', '')}", f"kubectl describe rayjob {name}"
            )
        return job


class KubeRay:
    """The objects of KubeRay in one namespace of one cluster; `api` is the connection.

    Args:
        kubeconfig: a file; by default ``$KUBECONFIG``, ``~/.kube/config``, or else the pod's service account.
        context: a context of the kubeconfig; by default its current one.
        namespace: by default that of the context.

    Raises:
        UserError: there is no kubeconfig, or it cannot be used.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        self.api = Api(kubeconfig, context, namespace)
        self.clusters = Clusters(self.api, "RayCluster")
        self.jobs = Jobs(self.api, "RayJob")
        self.crons = Suspendable(self.api, "RayCronJob")
        self.services = Objects(self.api, "RayService")

    def objects(self, kind: str) -> Objects:
        """The objects of a kind that heliostat works with, such as ``ConfigMap``."""
        own = {each.kind: each for each in (self.clusters, self.jobs, self.crons, self.services)}
        return own.get(kind) or Objects(self.api, KINDS[kind].name)


__all__ = ["Clusters", "Jobs", "KubeRay", "Objects", "Suspendable", "finished", "ready", "suspended"]
