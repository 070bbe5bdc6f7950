"""A profile's standing cluster on Kubernetes: up, what it is like, and down."""

import base64
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from heliostat.cluster.diagnosis.checks import check_claim, check_head, check_image, check_operator, check_queue
from heliostat.cluster.diagnosis.observe import Observer
from heliostat.cluster.diagnosis.snapshot import Snapshot, group_of, leaving, mark_of, marks, pod_ready
from heliostat.cluster.diagnosis.wait import Watchdog, poll
from heliostat.cluster.documents.manifests import documents
from heliostat.cluster.errors import KubernetesError, NotFound, Unreachable
from heliostat.cluster.jobs.dashboard import Dashboard, Endpoint, Job, Socket
from heliostat.cluster.jobs.usage import NodeUsage, usage
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.conditions import condition, ready
from heliostat.cluster.kube.diff import ABSENT, Change, difference
from heliostat.cluster.kube.kuberay import KubeRay
from heliostat.cluster.kube.objects import decided
from heliostat.cluster.names import AGAIN, TEMPLATE, TOKEN_KEY, Document
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.overview import overview
from heliostat.cluster.targets.status import State
from heliostat.errors import UserError

UP_SECONDS = 600
"""How long a cluster may take to come up, beside what its slowest group needs to start."""
WORKLOAD = ("RayCluster", "NetworkPolicy", "ConfigMap")
"""What `down` deletes; the claim with the runs stays."""


@dataclass(frozen=True)
class Step:
    """A document to apply, the live object that it was compared with, and what applying it changes."""

    document: Document
    live: Document | None
    changes: list[Change]

    @property
    def title(self) -> str:
        return f"{self.document['kind']} {self.document['metadata']['name']}"

    @property
    def shown(self) -> list[Change]:
        """The changes that a person wants to see: the mark of a template changes with the template, which is shown."""
        return [change for change in self.changes if not change.path.endswith(TEMPLATE)]


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

    def plan(self) -> list[Step]:
        """What `up` would apply; every step is tried on the API server, and nothing is changed.

        Raises:
            UserError: the profile does not fit this Kubernetes.
        """
        self.check()
        return [self._step(document) for document in documents(self.profile, self.api.features)]

    def outdated(self, steps: list[Step]) -> list[str]:
        """The pods that must be replaced for these steps, or for earlier ones, to take effect."""
        wanted = marks(next(step.document for step in steps if step.document["kind"] == "RayCluster"))
        return [
            pod["metadata"]["name"]
            for pod in self.snapshot().pods
            if not leaving(pod) and wanted.get(group_of(pod)) not in (None, mark_of(pod["metadata"]))
        ]

    def up(self, steps: list[Step], old: list[str], force: bool = False) -> Iterator[str]:
        """Apply, wake, replace pods, and wait: yields what is waited for, and ends when the cluster is ready.

        Args:
            steps: what `plan` said.
            old: the pods to replace, as `outdated` named them before the apply, which makes them look new.
            force: take over fields that somebody else has set.

        Raises:
            NotComing: it does not come up; with the reason and the fix.
            Conflict: somebody else works on it.
            UserError: pods must be replaced that Kueue has admitted: it would put the old marks back on the new ones (0.15).
        """
        if old and self.profile.queue:
            what = (
                f"for this change the pods of {self.name} must be replaced, which the queue {self.profile.queue} has admitted"
            )
            raise UserError(what, f"heliostat down {self.name}, then up: it waits in the queue anew")
        for step in steps:
            if step.changes or step.live is None:
                yield f"applies {step.title}"
                self.kube.objects(step.document["kind"]).apply(step.document, step.live, force)
        yield from self._stirred(self.kube.clusters.get(self.name))
        for pod in old:
            yield f"replaces {pod}"
            self.api.request("DELETE", self.api.path("Pod", pod), {})
        yield from self.wait(lambda snapshot: self._is_up(snapshot, set(old)), UP_SECONDS)
        yield "asks the cluster for its version"
        check_image(self.profile, self.dashboard().version())

    def wait(self, until: Callable[[Snapshot], bool], seconds: float) -> Iterator[str]:
        """Look at the cluster until it is so; yields what is waited for.

        Raises:
            NotComing: it will not come, or did not in time.
        """
        watchdog, seen = Watchdog(self.profile, self.log), list[Snapshot]()

        def is_so() -> bool:
            seen[:] = [self.snapshot()]
            return until(seen[0])

        # What was not so is what is looked at: all of it is asked for once a round.
        yield from poll(lambda: watchdog.look(seen[0]), is_so, seconds + self._slowest, self.name, watchdog.in_queue)

    def awake(self) -> Iterator[str]:
        """Wake the cluster if it is suspended, and wait until its head answers; yields what is waited for.

        Raises:
            UserError: there is no such cluster.
            NotComing: it does not come up.
        """
        live = self.kube.clusters.find(self.name)
        if live is None:
            raise UserError(
                f"there is no cluster {self.name} in namespace {self.api.namespace}",
                f"heliostat up {self.name}, or --ephemeral for one that is deleted afterwards",
            )
        yield from self._stirred(live)
        watchdog = Watchdog(self.profile, self.log)
        look = self.look(watchdog)
        yield from poll(look, self.answers, UP_SECONDS + self._slowest, self.name, watchdog.in_queue)

    def _stirred(self, live: Document) -> Iterator[str]:
        """Wake a cluster that sleeps, and the operator where it waits before it tries again."""
        if live["spec"].get("suspend") and not self.profile.queue:
            yield "wakes the cluster"
            self.kube.clusters.resume(self.name)
        elif condition(live, "ReplicaFailure").get("status") == "True":
            yield "asks KubeRay to try again"
            self.kube.clusters.patch(self.name, {"metadata": {"annotations": {AGAIN: secrets.token_hex(4)}}})

    @property
    def _slowest(self) -> int:
        return max(group.start_seconds for group in self.profile.groups)

    def look(self, watchdog: Watchdog | None = None) -> Callable[[], str]:
        """A look at the cluster: what is waited for; it raises `NotComing` if that will not come."""
        dog = watchdog or Watchdog(self.profile, self.log)
        return lambda: dog.look(self.snapshot())

    def check(self) -> None:
        """Raise `UserError` if the profile does not fit this Kubernetes."""
        check_operator(self.profile, self.api.features)
        check_queue(self.profile, self.api)
        check_claim(self.profile, self.kube)
        check_head(self.profile, self.observer)

    def claims(self) -> list[Document]:
        """The claims that jobs of this profile need."""
        return [d for d in documents(self.profile, self.api.features) if d["kind"] == "PersistentVolumeClaim"]

    def down(self, timeout: float = 0) -> list[str]:
        """Delete the cluster and what belongs to it, but not the runs; the titles of what was deleted."""
        deleted = []
        for document in reversed(documents(self.profile, self.api.features)):
            kind, name = document["kind"], document["metadata"]["name"]
            if kind in WORKLOAD and self.kube.objects(kind).delete(name, timeout if kind == "RayCluster" else 0):
                deleted.append(f"{kind} {name}")
        return deleted

    def snapshot(self) -> Snapshot:
        """All that the API server shows of this cluster now."""
        return self.observer.snapshot()

    def state(self) -> State:
        """The cluster at this moment, with its nodes, groups and jobs."""
        snapshot = self.snapshot()
        return overview(self.profile, self.name, snapshot, *self._ray(snapshot))

    def dashboard(self) -> Dashboard:
        """The dashboard, through the API server's proxy: no port is opened, and a new head needs no new way.

        Raises:
            NotFound: there is no cluster, or it has no token yet.
        """
        service = f"{self.name}-head-svc:dashboard"
        path = f"{self.api.path('Service', service)}/proxy"
        token = self.token

        def headers() -> dict[str, str]:
            # Not Authorization, which is for the API server.
            return {**self.api.headers(), "X-Ray-Authorization": f"Bearer {token}"}

        def open_socket(place: str) -> Socket:
            return self.api.websocket(f"{path}{place}", headers())

        return Dashboard(Endpoint(f"{self.api.server}{path}", headers, self.api.pool, open_socket), self.name)

    @cached_property
    def token(self) -> str:
        """The cluster's token. It is for headers and files that only the user reads, never for a message or a command line.

        Raises:
            NotFound: there is none yet.
            UserError: somebody else's Secret has its name.
        """
        found = self.kube.objects("Secret").get(self.name).get("data") or {}
        if TOKEN_KEY not in found:
            raise UserError(
                f"Secret {self.api.namespace}/{self.name} has no {TOKEN_KEY}: it is in the place of the cluster's token",
                "give that Secret another name, delete this one, and try again: KubeRay makes it",
            )
        return base64.b64decode(found[TOKEN_KEY]).decode()

    def log(self, pod: str, lines: int = 12, container: str = "") -> str:
        """The last lines that a pod's Ray container has printed; empty if there are none.

        Raises:
            KubernetesError: they cannot be read, for example because the pod is gone.
        """
        head = f"{self.name}-head-" in pod
        query = {"tailLines": str(lines), "container": container or ("ray-head" if head else "ray-worker")}
        return self.api.raw("GET", f"{self.api.path('Pod', pod)}/log", query=query).data.decode(errors="replace")

    def _step(self, document: Document) -> Step:
        objects = self.kube.objects(document["kind"])
        live = objects.find(document["metadata"]["name"])
        would = objects.apply(document, dry_run=True, force=True)
        if live is None:
            return Step(document, None, [Change(document["kind"], ABSENT, document["metadata"]["name"])])
        return Step(document, live, list(difference(decided(live), decided(would))))

    def _is_up(self, snapshot: Snapshot, old: set[str]) -> bool:
        cluster = snapshot.cluster
        if cluster is None or not snapshot.head or not ready(cluster) or not pod_ready(snapshot.head):
            return False
        if old & {pod["metadata"]["name"] for pod in snapshot.pods if not leaving(pod)}:
            return False
        enough = all(sum(map(pod_ready, snapshot.workers(group.name))) >= group.min for group in self.profile.groups)
        return enough and self.answers()

    def answers(self) -> bool:
        """Whether the dashboard of a ready head answers."""
        try:
            self.dashboard().version()
        except (Unreachable, NotFound):
            return False
        return True

    def _ray(self, snapshot: Snapshot) -> tuple[dict[str, NodeUsage], list[Job]]:
        """What Ray knows; nothing while nobody answers."""
        if not snapshot.head or not pod_ready(snapshot.head):
            return {}, []
        try:
            dashboard = self.dashboard()
            return usage(dashboard), dashboard.speaking()
        except KubernetesError:
            return {}, []  # the head says nothing; its pods are there to be seen, and to be deleted
