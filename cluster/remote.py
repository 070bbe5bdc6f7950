"""A profile's standing cluster on Kubernetes: up, what it is like, and down."""

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.api import Api
from cluster.dashboard import Dashboard, Job, Socket, Way
from cluster.diff import ABSENT, Change, difference
from cluster.doctor import fit
from cluster.errors import Forbidden, KubernetesError, NotFound, Unreachable
from cluster.faults import problems
from cluster.kuberay import KubeRay, condition, decided, ready, suspended
from cluster.manifests import SUSPENDED, TEMPLATE, TOKEN_KEY, Document, documents, unknown_to
from cluster.profile import Profile
from cluster.ray_usage import NodeUsage, usage
from cluster.snapshot import Snapshot, group_of, leaving, mark_of, marks, pod_ready, pod_state
from cluster.state import Group, Node, State
from cluster.watchdog import Watchdog, progress
from heliostat.errors import Explained, UserError

POLL = 0.5
UP_SECONDS = 600
"""How long a cluster may take to come up, beside what its slowest group needs to start."""
SILENT_SECONDS = 30
"""How long the API server may be silent while something is waited for."""
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


class Remote:
    """The cluster that a profile describes, in the Kubernetes that KUBECONFIG names."""

    def __init__(self, profile: Profile, kube: KubeRay | None = None, name: str | None = None) -> None:
        self.profile = profile
        self.kube = kube or KubeRay(namespace=profile.namespace)
        self.name = name or profile.name

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
            Explained: it does not come up; with the reason and the fix.
            Conflict: somebody else works on it.
        """
        for step in steps:
            if step.changes or step.live is None:
                yield f"applies {step.title}"
                self.kube.objects(step.document["kind"]).apply(step.document, step.live, force)
        live = self.kube.clusters.get(self.name)
        if live["spec"].get("suspend") and not self.profile.queue:
            yield "wakes the cluster"
            self.kube.clusters.resume(self.name)
        for pod in old:
            yield f"replaces {pod}"
            self.api.request("DELETE", self.api.path("Pod", pod), {})
        yield from self.wait(lambda snapshot: self._is_up(snapshot, set(old)), UP_SECONDS)
        yield from self._check_version()

    def wait(self, until: Callable[[Snapshot], bool], seconds: float) -> Iterator[str]:
        """Look at the cluster until it is so; yields what is waited for.

        Raises:
            Explained: it will not come, or did not in time.
        """
        watchdog, seen = Watchdog(self.profile, self.log), list[Snapshot]()

        def is_so() -> bool:
            seen[:] = [self.snapshot()]
            return until(seen[0])

        # What was not so is what is looked at: all of it is asked for once a round.
        yield from poll(lambda: watchdog.look(seen[0]), is_so, seconds + self._slowest, self.name)

    def awake(self) -> Iterator[str]:
        """Wake the cluster if it is suspended, and wait until its head answers; yields what is waited for.

        Raises:
            UserError: there is no such cluster.
            Explained: it does not come up.
        """
        live = self.kube.clusters.find(self.name)
        if live is None:
            raise UserError(
                f"there is no cluster {self.name} in namespace {self.api.namespace}",
                f"heliostat up {self.name}, or --ephemeral for one that is deleted afterwards",
            )
        if live["spec"].get("suspend") and not self.profile.queue:
            yield "wakes the cluster"
            self.kube.clusters.resume(self.name)
        yield from poll(self.look(), self.answers, UP_SECONDS + self._slowest, self.name)

    @property
    def _slowest(self) -> int:
        return max(group.start_seconds for group in self.profile.groups)

    def look(self) -> Callable[[], str]:
        """A look at the cluster: what is waited for; it raises `Explained` if that will not come."""
        watchdog = Watchdog(self.profile, self.log)
        return lambda: watchdog.look(self.snapshot())

    def check(self) -> None:
        """Raise `UserError` if the profile does not fit this Kubernetes."""
        check_operator(self.profile, self.api.features)
        self.check_claim()
        self._check_nodes()

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
        cluster = self.kube.clusters.find(self.name)
        pods = self.api.request("GET", self.api.path("Pod"), query={"labelSelector": f"ray.io/cluster={self.name}"})["items"]
        return Snapshot(cluster, pods, self._events(), nodes=self._nodes())

    def state(self) -> State:
        """The cluster at this moment, with its nodes, groups and jobs."""
        snapshot = self.snapshot()
        if snapshot.cluster is None:
            return State(self.name, "kubernetes", "absent")
        used, jobs = self._ray(snapshot)
        nodes = [self._node(pod, used.get(pod["metadata"]["name"])) for pod in snapshot.pods]
        word, detail = self._condition(snapshot)
        groups = [self._group_state(group.name, snapshot.cluster, nodes) for group in self.profile.groups]
        version = snapshot.cluster["spec"].get("rayVersion", "")
        return State(self.name, "kubernetes", word, detail, version, groups=groups, nodes=nodes, jobs=jobs)

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

        return Dashboard(Way(f"{self.api.server}{path}", headers, self.api.pool, open_socket), self.name)

    @cached_property
    def token(self) -> str:
        """The cluster's token. It is for headers and files that only the user reads, never for a message or a command line."""
        secret = self.kube.objects("Secret").get(self.name)
        return base64.b64decode(secret["data"][TOKEN_KEY]).decode()

    def log(self, pod: str, lines: int = 12, container: str = "") -> str:
        """The last lines that a pod's Ray container has printed; empty if there are none."""
        head = f"{self.name}-head-" in pod
        query = {"tailLines": str(lines), "container": container or ("ray-head" if head else "ray-worker")}
        try:
            return self.api.raw("GET", f"{self.api.path('Pod', pod)}/log", query=query).data.decode(errors="replace")
        except KubernetesError as error:
            return f"(its log cannot be read: {error.what})"

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

    def _check_version(self) -> Iterator[str]:
        yield "asks the cluster for its version"
        version = self.dashboard().version()
        if version != self.profile.ray_version:
            raise Explained(
                f"the image {self.profile.image} has Ray {version}, but ray_version is {self.profile.ray_version}",
                f"set ray_version: {version} in the profile, or use an image with {self.profile.ray_version}",
            )

    def check_claim(self) -> None:
        """Raise `UserError` if the claim is not there, or not for several nodes."""
        storage = self.profile.storage
        if not storage.claim:
            return
        claim = self.kube.objects("PersistentVolumeClaim").find(storage.claim)
        if claim is None and not storage.size:
            raise UserError(
                f"storage.claim is {storage.claim}, which is not in namespace {self.api.namespace}",
                "set storage.size so that it is made, or create it",
            )
        modes = claim["spec"].get("accessModes", []) if claim else ["ReadWriteMany"]
        if "ReadWriteMany" not in modes:
            raise UserError(
                f"storage.claim is {storage.claim}, which only one node can mount ({', '.join(modes)})",
                "use a claim with access mode ReadWriteMany (NFS, a cloud's file store), or storage.uri",
            )

    def _check_nodes(self) -> None:
        if self.profile.node_autoscaling:
            return  # a node that is big enough may come
        nodes, head = self._nodes(), self.profile.head
        for finding in fit.on_nodes(fit.shapes(self.profile)[:1], nodes or [], ""):
            if nodes and finding.state == "problem":
                raise UserError(f"head.cpu is {head.cpu} and head.memory {head.memory}; {finding.what}", finding.fix)

    def _events(self) -> list[Document] | None:
        try:
            events = self.api.request("GET", self.api.path("Event"))["items"]
        except Forbidden:
            return None
        return [event for event in events if event["involvedObject"].get("name", "").startswith(self.name)]

    def _nodes(self) -> list[Document] | None:
        try:
            found: list[Document] = self.api.request("GET", self.api.path("Node"))["items"]
        except Forbidden:
            return None
        return found

    def _ray(self, snapshot: Snapshot) -> tuple[dict[str, NodeUsage], list[Job]]:
        """What Ray knows; nothing while nobody answers."""
        if not snapshot.head or not pod_ready(snapshot.head):
            return {}, []
        try:
            dashboard = self.dashboard()
            return usage(dashboard), dashboard.jobs()
        except KubernetesError:
            return {}, []  # the head says nothing; its pods are there to be seen, and to be deleted

    def _condition(self, snapshot: Snapshot) -> tuple[str, str]:
        cluster = snapshot.cluster or {}
        if suspended(cluster) or (cluster["spec"].get("suspend") and not snapshot.pods):
            return "suspended", cluster["metadata"].get("annotations", {}).get(SUSPENDED, "")
        found = next(problems(snapshot, self.profile), None)
        if snapshot.head and pod_ready(snapshot.head) and condition(cluster, "HeadPodReady").get("status") == "True":
            return "ready", found.what if found else ""
        return ("failed", found.what) if found and not found.patience else ("starting", progress(snapshot, self.profile))

    def _node(self, pod: Document, used: NodeUsage | None) -> Node:
        group = group_of(pod)
        spec = next((g for g in self.profile.groups if g.name == group), None)
        return Node(
            name=pod["metadata"]["name"],
            group=group,
            host=pod["spec"].get("nodeName", ""),
            state=pod_state(pod),
            gpus=spec.gpu if spec else 0,
            gpus_used=used.gpus_used if used else 0.0,
            cpus=used.cpus if used else 0.0,
            cpus_used=used.cpus_used if used else 0.0,
            idle_seconds=used.idle_seconds if used else None,
            price=self.profile.head.price if group == "head" else spec.price if spec else 0.0,
        )

    def _group_state(self, name: str, cluster: Document, nodes: list[Node]) -> Group:
        group, mine = self.profile.group(name), [node for node in nodes if node.group == name]
        live: dict[str, Any] = next((g for g in cluster["spec"].get("workerGroupSpecs", []) if g["groupName"] == name), {})
        ready_ones = [node for node in mine if node.state == "ready"]
        idle = sum(1 for node in ready_ones if node.idle_seconds is not None)
        least, most = live.get("minReplicas", group.min), live.get("maxReplicas", group.max)
        return Group(name, least, most, live.get("replicas", 0), len(ready_ones), idle, group.price)


def poll(look: Callable[[], str], until: Callable[[], bool], seconds: float, name: str) -> Iterator[str]:
    """Look until it is so; yields what is waited for.

    Raises:
        Explained: it will not come, or did not in time.
    """
    deadline = time.monotonic() + seconds
    answered = time.monotonic()
    said = name
    while True:
        try:
            if until():
                return
            said = look()
            answered = time.monotonic()
        except Unreachable as error:  # one answer that is missing is no reason to give up
            if time.monotonic() - answered > SILENT_SECONDS:
                raise
            said = error.what
        yield said
        if time.monotonic() > deadline:
            raise Explained(f"{name} is not ready after {seconds:.0f} s: {said}", "heliostat doctor; heliostat status")
        time.sleep(POLL)


def check_operator(profile: Profile, features: frozenset[str]) -> None:
    """Refuse what this KubeRay would leave out without a word."""
    for key, (value, what, instead) in unknown_to(profile, features).items():
        raise UserError(f"{key} is {value}, but this KubeRay has no {what}", f"upgrade KubeRay to 1.7, or {instead}")
