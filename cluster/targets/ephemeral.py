"""A cluster for one job: a RayJob with code from this machine, deleted together with its cluster."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from heliostat.cluster.diagnosis.observe import Observer
from heliostat.cluster.diagnosis.wait import Watchdog, poll
from heliostat.cluster.documents.manifests import config_map, network_policy, ray_job, recorder_files
from heliostat.cluster.documents.secrets import NO_VALUES, job_secret, owned, reading
from heliostat.cluster.errors import KubernetesError, NotFound, Unreachable
from heliostat.cluster.jobs.dashboard import DONE, Job
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.kube.owners import live_objects
from heliostat.cluster.names import Document
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.errors import ContactLost, JobFailed

START_SECONDS = 900
"""Timeout of the start of the cluster, without the time in a queue."""


class Ephemeral:
    """The cluster of a RayJob; the operator chooses its name, and a new one when a queue admits the job again."""

    def __init__(self, target: KubernetesCluster, name: str) -> None:
        self.target, self.name = target, name
        self.observer = Observer(target.kube, name)
        self.watchdog = Watchdog(target.profile, lambda pod: self.cluster().log(pod))
        self._cluster: KubernetesCluster | None = None
        self.job_id = ""
        """Empty until the job was submitted, and its RayJob knows of it."""

    def cluster(self) -> KubernetesCluster:
        """The RayCluster.

        Raises:
            NotFound: the operator has not created it yet.
        """
        chosen = self._ray_job().get("status", {}).get("rayClusterName")
        if not chosen:
            raise NotFound(f"{self.name} has no cluster yet", "wait")
        if self._cluster is None or self._cluster.name != chosen:
            self._cluster = KubernetesCluster(self.target.profile, self.target.kube, chosen)
        return self._cluster

    def keep_least(self) -> None:
        """Request the ``min`` pods of each group, as the head answers: before, they would hold GPUs and wait for it."""
        for group in self.target.profile.groups:
            if group.min and not self.target.profile.queue:
                self.target.kube.clusters.keep(self.cluster().name, group.name, group.min)

    def look(self) -> str:
        """A status line; raises `NotComing` if the cluster cannot start."""
        return self.watchdog.look(self.observer.snapshot(self._ray_job()))

    def answers(self) -> bool:
        """Whether the dashboard responds."""
        try:
            self.cluster().dashboard().probe()
        except (NotFound, Unreachable):
            return False
        return True

    def _ray_job(self) -> Document:
        return self.target.kube.jobs.get(self.name)

    def started(self, job_id: str) -> None:
        """Set the id of the submitted job, so that the RayJob finishes with it.

        Raises:
            ContactLost: no response.
        """
        try:
            self.target.kube.jobs.patch(self.name, {"spec": {"jobId": job_id}})
        except Unreachable as error:
            raise ContactLost(f"job {job_id} was submitted, and {self.name} does not know it: {error.what}") from None
        self.job_id = job_id

    def ended(self) -> Job | None:
        """The final state of the job from its RayJob, which outlives the cluster; None while it has not finished.

        Raises:
            JobFailed: the job has lost its cluster.
        """
        try:
            job = self._ray_job()
        except NotFound:
            raise JobFailed(f"RayJob {self.name} was deleted, and its cluster with it{_RESUME_HINT}") from None
        status = job.get("status", {})
        if status.get("jobStatus") in DONE:
            return Job(self.job_id, status["jobStatus"], "", status.get("message", ""))
        if job["spec"].get("suspend"):
            by = f"the queue {self.target.profile.queue}" if self.target.profile.queue else "another client"
            raise JobFailed(f"{by} suspended {self.name}, and its cluster was deleted{_RESUME_HINT}")
        if status.get("jobDeploymentStatus") == "Failed":
            return Job(self.job_id, "FAILED", "", f"{status.get('reason', '')}: {status.get('message', '')}")
        return None


_RESUME_HINT = "\n  the same command resumes from the last checkpoint"


@contextmanager
def own_cluster(
    target: KubernetesCluster, job_id: str, say: Callable[[str], Any], secret_env: Mapping[str, str] = NO_VALUES,
    recorded: bool = True,
) -> Iterator[Ephemeral]:  # fmt: skip
    """Create a cluster for one job, and delete it afterwards; after a lost contact its time limits do that.

    Its pods have the variables ``secret_env`` from a Secret, which is deleted with it. Its nodes are ``recorded`` with those
    of the profile's other clusters.
    """
    target.check()
    claims = target.claims()
    live_objects(target.kube, target.profile.name, claims, "set another claim")
    name = f"{target.profile.name}-{job_id.rpartition('-')[2]}"
    kube = target.kube
    profile, files = reading(_without_workers(target.profile), name, secret_env), name if recorded else ""
    created = kube.jobs.create(ray_job(profile, name, target.api.features, files=files))
    cluster, keep = Ephemeral(target, name), False
    try:
        # Until these exist, the pods wait.
        if secret_env:
            kube.objects("Secret").create(owned(job_secret(target.profile, name, secret_env), created))
        if files:
            kube.objects("ConfigMap").create(owned(config_map(target.profile, files, recorder_files(target.profile)), created))
        kube.objects("NetworkPolicy").create(owned(network_policy(target.profile, name), created))
        for document in claims:
            kube.objects(document["kind"]).apply(document)
        say(f"creates the cluster {name}")
        for line in poll(cluster.look, cluster.answers, START_SECONDS, name, cluster.watchdog.in_queue):
            say(line)
        yield cluster
    except ContactLost as error:
        keep = True  # it may still run: its time limits delete it
        if not cluster.job_id and _delete(kube, created, say):
            raise JobFailed(f"{error}\n  {name} was deleted, and with it the job if it ran") from None
        raise
    except KubernetesError:
        keep = bool(cluster.job_id)
        raise
    finally:
        if not keep:
            _delete(kube, created, say)


def _without_workers(profile: Profile) -> Profile:
    """The profile with ``min: 0``, see `Ephemeral.keep_least`; not in a queue, which admits a cluster with its ``min``."""
    if profile.queue:
        return profile
    return profile.model_copy(update={"groups": [group.model_copy(update={"min": 0}) for group in profile.groups]})


def _delete(kube: KubeRay, created: Document, say: Callable[[str], Any]) -> bool:
    """Delete the RayJob; returns whether that succeeded: a failure must not hide the result of the job."""
    name = created["metadata"]["name"]
    try:
        kube.jobs.delete(name, seen=created)
    except KubernetesError as error:
        say(f"{name} could not be deleted, and is deleted by its own time limits: {error.what}")
        return False
    return True
