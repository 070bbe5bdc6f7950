"""A service on Kubernetes: a RayService with a cluster of the profile's groups, and what belongs to it."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import urllib3

from heliostat.cluster.diagnosis.wait import Watchdog, poll
from heliostat.cluster.documents.manifests import metadata, network_policy, ray_service, recorder_files
from heliostat.cluster.documents.ownership import contains, is_ours
from heliostat.cluster.documents.secrets import job_secret, owned, owner_reference, reading
from heliostat.cluster.documents.serving import PORT
from heliostat.cluster.errors import Conflict, Forbidden, KubernetesError, NotFound, Unreachable
from heliostat.cluster.jobs.dashboard import TIMEOUT
from heliostat.cluster.jobs.packaging import Package
from heliostat.cluster.kube.conditions import condition, observed
from heliostat.cluster.kube.owners import live_objects
from heliostat.cluster.kube.port_forward import Forward
from heliostat.cluster.names import CLUSTER_LABEL, Document
from heliostat.cluster.profile import Profile
from heliostat.cluster.targets.code_maps import CODE_VOLUME, code_maps, mount_code
from heliostat.cluster.targets.kubernetes import KubernetesCluster
from heliostat.cluster.targets.serving import SECONDS, ServiceState, served, services, wait
from heliostat.config import digest, nearest
from heliostat.environment import SERVE_TOKEN
from heliostat.errors import UserError
from heliostat.wording import counted

PREFIX = "serve-"
"""What the names of a service's objects begin with: scheduled runs may have the name of their model."""
LONGEST_NAME = 30
APPLIED = "heliostat.dev/applied"
"""Annotation of a RayService with the hash of its spec, by which a command sees that another one has changed it."""
SERVICE_LABEL = "ray.io/originated-from-cr-name"
"""The operator's label of the clusters of a RayService."""
STOP_SECONDS = 120.0
ACTIVE, PENDING = "activeServiceStatus", "pendingServiceStatus"
"""Where the status of a RayService has the cluster that answers, and the one that will."""


def check_name(name: str) -> None:
    """Raise a `UserError` if objects of Kubernetes cannot have the name of a service."""
    if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
        raise UserError(
            f"{name} cannot be the name of a service on Kubernetes: up to {LONGEST_NAME} small letters, digits and '-'",
            "add the run to the registry under such a name (heliostat model add RUN --name NAME), and serve that",
        )


def documents(
    profile: Profile, name: str, code: Sequence[Package], config: Document, token: str, features: frozenset[str]
) -> list[Document]:
    """All documents of a service, the RayService first: the others belong to it, and are deleted with it.

    Args:
        profile: whose groups its cluster has.
        name: of the service.
        code: its packages, `compact` ones.
        config: the configuration of Serve, in which the packages are `code_maps.mounted`.
        token: that requests need.
        features: of the operator.

    Raises:
        UserError: the name is invalid, or the working directory too large.
    """
    check_name(name)
    if profile.queue:
        raise UserError(
            f"queue is {profile.queue}, but a service has no place in a queue: it does not end", "--on a profile without queue"
        )
    own = f"{PREFIX}{name}"
    maps = code_maps(profile, own, code, "services", recorder_files(profile))
    for document in maps:
        _name_by_content(document, digest([document["binaryData"], document.get("data")]))
    names = [document["metadata"]["name"] for document in maps]
    token_of = f"{own}-{_hidden(token, own)}"
    service = ray_service(reading(profile, token_of, [SERVE_TOKEN]), own, config, features, files=names[0])
    mount_code(service["spec"]["rayClusterConfig"], names)
    service["metadata"]["annotations"] = {APPLIED: digest(service["spec"])}
    secret = {**job_secret(profile, token_of, {SERVE_TOKEN: token}), "immutable": True}
    return [service, secret, *maps, network_policy(profile, own, PORT)]


def _name_by_content(document: Document, content: str) -> None:
    """Name a ConfigMap by its content, so that the pods of a cluster that goes on keep what they were started with.

    For other names in its pods the operator makes a new cluster, and then ends the old one.
    """
    document["metadata"]["name"] += f"-{content}"
    document["immutable"] = True


def _hidden(token: str, salt: str) -> str:
    """A hash of a token by which it cannot be guessed: names are read by more people than Secrets are."""
    return hashlib.scrypt(token.encode(), salt=salt.encode(), n=1 << 14, r=8, p=1, dklen=8).hex()


def parts_of(cluster: Document) -> set[tuple[str, str]]:
    """The kinds and names of the Secret and the ConfigMaps that the pods of a service need, from the spec of its cluster."""
    pod = cluster["headGroupSpec"]["template"]["spec"]
    references = [
        entry["valueFrom"]["secretKeyRef"]["name"] for entry in pod["containers"][0]["env"] if entry["name"] == SERVE_TOKEN
    ]
    volumes = [each for each in pod["volumes"] if each["name"] == CODE_VOLUME]
    maps = [source["configMap"]["name"] for each in volumes for source in each["projected"]["sources"]]
    return {*(("Secret", name) for name in references), *(("ConfigMap", name) for name in maps)}


class KubernetesService:
    """A service by its name, and the cluster that the operator has made for it."""

    def __init__(self, target: KubernetesCluster, name: str) -> None:
        self.target, self.kube, self.name = target, target.kube, name
        self.object = f"{PREFIX}{name}"
        self._watchdog = Watchdog(target.profile, lambda pod: self.cluster().log(pod))

    @property
    def inside(self) -> str:
        """Its URL for other pods."""
        return f"http://{self.object}-serve-svc.{self.target.api.namespace}.svc:{PORT}"

    def token(self) -> str | None:
        """The token that requests need, if the service exists: that of the cluster that answers, or else of the newest."""
        try:
            cluster = self.kube.clusters.get(self.cluster().name)["spec"]
        except NotFound:
            live = self.kube.services.find(self.object)
            if live is None:
                return None
            cluster = live["spec"]["rayClusterConfig"]
        (name,) = [name for kind, name in parts_of(cluster) if kind == "Secret"]
        secret = self.kube.objects("Secret").find(name)
        return base64.b64decode(secret["data"][SERVE_TOKEN]).decode() if secret else None

    def start(
        self, wanted: Sequence[Document], application: Document, allowed: Callable[[], None] = lambda: None
    ) -> Iterator[str]:
        """Create or change the service, and wait until it answers; yields status lines.

        One that is new and does not come to answer is deleted again.

        Args:
            wanted: see `documents`.
            application: that of its configuration.
            allowed: called before a new service is made; raises if it may not be.

        Raises:
            UserError: the profile does not fit this Kubernetes, objects of others have these names, or see `serving.wait`.
            NotComing: it cannot start; with the reason and the fix.
        """
        self.target.check()
        claims = self.target.claims()
        fix = "serve it under another name: heliostat model add RUN --name NAME"
        found = live_objects(self.kube, self.target.profile.name, [*claims, *wanted], fix)
        if found[len(claims)] is None:
            allowed()
        yield f"applies RayService {self.object}"
        for document in claims:
            self.kube.objects(document["kind"]).apply(document)
        service, *parts = wanted
        before = found[len(claims)]
        # With force, because the operator (1.6.2) writes into the list of groups, too, and owns all of it then.
        applied = self.kube.services.apply(service, force=True)

        def look() -> str:
            self._check_still(service)
            return self._look()

        try:
            for part in parts:  # the pods wait for them
                self.kube.objects(part["kind"]).apply(owned(part, applied))
            seconds = SECONDS + self.target.profile.slowest_start
            yield from wait(self.name, application, lambda: self._newest().dashboard(), look, seconds)
            yield from poll(lambda: "waits until requests are sent there", self._is_open, seconds, self.name)
            yield from poll(lambda: "waits for its first answer", self._answers, seconds, self.name)
            self._check_still(service)
        except BaseException:
            if before is None and self._is_still(service):
                self.kube.services.delete(self.object, seen=applied)
            raise
        self._let_go(service, before)

    def _check_still(self, wanted: Document) -> None:
        """Raise a `Conflict` if another command has changed or ended the service since it was applied."""
        if not self._is_still(wanted):
            raise Conflict(
                f"another command has changed or ended {self.name} meanwhile",
                f"heliostat serve status --on {self.target.name} shows what is served; the same command again changes that",
            )

    def _is_still(self, wanted: Document) -> bool:
        """Whether the service is as a command has applied it."""
        live = self.kube.services.find(self.object)
        return live is not None and contains(live["metadata"].get("annotations"), wanted["metadata"]["annotations"])

    def _let_go(self, wanted: Document, before: Document | None) -> None:
        """Give what the service does not need any more to the clusters that do, with which Kubernetes deletes it."""
        clusters = self.kube.clusters.list(f"{SERVICE_LABEL}={self.object}")
        using = [(cluster, parts_of(cluster["spec"])) for cluster in clusters]
        old = set().union(*(parts for _, parts in using), parts_of(before["spec"]["rayClusterConfig"]) if before else ())
        for part in sorted(old - parts_of(wanted["spec"]["rayClusterConfig"])):
            kind, name = part
            objects, owners = self.kube.objects(kind), [owner_reference(cluster) for cluster, parts in using if part in parts]
            with suppress(NotFound):  # the last of them has just ended
                if owners:
                    objects.patch(name, {"metadata": {"ownerReferences": owners}})
                else:
                    objects.delete(name)

    def state(self) -> ServiceState:
        """What Serve says of it, or why that is not known.

        Raises:
            UserError: there is no such service.
        """
        live = self._live()
        starting = ServiceState(self.name, "STARTING", 0, 0, condition(live, "Ready").get("message", ""), "", {})
        try:
            found = next((each for each in services(self.cluster().dashboard()) if each.name == self.name), starting)
        except KubernetesError as error:
            found = replace(starting, message=error.what)
        return replace(found, url=self.inside)

    @contextmanager
    def reached(self) -> Iterator[tuple[str, str]]:
        """Its URL on this machine, and the token that requests need, as long as the block lasts."""
        with Forward(self.target.api, self.cluster().name, {PORT: 0}) as forward:
            yield f"http://127.0.0.1:{forward.ports[PORT]}", self.token() or ""

    def cluster(self) -> KubernetesCluster:
        """The RayCluster that answers, or else the one that starts.

        Raises:
            NotFound: the operator has made none yet.
        """
        return self._cluster(ACTIVE, PENDING)

    def stop(self) -> Iterator[str]:
        """Delete it with all that belongs to it, and wait until its pods have ended; yields status lines.

        Raises:
            UserError: there is no such service, or it is of another profile.
            NotComing: its pods do not end.
        """
        self.kube.services.delete(self.object, STOP_SECONDS, self._live())
        pods, label = self.kube.objects("Pod"), f"{CLUSTER_LABEL}={self.object}"
        yield from poll(lambda: f"waits for {counted(len(pods.list(label)), 'pod')} to end", lambda: not pods.list(label),
                        STOP_SECONDS + self._slowest_end, self.name)  # fmt: skip

    @property
    def _slowest_end(self) -> int:
        return max(group.drain_seconds for group in self.target.profile.groups)

    def _live(self) -> Document:
        live = self.kube.services.find(self.object)
        if live is None or not is_ours(live, {"metadata": metadata(self.target.profile, self.object)}):
            known = names_of(self.target)
            fix = nearest(self.name, known) if known else f"heliostat serve RUN --on {self.target.name} starts one"
            raise UserError(f"{self.target.name} serves no {self.name}", fix)
        return live

    def _newest(self) -> KubernetesCluster:
        """The RayCluster that was made last."""
        return self._cluster(PENDING, ACTIVE)

    def _cluster(self, *places: str) -> KubernetesCluster:
        status = self.kube.services.get(self.object).get("status", {})
        chosen = next(filter(None, (status.get(place, {}).get("rayClusterName") for place in places)), None)
        if not chosen:
            raise NotFound(f"{self.object} has no cluster yet", "wait")
        return KubernetesCluster(self.target.profile, self.kube, chosen)

    def _is_open(self) -> bool:
        """Whether requests are sent to the newest cluster."""
        live = self.kube.services.get(self.object)
        waiting = live["status"].get(PENDING, {}).get("rayClusterName")
        return observed(live) and condition(live, "Ready").get("status") == "True" and not waiting

    def _answers(self) -> bool:
        """Whether it answers through the head, whose proxy may start after those of the workers, which stand in for it.

        One without a replica is not asked, only the proxy. Where no port can be forwarded, it cannot be asked.
        """
        state = self.state()
        try:
            with Forward(self.target.api, self.cluster().name, {PORT: 0}) as forward:
                url = f"http://127.0.0.1:{forward.ports[PORT]}"
                try:
                    if state.replicas:
                        served(state, url, self.token() or "")
                        return True
                    return urllib3.request("GET", f"{url}/-/healthz", timeout=TIMEOUT, retries=False).status == 200
                except (Unreachable, urllib3.exceptions.HTTPError):
                    return "cannot forward" in (forward.last_error or "")
        except Forbidden:
            return True
        except KubernetesError:
            return False

    def _look(self) -> str:
        try:
            return self._watchdog.look(self._newest().snapshot())
        except NotFound:
            return "waits for the operator to make its cluster"


def names_of(target: KubernetesCluster) -> list[str]:
    """The services of a profile."""
    found = target.kube.services.list(f"{CLUSTER_LABEL}={target.profile.name}")
    names = [each["metadata"]["name"] for each in found]
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))
