"""The standing cluster of a profile on Kubernetes: start, status, deletion."""

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

from heliostat.cluster.diagnosis.checks import check_claim, check_head, check_image, check_operator, check_queue
from heliostat.cluster.diagnosis.observe import Observer
from heliostat.cluster.diagnosis.problems import problems, unseen
from heliostat.cluster.diagnosis.snapshot import (
    Snapshot,
    fleet_of,
    group_of,
    pod_ready,
    ray_runs,
    template_hash,
    template_hashes,
    terminating,
)
from heliostat.cluster.diagnosis.wait import Watchdog, poll
from heliostat.cluster.documents.manifests import documents, metadata
from heliostat.cluster.documents.ownership import is_ours, owner_of
from heliostat.cluster.errors import Invalid, KubernetesError, NotFound, Unreachable
from heliostat.cluster.jobs.dashboard import Dashboard, Endpoint, Socket
from heliostat.cluster.jobs.demand import RayState, ray_state
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.conditions import condition, observed, ready
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.kube.owners import live_objects
from heliostat.cluster.kube.steps import Step, applied, step_of
from heliostat.cluster.names import CLUSTER_LABEL, MANAGED_BY, MANAGER, POD_MONITOR, RETRY, SUSPENDED, TOKEN_KEY, Document
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.kubernetes_status import kubernetes_state
from heliostat.cluster.targets.observation import Observation, Why, of_ray_job
from heliostat.cluster.targets.status import State
from heliostat.errors import ContactLost, JobFailed, NotComing, UserError

UP_SECONDS = 600
"""Timeout of the start of a cluster, plus the start time of its slowest group."""
SEEN_SECONDS = 30
"""In which the operator has seen a change; it takes less than one."""
WORKLOAD = ("RayCluster", "NetworkPolicy", "ConfigMap", POD_MONITOR)
"""The kinds that `down` deletes; the claim with the runs is kept."""


class KubernetesCluster:
    """The cluster that a profile describes, in the Kubernetes that KUBECONFIG names."""

    def __init__(self, profile: Profile, kube: KubeRay | None = None, name: str | None = None) -> None:
        self.profile = profile
        self.kube = kube or KubeRay(namespace=profile.namespace)
        self.name = name or profile.name
        self.observer = Observer(self.kube, self.name)

    @property
    def api(self) -> Api:
        return self.kube.api

    def plan(self, adopt: bool = False) -> list[Step]:
        """The steps that `up` would apply; each is validated by a dry run on the API server.

        Args:
            adopt: take over objects that have the same names and belong to no profile.

        Raises:
            UserError: the profile does not fit this Kubernetes, or objects of other owners have the same names.
        """
        self.check()
        wanted = documents(self.profile, self.api.features)
        fix = f"set another name in the profile, or take over what no profile has: heliostat up {self.profile.name} --adopt"
        found = live_objects(self.kube, self.profile.name, wanted, fix, adopt)
        return [step_of(self.kube, document, live, adopt) for document, live in zip(wanted, found, strict=True)]

    def outdated(self, steps: list[Step]) -> list[Document]:
        """The pods that must be replaced so that these steps, or earlier ones, take effect."""
        wanted = template_hashes(next(step.document for step in steps if step.document["kind"] == "RayCluster"))
        return [
            pod
            for pod in self.snapshot().pods
            if not terminating(pod) and wanted.get(group_of(pod)) not in (None, template_hash(pod["metadata"]))
        ]

    def up(self, steps: list[Step], old: list[Document], force: bool = False) -> Iterator[str]:
        """Apply the steps, resume, replace pods, and wait until the cluster is ready; yields status lines.

        Args:
            steps: of `plan`.
            old: the pods to replace, from `outdated` before the apply, after which they look current.
            force: take over fields that other managers own.

        Raises:
            NotComing: it cannot start; with the reason and the fix.
            Conflict: another client changes it at the same time.
            UserError: pods must be replaced that Kueue has admitted: it would restore their old template (0.15).
        """
        if old and self.profile.queue:
            what = (
                f"for this change the pods of {self.name} must be replaced, which the queue {self.profile.queue} has admitted"
            )
            raise UserError(what, f"heliostat down {self.name}, then up: it waits in the queue again")
        yield from applied(self.kube, steps, force)
        yield from self._resume_or_retry(self.kube.clusters.get(self.name))
        if old:
            # Until it has seen the change, the operator replaces a pod by one with the old template. If it does not see it at
            # all, the wait for the new pods says why.
            with suppress(NotComing):
                yield from poll(lambda: "waits for the operator", self._is_observed, SEEN_SECONDS, self.name)
        for pod in old:
            yield f"replaces {pod['metadata']['name']}"
            self.kube.objects("Pod").delete(pod["metadata"]["name"], seen=pod)
        replaced = {pod["metadata"]["name"] for pod in old}
        yield from self.wait(lambda snapshot: self._is_up(snapshot, replaced), UP_SECONDS)
        yield "asks the cluster for its version"
        check_image(self.profile, self.dashboard().version())

    def wait(self, until: Callable[[Snapshot], bool], seconds: float) -> Iterator[str]:
        """Poll until a condition on the snapshot holds; yields status lines.

        Raises:
            NotComing: it cannot be reached, or was not in time.
        """
        watchdog, last = Watchdog(self.profile, self.log), list[Snapshot]()

        def holds() -> bool:
            last[:] = [self.snapshot()]
            return until(last[0])

        # The watchdog checks the same snapshot, so that each round takes only one.
        yield from poll(
            lambda: watchdog.look(last[0]), holds, seconds + self.profile.slowest_start, self.name, watchdog.in_queue
        )

    def wake(self) -> Iterator[str]:
        """Resume the cluster if it is suspended, and wait until its dashboard responds; yields status lines.

        Raises:
            UserError: the cluster does not exist.
            NotComing: it cannot start.
        """
        live = self.kube.clusters.find(self.name)
        if live is None:
            raise UserError(
                f"the cluster {self.name} does not exist in namespace {self.api.namespace}",
                f"heliostat up {self.name}, or --ephemeral for one that is deleted afterwards",
            )
        yield from self._resume_or_retry(live)
        watchdog = Watchdog(self.profile, self.log)
        look = self.look(watchdog)
        yield from poll(look, self.answers, UP_SECONDS + self.profile.slowest_start, self.name, watchdog.in_queue)

    def _resume_or_retry(self, live: Document) -> Iterator[str]:
        """Resume a suspended cluster, and make the operator retry at once if it is in a backoff.

        Raises:
            UserError: it would have to be changed, and is of another owner.
        """
        if self.profile.queue and live["spec"].get("suspend"):
            with suppress(Invalid):  # another command does so at this moment, or Kueue has just started it
                if is_ours(live, {"metadata": metadata(self.profile, self.name)}) and self.kube.clusters.requeue(live):
                    yield "puts the cluster into the queue again"
            return
        suspended = live["spec"].get("suspend")
        if not suspended and condition(live, "ReplicaFailure").get("status") != "True":
            return
        if not is_ours(live, {"metadata": metadata(self.profile, self.name)}):
            what = f"RayCluster {self.name} ({owner_of(live)}) is not of {self.profile.name}, and does not run"
            raise UserError(what, "ask its owner to start it, or set another name in the profile")
        if suspended:
            yield "resumes the cluster"
            self.kube.clusters.resume(self.name, live)
        else:
            yield "makes KubeRay retry"
            self.kube.clusters.patch(self.name, {"metadata": {"annotations": {RETRY: secrets.token_hex(4)}}}, live)

    def look(self, watchdog: Watchdog | None = None) -> Callable[[], str]:
        """A function that returns a status line, and raises `NotComing` if the cluster cannot start."""
        chosen = watchdog or Watchdog(self.profile, self.log)
        return lambda: chosen.look(self.snapshot())

    def check(self) -> None:
        """Raise `UserError` if the profile does not fit this Kubernetes."""
        check_operator(self.profile, self.api.features)
        check_queue(self.profile, self.api)
        check_claim(self.profile, self.kube)
        check_head(self.profile, self.observer)

    def claims(self) -> list[Document]:
        """The claims that jobs of this profile need."""
        return [d for d in documents(self.profile, self.api.features) if d["kind"] == "PersistentVolumeClaim"]

    def deletable(self) -> list[Document]:
        """The live objects that `down` deletes.

        Raises:
            UserError: objects of other owners have the same names.
        """
        wanted = [d for d in reversed(documents(self.profile, self.api.features)) if d["kind"] in WORKLOAD]
        fix = f"correct the name in the profile, or delete what is yours: kubectl get raycluster {self.name} -o yaml"
        return [live for live in live_objects(self.kube, self.profile.name, wanted, fix) if live]

    def down(self, timeout: float = 0, objects: list[Document] | None = None) -> list[str]:
        """Delete the cluster and its objects, but not the runs; returns the titles of the deleted objects.

        Args:
            timeout: seconds to wait until the pods are deleted.
            objects: of `deletable`, if something was asked about them; others that have the same names now are not deleted.

        Raises:
            UserError: objects of other owners have the same names.
            Conflict: the objects have been deleted and created again meanwhile.
        """
        deleted = []
        for live in self.deletable() if objects is None else objects:
            kind, name = live["kind"], live["metadata"]["name"]
            if self.kube.objects(kind).delete(name, timeout if kind == "RayCluster" else 0, live):
                deleted.append(f"{kind} {name}")
        return deleted

    def snapshot(self) -> Snapshot:
        """The current objects of this cluster."""
        return self.observer.snapshot()

    def state(self) -> State:
        """The current status, with nodes, groups and jobs."""
        snapshot = self.snapshot()
        ray, unknown = self._ray(snapshot)
        jobs = self.dashboard().with_last_lines(ray.jobs) if ray else []
        return replace(kubernetes_state(self.profile, self.name, snapshot, ray, jobs), jobs_unknown=unknown)

    def observe(self) -> Observation:
        """What is to be seen of it at one moment."""
        return self._observed(self.observer)

    def _observed(self, observer: Observer, job: Document | None = None) -> Observation:
        snapshot = observer.snapshot(job)
        ray, unknown = self._ray(snapshot)
        word = kubernetes_state(self.profile, self.name, snapshot, ray, []).state
        found, fleet = problems(snapshot, self.profile, ray), fleet_of(snapshot, self.profile.groups)
        return Observation(self.profile, word, found, ray, fleet, unknown, unseen(snapshot))

    def why_own_cluster(self, name: str) -> Why | None:
        """Why a job with its own cluster waits, or what has ended it; None if there is none.

        Args:
            name: of the job, or of its RayJob.
        """
        names = (name, f"{self.profile.name}-{name.rpartition('-')[2]}")
        job = next(filter(None, map(self.kube.jobs.find, names)), None)
        if job is None:
            return None
        own = KubernetesCluster(self.profile, self.kube, job.get("status", {}).get("rayClusterName") or job["metadata"]["name"])
        return of_ray_job(job, own._observed(Observer(self.kube, job["metadata"]["name"]), job))

    def dashboard(self) -> Dashboard:
        """The dashboard through the API server's proxy, without open ports and also after a restart of the head.

        Raises:
            NotFound: the cluster does not exist, or has no token yet.
        """
        service = f"{self.name}-head-svc:dashboard"
        path = f"{self.api.path('Service', service)}/proxy"
        token = self.token

        def headers() -> dict[str, str]:
            # The header Authorization is for the API server.
            return {**self.api.headers(), "X-Ray-Authorization": f"Bearer {token}"}

        def open_socket(place: str) -> Socket:
            return self.api.websocket(f"{path}{place}", headers())

        return Dashboard(Endpoint(f"{self.api.server}{path}", headers, self.api.pool, open_socket), self.name)

    @cached_property
    def token(self) -> str:
        """The cluster's token, for headers and private files only, never for a message or a command line.

        Raises:
            NotFound: it does not exist yet.
            UserError: another Secret has its name.
        """
        found = self.kube.objects("Secret").get(self.name).get("data") or {}
        if TOKEN_KEY not in found:
            raise UserError(
                f"Secret {self.api.namespace}/{self.name} has no {TOKEN_KEY}, but the name of the cluster's token Secret",
                "create that Secret with another name, delete this one, and retry: KubeRay creates it",
            )
        return base64.b64decode(found[TOKEN_KEY]).decode()

    def log(self, pod: str, lines: int = 12, container: str = "") -> str:
        """The last lines of the output of a pod's Ray container.

        Raises:
            KubernetesError: they cannot be read, for example because the pod does not exist any more.
        """
        head = f"{self.name}-head-" in pod
        query = {"tailLines": str(lines), "container": container or ("ray-head" if head else "ray-worker")}
        return self.api.raw("GET", f"{self.api.path('Pod', pod)}/log", query=query).data.decode(errors="replace")

    def _is_observed(self) -> bool:
        return observed(self.kube.clusters.get(self.name))

    def _is_up(self, snapshot: Snapshot, old: set[str]) -> bool:
        cluster = snapshot.cluster
        if cluster is None or not snapshot.head or not ready(cluster) or not pod_ready(snapshot.head):
            return False
        if old & {pod["metadata"]["name"] for pod in snapshot.pods if not terminating(pod)}:
            return False
        enough = all(sum(map(pod_ready, snapshot.workers(group.name))) >= group.min for group in self.profile.groups)
        return enough and self.answers()

    def answers(self) -> bool:
        """Whether the dashboard responds."""
        try:
            self.dashboard().probe()
        except (Unreachable, NotFound):
            return False
        return True

    def ended(self) -> None:
        """Raise an exception if its jobs have ended with it; for a wait in which its dashboard does not respond.

        Raises:
            JobFailed: Kueue has suspended it in favour of others.
            ContactLost: it was suspended otherwise, which the idle watcher does after the jobs, or deleted: how they ended is
                not known.
        """
        live = self.kube.clusters.find(self.name)
        if live is not None and not live["spec"].get("suspend"):
            return
        why = (live or {}).get("metadata", {}).get("annotations", {}).get(SUSPENDED)
        if live and self.profile.queue and not why:
            what = f"{self.name} was suspended, in favour of others in the queue {self.profile.queue}"
            raise JobFailed(f"{what}, and its jobs have ended with it\n  the same command resumes from the last checkpoint")
        what = f"was suspended, {why or 'by another client'}" if live else "was deleted"
        kept = f"heliostat logs {self.name} JOB and heliostat runs --on {self.name} have what it has kept"
        raise ContactLost(f"{self.name} {what}; how the job has ended is not known from here\n  {kept}")

    def reading(self) -> "KubernetesCluster | None":
        """A cluster whose head runs and has the storage: this one, or another of the namespace with the same claim."""
        if self.answers():
            return self
        claim, place = self.profile.storage.claim, self.profile.storage.mount
        for live in self.kube.clusters.list(f"{MANAGED_BY}={MANAGER}") if claim else ():
            name, pod = live["metadata"]["name"], live["spec"]["headGroupSpec"]["template"]["spec"]
            mounts = [(each["name"], each["mountPath"]) for each in pod["containers"][0].get("volumeMounts", ())]
            claims = [each.get("persistentVolumeClaim", {}).get("claimName") for each in pod.get("volumes", ())]
            stands = live["metadata"]["labels"].get(CLUSTER_LABEL) == name != self.name and not live["spec"].get("suspend")
            if stands and claim in claims and ("storage", place) in mounts:
                other = KubernetesCluster(self.profile, self.kube, name)
                with suppress(KubernetesError, UserError):  # what is wrong with it is no matter of this cluster
                    if other.answers():
                        return other
        return None

    def _ray(self, snapshot: Snapshot) -> tuple[RayState | None, str]:
        """What Ray knows, and why that is not known; without the head, the pods are still listed."""
        if not snapshot.head or not ray_runs(snapshot.head):
            return None, ""  # a head that never started, or has exited, has no job
        if not pod_ready(snapshot.head):
            return None, f"the head of {self.name} runs, but is not ready"
        try:
            return ray_state(self.dashboard()), ""
        except KubernetesError as error:
            return None, error.what
