"""A cluster for one job: a RayJob whose code comes from here, and which is deleted with its cluster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.dashboard import Dashboard
from cluster.errors import KubernetesError, NotFound, Unreachable
from cluster.jobs import Look
from cluster.kuberay import KubeRay
from cluster.manifests import Document, network_policy, ray_job
from cluster.remote import Remote, poll
from cluster.snapshot import Snapshot
from cluster.watchdog import Watchdog
from heliostat.errors import ContactLost

START_SECONDS = 900


@contextmanager
def own_cluster(target: Remote, job_id: str, say: Callable[[str], Any]) -> Iterator[tuple[Dashboard, Look, Callable[[], None]]]:
    """Make a cluster for one job, and delete it at the end, unless contact was lost: then its time limits do that.

    Yields:
        the dashboard, a look at the cluster, and what to call when the job has been submitted.
    """
    target.check()
    name = f"{target.profile.name}-{job_id.rpartition('-')[2]}"
    kube = target.kube
    created = kube.jobs.create(ray_job(target.profile, name, target.api.features))
    keep = submitted = False

    def started() -> None:
        nonlocal submitted
        submitted = True
        cluster.started(job_id)

    try:
        kube.objects("NetworkPolicy").create(_owned(network_policy(target.profile, name), created))
        for document in target.claims():
            kube.objects(document["kind"]).apply(document)
        say(f"makes the cluster {name}")
        cluster = _Own(target, name)
        for line in poll(cluster.look, cluster.answers, START_SECONDS, name):
            say(line)
        yield cluster.remote().dashboard(), cluster.look, started
    except (ContactLost, KubernetesError):
        keep = submitted  # it may still run: its own time limits end it
        raise
    finally:
        if not keep:
            _delete(kube, name, say)


def _delete(kube: KubeRay, name: str, say: Callable[[str], Any]) -> None:
    """Delete the job; that this fails must not hide how the job ended."""
    try:
        kube.jobs.delete(name)
    except KubernetesError as error:
        say(f"{name} could not be deleted, and goes by its own time limits: {error.what}")


class _Own:
    """The cluster of a RayJob, whose name the operator chooses."""

    def __init__(self, target: Remote, name: str) -> None:
        self.target, self.name = target, name
        self.watchdog = Watchdog(target.profile, lambda pod: self.remote().log(pod))
        self._remote: Remote | None = None

    def remote(self) -> Remote:
        """The RayCluster.

        Raises:
            NotFound: the operator has not made it yet.
        """
        chosen = self.target.kube.jobs.get(self.name).get("status", {}).get("rayClusterName")
        if not chosen:
            raise NotFound(f"{self.name} has no cluster yet", "wait")
        # The operator chooses anew when a queue lifts the job's suspension.
        if self._remote is None or self._remote.name != chosen:
            self._remote = Remote(self.target.profile, self.target.kube, chosen)
        return self._remote

    def look(self) -> str:
        job = self.target.kube.jobs.get(self.name)
        try:
            seen = self.remote().snapshot()
        except NotFound:
            return self.watchdog.look(Snapshot(None, [], None, job))
        return self.watchdog.look(Snapshot(seen.cluster, seen.pods, seen.events, job, seen.nodes))

    def answers(self) -> bool:
        try:
            self.remote().dashboard().version()
        except (NotFound, Unreachable):
            return False
        return True

    def started(self, job_id: str) -> None:
        """Tell the operator which job this RayJob is about: its end is the RayJob's end."""
        self.target.kube.jobs.patch(self.name, {"spec": {"jobId": job_id}})


def _owned(document: Document, owner: Document) -> Document:
    """A document that is deleted together with its owner."""
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    document["metadata"]["ownerReferences"] = [{**reference, "uid": owner["metadata"]["uid"]}]
    return document
